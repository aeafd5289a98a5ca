"""train_aug.tsv on disk: grown chunk by chunk, resumed after a kill, split into subsets."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rosita.data.records import RecordFile, check_content
from rosita.data.tsv import Row, TsvFile
from rosita.errors import RositaError
from rosita.files import (
    atomic_write,
    read_object,
    read_sealed,
    sha256_file,
    sync_folder,
    write_json,
    write_sealed,
)
from rosita.progress import Bar

Grow = Callable[[int, list[Row]], list[list[str]]]  # first row's number, rows -> fields of rows


class AugmentedFile:
    """The augmented rows of one train.tsv, made from `settings` (JSON values).

    Rows go to a hidden partial file, and a small progress record says how far it is good, with
    the hash of what is there; both are flushed after each chunk. The file takes its name by one
    rename, and `train_aug.json` beside it says what it was made from, its size and its hash, with
    `details` that decide nothing.

    Of `shards` processes, each makes the rows of one run of train.tsv, and the first joins them;
    `wait` returns when all have called it.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        shard: int = 0,
        shards: int = 1,
        wait: Callable[[], None] = lambda: None,
        details: dict[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.settings = settings
        self.shard = shard
        self.shards = shards
        self.wait = wait
        self.details = details or {}
        self.record = path.with_suffix(".json")
        self._partial, self._progress = self._files(shard)
        self._digest = hashlib.sha256()  # of the rows of this shard so far

    def _files(self, shard: int) -> tuple[Path, Path]:
        """The partial file of a shard, and its progress record."""
        name = f"-{shard}-of-{self.shards}" if self.shards > 1 else ""
        return (
            self.path.with_name(f".{self.path.name}.partial{name}"),
            self.path.with_name(f".{self.path.stem}.progress{name}.json"),
        )

    def is_finished(self) -> bool:
        """Whether the file is whole, and was made from these settings."""
        if not (self.path.exists() and self.record.exists()):
            return False
        record = read_object(self.record)
        same_size = record.get("bytes") == self.path.stat().st_size
        if not same_size or self._differences(record):
            return False
        return record.get("sha256") in (None, sha256_file(self.path))  # earlier ones had none

    def clear_leftovers(self) -> None:
        """Remove what a kill just before the end left beside the finished file."""
        if self._progress.exists() and not self._differences(read_sealed(self._progress) or {}):
            self._remove_progress()

    def refuse_to_overwrite(self) -> None:
        """`RositaError` if there is a file, whole or in the making, from other settings."""
        if progress := read_sealed(self._progress):
            self._compare("was begun", progress)
        elif self.path.exists() and self.record.exists():
            record = read_object(self.record)
            self._compare("is there, made", record)
            raise RositaError(
                f"{self.path} is not the file that {self.record.name} describes: it was changed"
                " since; make it again with --overwrite"
            )
        elif self.path.exists():
            raise RositaError(
                f"{self.path} is there, but no {self.record.name} says how it was made;"
                " replace it with --overwrite"
            )

    def _compare(self, what: str, record: dict[str, Any]) -> None:
        if changed := self._differences(record):
            raise RositaError(
                f"{self.path} {what} from other settings or files ({'; '.join(changed)});"
                " start afresh with --overwrite"
            )

    def _differences(self, record: dict[str, Any]) -> list[str]:
        """The settings that a record has otherwise, each as `p 0.4, now 0.3`.

        Records of finished files from before `config` was one of them lack it.
        """
        record = {"config": self.settings.get("config"), **record}
        return [
            key if len(str(value)) > 20 else f"{key} {record.get(key)}, now {value}"  # no hashes
            for key, value in self.settings.items()
            if record.get(key) != value
        ]

    def write(
        self, train: TsvFile | RecordFile, rows_in: int, grow: Grow, chunk_rows: int
    ) -> dict[str, Any]:
        """Grow the `rows_in` rows of `train` from where an earlier run was cut off; the record."""
        state = self._last_state()
        begin, end = (rows_in * number // self.shards for number in (self.shard, self.shard + 1))
        try:
            if not self._is_renamed(state, rows_in):
                self._append(state, train, (begin, end), grow, chunk_rows)
                if "train_sha256" in self.settings:
                    check_content(train.path, self.settings["train_sha256"])
                self.wait()
                if self.shard == 0:
                    state = self._publish(state)
        except OSError as error:
            raise RositaError(
                f"cannot write {self.path}: {error.strerror or error}; make room and give the same"
                " command again, it goes on from there"
            ) from error
        record = {"stage": "data_augmentation", "finished": True, **state, **self.details}
        if self.shard == 0:
            write_json(self.record, record)
            self._remove_progress()
        self.wait()
        return record

    def _publish(self, state: dict[str, Any]) -> dict[str, Any]:
        """Join the shards and give the file its name; the state of the whole."""
        if self.shards > 1:
            state = self._join()
        if self.path.exists():
            remove_subsets(self.path)  # they are pieces of the file that goes
        os.replace(self.path.with_name(f".{self.path.name}.partial"), self.path)
        sync_folder(self.path.parent)
        return state

    def _join(self) -> dict[str, Any]:
        parts = [self._files(shard) for shard in range(self.shards)]
        states = [read_sealed(progress) or {} for _, progress in parts]
        whole = hashlib.sha256()
        with open(self.path.with_name(f".{self.path.name}.partial"), "wb") as joined:
            for (partial, _), state in zip(parts, states, strict=True):
                part = hashlib.sha256()
                with open(partial, "rb") as file:
                    while block := file.read(1 << 20):
                        part.update(block)
                        whole.update(block)
                        joined.write(block)
                if part.hexdigest() != state.get("sha256"):
                    raise RositaError(f"{partial} is damaged; give the same command again")
            joined.flush()
            os.fsync(joined.fileno())
        sums = {
            key: sum(state[key] for state in states) for key in ("rows_in", "rows_out", "bytes")
        }
        slowest = max(state["seconds"] for state in states)
        return {**states[0], **sums, "seconds": slowest, "sha256": whole.hexdigest()}

    def _remove_progress(self) -> None:
        """Remove what was needed to go on, of this and any other number of shards."""
        for pattern in (f".{self.path.stem}.progress*.json", f".{self.path.name}.partial*"):
            for file in self.path.parent.glob(pattern):
                file.unlink(missing_ok=True)

    def _last_state(self) -> dict[str, Any]:
        """The progress record if it is of these settings and its rows are whole, or a fresh one."""
        self._digest = hashlib.sha256()
        fresh = {
            **self.settings,
            "rows_in": 0,
            "rows_out": 0,
            "bytes": 0,
            "seconds": 0.0,
            "sha256": self._digest.hexdigest(),
        }
        if not self._progress.exists():
            return fresh
        state = read_sealed(self._progress)
        if state and (self._differences(state) or not state["bytes"]):
            return fresh
        file = self._partial if self._partial.exists() else self.path
        if state and file.exists() and self._read(file, state["bytes"]) == state["sha256"]:
            return state
        print(
            f"{self.path}: what there is of it is damaged, or of an older version; it is made"
            " from the beginning"
        )
        self._digest = hashlib.sha256()
        return fresh

    def _read(self, file: Path, size: int) -> str:
        """The hash of the first `size` bytes of a file, which the next rows go on."""
        with open(file, "rb") as content:
            while size > 0 and (block := content.read(min(size, 1 << 20))):
                self._digest.update(block)
                size -= len(block)
        return self._digest.hexdigest() if not size else "cut off"

    def _is_renamed(self, state: dict[str, Any], rows_in: int) -> bool:
        """Whether an earlier run was cut off between the rename and the record."""
        return self.shards == 1 and 0 < state["rows_in"] == rows_in and not self._partial.exists()

    def _append(
        self,
        state: dict[str, Any],
        train: TsvFile | RecordFile,
        span: tuple[int, int],
        grow: Grow,
        chunk_rows: int,
    ) -> None:
        """Grow the rows from number `span[0]` to before `span[1]`; `state` counts them."""
        if state["bytes"] and not self._partial.exists():  # its file was taken away
            self._digest = hashlib.sha256()
            state |= {"rows_in": 0, "rows_out": 0, "bytes": 0, "seconds": 0.0}
        started = time.monotonic() - state["seconds"]
        begin, end = span
        with (
            open(self._partial, "ab") as file,
            Bar(
                total=end - begin, initial=state["rows_in"], unit=" rows", disable=self.shard > 0
            ) as bar,
        ):
            file.truncate(state["bytes"])  # cuts what a killed run wrote of its last chunk
            write_sealed(self._progress, state)
            rows = islice(train.rows(), begin + state["rows_in"], end)
            while chunk := list(islice(rows, chunk_rows)):
                grown = grow(begin + state["rows_in"], chunk)
                lines = ["\t".join(fields) for fields in grown]
                if not all(line.strip() for line in lines):
                    raise RositaError(
                        f"{train.path} has a row without a word, which would be a blank line of"
                        f" {self.path.name}; remove it"
                    )
                if not state["bytes"] and train.header is not None and self.shard == 0:
                    lines.insert(0, train.header)
                content = ("\n".join(lines) + "\n").encode()
                self._digest.update(content)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                state["rows_in"] += len(chunk)
                state["rows_out"] += len(grown)
                state["bytes"] = file.tell()
                state["sha256"] = self._digest.hexdigest()
                state["seconds"] = round(time.monotonic() - started, 1)
                write_sealed(self._progress, state)
                bar.update(len(chunk))


def subset_files(path: Path) -> dict[int, Path]:
    """The subsets beside `path` (train_aug.tsv): their numbers and files."""
    pattern = re.compile(rf"{re.escape(path.stem)}(\d+){re.escape(path.suffix)}")
    matches = [(pattern.fullmatch(file.name), file) for file in path.parent.iterdir()]
    return {int(match[1]): file for match, file in sorted(matches, key=str) if match}


def remove_subsets(path: Path) -> None:
    """Remove all subsets of `path`, number 0 first: without it there is no set of subsets."""
    for _, file in sorted(subset_files(path).items()):
        file.unlink()
    subset_record(path).unlink(missing_ok=True)


def subset_record(path: Path) -> Path:
    """The record of the subsets of `path`: the hash of each, and of the file they are pieces of."""
    return path.with_name(f"{path.stem}_subsets.json")


def write_subsets(path: Path, rows: int, has_header: bool) -> int:
    """Split `path` into train_aug0.tsv, train_aug1.tsv, ... of `rows` rows; their number.

    Like Unix `split`: only number 0 carries the header. It is written last, so that whoever
    finds it finds the others whole, and the record of their hashes.
    """
    remove_subsets(path)
    whole, hashes = hashlib.sha256(), {}
    with open(path, "rb") as file:
        first_lines = rows + has_header
        for line in islice(file, first_lines):
            whole.update(line)
        hashes[_subset(path, 0).name] = whole.hexdigest()
        while line := file.readline():
            digest = hashlib.sha256()
            subset = _subset(path, len(hashes))
            with atomic_write(subset, "wb") as target:
                for piece in chain([line], islice(file, rows - 1)):
                    target.write(piece)
                    digest.update(piece)
                    whole.update(piece)
            hashes[subset.name] = digest.hexdigest()
        write_json(subset_record(path), {"of": whole.hexdigest(), "rows": rows, "files": hashes})
        file.seek(0)
        with atomic_write(_subset(path, 0), "wb") as target:
            target.writelines(islice(file, first_lines))
    return len(hashes)


def _subset(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}{number}{path.suffix}")
