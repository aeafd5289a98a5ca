"""The teacher: one question, `say`; whether it runs or remembers is its own affair."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.lib.format import open_memmap
from torch import Tensor

from rosita.data.batches import Batch, Encoded, batches_by_length, token_places
from rosita.data.encode import NOT_ALLOWED, other_cache
from rosita.distillation.knowledge import Knowledge, State
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
PLACE = np.dtype(np.int32)  # of a kept position


class CannotRemember(RositaError):
    """The disk has no room for hidden states, or half precision none for one of them: `why`."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why}; {advice}")
        self.why = why


@dataclass
class Said:
    """A teacher's answer to a batch: logits (rows, num_labels), and the hidden states asked for, by
    their number (0 is the embedding output)."""

    logits: Tensor
    states: Mapping[int, State]


class Teacher:
    """Whom the student follows: it runs, or it remembers what it has said of a file's rows.

    The model is in evaluation mode and gets no gradients. `knowledge`: what is followed of its
    hidden states.
    """

    def __init__(
        self,
        model: RositaForSequenceClassification,
        knowledge: Knowledge = Knowledge(),  # noqa: B008  # frozen
    ) -> None:
        self.knowledge = knowledge
        self.model = model.eval()
        self.model.requires_grad_(False)
        self._memory: dict[Encoded, _Memory] = {}

    @property
    def layers(self) -> int:
        """Its hidden states are numbered from 0 to this."""
        return self.model.config.num_hidden_layers

    def mapping(self, student_layers: int) -> dict[int, int]:
        """Its state that each followed state of a student of so many layers follows."""
        return self.knowledge.mapping(self.layers, student_layers)

    def say(self, batch: Batch, states: Collection[int] = ()) -> Said:
        """Its logits of a batch, and the hidden states of the numbers `states`."""
        memory = None if batch.file is None else self._memory.get(batch.file)
        if memory and (memory.states or not states):
            return memory.recall(batch, states)
        return self.answer(batch, states)

    @torch.no_grad()
    def answer(self, batch: Batch, states: Collection[int]) -> Said:
        """What the model itself says, as `say`."""
        found = self.model(**batch.inputs, output_hidden_states=bool(states))
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        units = self.knowledge.units(self.model.config.hidden_size)
        units = None if units is None else units.to(ids.device)
        said = {}
        for number in states:
            hidden = found.hidden_states
            made_by = max(1, number)  # no layer makes the embedding output: the first one reads it
            layer = self.model.bert.encoder.layer[made_by - 1]
            places = self.knowledge.places(ids, mask, layer, hidden[made_by - 1])
            values = hidden[number] if units is None else hidden[number][..., units]
            said[number] = State(values, places, units)
        return Said(found.logits, said)

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
        written. Of states only what `knowledge` follows is kept. What another user keeps there is
        read, what may not be written there is kept in this user's temporary folder. Each of many
        processes runs its share.
        """
        precision = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
        name = f"{teacher[:32]}-{precision[accelerator.mixed_precision]}.npy"
        parts = ["_".join(map(str, states or ())), self.knowledge.name()]
        which = "-".join(filter(None, parts))
        for file in files:
            names = {"logits": f"logits-{name}"}
            if states:
                names["states"] = f"states-{which}-{name}"
                if self.knowledge.asks_attention:
                    names["places"] = f"places-{which}-{name}"
            folder = _folder(file.cache, list(names.values()))
            paths = {kind: folder / name for kind, name in names.items()}
            if not _are_whole(list(paths.values()), accelerator):
                _write(self, file, paths, states or [], accelerator)
            arrays = {kind: np.load(path, mmap_mode="r") for kind, path in paths.items()}
            self._memory[file] = _Memory(arrays, list(states or ()), self, file)

    def states_bytes(self, files: list[Encoded], states: list[int]) -> int:
        """Room that what is followed of the states of the numbers `states` takes for `files`."""
        width = self.knowledge.kept_units(self.model.config.hidden_size)
        place = STATE.itemsize * width + PLACE.itemsize * self.knowledge.asks_attention
        tokens = sum(int(self.knowledge.token_counts(file).sum()) for file in files)
        return tokens * len(states) * place


class _Memory:
    """What was said of a file: `logits` (rows, num_labels), and of the states that are named
    `states` (kept tokens, states, kept units) and, if they were chosen, `places` in the row (kept
    tokens, states)."""

    def __init__(
        self, arrays: dict[str, np.ndarray], states: list[int], teacher: Teacher, file: Encoded
    ) -> None:
        self.arrays = arrays
        self.states = states
        self.units = teacher.knowledge.units(teacher.model.config.hidden_size)
        self.offsets = _offsets(teacher, file) if states else file.offsets

    def recall(self, batch: Batch, states: Collection[int]) -> Said:
        """As `Teacher.say`."""
        device = batch.labels.device
        logits = torch.from_numpy(np.asarray(self.arrays["logits"][batch.rows]))
        said = {}
        units = None if self.units is None else self.units.to(device, non_blocking=True)
        if states:
            tokens, mask = token_places(self.offsets, batch.rows)
            rows, columns = map(torch.from_numpy, np.nonzero(mask))
            places = torch.zeros(batch.inputs["input_ids"].shape, dtype=torch.bool)
            places[rows, columns] = True  # the first ones, of every state, unless they were chosen
        for number in states:
            at = self.states.index(number)
            values = torch.from_numpy(self.arrays["states"][tokens, at]).float()
            if "places" in self.arrays:
                chosen = torch.from_numpy(self.arrays["places"][tokens, at].astype(np.int64))
                places = torch.zeros_like(places)
                places[rows, chosen] = True
            state = torch.zeros(*places.shape, values.shape[1])
            state[places] = values  # the columns of a row rise
            said[number] = State(
                state.to(device, non_blocking=True),
                places.to(device, non_blocking=True),
                units,
            )
        return Said(logits.to(device, non_blocking=True), said)


def _offsets(teacher: Teacher, file: Encoded) -> np.ndarray:
    """Row i of a file has the kept tokens offsets[i]:offsets[i+1]."""
    return np.concatenate([[0], np.cumsum(teacher.knowledge.token_counts(file))])


def _folder(cache: Path, names: list[str]) -> Path:
    """Where the answers are, or may be written: beside the token ids, or in a folder of our own."""
    try:
        if not all(read_sealed(_record(cache / name)) for name in names):
            with tempfile.TemporaryFile(dir=cache):  # may be written
                pass
        return cache
    except OSError as error:
        if error.errno not in NOT_ALLOWED:
            raise
        own = other_cache(cache, error) / f"teacher-{cache.name}"
        own.mkdir(mode=0o700, exist_ok=True)
        return own


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
        raise CannotRemember(
            f"no room for {array.nbytes / 1e9:.2g} GB of the teacher's answers in {path.parent}:"
            f" {error.strerror}",
            "make room, or set teacher_cache_gb to 0",
        ) from error


def _write(
    teacher: Teacher,
    file: Encoded,
    paths: dict[str, Path],
    states: list[int],
    accelerator: Accelerator,
) -> None:
    """Fill new arrays, each process its rows, and put them in place when all are done."""
    config = teacher.model.config
    kinds: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        "logits": ((len(file), config.num_labels), np.dtype(np.float32))
    }
    if states:
        width = teacher.knowledge.kept_units(config.hidden_size)
        kept = int(_offsets(teacher, file)[-1])
        kinds["states"] = ((kept, len(states), width), STATE)
        kinds["places"] = ((kept, len(states)), PLACE)
    names = [partial_name(path) for path in paths.values()]
    if accelerator.num_processes > 1:
        broadcast_object_list(names)  # the main process's, for all
    new = dict(zip(paths, names, strict=True))
    try:
        if accelerator.is_main_process:
            for name, path in paths.items():
                remove_leftovers(path)
                _reserve(new[name], *kinds[name])
        accelerator.wait_for_everyone()
        with accelerator.autocast():
            _fill(new, teacher, file, states, accelerator)
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
    with open(new, "r+b") as file:  # Windows flushes no file that is open for reading
        os.fsync(file.fileno())
    write_sealed(_record(path), file_facts(new))
    new.replace(path)
    sync_folder(path.parent)


@torch.inference_mode()
def _fill(
    paths: dict[str, Path],
    teacher: Teacher,
    file: Encoded,
    states: list[int],
    accelerator: Accelerator,
) -> None:
    """Write this process's rows into the arrays; they are closed again at the end, so that Windows
    gives them other names."""
    count, mine = accelerator.num_processes, accelerator.process_index
    begin, end = (len(file) * number // count for number in (mine, mine + 1))
    if begin == end:
        return
    arrays = {name: np.load(path, mmap_mode="r+") for name, path in paths.items()}
    part = file.part(begin, end)
    teacher.model.eval()
    offsets = _offsets(teacher, file) if states else file.offsets
    with Bar(
        total=len(part), desc="teacher", unit="row", disable=not accelerator.is_local_main_process
    ) as bar:
        for rows in batches_by_length(part, TOKENS):
            batch = part.batch(rows).to(accelerator.device)
            said = teacher.answer(batch, states)
            logits = said.logits.float().cpu().numpy()
            check_finite(logits, file)
            arrays["logits"][begin + rows] = logits
            if states:
                _put_states(arrays, offsets, begin + rows, [said.states[n] for n in states])
            bar.update(len(rows))
    for array in arrays.values():
        array.flush()


def _put_states(
    arrays: dict[str, np.memmap], offsets: np.ndarray, rows: np.ndarray, states: list[State]
) -> None:
    """Write what is followed of the states of `rows` to their tokens, in half precision."""
    kept = torch.stack([state.values[state.places] for state in states], dim=1).to(torch.float16)
    if not kept.isfinite().all():
        raise CannotRemember(
            "a hidden state of the teacher does not fit half precision",
            "set teacher_cache_gb to 0",
        )
    written = {"states": kept}
    if "places" in arrays:
        written["places"] = torch.stack([state.places.nonzero()[:, 1] for state in states], dim=1)
    lengths = states[0].places.sum(dim=1).tolist()
    for name, values in written.items():
        for row, of_row in zip(rows, values.cpu().split(lengths), strict=True):
            arrays[name][offsets[row] : offsets[row + 1]] = of_row.numpy()
