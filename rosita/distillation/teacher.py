"""The teacher: one question, `say`; whether it runs or remembers is its own affair."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.lib.format import open_memmap
from torch import Tensor

from rosita.data.batches import Batch, Encoded, batches_by_length
from rosita.errors import RositaError
from rosita.evaluation import check_finite
from rosita.files import (
    file_facts,
    partial_name,
    read_sealed,
    remove_leftovers,
    sync_folder,
    write_sealed,
)
from rosita.model import RositaForSequenceClassification
from rosita.progress import Bar

TOKENS = 4096  # of a batch that the teacher looks at
STATE = np.dtype(np.float16)  # of a kept hidden state: finer than the bf16 that made it


@dataclass
class Said:
    """A teacher's answer to a batch: logits (rows, num_labels), hidden states by their number
    (rows, length, hidden; 0 is the embedding output), none where they were not asked for."""

    logits: Tensor
    states: Mapping[int, Tensor] | Sequence[Tensor]


class Teacher:
    """Whom the student follows: it runs, or it remembers what it has said of a file's rows.

    The model is in evaluation mode and gets no gradients.
    """

    def __init__(self, model: RositaForSequenceClassification) -> None:
        self.model = model.eval()
        self.model.requires_grad_(False)
        self._memory: dict[Encoded, _Memory] = {}

    @property
    def layers(self) -> int:
        """Its hidden states are numbered from 0 to this."""
        return self.model.config.num_hidden_layers

    def say(self, batch: Batch, states: bool) -> Said:
        """Its logits of a batch, and with `states` its hidden states."""
        memory = None if batch.file is None else self._memory.get(batch.file)
        if memory and (memory.states or not states):
            return memory.recall(batch)
        with torch.no_grad():
            found = self.model(**batch.inputs, output_hidden_states=states)
        return Said(found.logits, found.hidden_states or ())

    def remember(
        self,
        files: list[Encoded],
        teacher: str,
        accelerator: Accelerator,
        states: list[int] | None = None,
    ) -> None:
        """Run once over all rows of `files`, to answer from memory from then on.

        What is kept: the logits, and the hidden states of the numbers `states` (0: embedding
        output) if some are named. It lies beside the token ids, whose folder is named by the hash
        of data, tokenizer and length, under `teacher`, the hash of its weights and configuration,
        and the precision it runs in: it is read again only for the same, and only as it was
        written. Each of many processes runs its share.
        """
        precision = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
        name = f"{teacher[:32]}-{precision[accelerator.mixed_precision]}.npy"
        numbers = "_".join(map(str, states or ()))
        for file in files:
            paths = {"logits": file.cache / f"logits-{name}"}
            if states:
                paths["states"] = file.cache / f"states-{numbers}-{name}"
            if not _are_whole(list(paths.values()), accelerator):
                _write(self.model, file, paths, states, accelerator)
            arrays = {kind: np.load(path, mmap_mode="r") for kind, path in paths.items()}
            kept = {number: arrays["states"][:, i] for i, number in enumerate(states or ())}
            self._memory[file] = _Memory(file, arrays["logits"], kept)


@dataclass
class _Memory:
    """What was said of a file: (rows, num_labels), and by state number (tokens, hidden)."""

    file: Encoded
    logits: np.ndarray
    states: dict[int, np.ndarray]

    def recall(self, batch: Batch) -> Said:
        device = batch.labels.device
        logits = torch.from_numpy(np.asarray(self.logits[batch.rows]))
        padded = {}
        if self.states:
            tokens, mask = self.file.token_places(batch.rows)
        for number, kept in self.states.items():
            state = torch.zeros(*mask.shape, kept.shape[1])
            state[torch.from_numpy(mask)] = torch.from_numpy(kept[tokens]).float()
            padded[number] = state.to(device, non_blocking=True)
        return Said(logits.to(device, non_blocking=True), padded)


def states_bytes(files: list[Encoded], states: list[int], hidden_size: int) -> int:
    """Room that the hidden states of all tokens of `files` take."""
    return sum(len(file.ids) for file in files) * len(states) * hidden_size * STATE.itemsize


def _are_whole(paths: list[Path], accelerator: Accelerator) -> bool:
    """Whether all arrays are as they were written; the main process looks, for all."""
    answer = [True]
    if accelerator.is_main_process:
        for path in paths:
            if path.exists() and read_sealed(_record(path)) != file_facts(path):
                print(f"{path} is damaged, or of an older version: the teacher is asked again")
                path.unlink()
        answer = [all(path.exists() for path in paths)]
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    return answer[0]


def _record(path: Path) -> Path:
    """Where size and checksum of an array file are."""
    return path.with_suffix(".json")


def _reserve(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Make the array file at its full size; `RositaError` if the disk has no room for it."""
    array = open_memmap(path, "w+", dtype, shape)
    array.flush()
    if not hasattr(os, "posix_fallocate"):
        return
    try:  # else a full disk would be a bus error when the array is filled
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise RositaError(
            f"no room for {array.nbytes / 1e9:.2g} GB of the teacher's answers in {path.parent}:"
            f" {error.strerror}; make room, or set teacher_cache_gb to 0"
        ) from error


