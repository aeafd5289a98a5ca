"""Batches of token ids: bucketed by length, shuffled by epoch, dealt out as steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

POOL_BATCHES = 50, 200  # sorted by length together: at least, at most


@dataclass
class Batch:
    """Rows padded to their own longest: `inputs` go to the model, `labels` (rows,) to the loss.

    `inputs` are input_ids, attention_mask and token_type_ids, each (rows, length).
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: np.ndarray  # their numbers in the file
    file: Encoded | None = None  # that they are of

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, labels=self.labels.to(device, non_blocking=True))


@dataclass(eq=False)
class Encoded:
    """The token ids of a file, memory-mapped: row i is ids[offsets[i]:offsets[i+1]].

    `first` (rows,) is the length of segment A with its [CLS] and [SEP]; the rest is segment B.
    `labels` (rows,): index of the label, or a number in regression; of several labels (rows,
    labels) a 0 or 1 for each; -1 where there are none, as in test files.
    """

    path: Path
    ids: np.ndarray
    offsets: np.ndarray
    first: np.ndarray
    labels: np.ndarray
    sha256: str  # of the file it was read from
    cache: Path  # folder of the arrays; its name is the hash of all that decides them
    skipped: int = 0
    pad_id: int = 0  # fills a batch up

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
            self,
            ids=self.ids[first:last],
            offsets=self.offsets[begin : end + 1] - first,
            first=self.first[begin:end],
            labels=self.labels[begin:end],
        )

    def batch(self, rows: np.ndarray) -> Batch:
        """The given rows as one batch, padded to the longest of them."""
        tokens, mask = token_places(self.offsets, rows)
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = self.ids[tokens]
        places = np.arange(mask.shape[1])
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "token_type_ids": torch.from_numpy(
                ((places >= self.first[rows][:, None]) & mask).astype(np.int64)
            ),
        }
        labels = torch.from_numpy(np.asarray(self.labels[rows]))
        return Batch(inputs, labels, rows, self)


def token_places(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the tokens of `rows` stand in an array of all rows' (tokens,), and in a batch: a mask
    (rows, longest of them) of as many True. Row i has the places offsets[i]:offsets[i+1].
    """
    lengths = (offsets[rows + 1] - offsets[rows]).astype(np.int64)
    places = np.arange(int(lengths.max()))[None, :]
    mask = places < lengths[:, None]
    return (offsets[rows][:, None] + places)[mask], mask


class Sampler:
    """The global batches of each epoch, over one file or over subsets one after another.

    An epoch is a pure function of (seed, epoch): it can be resumed at any step. Rows are shuffled,
    sorted by length within pools of batches (`pool_size`), cut, and the batches shuffled again.
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
        self.pool_batches: int | None = None  # of a run that began with pools of another size

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
        pool = (self.pool_batches or pool_size(-(-len(rows) // self.batch_size))) * self.batch_size
        for begin in range(0, len(rows), pool):
            part = rows[begin : begin + pool]
            rows[begin : begin + pool] = part[np.argsort(lengths[part], kind="stable")]
        return rows, random.permutation(-(-len(rows) // self.batch_size))


def pool_size(batches: int) -> int:
    """How many of a file's batches are sorted by length together.

    The larger the pool, the less padding. But rows of a small file sorted as a whole would meet
    the same others in every epoch: so no more than a third of it, above 50 batches.
    """
    least, most = POOL_BATCHES
    return min(most, max(least, batches // 3))


def batches_by_length(file: Encoded, tokens: int) -> Iterator[np.ndarray]:
    """Row numbers of all rows, longest first, in batches of about `tokens` padded tokens."""
    lengths = file.lengths()
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        size = max(1, tokens // int(lengths[order[begin]]))
        yield order[begin : begin + size]
        begin += size


def in_file_order(rows: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
    """The values (rows, ...) of batches of row numbers that together are a file, in its order."""
    return np.concatenate(values)[np.argsort(np.concatenate(rows))]


@dataclass
class Step:
    """One process's part of an optimizer step; `counts` are those of the whole global batch."""

    number: int  # from 1
    micro_batches: list[Batch]
    counts: dict[str, int]  # "rows" and "tokens"
    idle: bool  # there is no row for this process: its batch counts for nothing


def steps_of(
    sampler: Sampler,
    micro_batch_size: int,
    done: int,
    total: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Step]:
    """A process's part of the steps after the `done` first, up to `total`.

    Row i of a global batch goes to process i modulo `processes`.
    """
    while done < total:
        epoch, start = divmod(done, sampler.steps_per_epoch)
        for file, rows in sampler.epoch(epoch, start):
            if done >= total:
                return
            done += 1
            mine = rows[process::processes]
            idle = not len(mine)  # an epoch's last batch may have fewer rows than processes
            mine = rows[:1] if idle else mine
            parts = np.split(mine, range(micro_batch_size, len(mine), micro_batch_size))
            counts = {"rows": len(rows), "tokens": file.token_count(rows)}
            yield Step(done, [file.batch(part) for part in parts], counts, idle)
