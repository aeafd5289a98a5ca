"""Fetch files and put them in place whole: progress, tries again, goes on with a cut download."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rosita.errors import RositaError
from rosita.fetch.sources import Access, Cut, Opened, check_source, open_source, redact
from rosita.files import hold, sync_folder
from rosita.progress import Bar

LONGEST_WAIT = 30  # seconds between two tries
# An endless stream must fill neither disk nor time: each kind of file has a size that it never has,
# and a source that brings less than this in so many seconds brings nothing.
MAX_BYTES = 32 * 2**30
LEAST_BYTES, PATIENCE = 100_000, 300


def fetch(
    source: str | Path,
    target: str | Path,
    access: Access | None = None,
    most: int = MAX_BYTES,
) -> Path:
    """Copy the file `source` (path, http(s) or s3 address) to `target`, which appears whole.

    What has come so far stands in `target.part` with a note of its version beside it, and is gone
    on with if the source still has that version. A `target` already there is not fetched again.
    Raises `Absent` if the source has no such file, else `RositaError` when all tries are used up,
    if nothing comes for minutes, or if there are more bytes than `most`.
    """
    source, target, access = str(source), Path(target), access or Access()
    check_source(source, access)
    if target.exists():
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _Part(target, most)
    with Bar(desc=target.name, unit="B", unit_scale=True) as bar:
        _fetch_into(part, source, access, bar)
    part.finish()
    return target


def _fetch_into(part: _Part, source: str, access: Access, bar: Bar) -> None:
    failures = 0
    pace = _Pace()
    while not part.whole:
        before = part.size
        try:
            _go_on(part, source, access, bar, pace)
        except (Cut, _TooSlow) as cut:
            failures = 1 if part.size > before else failures + 1
            if failures > access.retries or isinstance(cut, _TooSlow):
                kept = f"from byte {part.size:,}" if part.size else "again"
                tries = "" if isinstance(cut, _TooSlow) else f" after {failures} tries"
                raise RositaError(
                    f"{redact(source)}: {cut}; gave up{tries}, the same command"
                    f" tries on {kept}; or name a mirror"
                ) from None
            wait = min(LONGEST_WAIT, max(cut.wait, 2 ** (failures - 1) * random.uniform(0.8, 1.2)))
            bar.write(f"{part.target.name}: {cut}; again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)
            pace.waited(wait)


def _go_on(part: _Part, source: str, access: Access, bar: Bar, pace: _Pace) -> None:
    """Open the source once, at the first missing byte, and write what comes."""
    opened = open_source(source, part.size, part.version, access)
    if opened.start and not part.continues_with(opened):
        opened = open_source(source, 0, None, access)
    if opened.start not in (0, part.size):
        raise Cut("answers with a piece that was not asked for")
    with writing(part.target):
        if opened.start == 0:
            part.restart(opened)
        part.check_size(part.total or 0)
        need_space(part.path.parent, (part.total or 0) - part.size)
        bar.total, bar.initial, bar.n = part.total, part.size, part.size
        part.append(opened.chunks, bar, pace)
    if part.total is not None and part.size < part.total:
        raise Cut(f"cut off after {part.size:,} of {part.total:,} bytes")
    part.whole = True


class _TooSlow(Exception):
    """What comes is too little to wait for."""


class _Pace:
    """Whether enough comes in each span of `PATIENCE` seconds; waits between tries do not count."""

    def __init__(self) -> None:
        self._begun, self._bytes = time.monotonic(), 0

    def waited(self, seconds: float) -> None:
        """Leave a wait between tries out."""
        self._begun += seconds

    def brought(self, size: int) -> None:
        """Count bytes that came; `_TooSlow` if they are too few."""
        self._bytes += size
        now = time.monotonic()
        if self._bytes >= LEAST_BYTES:
            self._begun, self._bytes = now, 0
        elif now - self._begun > PATIENCE:
            raise _TooSlow(f"brought {self._bytes:,} bytes in {now - self._begun:.0f} s")


class _Part:
    """The bytes come so far, and a note saying which version of the source they belong to."""

    def __init__(self, target: Path, most: int):
        self.target = target
        self.most = most
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            self.version, self.total = note["version"], note["total"]
        except (OSError, ValueError, KeyError, TypeError):
            self.version = self.total = None
            self.path.unlink(missing_ok=True)  # bytes of we know not what
        if self.total is not None and self.size > self.total:
            self.path.unlink()
        self.whole = self.total is not None and self.path.exists() and self.size == self.total

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def continues_with(self, opened: Opened) -> bool:
        same_version = opened.version in (None, self.version)
        return opened.start == self.size and same_version and opened.total in (None, self.total)

    def restart(self, opened: Opened) -> None:
        # Emptied before the note changes: bytes never stand beside the note of another version.
        self.path.write_bytes(b"")
        self.version, self.total = opened.version, opened.total
        # Written plainly: half a note cannot be read, and then the bytes do not count either.
        note = json.dumps({"version": self.version, "total": self.total})
        self.note.write_text(note, encoding="utf-8")

    def append(self, chunks: Iterator[bytes], bar: Bar, pace: _Pace) -> None:
        with open(self.path, "ab") as file:
            for chunk in chunks:
                file.write(chunk)
                bar.update(len(chunk))
                self.check_size(file.tell())
                pace.brought(len(chunk))

    def check_size(self, size: int) -> None:
        if size > self.most:
            self.note.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            raise RositaError(
                f"{self.target.name} is larger than {self.most:,} bytes, which no such file is: is"
                " the source the right one?"
            )

    def finish(self) -> None:
        with writing(self.target):
            _sync_file(self.path)
            os.replace(self.path, self.target)
            sync_folder(self.target.parent)
            self.note.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a fault of the disk inside the block into one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise RositaError(f"cannot write {path}: {error.strerror or error}") from None


def need_space(folder: Path, size: int) -> None:
    """Raise `RositaError` if the disk of `folder` has not `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise RositaError(f"{folder} needs {size:,} bytes, but {free:,} are free; make room")


def staging_folder(parent: Path, source: str) -> Path:
    """Where downloads from `source` wait; another source has another place, so none ever mix."""
    return parent / ".download" / hashlib.sha256(os.fsencode(redact(source))).hexdigest()[:12]


def remove_staging(folder: Path) -> None:
    """Remove an emptied staging folder; one that still holds a download stays."""
    for emptied in (folder, folder.parent):
        with suppress(OSError):
            emptied.rmdir()


@contextmanager
def holding(target: Path) -> Iterator[None]:
    """Let one process at a time fill `target`; a second one is told which holds it, and stops."""
    lock = target.with_name(f".{target.name}.lock")
    with writing(target):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with hold(lock, f"{target} is being filled by"):
        yield


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target` that takes its name, flushed, when the block ends well."""
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # left by a killed run
    try:
        with writing(target):
            new.mkdir(parents=True)
        yield new
        put_folder(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def put_folder(new: Path, target: Path) -> None:
    """Flush the files of `new` and rename it to `target`, which must be absent or empty."""
    with writing(target):
        for path in new.iterdir():
            _sync_file(path)
        sync_folder(new)
        os.replace(new, target)
        sync_folder(target.parent)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
