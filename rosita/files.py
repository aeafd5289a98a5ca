"""Atomic files: whoever reads finds the old content or the new, whole; never a mixture."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any, cast

from filelock import BaseFileLock, FileLock, Timeout

from rosita.errors import RositaError

_HOST = socket.gethostname()
_SEAL = re.compile(rb"crc32 [0-9a-f]{8}\n")  # ends what `write_torch` wrote; torch does not mind
_SEAL_BYTES = 15


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", *, through: bool = False) -> Iterator[IO[Any]]:
    """Open a new file beside `path` that takes its name, flushed to disk, when the block ends well.

    An exception inside the block (or a kill at any moment) leaves the old file as it was.
    Text is UTF-8 with `\\n` line ends; of a path that is not UTF-8, the odd bytes are escaped as
    JSON does it. `through`: what a link names is written, not the link
    replaced, and a device or pipe is written as it comes.
    """
    path = Path(os.path.realpath(path)) if through else Path(path)
    new = partial_name(path)
    how: dict[str, Any] = {}
    if "b" not in mode:
        how = {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if through and path.exists() and not path.is_file():
            with open(path, mode, **how) as file:
                yield file
            return
        remove_leftovers(path)
        with open(new, mode, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        sync_folder(path.parent)
    except OSError as error:
        raise RositaError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if new.exists():
            new.unlink(missing_ok=True)


def partial_name(path: Path) -> Path:
    """What this process calls `path` until it is whole: a hidden file beside it."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.new")


def remove_leftovers(path: Path) -> None:
    """Remove the unfinished files that killed processes of this machine left beside `path`."""
    for left in path.parent.glob(f".{escape(path.name)}.{escape(_HOST)}-*.new"):
        process = left.name.split("-")[-1].removesuffix(".new")
        if not Path("/proc", process).exists() and Path("/proc/self").exists():
            left.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that it holds, or a link, but not what that names."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def behind_link(path: Path) -> Path:
    """Where `path` is, or is to be written: of a link what it names, so that the link stays."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def lock_file(lock: Path, busy: str) -> BaseFileLock:
    """Take `lock` for this process; `RositaError` "`busy` process N" if another one has it.

    The lock is the kernel's, so it ends with its process, however that dies; where a file system
    knows no such locks, a marker file that names its process. `release` ends it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    check_kind(lock)
    held = FileLock(lock, timeout=0, thread_local=False)
    try:
        held.acquire()
    except Timeout:
        raise RositaError(f"{busy} {_holder(lock)}; wait for it or stop it") from None
    except OSError as error:
        raise RositaError(f"cannot lock {lock}: {error.strerror or error}") from None
    with suppress(OSError):  # Windows keeps a locked file from being written
        if not _is_marker(lock):
            lock.write_text(f"{_OURS} {os.getpid()}\n", encoding="utf-8")
    return held


_OURS = "process"  # how a lock file of the kernel's kind names its holder


def _is_marker(lock: Path) -> bool:
    """Whether a lock file is what stands in for a kernel's lock; that names its process itself."""
    text = lock.read_bytes()
    return bool(text) and not text.startswith(_OURS.encode())


def _holder(lock: Path) -> str:
    """Who holds a lock, as far as its file says."""
    with suppress(OSError, UnicodeDecodeError):
        if found := re.search(r"\d+", lock.read_text(encoding="utf-8")):
            return f"process {found[0]}"
    return "another process"


def release(held: BaseFileLock) -> None:
    """End a lock of `lock_file`; its file goes too.

    It is removed while it is still held: after that it may be another's.
    """
    lock = Path(held.lock_file)
    with suppress(OSError):
        if not _is_marker(lock):
            lock.unlink()
    held.release()


@contextmanager
def hold(lock: Path, busy: str, patience: float = 0) -> Iterator[None]:
    """`lock_file` for the length of a block, tried for so many seconds; the file goes with it."""
    end = time.monotonic() + patience
    while True:
        try:
            held = lock_file(lock, busy)
            break
        except RositaError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.02)
    try:
        yield
    finally:
        release(held)


def private_folder() -> Path:
    """A folder in the temporary directory that is this user's alone, made if need be.

    Its name is known, and the directory is everybody's: what another user put there, or can write,
    is not taken. Raises `RositaError`.
    """
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    try:
        folder = Path(tempfile.gettempdir()) / f"rosita-{user}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise RositaError(
            f"no temporary folder can be written ({error.strerror or error}); make room there, or"
            " name another in TMPDIR"
        ) from None
    is_ours = os.name == "nt" or (found.st_uid == user and not found.st_mode & 0o077)
    if not stat.S_ISDIR(found.st_mode) or not is_ours:
        raise RositaError(
            f"{folder} is not a folder of yours alone; remove it, or name another in TMPDIR"
        )
    return folder


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def relative_path(path: str | Path, start: str | Path = ".") -> str:
    """`path` as seen from `start`; whole where no way leads there: on Windows, to another drive."""
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return os.path.abspath(path)


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_readable(path: str | Path) -> None:
    """Raise `RositaError` for what cannot be opened, before a library does and says less."""
    with reading(path), open(path, "rb"):
        pass


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """What the system says against opening or reading `path` within the block, as a line."""
    check_kind(path)
    try:
        yield
    except FileNotFoundError:
        raise RositaError(f"{path} does not exist") from None
    except OSError as error:
        raise RositaError(f"cannot read {path}: {error.strerror or error}") from None


_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


