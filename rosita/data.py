"""TSV -> token ids in a memory-mapped cache keyed by content; batches bucketed by length."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from tqdm import tqdm

from rosita.errors import RositaError, nearest
from rosita.files import sha256_file, write_json
from rosita.tasks import Task
from rosita.tsv import Row, TsvFile

CHUNK_ROWS = 4_000  # rows tokenized at once: enough for all cores, little memory
POOL_BATCHES = 50  # batches sorted by length together: little padding, still well shuffled


@dataclass
class Batch:
    """Rows padded to their own longest: `inputs` go to the model, `labels` (rows,) to the loss.

    `inputs` are input_ids, attention_mask and token_type_ids, each (rows, length).
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: np.ndarray  # their numbers in the data
    teacher_logits: Tensor | None = None  # (rows, num_labels), where they are cached
    teacher_states: dict[int, Tensor] | None = None  # number -> (rows, length, hidden), likewise

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def moved(tensors):
            return {name: value.to(device, non_blocking=True) for name, value in tensors.items()}

        labels, logits, states = self.labels, self.teacher_logits, self.teacher_states
        return Batch(
            moved(self.inputs),
            labels.to(device, non_blocking=True),
            self.rows,
            None if logits is None else logits.to(device, non_blocking=True),
            None if states is None else moved(states),
        )


@dataclass
class Encoded:
    """The token ids of a file, memory-mapped: row i is ids[offsets[i]:offsets[i+1]].

    `first` (rows,) is the length of segment A with its [CLS] and [SEP]; the rest is segment B.
    `labels` (rows,): index of the label, or a number in regression; -1 in test files.
    """

    path: Path
    ids: np.ndarray
    offsets: np.ndarray
    first: np.ndarray
    labels: np.ndarray
    sha256: str  # of the file it was read from
    cache: Path  # folder of the arrays; its name is the hash of all that decides them
    skipped: int = 0
    # what `teacher_cache` kept: (rows, num_labels), and by state number (tokens, hidden)
    teacher_logits: np.ndarray | None = None
    teacher_states: dict[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self) -> np.ndarray:
        """Tokens of each row (rows,)."""
        return np.diff(self.offsets)

    def token_count(self, rows: np.ndarray) -> int:
        """Tokens of the given rows together."""
        return int((self.offsets[rows + 1] - self.offsets[rows]).sum())

    def part(self, begin: int, end: int) -> Encoded:
        """The rows from `begin` to before `end`: a view."""
        first, last = self.offsets[begin], self.offsets[end]
        return replace(
            self, ids=self.ids[first:last], offsets=self.offsets[begin : end + 1] - first,
            first=self.first[begin:end], labels=self.labels[begin:end], teacher_logits=None,
            teacher_states=None,
        )  # fmt: skip

    def batch(self, rows: np.ndarray, pad_id: int = 0) -> Batch:
        """The given rows as one batch, padded to the longest of them."""
        lengths = (self.offsets[rows + 1] - self.offsets[rows]).astype(np.int64)
        shape = (len(rows), int(lengths.max()))
        places = np.arange(shape[1])[None, :]
        mask = places < lengths[:, None]
        ids = np.full(shape, pad_id, dtype=np.int64)
        source = np.minimum(self.offsets[rows][:, None] + places, len(self.ids) - 1)
        tokens = source[mask]
        ids[mask] = self.ids[tokens]
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "token_type_ids": torch.from_numpy(
                ((places >= self.first[rows][:, None]) & mask).astype(np.int64)
            ),
        }
        labels = torch.from_numpy(np.asarray(self.labels[rows]))
        logits = self.teacher_logits
        logits = None if logits is None else torch.from_numpy(np.asarray(logits[rows]))
        return Batch(inputs, labels, rows, logits, self._states(tokens, mask))

    def _states(self, tokens: np.ndarray, mask: np.ndarray) -> dict[int, Tensor] | None:
        if self.teacher_states is None:
            return None
        padded = {}
        for number, kept in self.teacher_states.items():
            padded[number] = torch.zeros(*mask.shape, kept.shape[1])
            padded[number][torch.from_numpy(mask)] = torch.from_numpy(kept[tokens]).float()
        return padded


