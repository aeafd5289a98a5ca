"""A masked language model asked for replacements: many words of many sentences in one batch."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from rosita.backbones import backbone_of
from rosita.description import read_config
from rosita.errors import RositaError
from rosita.model import RositaConfig
from rosita.runtime import cast_linear_layers, keep_freed_memory
from rosita.tokenizer import TokenizerFiles

# Errors of SQLite that say nothing of the file's content: it is locked, the disk is full ...
_NO_DAMAGE = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM,
}  # fmt: skip

# Logits of one query in batches of different shape differ by rounding. Where the M-th and the
# next piece are nearer than this, the query is asked again alone: the answer then depends on the
# sentence only, not on its neighbours in the batch (BERT-base's shape differs by 1e-5 at most).
_NEAR_TIE = 3e-4


def _of_distilbert(model: Any, hidden: Tensor) -> Tensor:
    return model.vocab_projector(
        model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    )


# By model type: transformers' class, and its head alone, of hidden states (n, hidden) the logits.
_CLASSES: dict[str, tuple[str, Callable[[Any, Tensor], Tensor]]] = {
    "bert": ("BertForMaskedLM", lambda model, hidden: model.cls(hidden)),
    "roberta": ("RobertaForMaskedLM", lambda model, hidden: model.lm_head(hidden)),
    "xlm-roberta": ("XLMRobertaForMaskedLM", lambda model, hidden: model.lm_head(hidden)),
    "distilbert": ("DistilBertForMaskedLM", _of_distilbert),
    "electra": (
        "ElectraForMaskedLM",
        lambda model, hidden: model.generator_lm_head(model.generator_predictions(hidden)),
    ),
}


@dataclass(frozen=True)
class Query:
    """One masked place: the word-piece ids of a sentence, and which of them is hidden."""

    pieces: Sequence[int]
    place: int


@dataclass(frozen=True)
class Frame:
    """How a tokenizer builds the model's input of a pair of texts, in ids.

    Pieces stand `before` the first text, `between` the two and `after` the second, whose token
    type is `second_type`; `mask` hides a piece, `pad` fills a batch up.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    second_type: int
    mask: int
    pad: int

    @property
    def length(self) -> int:
        """Pieces that are of neither text."""
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of(cls, files: TokenizerFiles) -> Frame:
        """That of a tokenizer that has a mask token."""
        pair = files.build().encode("a", "a")
        texts = [
            [place for place, text in enumerate(pair.sequence_ids) if text == number]
            for number in (0, 1)
        ]
        begins, ends = [places[0] for places in texts], [places[-1] + 1 for places in texts]
        return cls(
            before=tuple(pair.ids[: begins[0]]),
            between=tuple(pair.ids[ends[0] : begins[1]]),
            after=tuple(pair.ids[ends[1] :]),
            second_type=pair.type_ids[begins[1]],
            mask=files.pieces[files.special["mask"]],
            pad=files.pad_id,
        )