def check_kind(path: str | Path) -> None:
    """Raise `RositaError` for what is there, but no file that can be read twice.

    A pipe that nobody writes would be waited for without end, a device may never end.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL byte, from a JSON file
        if isinstance(error, ValueError):
            raise RositaError(f"{str(path)!r} is no path: {error}") from None
        return  # who opens it says so
    if not stat.S_ISREG(mode):
        raise RositaError(f"{path} is a {_KINDS.get(stat.S_IFMT(mode), 'device')}, not a file")


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """A file's text with its line ends as they stand; `RositaError` names what is wrong with it."""
    path = Path(path)
    with reading(path):
        content = path.read_bytes()
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise RositaError(f"{path} is not UTF-8 (byte {error.start})") from None


class RepeatedKey(ValueError):
    """One object of a JSON text has a key twice: which of the two is meant, nobody knows."""


def parse_json(text: str) -> Any:
    """The value of a JSON text; raises `RepeatedKey`, or `json.JSONDecodeError`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (RepeatedKey, json.JSONDecodeError):
        raise
    except ValueError:  # of a whole number with more digits than Python reads
        most = sys.get_int_max_str_digits()
        found = re.search(rf"\d{{{most + 1}}}", text)
        at = found.start() if found else 0
        raise json.JSONDecodeError(f"A number of more than {most:,} digits", text, at) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RepeatedKey(
                f"the key {key!r} is there twice, with {found[key]!r:.40} and"
                f" {value!r:.40}; take one out"
            )
        found[key] = value
    return found


def read_json(path: str | Path) -> Any:
    """Read a JSON file; `RositaError` names the file, line and column of what is wrong."""
    text = read_text(path, "utf-8-sig")
    try:
        return parse_json(text)
    except RepeatedKey as error:
        raise RositaError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise RositaError(f"{path} is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise RositaError(f"{path} is nested too deeply to be read") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """`read_json` of a file that must hold one object."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise RositaError(f"{path} must hold one JSON object")
    return values


def shard_names(index: str | Path) -> list[str]:
    """The files, beside it, that an index of sharded weights names, sorted."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise RositaError(f"{index} names no shards: it must have a weight_map")
    shards = sorted(set(map(str, names.values())))
    if elsewhere := [name for name in shards if Path(name).name != name]:
        raise RositaError(f"{index} names a shard that is not beside it: {elsewhere[0]!r}")
    return shards


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content; `RositaError` if it cannot be read."""
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def values_hash(values: object) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_sealed(path: str | Path, values: dict[str, Any]) -> None:
    """Write a record of a cache: JSON with its name and its own hash, which `read_sealed` reads."""
    values = {**values, "of": Path(path).name}  # a record of another kind is none
    write_json(path, {**values, "check": values_hash(values)})


def read_sealed(path: str | Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None if it is not there, or not as it was written.

    Raises `PermissionError` for a file of another user that only they can read.
    """
    check_kind(path)
    try:
        values = json.loads(Path(path).read_bytes())
        whole = values.pop("check") == values_hash(values)
        whole &= values.pop("of", Path(path).name) == Path(path).name  # earlier ones do not say it
    except PermissionError:
        raise
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    return values if whole else None


def file_facts(path: str | Path) -> dict[str, int]:
    """What a cache's record holds of each of its files: size and checksum."""
    return {"bytes": Path(path).stat().st_size, "crc32": crc32_file(path)}


def crc32_file(path: str | Path, size: int | None = None) -> int:
    """CRC-32 of a file's content, or of its first `size` bytes."""
    check_kind(path)
    crc, left = 0, Path(path).stat().st_size if size is None else size
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            crc = zlib.crc32(block, crc)
            left -= len(block)
    return crc


class _Summed:
    """A file open for writing, and the CRC-32 of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.crc = 0

    def write(self, block: bytes | memoryview) -> int:
        self.crc = zlib.crc32(block, self.crc)
        return self.file.write(block)

    def flush(self) -> None:
        self.file.flush()


def write_torch(path: str | Path, value: Any) -> None:
    """`torch.save`, atomically, with a checksum behind it that `read_torch` looks at."""
    import torch

    with atomic_write(path, "wb") as file:
        try:
            summed = _Summed(file)
            torch.save(value, cast(IO[bytes], summed))  # it is written to, no more
            file.write(b"crc32 %08x\n" % summed.crc)
        except RuntimeError as error:  # what torch makes of an OSError of the file
            cause = error.__context__
            reason = cause.strerror if isinstance(cause, OSError) else str(error).split("\n")[0]
            raise RositaError(f"cannot write {path}: {reason}") from error


def read_torch(path: str | Path, sealed: bool = False) -> Any:
    """What `torch.save` wrote, on the CPU, without running code that the file may carry.

    Raises `FileNotFoundError`, or `RositaError` for a file that is cut off, altered or hostile;
    one with `write_torch`'s checksum, which `sealed` demands, is altered if one bit is.
    """
    import torch  # heavy: most users of this module need no tensors

    _check_seal(Path(path), sealed)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # the unpickler meets arbitrary bytes: any exception is their fault
        reason = str(error).split("\n")[0][:100] or type(error).__name__
        raise RositaError(f"{path} cannot be read, it is cut off or altered: {reason}") from None


def _check_seal(path: Path, demanded: bool) -> None:
    check_kind(path)
    size = path.stat().st_size - _SEAL_BYTES
    with open(path, "rb") as file:
        file.seek(max(size, 0))
        seal = file.read()
    known = _SEAL.fullmatch(seal)
    if demanded and not known:
        raise RositaError(f"{path} cannot be read, it is cut off, altered or of an older version")
    if known and int(seal[6:14], 16) != crc32_file(path, size):
        raise RositaError(f"{path} cannot be read, it is cut off or altered: its checksum differs")
