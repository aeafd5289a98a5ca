"""Evaluate a model folder on dev, predict its test files, collect a GLUE submission."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from rosita.checkpoint import TaskModel
from rosita.config import ClassifierActivation
from rosita.data.batches import Encoded
from rosita.data.encode import encode_file
from rosita.description import check_length
from rosita.errors import RositaError
from rosita.evaluation import (
    Scores,
    mean_loss,
    predict,
    prediction_texts,
    published_metrics,
    score,
    write_eval_results,
    write_predictions,
    write_submission,
)
from rosita.files import atomic_write
from rosita.tasks import DIAGNOSTIC, Task


class TestSettings(Protocol):
    """The settings that testing a model needs; every stage that tests has them, frozen."""

    @property
    def data_dir(self) -> str: ...

    @property
    def cache_dir(self) -> str | None: ...

    @property
    def max_seq_length(self) -> int: ...

    @property
    def eval_batch_size(self) -> int: ...

    @property
    def do_lower_case(self) -> bool | None: ...

    @property
    def no_cuda(self) -> bool: ...

    @property
    def classifier_activation(self) -> ClassifierActivation: ...

    @property
    def label_names(self) -> str | None: ...

    @property
    def accept_changed(self) -> bool: ...


def open_for_test(folder: Path, task: Task, settings: TestSettings) -> TaskModel:
    """A model folder, of a finished run on this task, on the device that tests it."""
    start = TaskModel.open(
        folder,
        task,
        do_lower_case=settings.do_lower_case,
        classifier_activation=settings.classifier_activation,
        label_names=settings.label_names,
        accept_changed=settings.accept_changed,
    )
    check_length(settings.max_seq_length, start.model.config)
    use_cuda = torch.cuda.is_available() and not settings.no_cuda
    start.model.eval().to(torch.device("cuda" if use_cuda else "cpu"))
    return start


def evaluate_model(
    start: TaskModel, settings: TestSettings, names: str, output: Path
) -> dict[str, Scores]:
    """Dev scores of a model by split suffix; writes `names`SUFFIX.txt and .json."""
    task, found = start.task, {}
    for suffix, file in task.split_names("dev").items():
        data = _encode(start, Path(settings.data_dir) / file, task, settings, labelled=True)
        labels = np.asarray(data.labels)
        logits = predict(start.model, data, settings.eval_batch_size)
        scores = score(task, logits, labels)
        more = published_metrics(task, scores) | {"eval_loss": mean_loss(task, logits, labels)}
        write_eval_results(output, names + suffix, scores, rows=len(data), **more)
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in scores.all.items())
        print(f"{file}: {metrics} ({len(data)} rows); see {output / names}{suffix}.txt")
        found[suffix] = scores
    return found


def predict_model(start: TaskModel, settings: TestSettings, output: Path) -> dict[str, Path]:
    """Predict every test file; returns submission file name -> result file written.

    Raises `RositaError` for a test file with rows that were skipped.
    """
    task, written = start.task, {}
    if not task.test_files:
        raise RositaError(f"{task.name} has no test_files in its json: there is nothing to predict")
    data_dir = Path(settings.data_dir)
    names = list(task.submission_files) or [
        f"{task.name}{suffix}.tsv" for suffix in task.split_names("test")
    ]
    jobs = [
        (task, data_dir / file, f"test_results_{task.name.lower()}{suffix}.txt", name)
        for (suffix, file), name in zip(task.split_names("test").items(), names, strict=True)
    ]
    diagnostic = data_dir.parent / "diagnostic" / DIAGNOSTIC.test_files[0]
    if task.name == "MNLI" and diagnostic.exists():
        jobs.append((DIAGNOSTIC, diagnostic, "test_results_ax.txt", "AX.tsv"))
    for file_task, path, result, name in jobs:
        data = _encode(start, path, file_task, settings, labelled=False)
        if data.skipped:  # a line of the result file is counted as that of the row of its number
            raise RositaError(
                f"{path} has {data.skipped} rows too short to be predicted, after which each"
                " prediction would be that of another row; repair them"
            )
        logits = predict(start.model, data, settings.eval_batch_size)
        write_predictions(output / result, prediction_texts(task, logits))
        print(f"{path.name}: {len(data)} predictions; see {output / result}")
        written[name] = output / result
    return written


def collect_submission(folder: Path, written: dict[str, Path]) -> None:
    """Copy predictions under the GLUE server's names; write the zip when all tasks are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in written.items():
        with open(path, "rb") as source, atomic_write(folder / name, "wb") as target:
            shutil.copyfileobj(source, target)
    there = {path.name: path for path in folder.glob("*.tsv")}
    missing = write_submission(folder / "submission.zip", there)
    if missing:
        print(f"{folder}: no submission.zip yet, without {', '.join(missing)}")
    else:
        print(f"{folder}/submission.zip is ready for the GLUE server")


def _encode(
    start: TaskModel, path: Path, task: Task, settings: TestSettings, labelled: bool
) -> Encoded:
    cache = Path(settings.cache_dir) if settings.cache_dir else None
    return encode_file(
        path, task, start.tokenizer, settings.max_seq_length, labelled=labelled, cache_dir=cache
    )
