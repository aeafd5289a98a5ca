"""A model folder, or an export, labels texts: labels out, in the order of the input."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rosita.backbones import MULTI_LABEL
from rosita.data.rows import Rows
from rosita.deploy.formats import check_exported, choose_format, weights_file
from rosita.deploy.session import OnnxModel
from rosita.deploy.texts import Texts
from rosita.description import check_length, check_vocabulary, describe, read_config
from rosita.errors import RositaError
from rosita.labels import stored_names
from rosita.progress import Bar
from rosita.provenance import check_finished, check_unchanged
from rosita.tables import printable
from rosita.tasks import Task
from rosita.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from rosita.deploy.pytorch import TorchModel

CHUNK_ROWS = 4096  # rows that are sorted by length together
TOKENS = 4096  # padded tokens of one forward pass


@dataclass(frozen=True)
class Answer:
    """What the model says of one row: a label and its probability; in regression a number.

    Of several labels: their names with commas between, and the probability of just these.
    """

    label: str | float
    probability: float | None

    def as_tsv(self) -> str:
        """`label<TAB>probability` on one line, whatever the label holds; or the number."""
        return "\t".join(self._fields())

    def as_csv(self) -> str:
        """As `as_tsv`, with a comma between, and quotes where the label needs them."""
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(self._fields())
        return line.getvalue()

    def _fields(self) -> list[str]:
        if self.probability is None:
            return [f"{self.label:.4f}"]
        return [printable(str(self.label)), f"{self.probability:.6f}"]

    def as_json(self) -> str:
        """One JSON object."""
        value = {"label": self.label}
        if self.probability is not None:
            value["probability"] = round(self.probability, 6)
        return json.dumps(value, ensure_ascii=False)


class Labeller:
    """A model folder, or an export of one, that labels texts.

    `form`: pytorch, onnx, int8, or auto, which `choose_format` decides. Texts are cut
    after `max_seq_length` tokens (default: as the folder's record says, else 128, and no more than
    the model has positions). `accept_changed`: also a folder whose files are others than its record
    names. `rows`: what is known of the rows (default: what the record says).
    """

    def __init__(
        self,
        folder: Path,
        form: str = "auto",
        max_seq_length: int | None = None,
        accept_changed: bool = False,
        rows: Rows | None = None,
    ) -> None:
        form = choose_format(folder, form)
        if not accept_changed:
            check_finished(folder)
        values = read_config(folder)
        self.folder, self.labels = folder, tuple(stored_names(values, folder))
        self.rows = Rows.of_folder(folder) if rows is None else rows
        config = describe(values, folder)
        if max_seq_length is None:
            max_seq_length = min(self.rows.max_seq_length or 128, config.max_tokens)
        if max_seq_length < 3:  # [CLS], a piece, [SEP]
            raise RositaError(f"--max_seq_length {max_seq_length} must be at least 3")
        check_length(max_seq_length, config)
        self.several = values.get("problem_type") == MULTI_LABEL
        # whatever the labels are: of a task that none of a user's could be, unchecked
        task = Task.model_construct(
            name=folder.name,
            labels=self.labels,
            metric="accuracy",
            text_columns=(0,),
            multi_label=self.several,
        )
        self.model: TorchModel | OnnxModel
        if form == "pytorch":
            from rosita.deploy.pytorch import TorchModel  # heavy: the others run without torch

            self.model = TorchModel(folder, task, accept_changed)
        else:
            if not accept_changed:
                check_unchanged(folder)
                check_exported(folder, form)
            self.model = OnnxModel(weights_file(folder, form))
        tokenizer = read_tokenizer(folder)
        check_vocabulary(tokenizer, config.vocab_size, folder)
        self.pad_id = tokenizer.pad_id
        self.tokenizer = tokenizer.build(max_seq_length)

    def label(self, rows: Iterable[Texts]) -> Iterator[Answer]:
        """Yield an answer per row, in order; reads `CHUNK_ROWS` rows ahead."""
        rows = self._checked(rows)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            texts = [row if len(row) == 2 else row[0] for row in chunk]
            yield from self._answers(self.tokenizer.encode_batch(texts))

    def _checked(self, rows: Iterable[Texts]) -> Iterator[Texts]:
        for number, row in enumerate(rows, 1):
            if self.rows.texts not in (None, len(row)):
                raise RositaError(
                    f"text {number} is {'a pair' if len(row) == 2 else 'one text'}, but the model's"
                    f" task has {'pairs' if self.rows.texts == 2 else 'one text in a row'}"
                )
            yield row

    def _answers(self, encodings: list) -> list[Answer]:
        order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row].ids))
        found: dict[int, Answer] = {}
        begin = 0
        while begin < len(order):
            longest = len(encodings[order[begin]].ids)
            rows = order[begin : begin + max(1, TOKENS // longest)]
            shape = (len(rows), longest)
            ids = np.full(shape, self.pad_id)
            mask, types = np.zeros_like(ids), np.zeros_like(ids)
            for at, row in enumerate(rows):
                length = len(encodings[row].ids)
                ids[at, :length] = encodings[row].ids
                types[at, :length] = encodings[row].type_ids
                mask[at, :length] = 1
            logits = self.model.logits(input_ids=ids, attention_mask=mask, token_type_ids=types)
            if logits.shape[1] != len(self.labels):
                raise RositaError(
                    f"{self.folder}: config.json names {len(self.labels)} labels, but the model has"
                    f" {logits.shape[1]}; correct its id2label, or make the folder again"
                )
            if not np.isfinite(logits).all():
                raise RositaError(f"{self.folder} gives NaN or infinite logits; make it again")
            for row, values in zip(rows, logits, strict=True):
                found[row] = self._answer(values)
            begin += len(rows)
        return [found[row] for row in range(len(encodings))]

    def _answer(self, logits: np.ndarray) -> Answer:
        if len(logits) == 1:
            low, high = self.rows.label_range or (-np.inf, np.inf)
            return Answer(float(logits[0].clip(low, high)), None)
        if self.several:
            odds = 1 / (1 + np.exp(-logits))
            has = odds > 0.5
            names = ",".join(name for name, one in zip(self.labels, has, strict=True) if one)
            return Answer(names, float(np.where(has, odds, 1 - odds).prod()))
        shifted = np.exp(logits - logits.max())
        best = int(logits.argmax())
        return Answer(self.labels[best], float(shifted[best] / shifted.sum()))


def with_bar(rows: Iterator[Texts]) -> Iterator[Texts]:
    """The rows, counted by a progress bar on stderr once they take more than a second."""
    return iter(Bar(rows, desc="label", unit="row", delay=1))