def _write(
    teacher: RositaForSequenceClassification,
    file: Encoded,
    paths: dict[str, Path],
    states: list[int] | None,
    accelerator: Accelerator,
) -> None:
    """Fill new arrays, each process its rows, and put them in place when all are done."""
    config = teacher.config
    kinds: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        "logits": ((len(file), config.num_labels), np.dtype(np.float32))
    }
    if states:
        kinds["states"] = ((len(file.ids), len(states), config.hidden_size), STATE)
    names = [partial_name(path) for path in paths.values()]
    if accelerator.num_processes > 1:
        broadcast_object_list(names)  # the main process's, for all
    new = dict(zip(paths, names, strict=True))
    try:
        if accelerator.is_main_process:
            for name, (shape, dtype) in kinds.items():
                remove_leftovers(paths[name])
                _reserve(new[name], shape, dtype)
        accelerator.wait_for_everyone()
        arrays = {name: np.load(path, mmap_mode="r+") for name, path in new.items()}
        with accelerator.autocast():
            _fill(arrays, teacher, file, states or [], accelerator)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for name, path in paths.items():
                _publish(new[name], path)
    finally:
        if accelerator.is_main_process:
            for path in names:
                path.unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def _publish(new: Path, path: Path) -> None:
    """Give a filled array its name, flushed and with its record."""
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    write_sealed(_record(path), file_facts(new))
    new.replace(path)
    sync_folder(path.parent)


@torch.inference_mode()
def _fill(
    arrays: dict[str, np.memmap],
    teacher: RositaForSequenceClassification,
    file: Encoded,
    states: list[int],
    accelerator: Accelerator,
) -> None:
    """Write this process's rows."""
    count, mine = accelerator.num_processes, accelerator.process_index
    begin, end = (len(file) * number // count for number in (mine, mine + 1))
    if begin == end:
        return
    part = file.part(begin, end)
    teacher.eval()
    with Bar(
        total=len(part), desc="teacher", unit="row", disable=not accelerator.is_local_main_process
    ) as bar:
        for rows in batches_by_length(part, TOKENS):
            batch = part.batch(rows).to(accelerator.device)
            said = teacher(**batch.inputs, output_hidden_states=bool(states))
            logits = said.logits.float().cpu().numpy()
            check_finite(logits, file)
            arrays["logits"][begin + rows] = logits
            if states:
                kept = [said.hidden_states[number] for number in states]
                _put_states(arrays["states"], file, begin + rows, batch, kept)
            bar.update(len(rows))
    for array in arrays.values():
        array.flush()


def _put_states(
    array: np.ndarray, file: Encoded, rows: np.ndarray, batch: Batch, states: list[Tensor]
) -> None:
    """Write states (rows, length, hidden) to the tokens of `rows`, in half precision."""
    mask = batch.inputs["attention_mask"].bool()
    kept = torch.stack([state[mask] for state in states], dim=1).to(torch.float16)
    if not kept.isfinite().all():
        raise RositaError(
            "a hidden state of the teacher does not fit half precision; set teacher_cache_gb to 0"
        )
    lengths = mask.sum(dim=1).tolist()
    for row, of_row in zip(rows, kept.cpu().split(lengths), strict=True):
        array[file.offsets[row] : file.offsets[row + 1]] = of_row.numpy()