def masked_pair(query: Query, frame: Frame, max_positions: int) -> tuple[list[int], int, int]:
    """`[CLS] masked sentence [SEP] original sentence [SEP]` as (ids, masked place, second half).

    The last two are positions in the ids. A pair longer than `max_positions` is read through a
    window around the masked piece, the same in both halves.
    """
    width = min(len(query.pieces), (max_positions - frame.length) // 2)
    start = min(max(query.place - width // 2, 0), len(query.pieces) - width)
    original = list(query.pieces[start : start + width])
    masked = original.copy()
    masked[query.place - start] = frame.mask
    ids = [*frame.before, *masked, *frame.between, *original, *frame.after]
    begin = len(frame.before)
    return ids, begin + query.place - start, begin + width + len(frame.between)


class MaskedLM:
    """A pretrained BERT with its masked-LM head, in evaluation mode, in fp32 or bf16.

    `batch_tokens` bounds the padded tokens of one forward pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        frame: Frame,
        batch_tokens: int,
        precision: str = "fp32",
    ) -> None:
        keep_freed_memory()
        self.bf16 = precision == "bf16"
        if self.bf16:
            cast_linear_layers(model.base_model, torch.bfloat16)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval().to(self.device)
        self.frame = frame
        self.batch_tokens = batch_tokens
        values = model.config.to_dict()
        where = model.name_or_path
        config = RositaConfig(**backbone_of(values, where).config(values, where))
        self.max_positions = config.max_tokens
        self.has_types = config.type_vocab_size > 1

    def top_pieces(self, queries: Sequence[Query], count: int) -> np.ndarray:
        """Ids of the `count` most probable pieces per query, ascending: (queries, count) int32.

        In fp32 an answer depends on its query only, not on what is asked beside it; in bf16 it
        does so but for near-ties.
        """
        count = min(count, self.model.config.vocab_size)
        answers = np.empty((len(queries), count), dtype=np.int32)
        for batch in self._batches(queries):
            logits, ids = self._read([queries[index] for index in batch], count + 1)
            for row, index in enumerate(batch):
                if len(batch) > 1 and not self.bf16 and self._is_near_tie(logits[row], count):
                    _, alone = self._read([queries[index]], count + 1)
                    ids[row] = alone[0]
            answers[batch] = np.sort(ids[:, :count], axis=1)
        return answers

    @staticmethod
    def _is_near_tie(logits: np.ndarray, count: int) -> bool:
        return len(logits) > count and logits[count - 1] - logits[count] < _NEAR_TIE

    def _batches(self, queries: Sequence[Query]) -> Iterator[list[int]]:
        """Indices of queries of similar length, at most `batch_tokens` padded tokens together."""
        lengths = [
            min(2 * len(query.pieces) + self.frame.length, self.max_positions) for query in queries
        ]
        batch: list[int] = []
        for index in sorted(range(len(queries)), key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[index] > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    @torch.inference_mode()
    def _read(self, queries: list[Query], top: int) -> tuple[np.ndarray, np.ndarray]:
        """The `top` highest logits at the masked places and their ids, each (queries, top)."""
        pairs = [masked_pair(query, self.frame, self.max_positions) for query in queries]
        longest = max(len(ids) for ids, _, _ in pairs)
        input_ids = torch.full((len(pairs), longest), self.frame.pad)
        for row, (ids, _, _) in enumerate(pairs):
            input_ids[row, : len(ids)] = torch.tensor(ids)
        positions = torch.arange(longest)
        lengths = torch.tensor([len(ids) for ids, _, _ in pairs])
        second = torch.tensor([start for _, _, start in pairs])
        masked = torch.tensor([place for _, place, _ in pairs])

        mask = positions < lengths[:, None]  # (queries, longest)
        given = {"input_ids": input_ids, "attention_mask": mask.long()}
        if self.has_types:
            second_half = (positions >= second[:, None]) & mask
            given["token_type_ids"] = second_half * self.frame.second_type
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self.model.base_model(
                **{name: value.to(self.device) for name, value in given.items()}
            ).last_hidden_state
        # The output layer is as wide as the vocabulary: only where the answer is.
        rows = torch.arange(len(pairs), device=self.device)
        _, head = _CLASSES[self.model.config.model_type]
        logits = head(self.model, hidden[rows, masked.to(self.device)].float())
        best = logits.topk(min(top, logits.shape[1]), dim=1)
        if not torch.isfinite(best.values).all():
            raise RositaError("the masked LM gives NaN or infinite logits: download it again")
        return best.values.cpu().numpy(), best.indices.cpu().numpy()


def load_masked_lm(
    folder: str | Path, files: TokenizerFiles, batch_tokens: int, precision: str = "fp32"
) -> MaskedLM:
    """The masked LM of a local BERT folder; a missing weight or mask token is an error."""
    kind, _ = _CLASSES[read_config(Path(folder)).get("model_type", "bert")]
    with _quiet_transformers():
        try:
            model, report = getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise RositaError(f"cannot read the model in {folder}: {error}") from None
    if missing := sorted(report["missing_keys"]):
        raise RositaError(f"{folder} has a masked-LM head, but no weight {missing[0]!r}")
    if len(files.pieces) > model.config.vocab_size:
        raise RositaError(
            f"{folder}: the tokenizer has {len(files.pieces)} pieces, the model"
            f" {model.config.vocab_size}; they belong to different checkpoints"
        )
    if not files.token("mask"):
        raise RositaError(f"{folder} has a masked-LM head, but its tokenizer no mask token")
    return MaskedLM(model, Frame.of(files), batch_tokens, precision)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bar, and no warning about surplus weights (pooler, next sentence), which are usual."""
    verbosity = transformers_logging.get_verbosity()
    with_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if with_bar:
            transformers_logging.enable_progress_bar()


class AnswerCache:
    """Answers of a masked LM on disk, so that a second run over the same sentences reads them.

    An SQLite file: runs in parallel may share it, and a kill never tears it. The keys must hold
    all that decides an answer (weights, configuration, vocabulary, M, sentence). A file that is
    damaged is made again; an answer with another checksum than it was kept with is not known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors_in_one_line():
            try:
                self.database = self._open()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_DAMAGE:
                    raise
                print(f"{path} is damaged ({error}): the masked LM is asked again")
                for suffix in ("", "-journal", "-wal", "-shm"):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                self.database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=300)
        database.execute(
            "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, ids BLOB) WITHOUT ROWID"
        )
        database.execute("SELECT key, ids FROM answers LIMIT 1")
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found.split("\n")[-1])
        return database

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RositaError(
                f"cannot use the cache {self.path}: {error}; it may be deleted"
            ) from None

    def get(self, key: bytes) -> np.ndarray | None:
        """The ids kept for `key`, flat, or None."""
        with self._errors_in_one_line():
            row = self.database.execute("SELECT ids FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None or row[0][-4:] != _checksum(key, row[0][:-4]):
            return None
        return np.frombuffer(row[0][:-4], dtype=np.int32)

    def put(self, answers: Iterable[tuple[bytes, np.ndarray]]) -> None:
        """Keep all of `answers`, in one transaction."""
        rows = [
            (key, found + _checksum(key, found))
            for key, found in ((key, ids.astype(np.int32).tobytes()) for key, ids in answers)
        ]
        with self._errors_in_one_line(), self.database:
            self.database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)


def _checksum(key: bytes, answer: bytes) -> bytes:
    return zlib.crc32(answer, zlib.crc32(key)).to_bytes(4, "little")
