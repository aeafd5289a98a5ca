"""Texts in from lines, TSV, CSV or JSONL; labels out, in the order of the input."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from rosita.checkpoint import read_config
from rosita.data.encode import set_length
from rosita.deploy.onnx import FILES, OnnxModel
from rosita.errors import RositaError, nearest
from rosita.tokenizer import read_tokenizer

CHUNK_ROWS = 4096  # rows that are sorted by length together
TOKENS = 4096  # padded tokens of one forward pass
FORMATS = ("pytorch", "onnx", "int8")
Texts = tuple[str, ...]  # one text, or a pair


@dataclass(frozen=True)
class Answer:
    """What the model says of one row: a label and its probability; in regression a number."""

    label: str | float
    probability: float | None

    def as_tsv(self) -> str:
        """`label<TAB>probability`, or the number."""
        if self.probability is None:
            return f"{self.label:.4f}"
        return f"{self.label}\t{self.probability:.6f}"

    def as_json(self) -> str:
        """One JSON object."""
        value = {"label": self.label}
        if self.probability is not None:
            value["probability"] = round(self.probability, 6)
        return json.dumps(value, ensure_ascii=False)


class TorchModel:
    """A model folder in PyTorch, on a GPU if there is one."""

    def __init__(self, folder: Path) -> None:
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0][:120]
            raise RositaError(f"cannot open the model in {folder}: {reason}") from None
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def logits(self, **inputs: Tensor) -> np.ndarray:
        """Logits, float32 (batch, num_labels)."""
        given = {name: value.to(self.device) for name, value in inputs.items()}
        return self.model(**given).logits.float().cpu().numpy()


class Labeller:
    """A model folder, or an export of one, that labels texts.

    `form`: pytorch, onnx, int8, or auto: the first of these that the folder holds. Texts are cut
    after `max_seq_length` tokens (default: 128, or as many as the model has positions).
    """

    def __init__(self, folder: Path, form: str = "auto", max_seq_length: int | None = None) -> None:
        if not folder.is_dir():
            raise RositaError(f"the model folder {folder} does not exist")
        files = dict(zip(FORMATS, FILES.values(), strict=True))
        there = [name for name in FORMATS if (folder / files[name]).exists()]
        if form == "auto" and there:
            form = there[0]
        if form not in there:
            known = f"it holds {', '.join(there)}" if there else "it holds no model"
            raise RositaError(
                f"{folder} has no {files.get(form, 'model')}; {known}"
                " (Deploy/export.py makes others)"
            )
        path = folder / files[form]
        self.model = TorchModel(folder) if form == "pytorch" else OnnxModel(path)
        config = read_config(folder)
        positions = config.get("max_position_embeddings", 512)
        max_seq_length = max_seq_length or min(128, positions)
        if max_seq_length > positions:
            raise RositaError(
                f"--max_seq_length {max_seq_length} is too much: the model has {positions}"
                " positions"
            )
        names = config.get("id2label") or {}
        self.labels = [str(names[key]) for key in sorted(names, key=int)]
        self.tokenizer: Tokenizer = read_tokenizer(folder).build()
        set_length(self.tokenizer, max_seq_length)

    def label(self, rows: Iterator[Texts]) -> Iterator[Answer]:
        """Yield an answer per row, in order; reads `CHUNK_ROWS` rows ahead."""
        while chunk := list(islice(rows, CHUNK_ROWS)):
            texts = [row if len(row) == 2 else row[0] for row in chunk]
            yield from self._answers(self.tokenizer.encode_batch(texts))

    def _answers(self, encodings: list) -> list[Answer]:
        order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row].ids))
        found: list[Answer | None] = [None] * len(encodings)
        begin = 0
        while begin < len(order):
            longest = len(encodings[order[begin]].ids)
            rows = order[begin : begin + max(1, TOKENS // longest)]
            shape = (len(rows), longest)
            ids, mask, types = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
            for at, row in enumerate(rows):
                length = len(encodings[row].ids)
                ids[at, :length] = torch.tensor(encodings[row].ids)
                types[at, :length] = torch.tensor(encodings[row].type_ids)
                mask[at, :length] = 1
            logits = self.model.logits(input_ids=ids, attention_mask=mask, token_type_ids=types)
            for row, values in zip(rows, logits, strict=True):
                found[row] = self._answer(values)
            begin += len(rows)
        return found

    def _answer(self, logits: np.ndarray) -> Answer:
        if len(logits) == 1:
            return Answer(float(logits[0]), None)
        shifted = np.exp(logits - logits.max())
        best = int(logits.argmax())
        return Answer(self.labels[best], float(shifted[best] / shifted.sum()))


def read_texts(file: IO[str], name: str, form: str, columns: list[str]) -> Iterator[Texts]:
    """Rows of texts from an open file; `form` is text, tsv, csv or jsonl.

    `columns` (one, or two for a pair) are names of the header or keys, or numbers from 0 in a TSV
    or CSV without header; "text" reads each line as one text. Raises `RositaError` by line.
    """
    if form == "text":
        for line in file:
            yield (line.rstrip("\r\n"),)
    elif form == "jsonl":
        yield from _read_jsonl(file, name, columns)
    else:
        try:
            yield from _read_table(file, name, form, columns)
        except csv.Error as error:
            raise RositaError(f"{name} cannot be read as {form}: {error}") from None


def _read_jsonl(file: IO[str], name: str, columns: list[str]) -> Iterator[Texts]:
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RositaError(f"{name} line {number} is not JSON: {error.msg}") from None
        missing = [key for key in columns if not isinstance(row, dict) or key not in row]
        if missing:
            there = list(row) if isinstance(row, dict) else []
            hint = nearest(missing[0], there)
            raise RositaError(f"{name} line {number} has no key {missing[0]!r}{hint}")
        yield tuple(str(row[key]) for key in columns)


def _read_table(file: IO[str], name: str, form: str, columns: list[str]) -> Iterator[Texts]:
    if form == "tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file)
    if all(column.isdecimal() for column in columns):
        places = [int(column) for column in columns]
    else:
        header = next(reader, [])
        for column in columns:
            if column not in header:
                hint = nearest(column, header)
                raise RositaError(f"{name} has no column {column!r}; it has {header}{hint}")
        places = [header.index(column) for column in columns]
    for row in reader:
        if not row:
            continue
        if len(row) <= max(places):
            raise RositaError(
                f"{name} line {reader.line_num}: {len(row)} columns, but column"
                f" {max(places) + 1} is wanted"
            )
        yield tuple(row[place] for place in places)


def with_bar(rows: Iterator[Texts]) -> Iterator[Texts]:
    """The rows, counted by a progress bar on stderr once they take more than a second."""
    return iter(tqdm(rows, desc="label", unit="row", delay=1))
