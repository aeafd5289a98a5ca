"""Texts in, row by row, from lines, TSV, CSV or JSONL."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rosita.errors import RositaError, nearest

INPUT_FORMATS = ("text", "tsv", "csv", "jsonl")
Texts = tuple[str, ...]  # one text, or a pair


def format_of(path: str) -> str:
    """The format that a file's name tells; lines of text if it tells none."""
    suffix = Path(path).suffix.lower().lstrip(".")
    return {"json": "jsonl"}.get(suffix, suffix if suffix in INPUT_FORMATS else "text")


@contextmanager
def open_input(path: str) -> Iterator[IO[str]]:
    """stdin for `-`, or a file; what is not UTF-8 or not there is a `RositaError`."""
    try:
        if path == "-":
            sys.stdin.reconfigure(encoding="utf-8-sig")
            yield sys.stdin
        else:
            with open(path, encoding="utf-8-sig", newline="") as file:
                yield file
    except UnicodeDecodeError as error:
        raise RositaError(f"{path} is not UTF-8 (byte {error.start} of a block)") from None
    except FileNotFoundError:
        raise RositaError(f"--input {path} does not exist") from None
    except IsADirectoryError:
        raise RositaError(f"--input {path} is a folder") from None


def read_texts(file: IO[str], name: str, form: str, columns: list[str]) -> Iterator[Texts]:
    """Rows of texts from an open file; `form` is text, tsv, csv or jsonl.

    `columns` (one, or two for a pair) are names of the header or keys, or numbers from 0 in a TSV
    or CSV without header; "text" reads each line as one text. Raises `RositaError` by line.
    """
    if form == "text":
        for line in file:
            yield (line.rstrip("\r\n"),)
    elif form == "jsonl":
        yield from _read_jsonl(file, name, columns)
    else:
        try:
            yield from _read_table(file, name, form, columns)
        except csv.Error as error:
            raise RositaError(f"{name} cannot be read as {form}: {error}") from None


def _read_jsonl(file: IO[str], name: str, columns: list[str]) -> Iterator[Texts]:
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RositaError(f"{name} line {number} is not JSON: {error.msg}") from None
        missing = [key for key in columns if not isinstance(row, dict) or key not in row]
        if missing:
            there = list(row) if isinstance(row, dict) else []
            hint = nearest(missing[0], there)
            raise RositaError(f"{name} line {number} has no key {missing[0]!r}{hint}")
        yield tuple(str(row[key]) for key in columns)


def _read_table(file: IO[str], name: str, form: str, columns: list[str]) -> Iterator[Texts]:
    if form == "tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file)
    if all(column.isdecimal() for column in columns):
        places = [int(column) for column in columns]
    else:
        header = next(reader, [])
        for column in columns:
            if column not in header:
                hint = nearest(column, header)
                raise RositaError(f"{name} has no column {column!r}; it has {header}{hint}")
        places = [header.index(column) for column in columns]
    for row in reader:
        if not row:
            continue
        if len(row) <= max(places):
            raise RositaError(
                f"{name} line {reader.line_num}: {len(row)} columns, but column"
                f" {max(places) + 1} is wanted"
            )
        yield tuple(row[place] for place in places)
