"""Tables of other formats than GLUE's: CSV, JSONL, Parquet, a saved Hugging Face dataset."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from rosita.data.tsv import Row, TsvFile, is_label
from rosita.errors import RositaError, first_line, nearest
from rosita.files import (
    RepeatedKey,
    check_readable,
    parse_json,
    read_object,
    reading,
    sha256_file,
)
from rosita.tasks import Task

MAX_LINE = 100_000_000  # characters: a device such as /dev/zero has one line without end
Record = tuple[int, dict[str, Any]]  # line or row number (from 1), values by column


@dataclass
class RecordFile:
    """A file of a task whose columns have names, read lazily; used as a `TsvFile`.

    Numbers and booleans become their JSON text, the class numbers of a Hugging Face dataset their
    names, if these are the task's labels. `labelled` is False for files whose labels are not
    wanted.
    """

    path: Path
    task: Task
    labelled: bool = True
    skipped: int = field(default=0, init=False)  # none ever is

    def __post_init__(self) -> None:
        self.path = Path(self.path)

    def rows(self) -> Iterator[Row]:
        """Yield the rows in order; `RositaError` names the file, the line and the fault."""
        texts, label = [self.names[place] for place in self.text_columns], None
        if self.labelled:
            label = self.names[self._place(self.task.label_column)]
        if self._suffix == ".csv":
            self._check_header(label)
        number = 0
        for number, record in self._records():
            where = f"{self.path} {self._unit} {number}"
            found = tuple(text_of(record, name, where) for name in texts)
            told = None if label is None else self._told(record, label, where)
            # what an augmented .tsv repeats of the row
            values = {name: _plain(record.get(name)) for name in self.names}
            if label is not None and told is not None:
                values[label] = told
            fields = [" ".join(value.split("\t")) for value in values.values()]
            yield Row(number, [" ".join(text.splitlines()) for text in fields], found, told)
        if not number:
            raise RositaError(f"{self.path} has no rows")

    def _check_header(self, label: str | None) -> None:
        """Refuse the first line of a CSV if it is, or looks like, a row; `label`: what stands there
        where a row has its label."""
        advice = "put the names of the columns before it"
        if not self.task.header:
            raise RositaError(
                f"{self.path}: a CSV has a header, whatever the json of {self.task.name} says:"
                f" {advice}, and take header false out"
            )
        by_number = all(isinstance(one, int) for one in self.task.text_columns_of(self.path))
        if label is None and by_number and self.names[0].isdecimal():
            raise RositaError(
                f"{self.path}: the header looks like a row (it begins with {self.names[0]!r});"
                f" {advice}"
            )
        if label is not None and is_label(label, self.task):
            raise RositaError(
                f"{self.path}: the header looks like a row (its label is {label!r}); {advice}"
            )

    @property
    def header(self) -> str | None:
        """The names of the columns as the first line of a .tsv; None if the task's have none."""
        return "\t".join(self.names) if self.task.header else None

    @cached_property
    def names(self) -> list[str]:
        """The columns: those of the header, of the schema, of the first object."""
        for _, record in self._records():
            return list(record)
        raise RositaError(f"{self.path} has no rows")

    @cached_property
    def text_columns(self) -> list[int]:
        """Places of the text, or of both texts of a pair."""
        return [self._place(name) for name in self.task.text_columns_of(self.path)]

    @property
    def _unit(self) -> str:
        return "line" if self._suffix in (".csv", ".jsonl") else "row"

    @property
    def _suffix(self) -> str:
        return self.path.suffix.lower()

    def _records(self) -> Iterator[Record]:
        return (read_arrow if self.path.is_dir() else READERS[self._suffix])(self.path)

    def _place(self, name: int | str) -> int:
        names = self.names
        if isinstance(name, int) and -len(names) <= name < len(names):
            return name % len(names)
        if name not in names:
            hint = nearest(name, names) if isinstance(name, str) else ""
            raise RositaError(f"{self.path} has no column {name!r}; it has {names}{hint}")
        return names.index(name)

    def _told(self, record: dict[str, Any], column: str, where: str) -> str:
        """The label of a row; of several, with commas between."""
        value = record.get(column)
        if self.task.multi_label and isinstance(value, list):
            return ",".join(self._label(_plain(one), column) for one in value)
        return self._label(text_of(record, column, where), column)

    def _label(self, label: str, column: str) -> str:
        classes = self._classes.get(column, [])
        if label.isdecimal() and int(label) < len(classes):
            return classes[int(label)]
        return label

    @cached_property
    def _classes(self) -> dict[str, list[str]]:
        """Of a Hugging Face dataset: the columns of class numbers whose classes are called as the
        task's labels are, and the names. Of other classes the labels are the numbers."""
        info = self.path / "dataset_info.json"
        if not info.exists():
            return {}
        labels = set(self.task.labels or ())
        found = {}
        for name, kind in (read_object(info).get("features") or {}).items():
            names = _class_names(kind)
            if labels and (labels <= set(names) or set(names) <= labels):
                found[name] = names
        return found


