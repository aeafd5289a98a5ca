"""TSV -> token ids in a memory-mapped cache keyed by content; batches bucketed by length."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from rosita.data.batches import Encoded
from rosita.data.records import (
    RecordFile,
    check_content,
    content_bytes,
    content_hash,
    open_table,
)
from rosita.data.tsv import Row, TsvFile
from rosita.errors import RositaError, nearest
from rosita.files import (
    file_facts,
    private_folder,
    read_sealed,
    sync_folder,
    write_sealed,
)
from rosita.progress import Bar
from rosita.provenance import say_once
from rosita.tasks import Task
from rosita.tokenizer import TokenizerFiles

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)  # to this user, there
READING = 2  # counted up when the same bytes are read as other rows: older caches are left alone
CHUNK_ROWS = 4_000  # rows tokenized at once: enough for all cores, little memory


def encode_file(
    path: Path,
    task: Task,
    tokenizer: TokenizerFiles,
    max_seq_length: int,
    *,
    labelled: bool = True,
    train_header: str | None = None,
    cache_dir: Path | None = None,
) -> Encoded:
    """Token ids of a table, from the cache beside it or made now and cached.

    The cache key is the hash of everything that decides the ids: the file's content, the
    tokenizer, the length, the columns and labels. A damaged cache is made again. Where this user
    may not read or write what is there (read-only data, another user's cache), one in this user's
    temporary folder takes its place. Raises `RositaError` naming file and line.
    """
    source = open_table(Path(path), task, labelled=labelled, train_header=train_header)
    if not source.path.exists():
        raise RositaError(
            f"{path} does not exist; see download_glue_data.py, or name another folder by data_dir"
            " (--data_dir)"
        )
    built = tokenizer.build(max_seq_length)
    content = content_hash(source.path)
    columns = task.text_columns_of(source.path)
    settings = [
        READING,
        content,
        max_seq_length,
        columns,
        task.label_column,
        task.labels,
        labelled,
        task.multi_label,
        source.header,  # of a TSV file by its name and task
        task.short_rows,
        train_header,
        task.label_range,
        # the same bytes are other rows in another format
        *([source.path.suffix or "folder"] if isinstance(source, RecordFile) else []),
    ]
    key = hashlib.sha256(json.dumps(settings).encode() + built.to_str().encode()).hexdigest()
    cache = cache_dir or source.path.parent / "cache"
    made_of = source, built, content, tokenizer.pad_id
    try:
        return _cached(cache / key[:32], *made_of)
    except OSError as error:
        if error.errno not in NOT_ALLOWED or cache_dir:
            raise RositaError(
                f"cannot write {cache}: {error.strerror or error}; make room, or name another"
                " folder by --cache_dir"
            ) from error
        return _cached(other_cache(cache, error) / key[:32], *made_of)


def other_cache(cache: Path, error: OSError) -> Path:
    """This user's own folder, in place of a cache that they may not read or write; says so."""
    own = private_folder()
    say_once(f"{cache} cannot be used ({error.strerror}); its place is taken by {own}")
    return own


def _cached(
    folder: Path, source: TsvFile | RecordFile, tokenizer: Tokenizer, content: str, pad_id: int
) -> Encoded:
    """The token ids that `folder` holds, made now if it does not."""
    found = _open(folder, source, content, pad_id)
    if found is None:
        _encode(source, tokenizer, folder, content)
        found = _open(folder, source, content, pad_id)
    if found is None:
        raise RositaError(f"{folder} cannot be read back as it was written; is the disk sound?")
    return found


def _encode(source: TsvFile | RecordFile, tokenizer: Tokenizer, folder: Path, content: str) -> None:
    task = source.task
    kinds = {
        "ids": np.uint16 if max(tokenizer.get_vocab().values()) < 65536 else np.int32,
        "lengths": np.int32,
        "first": np.int32,
        "labels": np.float32 if task.is_regression or task.multi_label else np.int64,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        shutil.copymode(folder.parent, new)  # for other users of the data as well
        files = {name: open(new / f"{name}.bin", "wb") for name in kinds}
        size = content_bytes(source.path)
        rows = 0
        with (
            _no_garbage_collection(),
            Bar(
                total=size, unit="B", unit_scale=True, desc=f"tokenize {source.path.name}", delay=1
            ) as bar,
        ):
            for chunk, encodings in _tokenized_chunks(source, tokenizer):
                for name, values in _columns(chunk, encodings, source).items():
                    np.asarray(values, dtype=kinds[name]).tofile(files[name])
                rows += len(chunk)
                bar.update(sum(len("\t".join(row.fields)) + 1 for row in chunk))
        check_content(source.path, content)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        write_sealed(
            new / "done.json",
            {
                "rows": rows,
                "skipped": source.skipped,
                "dtypes": {name: np.dtype(kind).name for name, kind in kinds.items()},
                "files": {name: file_facts(new / f"{name}.bin") for name in kinds},
            },
        )
        try:
            os.rename(new, folder)
        except OSError:  # another process was first, with the same content
            if not (folder / "done.json").exists():
                raise
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Rows and tokens form no reference cycles; looking for some would take a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tokenized_chunks(
    source: TsvFile | RecordFile, tokenizer: Tokenizer
) -> Iterator[tuple[list[Row], list[Encoding]]]:
    """Chunks of rows and their tokens; the next one is tokenized while this one is worked on."""
    examples = source.rows()
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        while chunk := list(islice(examples, CHUNK_ROWS)):
            texts = [row.texts if len(row.texts) == 2 else row.texts[0] for row in chunk]
            begun = chunk, pool.submit(tokenizer.encode_batch_fast, texts)
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = begun
        if waiting:
            yield waiting[0], waiting[1].result()


def _columns(
    chunk: list[Row], encodings: list[Encoding], source: TsvFile | RecordFile
) -> dict[str, list | np.ndarray]:
    return {**token_columns(encodings), "labels": [label_number(row, source) for row in chunk]}


def token_columns(encodings: list[Encoding]) -> dict[str, np.ndarray]:
    """Of some rows: all their token ids in turn, their lengths, the lengths of their segments A."""
    lengths = np.array([len(encoding.ids) for encoding in encodings])
    pair = encodings[0].type_ids[-1] == 1
    second = [sum(encoding.type_ids) if pair else 0 for encoding in encodings]
    ids = np.concatenate([encoding.ids for encoding in encodings])
    return {"ids": ids, "lengths": lengths, "first": lengths - second}


def label_number(row: Row, source: TsvFile | RecordFile) -> float | list[float]:
    """The label as a number: of a class, of a regression; of several labels a 0 or 1 for each."""
    labels, several = source.task.labels, source.task.multi_label
    if row.label is None:
        return [-1] * source.task.num_labels if several else -1
    where = f"{source.path} line {row.line}"
    if labels is None:
        try:
            value = float(row.label)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise RositaError(f"{where}: label {row.label!r} is not a number")
        if (span := source.task.label_range) and not span[0] <= value <= span[1]:
            raise RositaError(
                f"{where}: label {row.label!r} is not within {span[0]:g}..{span[1]:g}, the scale of"
                f" {source.task.name}: is it another column, or another task's file?"
            )
        return value
    told = [row.label]
    if several:
        told = [name.strip() for name in row.label.split(",")] if row.label.strip() else []
    for name in told:
        if name not in labels:
            hint = nearest(name, list(labels))
            raise RositaError(f"{where}: label {name!r} is not one of {', '.join(labels)}{hint}")
    return [float(name in told) for name in labels] if several else labels.index(row.label)


def _open(folder: Path, source: TsvFile | RecordFile, content: str, pad_id: int) -> Encoded | None:
    """The cache, if it is there and as it was written; another one is removed."""
    path, several = source.path, source.task.multi_label
    if not folder.exists():
        return None
    done = read_sealed(folder / "done.json")
    if not done or not _is_whole(folder, done):
        print(f"{folder} is damaged, or of an older version: {path} is read anew")
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise PermissionError(errno.EACCES, "a damaged cache cannot be removed")
        return None
    arrays = {
        name: np.memmap(folder / f"{name}.bin", dtype=dtype, mode="r")
        for name, dtype in done["dtypes"].items()
    }
    offsets = np.concatenate([[0], np.cumsum(arrays["lengths"], dtype=np.int64)])
    if done["skipped"]:
        print(f"{path}: {done['skipped']} rows too short were skipped, {done['rows']} read")
    return Encoded(
        path,
        arrays["ids"],
        offsets,
        arrays["first"],
        # of several labels a row has as many as the task, each 0 or 1
        arrays["labels"].reshape(len(offsets) - 1, -1) if several else arrays["labels"],
        content,
        folder,
        done["skipped"],
        pad_id,
    )


def _is_whole(folder: Path, done: dict[str, Any]) -> bool:
    """Whether the arrays are those of which the record has size and checksum."""
    try:
        return all(
            file_facts(folder / f"{name}.bin") == facts for name, facts in done["files"].items()
        )
    except PermissionError:
        raise
    except OSError:
        return False
