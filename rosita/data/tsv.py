"""GLUE's TSV files, row by row: no quoting, one pass, every fault named by file and line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rosita.errors import RositaError, nearest
from rosita.files import reading
from rosita.tasks import Task

MAX_LINE_BYTES = 1_000_000  # no sentence is that long: it is another kind of file


@dataclass
class Row:
    """One example: its line in the file (from 1), all fields, its texts and its label as text."""

    line: int
    fields: list[str]
    texts: tuple[str, ...]
    label: str | None


@dataclass
class TsvFile:
    """A TSV file of a task, read lazily.

    `labelled` is False for the test files, whose labels are hidden, and for a training set without
    labels. A quote mark is a character;
    a byte-order mark, CRLF line ends and blank lines at the end are accepted. Rows too short are
    an error, or skipped and counted in `skipped` where the task says so (QQP). A header that looks
    like a row, and a row that looks like a header, are errors.
    `train_header` is given for a piece of a split file: its first line is a header only if it
    equals this text.
    """

    path: Path
    task: Task
    labelled: bool = True
    train_header: str | None = None
    skipped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)

    def rows(self) -> Iterator[Row]:
        """Yield the rows in order; `RositaError` names the file, the line and the fault."""
        task = self.task
        self.skipped = 0
        text_columns, label_column = self.text_columns, self._label_column
        columns = [*text_columns, label_column] if self.labelled else text_columns
        needed = max(map(_fields_up_to, columns))
        count = 0
        header = self.header
        named = header or self.train_header
        width = (named or self._first_line).count("\t") + 1
        for number, line in self._lines():
            fields = line.split("\t")
            if number == 1:
                self._check_first(fields, header is not None)
                if header is not None:
                    continue
            elif line == named:
                raise RositaError(
                    f"{self.path} line {number} is the header once more: were two files joined?"
                    " Remove it"
                )
            if len(fields) < needed:
                if task.short_rows:
                    self.skipped += 1
                    continue
                raise RositaError(
                    f"{self.path} line {number}: {len(fields)} columns, but {task.name} needs"
                    f" column {needed}; remove or repair the row"
                )
            if task.is_own and (len(fields) > width if named else len(fields) != width):
                raise RositaError(
                    f"{self.path} line {number}: {len(fields)} columns, but the"
                    f" {'header' if named else 'first row'} has {width};"
                    " is there a tab within a text?"
                )
            count += 1
            label = fields[label_column] if self.labelled else None
            yield Row(number, fields, tuple(fields[column] for column in text_columns), label)
        if not count:
            raise RositaError(f"{self.path} has no rows; download the task again")

    def _check_first(self, fields: list[str], is_header: bool) -> None:
        """Refuse a header that looks like a row, and a row that looks like a header."""
        place = self._label_column
        label = fields[place] if self.labelled and place < len(fields) else None
        if is_header and self.train_header is not None:
            return  # it is that one
        if is_header:
            if fields[0].isdecimal() if label is None else is_label(label, self.task):
                raise RositaError(
                    f"{self.path} line 1 looks like a row, but is taken for the header"
                    f" ({label or fields[0]!r}): put a header before it, or, in a task of your own,"
                    ' "header": false in its json'
                )
        elif label is not None and "label" in label.lower() and not is_label(label, self.task):
            raise RositaError(
                f"{self.path} line 1 looks like a header ({label!r} where a label should be), but"
                f" {self.task.name} has none: remove it"
            )

    @property
    def header(self) -> str | None:
        """The header line, or None for a file without one."""
        return self._first_line if self._first_line_is_header(self._first_line) else None

    @cached_property
    def text_columns(self) -> list[int]:
        """Columns of the text, or of both texts of a pair."""
        return [self._column(name) for name in self.task.text_columns_of(self.path)]

    @cached_property
    def _label_column(self) -> int:
        return self._column(self.task.label_column) if self.labelled else 0

    @cached_property
    def _first_line(self) -> str:
        for _, line in self._lines():
            return line
        raise RositaError(f"{self.path} has no rows; download the task again")

    def _first_line_is_header(self, line: str) -> bool:
        if self.train_header is not None:
            return line == self.train_header
        task = self.task  # GLUE's test files have a header where train and dev have none (CoLA)
        return task.header or (not task.is_own and task.is_test_file(self.path))

    def _column(self, name: int | str) -> int:
        is_header, names = self.header is not None, self._first_line.split("\t")
        if isinstance(name, str):
            if not is_header and self.train_header is not None:
                names = self.train_header.split("\t")
            if name not in names:
                hint = nearest(name, names)
                raise RositaError(f"{self.path} has no column {name!r}; it has {names}{hint}")
            if names.count(name) > 1:
                raise RositaError(f"{self.path} has the column {name!r} twice")
            return names.index(name)
        if len(names) < (needed := _fields_up_to(name)):
            raise RositaError(
                f"{self.path} line 1 has {len(names)} columns, but {self.task.name} needs"
                f" column {needed}: is this another task's file?"
            )
        return name + len(names) if name < 0 and is_header else name

    def _lines(self) -> Iterator[tuple[int, str]]:
        blank = 0
        with reading(self.path), open(self.path, "rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if len(raw) > MAX_LINE_BYTES:
                    raise RositaError(f"{self.path} line {number} is longer than 1 MB: no TSV text")
                line = self._decode(raw.rstrip(b"\r\n"), number)
                if not line.strip():
                    blank = blank or number
                    continue
                if blank:
                    raise RositaError(f"{self.path} line {blank} is blank; remove it")
                yield number, line

    def _decode(self, raw: bytes, number: int) -> str:
        if b"\0" in raw:
            raise RositaError(f"{self.path} line {number} has a NUL byte; is it a text file?")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RositaError(
                f"{self.path} line {number} is not UTF-8 (byte {error.start + 1} of the line is"
                f" 0x{raw[error.start]:02x}); convert it with iconv -t utf-8"
            ) from None


def _fields_up_to(column: int) -> int:
    """How many fields a row has at the least that has this column, counted from either end."""
    return column + 1 if column >= 0 else -column


def is_label(text: str, task: Task) -> bool:
    """Whether a text is a label of the task, or of several labels some."""
    if task.labels is not None:
        several = text.split(",") if task.multi_label else [text]
        return all(part in task.labels for part in several)
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
