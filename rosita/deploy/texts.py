"""Texts in, row by row, from lines, TSV, CSV or JSONL."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO

from rosita.data.records import csv_rows, jsonl_rows, numbered_lines, text_of
from rosita.errors import RositaError, nearest

INPUT_FORMATS = ("text", "tsv", "csv", "jsonl")
Texts = tuple[str, ...]  # one text, or a pair
_ADVICE = {
    "tsv": "take the tabs out of its texts",
    "csv": "put quotes around a text with a comma",
}


def format_of(path: str) -> str:
    """The format that a file's name tells; lines of text if it tells none."""
    suffix = Path(path).suffix.lower().lstrip(".")
    return {"json": "jsonl"}.get(suffix, suffix if suffix in INPUT_FORMATS else "text")


@contextmanager
def open_input(path: str, form: str) -> Iterator[IO[str]]:
    """stdin for `-`, or a file; what is not UTF-8 or not there is a `RositaError`."""
    newline = "\n" if form in ("text", "tsv") else ""  # what ends a line where training reads one
    try:
        if path == "-":
            if sys.stdin is None:  # which Python makes of one that is closed
                raise RositaError("stdin is closed: give --input FILE")
            if isinstance(sys.stdin, TextIOWrapper):  # what stands in for it is text already
                sys.stdin.reconfigure(encoding="utf-8-sig", newline=newline)
            yield sys.stdin
        else:
            with open(path, encoding="utf-8-sig", newline=newline) as file:
                yield file
    except UnicodeDecodeError as error:
        raise RositaError(f"{path} is not UTF-8 (byte {error.start} of a block)") from None
    except FileNotFoundError:
        raise RositaError(f"--input {path} does not exist") from None
    except IsADirectoryError:
        raise RositaError(f"--input {path} is a folder") from None


def read_texts(
    file: IO[str], name: str, form: str, columns: list[str] | None = None
) -> Iterator[Texts]:
    """Rows of texts from an open file; `form` is text, tsv, csv or jsonl.

    `columns` (one, or two for a pair; None: the first) are names of the header or keys, or numbers
    from 0 in a TSV or CSV without header; "text" reads each line as one text, whatever they are.
    Raises `RositaError` by line.
    """
    if form == "text":
        for _, line in numbered_lines(file, name):
            yield (line.rstrip("\r\n"),)
    elif form == "jsonl":
        last = 0
        for number, record in jsonl_rows(file, name):
            if number > last + 1:  # at the end it does no harm
                raise RositaError(f"{name} line {last + 1} is blank; remove it")
            last = number
            where = f"{name} line {number}"
            yield tuple(text_of(record, key, where) for key in columns or ["0"])
    else:
        yield from _read_table(file, name, form, columns or ["0"])


def _read_table(file: IO[str], name: str, form: str, columns: list[str]) -> Iterator[Texts]:
    # a blank line is one empty field, so that what is written aligns with what was read
    rows: Iterator[tuple[int, list[str]]]
    rows = ((number, row or [""]) for number, row in csv_rows(file, name, form))
    named = not all(column.isdecimal() for column in columns)
    _, first = next(((at, row) for at, row in rows if row != [""] or not named), (0, []))
    if not named:
        places = [int(column) for column in columns]
        rows = chain([(1, first)] if first else [], rows)
    else:
        places = [_place(column, first, name) for column in columns]
    blank = 0
    for number, row in rows:
        if row == [""] and len(first) > 1:
            blank = blank or number
            continue  # at the end it does no harm
        if blank:
            raise RositaError(f"{name} line {blank} is blank; remove it")
        if len(row) <= max(places):
            raise RositaError(
                f"{name} line {number}: {len(row)} columns, but column {max(places) + 1} is wanted"
            )
        if first == [""] and len(row) > 1:
            raise RositaError(f"{name} line 1 is blank; remove it")
        if len(row) != len(first):
            raise RositaError(
                f"{name} line {number}: {len(row)} columns, but the first row has {len(first)};"
                f" {_ADVICE[form]}"
            )
        yield tuple(row[place] for place in places)


def _place(column: str, header: list[str], name: str) -> int:
    if column not in header:
        hint = nearest(column, header)
        raise RositaError(f"{name} has no column {column!r}; it has {header}{hint}")
    if header.count(column) > 1:
        raise RositaError(f"{name} has the column {column!r} twice")
    return header.index(column)
