"""Texts in, row by row, from lines, TSV, CSV or JSONL."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO

from rosita.data.records import csv_rows, jsonl_rows, numbered_lines
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
            if isinstance(sys.stdin, TextIOWrapper):  # what stands in for it is text already
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
        for _, line in numbered_lines(file, name):
            yield (line.rstrip("\r\n"),)
    elif form == "jsonl":
        for number, record in jsonl_rows(file, name):
            if missing := [key for key in columns if key not in record]:
                hint = nearest(missing[0], list(record))
                raise RositaError(f"{name} line {number} has no key {missing[0]!r}{hint}")
            yield tuple(str(record[key]) for key in columns)
    else:
        yield from _read_table(file, name, form, columns)


def _read_table(file: IO[str], name: str, form: str, columns: list[str]) -> Iterator[Texts]:
    rows = csv_rows(file, name, form)
    if all(column.isdecimal() for column in columns):
        places = [int(column) for column in columns]
    else:
        _, header = next(rows, (0, []))
        for column in columns:
            if column not in header:
                hint = nearest(column, header)
                raise RositaError(f"{name} has no column {column!r}; it has {header}{hint}")
        places = [header.index(column) for column in columns]
    for number, row in rows:
        if len(row) <= max(places):
            raise RositaError(
                f"{name} line {number}: {len(row)} columns, but column {max(places) + 1} is wanted"
            )
        yield tuple(row[place] for place in places)