def open_table(
    path: Path, task: Task, *, labelled: bool = True, train_header: str | None = None
) -> TsvFile | RecordFile:
    """A file of a task, by its name CSV, JSONL or Parquet, by GLUE's rules otherwise.

    A folder is a split of a saved Hugging Face dataset. `train_header`: see `TsvFile`.
    """
    if path.suffix.lower() in READERS or path.is_dir():
        return RecordFile(path, task, labelled)
    return TsvFile(path, task, labelled, train_header)


def content_hash(path: Path) -> str:
    """Hexadecimal SHA-256 of a table's content; of a folder, over that of each file."""
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in [path / "dataset_info.json", *_arrow_files(path)]:
        if file.exists():
            digest.update(bytes.fromhex(sha256_file(file)))
    return digest.hexdigest()


def check_content(path: Path, sha256: str) -> None:
    """Raise `RositaError` if a table, read just now, is not of that hash any more."""
    if content_hash(path) != sha256:
        raise RositaError(f"{path} changed while it was read; give the command again")


def content_bytes(path: Path) -> int:
    """Size of a table on disk."""
    files = _arrow_files(path) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


# ---------------------------------------------------------------------- one format each


def read_csv(path: Path) -> Iterator[Record]:
    """The rows of a CSV with a header."""
    with opened(path) as file:
        rows = ((number, row) for number, row in csv_rows(file, str(path), "csv") if row)
        _, header = next(rows, (0, []))
        _refuse_twice(header, path)
        for number, row in rows:
            if len(row) != len(header):
                raise RositaError(
                    f"{path} line {number}: {len(row)} columns, but the header has {len(header)};"
                    " put quotes around a text with a comma"
                )
            yield number, dict(zip(header, row, strict=True))


def read_jsonl(path: Path) -> Iterator[Record]:
    """The objects of a file with one on each line."""
    with opened(path) as file:
        yield from jsonl_rows(file, str(path))


