"""Benchmarking as a stage: models in each format, timed in turn; memory, sizes, dev scores."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rosita.budget.costs import macs
from rosita.checkpoint import load_model
from rosita.data.batches import Encoded
from rosita.data.encode import encode_file
from rosita.data.rows import Rows
from rosita.deploy.formats import check_exported, weights_file
from rosita.deploy.latency import (
    Answer,
    dev_batch,
    dev_logits,
    interleaved_seconds,
    machine,
    open_answer,
    peak_memory,
    random_batch,
    torch_threads,
    weights_bytes,
    write_onnx,
)
from rosita.description import check_length, read_config
from rosita.errors import RositaError
from rosita.evaluation import score
from rosita.labels import stored_names
from rosita.model import RositaConfig
from rosita.pruning.shape import Shape, parameter_count
from rosita.tasks import find_task
from rosita.tokenizer import read_tokenizer


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how: formats, and the sizes of the batches that are timed."""

    task_name: str
    formats: list[str]
    batch_sizes: list[int]
    lengths: list[int]  # tokens of each row
    dev_file: Path | None  # its rows are timed and scored; None: random ids
    max_seq_length: int | None = None  # of dev texts; None: as trained, or the task's
    threads: int | None = None  # cores of one call; None: torch's
    seconds: float = 3.0  # of each timing
    label_names: str | None = None  # what the models call the task's labels
    accept_changed: bool = False  # read models whose files are not those of their run.json


@dataclass
class Candidate:
    """A model in one format, opened, with its data and what is known of it before the timing."""

    name: str
    form: str
    folder: Path  # holds the weights; a temporary one if they were exported for this run
    config: RositaConfig
    dev: Encoded | None
    answer: Answer
    facts: dict[str, Any]


def compare_models(folders: dict[str, Path], asked: Comparison) -> dict[str, Any]:
    """The machine and a row per model, format, batch size and length."""
    with torch_threads(asked.threads), tempfile.TemporaryDirectory() as temporary:
        candidates: list[Candidate] = []
        for number, (name, folder) in enumerate(folders.items()):
            candidates += open_formats(name, folder, Path(temporary, str(number)), asked)
        for candidate in candidates:
            measure_facts(candidate, asked)
        cells = itertools.product(asked.batch_sizes, asked.lengths)
        rows = [row for cell in cells for row in time_all(candidates, *cell, asked.seconds)]
        names = list(folders)
        rows.sort(key=lambda row: (names.index(row["model"]), asked.formats.index(row["format"])))
        return {"machine": machine(), "rows": rows}


def open_formats(name: str, folder: Path, made: Path, asked: Comparison) -> list[Candidate]:
    """The model in each format; what the folder lacks is exported to `made`."""
    task = find_task(asked.task_name)
    model = load_model(
        folder, task, label_names=asked.label_names, accept_changed=asked.accept_changed
    ).eval()
    check_lengths(asked.lengths, model.config)
    names = list(model.config.id2label.values())
    stored = stored_names(read_config(folder), folder, len(names))
    # then an ONNX file that is there has its logits in an order that is not the task's
    is_reordered = names != stored and set(names) == set(stored)
    lacking = [
        form
        for form in asked.formats
        if form != "pytorch" and (is_reordered or not weights_file(folder, form).exists())
    ]
    for form in asked.formats:
        if form != "pytorch" and form not in lacking and not asked.accept_changed:
            check_exported(folder, form)
    write_onnx(model, made, lacking)
    dev = None
    if asked.dev_file:
        trained = Rows.of_folder(folder).max_seq_length
        length = asked.max_seq_length or trained
        length = length or min(task.max_seq_length, model.config.max_tokens)
        check_length(length, model.config)
        dev = encode_file(asked.dev_file, task, read_tokenizer(folder), length)
    shape, count = str(Shape.of(model.config)), parameter_count(model.config)
    candidates = []
    for form in asked.formats:
        at = made if form in lacking else folder
        size = weights_bytes(at) if form == "pytorch" else weights_file(at, form).stat().st_size
        facts = {"bytes": size, "parameters": count, "shape": shape}
        answer = open_answer(at, form, asked.task_name, asked.label_names)
        candidates.append(Candidate(name, form, at, model.config, dev, answer, facts))
    return candidates


def measure_facts(candidate: Candidate, asked: Comparison) -> None:
    """Add the peak memory and the dev score of a model in its format."""
    largest = max(asked.batch_sizes), max(asked.lengths)
    vocabulary = candidate.config.vocab_size
    peak = peak_memory(
        candidate.folder, candidate.form, asked.task_name, vocabulary, largest, asked.label_names
    )
    candidate.facts |= {"peak_memory_bytes": peak, "dev_score": None, "metric": None}
    if candidate.dev is None:
        return
    label = f"{candidate.name} as {candidate.form}"
    logits = dev_logits(candidate.answer, candidate.dev, label)
    try:
        scores = score(find_task(asked.task_name), logits, np.asarray(candidate.dev.labels))
    except RositaError as error:  # the metric is undefined: no score, and all else is of use
        print(f"{label} gets no dev score: {error}")
        return
    candidate.facts |= {"dev_score": scores.main, "metric": scores.metric}


def time_all(
    candidates: list[Candidate], batch_size: int, length: int, seconds: float
) -> list[dict[str, Any]]:
    """A row per candidate for one batch size and length, all of them timed in turn."""
    calls: dict[str, Callable[[], object]] = {}
    for number, candidate in enumerate(candidates):
        if candidate.dev:
            batch = dev_batch(candidate.dev, batch_size, length)
        else:
            batch = random_batch(candidate.config.vocab_size, batch_size, length)
        calls[str(number)] = partial(candidate.answer, batch)
    print(f"timing batch {batch_size} x {length} ...", file=sys.stderr)
    rows = []
    timed = interleaved_seconds(calls, budget=seconds).values()
    for candidate, times in zip(candidates, timed, strict=True):
        median, p95 = np.percentile(times, (50, 95))
        rows.append(
            {
                "model": candidate.name,
                "format": candidate.form,
                "batch_size": batch_size,
                "length": length,
                "median_ms": 1000 * median,
                "p95_ms": 1000 * p95,
                "sentences_per_second": batch_size / median,
                "repetitions": len(times),
                "macs": macs(candidate.config, length),
                **candidate.facts,
            }
        )
    return rows


def check_lengths(lengths: list[int], config: RositaConfig) -> None:
    """Raise `RositaError` if a batch would be longer than the model has positions."""
    if max(lengths) > config.max_tokens:
        raise RositaError(
            f"--lengths {max(lengths)} is too much: the model has {config.max_tokens} positions"
        )
