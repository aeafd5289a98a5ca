"""Zip archives from strangers: every entry is checked before the first byte is unpacked."""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rosita.errors import RositaError
from rosita.fetch.download import need_space, writing
from rosita.files import sha256_file

CHUNK = 1 << 20  # bytes
MAX_ENTRIES = 10_000
MAX_BYTES = 8 * 2**30  # unpacked; the largest archive we read, GloVe's, has 5 GB
MAX_RATIO = 100  # unpacked to packed; text has 3 to 10
RATIO_FREE_BYTES = 16 * 2**20  # below this size a high ratio harms nobody

# Everything that zipfile and the decompressors raise for a truncated or altered archive.
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError)


class Damaged(RositaError):
    """What came is not what it should be: damaged, hostile or another file."""


def check_sha256(path: Path, expected: str) -> None:
    """Raise `Damaged` unless the file's SHA-256 is `expected` (hexadecimal)."""
    actual = sha256_file(path)
    if actual != expected:
        raise Damaged(f"{path.name} is not the known file: SHA-256 {actual}, expected {expected}")


def unpack(archive: Path, folder: Path, names: Sequence[str]) -> None:
    """Write the files `names` of a zip archive into `folder`; all other entries are left out.

    They may stand at the top or in one folder of any name. Raises `Damaged`, before anything is
    written, if any entry has an absolute path, a `..`, a link or a password, or if the archive
    unpacks to suspiciously much; while writing, if an entry is truncated or its checksum is wrong.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = packed.infolist()
            _check(archive, entries)
            chosen = _find(archive, entries, names)
            need_space(folder, sum(entry.file_size for entry in chosen.values()))
            for name, entry in chosen.items():
                _copy(packed, entry, folder / name)
    except _FAULTS as error:
        reason = str(error) or type(error).__name__
        raise Damaged(f"{archive.name} is no whole zip archive ({reason})") from None


def _check(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise Damaged(f"{archive.name} has {len(entries):,} entries, more than {MAX_ENTRIES:,}")
    for entry in entries:
        if fault := _fault(entry):
            raise Damaged(f"{archive.name} is hostile: its entry {entry.orig_filename!r} {fault}")
    unpacked = sum(entry.file_size for entry in entries)
    # Against the archive's real size: the packed sizes that it states could lie or overlap.
    limit = min(MAX_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * archive.stat().st_size))
    if unpacked > limit:
        raise Damaged(
            f"{archive.name} would unpack to {unpacked:,} bytes, more than {limit:,}: a zip bomb?"
        )


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """What makes an entry unfit to be unpacked, or None."""
    name = entry.orig_filename  # as stored; `filename` is already mended
    if re.match(r"[/\\]|[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in _parts(name) or "\0" in name:
        return "leaves the folder it is unpacked into"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 1:
        return "is encrypted"
    return None


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]


def _find(
    archive: Path, entries: list[zipfile.ZipInfo], names: Sequence[str]
) -> dict[str, zipfile.ZipInfo]:
    """The entries called `names`, all at the top or all in one and the same folder."""
    folders: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for entry in entries:
        *folder, name = _parts(entry.orig_filename) or [""]
        if entry.is_dir() or name not in names or len(folder) > 1 or folder == ["__MACOSX"]:
            continue
        found = folders.setdefault("/".join(folder), {})
        if name in found:
            raise Damaged(f"{archive.name} has two entries {entry.orig_filename!r}")
        found[name] = entry
    whole = [found for found in folders.values() if len(found) == len(set(names))]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise Damaged(f"{archive.name} has {names[0]} in several folders: {sorted(folders)}")
    best = max(folders.values(), key=len, default={})
    missing = [name for name in names if name not in best]
    raise Damaged(f"{archive.name} has no {', '.join(missing)}: is it another archive?")


def _copy(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    with packed.open(entry) as source, writing(path), open(path, "wb") as file:
        while chunk := _read(source):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _read(source: IO[bytes]) -> bytes:
    """The next bytes of an entry; a fault of the archive is not to be taken for one of the disk."""
    try:
        return source.read(CHUNK)
    except OSError as error:
        raise EOFError(error.strerror) from None