def read_parquet(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file."""
    arrow = _pyarrow("parquet", path)
    check_readable(path)
    try:
        batches = arrow.ParquetFile(path).iter_batches()
        yield from _numbered(batches, path)
    except (OSError, ValueError) as error:  # what pyarrow's own errors are too
        raise RositaError(f"{path} cannot be read as Parquet: {first_line(error)}") from None


def read_arrow(folder: Path) -> Iterator[Record]:
    """The rows of one split of a dataset that datasets' save_to_disk wrote."""
    arrow = _pyarrow("ipc", folder)

    def batches() -> Iterator[Any]:
        for file in _arrow_files(folder):
            with reading(file), open(file, "rb") as stream:
                yield from arrow.open_stream(stream)

    try:
        yield from _numbered(batches(), folder)
    except (OSError, ValueError) as error:
        raise RositaError(f"{folder} cannot be read as a dataset: {first_line(error)}") from None


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def csv_rows(file: IO[str], name: str, form: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row of a CSV, or of a TSV without quotes; of a blank line
    none."""
    if form == "tsv":
        for number, line in numbered_lines(file, name):
            text = line.rstrip("\r\n")
            yield number, text.split("\t") if text else []
        return
    lines = (line for _, line in numbered_lines(file, name))
    reader = csv.reader(lines, strict=True)  # else a quote left open takes all that follows
    done = 0
    try:
        for row in reader:
            yield reader.line_num, row
            done = reader.line_num
    except csv.Error as error:
        raise RositaError(
            f"{name} line {done + 1}: not csv: {error}; is a quote mark left open? (one within a"
            " quoted text is written twice)"
        ) from None


def numbered_lines(file: IO[str], name: str) -> Iterator[tuple[int, str]]:
    """The lines of an open file, from 1; `RositaError` for one that does not seem to end."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), 1):
        if len(line) > MAX_LINE:
            raise RositaError(f"{name} line {number} is longer than 100 MB: is it a text file?")
        yield number, line


def jsonl_rows(file: IO[str], name: str) -> Iterator[Record]:
    """Line number and object of each line; blank lines are passed over."""
    for number, line in numbered_lines(file, name):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except RepeatedKey as error:
            raise RositaError(f"{name} line {number}: {error}") from None
        except json.JSONDecodeError as error:
            raise RositaError(f"{name} line {number} is not JSON: {error.msg}") from None
        except RecursionError:
            raise RositaError(f"{name} line {number} is nested too deeply") from None
        if not isinstance(value, dict):
            raise RositaError(f"{name} line {number} is no JSON object")
        if "\\ud" in line.lower() and not _is_unicode(value):
            raise RositaError(f"{name} line {number} has half a character: \\ud800 or the like")
        yield number, value


def _is_unicode(value: Any) -> bool:
    """Whether the texts in a value can be written as UTF-8: JSON may name halves of characters."""
    try:
        return bool(json.dumps(value, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """A text file in UTF-8; what is not there or not UTF-8 is a `RositaError`."""
    with reading(path):
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                yield file
        except UnicodeDecodeError as error:
            raise RositaError(f"{path} is not UTF-8 (byte {error.start} of a block)") from None


def _class_names(feature: Any) -> list[str]:
    """The names of a Hugging Face feature's classes, or of those in its lists; else none."""
    if isinstance(feature, list):  # of each element, as older versions of datasets write it
        return _class_names(feature[0]) if feature else []
    if not isinstance(feature, dict):
        return []
    if feature.get("names"):
        return feature["names"]
    return _class_names(feature.get("feature"))


def _arrow_files(folder: Path) -> list[Path]:
    """The data files of a saved split, in order."""
    if not (folder / "state.json").exists():
        splits = [path.name for path in sorted(folder.iterdir()) if (path / "state.json").exists()]
        hint = f"; name one of its splits: {', '.join(splits)}" if splits else ""
        raise RositaError(f"{folder} is no split of a saved dataset (no state.json){hint}")
    state = read_object(folder / "state.json")
    if state.get("_indices_files"):
        raise RositaError(f"{folder} is a selection of rows; save it after flatten_indices()")
    try:
        return [folder / Path(file["filename"]).name for file in state["_data_files"]]
    except (KeyError, TypeError):
        raise RositaError(f"{folder}/state.json names no data files; save it again") from None


def _pyarrow(part: str, path: Path) -> Any:
    try:
        return __import__(f"pyarrow.{part}", fromlist=[part])
    except ImportError:
        raise RositaError(f"{path}: pyarrow is needed to read it: pip install pyarrow") from None


def _numbered(batches: Iterator[Any], path: Path) -> Iterator[Record]:
    number = 0
    for batch in batches:
        _refuse_twice(batch.schema.names, path)  # a record would hold the last of them
        for record in batch.to_pylist():
            number += 1
            yield number, record


def _refuse_twice(names: list[str], path: Path) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RositaError(f"{path} has the column {twice!r} twice")


def text_of(record: dict[str, Any], name: str, where: str) -> str:
    """The text in a column; numbers and booleans as JSON writes them."""
    value = record.get(name)
    if name not in record:
        raise RositaError(f"{where} has no {name!r}{nearest(name, list(record))}")
    if value is None or isinstance(value, (list, dict, bytes)) or value != value:  # NaN is none
        raise RositaError(f"{where}: {name!r} is {value!r:.40}, but a text or number is wanted")
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # a whole number of a column that has gaps
    return "" if value is None else str(value)