class Sampler:
    """The global batches of each epoch, over one file or over subsets one after another.

    An epoch is a pure function of (seed, epoch): it can be resumed at any step. Rows are shuffled,
    sorted by length within pools of `POOL_BATCHES` batches, cut, and the batches shuffled again.
    The last, smaller batch of a file is kept. `redraw(epoch)` gives the files of an epoch, with as
    many rows as `files`, where they are not the same every time.
    """

    def __init__(
        self,
        files: list[Encoded],
        batch_size: int,
        seed: int,
        redraw: Callable[[int], list[Encoded]] | None = None,
    ) -> None:
        self.files = files
        self.batch_size = batch_size
        self.seed = seed
        self.redraw = redraw

    @property
    def rows(self) -> int:
        """Rows of one epoch."""
        return sum(len(file) for file in self.files)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return sum(-(-len(file) // self.batch_size) for file in self.files)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Encoded, np.ndarray]]:
        """Yield (file, row numbers) of the batches of an epoch, from batch `start` on."""
        files = self.redraw(epoch) if self.redraw else self.files
        for number, file in enumerate(files):
            count = -(-len(file) // self.batch_size)
            if start >= count:
                start -= count
                continue
            rows, order = self._shuffled(file, [self.seed, epoch, number])
            for index in order[start:]:
                yield file, rows[index * self.batch_size : (index + 1) * self.batch_size]
            start = 0

    def _shuffled(self, file: Encoded, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        rows = random.permutation(len(file))
        lengths = file.lengths()
        pool = POOL_BATCHES * self.batch_size
        for begin in range(0, len(rows), pool):
            part = rows[begin : begin + pool]
            rows[begin : begin + pool] = part[np.argsort(lengths[part], kind="stable")]
        return rows, random.permutation(-(-len(rows) // self.batch_size))


def batches_by_length(file: Encoded, tokens: int) -> Iterator[np.ndarray]:
    """Row numbers of all rows, longest first, in batches of about `tokens` padded tokens."""
    lengths = file.lengths()
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        size = max(1, tokens // int(lengths[order[begin]]))
        yield order[begin : begin + size]
        begin += size


def encode_file(
    path: Path,
    task: Task,
    tokenizer: Tokenizer,
    max_seq_length: int,
    *,
    labelled: bool = True,
    train_header: str | None = None,
    cache_dir: Path | None = None,
) -> Encoded:
    """Token ids of a TSV file, from the cache beside it or made now and cached.

    The cache key is the hash of everything that decides the ids: the file's content, the
    tokenizer, the length, the columns and labels. A folder that cannot be written (read-only
    data) is replaced by one in the temporary directory. Raises `RositaError` naming file and line.
    """
    source = TsvFile(path, task, labelled=labelled, train_header=train_header)
    if not source.path.exists():
        raise RositaError(f"{path} does not exist; see download_glue_data.py --data_dir")
    set_length(tokenizer, max_seq_length)
    content = sha256_file(path)
    columns = task.text_columns_of(source.path.name)
    settings = [content, max_seq_length, columns, task.label_column, task.labels, labelled,
                task.header, task.short_rows, train_header]  # fmt: skip
    key = hashlib.sha256(json.dumps(settings).encode() + tokenizer.to_str().encode()).hexdigest()
    folder = (cache_dir or _writable_cache(source.path.parent)) / key[:32]
    if not (folder / "done.json").exists():
        _encode(source, tokenizer, folder)
    return _open(folder, source.path, content)


def set_length(tokenizer: Tokenizer, max_seq_length: int) -> None:
    """Truncate to `max_seq_length` tokens: of a pair, the longer text loses its end first."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_seq_length, strategy="longest_first")


def _writable_cache(folder: Path) -> Path:
    if os.access(folder, os.W_OK):
        return folder / "cache"
    return Path(tempfile.gettempdir()) / "rosita_cache"


def _encode(source: TsvFile, tokenizer: Tokenizer, folder: Path) -> None:
    task = source.task
    kinds = {
        "ids": np.uint16 if tokenizer.get_vocab_size() <= 65536 else np.int32,
        "lengths": np.int32,
        "first": np.int32,
        "labels": np.float32 if task.is_regression else np.int64,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        files = {name: open(new / f"{name}.bin", "wb") for name in kinds}
        size = source.path.stat().st_size
        rows = 0
        with (
            _no_garbage_collection(),
            tqdm(
                total=size, unit="B", unit_scale=True, desc=f"tokenize {source.path.name}", delay=1
            ) as bar,
        ):
            for chunk, encodings in _tokenized_chunks(source, tokenizer):
                for name, values in _columns(chunk, encodings, source).items():
                    np.asarray(values, dtype=kinds[name]).tofile(files[name])
                rows += len(chunk)
                bar.update(sum(len("\t".join(row.fields)) + 1 for row in chunk))
        for file in files.values():
            file.close()
        dtypes = {name: np.dtype(kind).name for name, kind in kinds.items()}
        write_json(new / "done.json", {"rows": rows, "skipped": source.skipped, "dtypes": dtypes})
        try:
            os.rename(new, folder)
        except OSError:  # another process was first, with the same content
            if not (folder / "done.json").exists():
                raise
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
    source: TsvFile, tokenizer: Tokenizer
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
    chunk: list[Row], encodings: list[Encoding], source: TsvFile
) -> dict[str, list | np.ndarray]:
    return {**token_columns(encodings), "labels": [_label(row, source) for row in chunk]}


def token_columns(encodings: list[Encoding]) -> dict[str, np.ndarray]:
    """Of some rows: all their token ids in turn, their lengths, the lengths of their segments A."""
    lengths = np.array([len(encoding.ids) for encoding in encodings])
    pair = encodings[0].type_ids[-1] == 1
    second = [sum(encoding.type_ids) if pair else 0 for encoding in encodings]
    ids = np.concatenate([encoding.ids for encoding in encodings])
    return {"ids": ids, "lengths": lengths, "first": lengths - second}


def _label(row: Row, source: TsvFile) -> float:
    if row.label is None:
        return -1
    labels = source.task.labels
    where = f"{source.path} line {row.line}"
    if labels is None:
        try:
            value = float(row.label)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise RositaError(f"{where}: label {row.label!r} is not a number")
        return value
    if row.label not in labels:
        hint = nearest(row.label, list(labels))
        raise RositaError(f"{where}: label {row.label!r} is not one of {', '.join(labels)}{hint}")
    return labels.index(row.label)


def _open(folder: Path, path: Path, content: str) -> Encoded:
    done = json.loads((folder / "done.json").read_text())
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
        arrays["labels"],
        content,
        folder,
        done["skipped"],
    )
