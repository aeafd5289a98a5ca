"""What the training stages set up alike: data, models, the record of the run, its end."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from rosita.checkpoint import TokenizerFiles, check_length, save_model, weights_hash
from rosita.config import LoopSettings
from rosita.data import Encoded, encode_file
from rosita.errors import RositaError
from rosita.evaluation import Scores, predict, score
from rosita.files import read_json
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.plan import Progress
from rosita.provenance import Run
from rosita.pruning import Shape, parameter_count
from rosita.tasks import Task
from rosita.tsv import TsvFile
from rosita.vocabulary import used_tokens

# Settings that say where and how to run, but do not change the outcome.
_NOT_IDENTITY = {
    "data_dir", "output_dir", "cache_dir", "teacher_model", "student_model", "model_name_or_path",
    "save_state_steps", "no_cuda", "overwrite_output_dir", "overwrite_cache", "logging_dir",
    "do_train", "do_eval", "do_predict", "per_gpu_eval_batch_size", "eval_batch_size", "model_type",
    "save_steps", "dry_run",
}  # fmt: skip


@dataclass
class Data:
    """Token ids of a task: the files to train on, and the dev set that chooses the best model."""

    task: Task
    train: list[Encoded]
    dev: Encoded

    def used_tokens(self, vocab_size: int) -> Tensor:
        """Ids of all tokens that training and the evaluation on dev can meet."""
        return used_tokens([*self.train, self.dev], vocab_size)


def load_data(
    settings: LoopSettings,
    task: Task,
    tokenizer: TokenizerFiles,
    accelerator: Accelerator,
    config: RositaConfig,
    train_files: list[str] | None = None,
) -> Data:
    """Encode the training files (default: the task's own) and dev; report their rows."""
    check_length(settings.max_seq_length, config)
    folder = Path(settings.data_dir)
    header = _train_header(folder, task)
    built = tokenizer.build()
    cache = Path(settings.cache_dir) if settings.cache_dir else None
    with accelerator.main_process_first():
        train = [
            encode_file(
                folder / name, task, built, settings.max_seq_length,
                train_header=header, cache_dir=cache,
            )
            for name in train_files or [task.train_file]
        ]  # fmt: skip
        dev = encode_file(
            folder / task.dev_files[0], task, built, settings.max_seq_length, cache_dir=cache
        )
    rows = sum(map(len, train))
    names = ", ".join(file.path.name for file in train[:3]) + (" ..." if len(train) > 3 else "")
    print(f"{task.name}: {rows:,} rows to train on ({names}), {len(dev):,} dev rows")
    return Data(task, train, dev)


def train_file_names(folder: Path, task: Task, aug_train: bool, subsets: bool) -> list[str]:
    """The training files: train.tsv, train_aug.tsv, or its subsets train_aug0.tsv, ... in order.

    Raises `RositaError` naming the command that makes what is missing.
    """
    command = f"data_augmentation.py --task_name {task.name} --glue_dir {folder.parent}"
    if subsets:
        names = []
        while (folder / f"train_aug{len(names)}.tsv").exists():
            names.append(f"train_aug{len(names)}.tsv")
        if not names:
            raise RositaError(
                f"{folder} has no train_aug0.tsv; make the subsets with {command}"
                " --subset_rows 1000000"
            )
        return names
    if not aug_train:
        return [task.train_file]
    if not (folder / "train_aug.tsv").exists():
        raise RositaError(f"{folder}/train_aug.tsv does not exist; make it with {command}")
    _check_augmented_from(folder, task)
    return ["train_aug.tsv"]


def _check_augmented_from(folder: Path, task: Task) -> None:
    """Refuse an augmented file that its own record assigns to another task."""
    record = folder / "train_aug.json"
    made_for = read_json(record).get("task", task.name) if record.exists() else task.name
    if made_for != task.name:
        raise RositaError(f"{folder}/train_aug.tsv was made for {made_for}, not for {task.name}")


def _train_header(folder: Path, task: Task) -> str | None:
    """The header of train.tsv, by which a headerless piece of a split file is told apart."""
    if not task.header:
        return None
    source = TsvFile(folder / task.train_file, task)
    next(source.rows())
    return source.header


def dev_scores(data: Data, batch_size: int) -> Any:
    """The function that scores a model on dev."""

    def evaluate(model: RositaForSequenceClassification) -> Scores:
        return score(data.task, predict(model, data.dev, batch_size), data.dev.labels)

    return evaluate


def new_run(
    stage: str,
    settings: LoopSettings,
    data: Data,
    parents: dict[str, tuple[str, RositaForSequenceClassification]],
    folder: Path,
    processes: int = 1,
) -> Run:
    """The record of a run: what decides its outcome, and where its inputs stand.

    `parents`: role ("teacher", "student", "model") -> (path as given, the model read from it).
    """
    kept = settings.model_dump(exclude=_NOT_IDENTITY)
    hashes = {role: weights_hash(model.state_dict()) for role, (_, model) in parents.items()}
    identity = {
        "stage": stage,
        "task": data.task.name,
        "labels": list(data.task.labels or ()) or "regression",
        "processes": processes,
        "settings": kept,
        "parents": hashes,
        "data": {"train": [file.sha256 for file in data.train], "dev": data.dev.sha256},
    }
    details = {
        "parents": {role: {"path": path, "weights": hashes[role]}
                    for role, (path, _) in parents.items()},
        "data": {
            "folder": settings.data_dir,
            "train": [file.path.name for file in data.train],
            "train_rows": sum(map(len, data.train)),
            "dev_rows": len(data.dev),
        },
    }  # fmt: skip
    return Run(folder, identity, details)


def saver(folder: Path, tokenizer: TokenizerFiles, task: Task) -> Any:
    """The function that writes the best model to `folder`, or that of a step to checkpoint-N."""

    def save(model: RositaForSequenceClassification, step: int | None) -> None:
        save_model(folder / f"checkpoint-{step}" if step else folder, model, tokenizer, task)

    return save


def finish(run: Run, progress: Progress, model: RositaForSequenceClassification) -> dict[str, Any]:
    """Write the final run.json (`model`: the best, as read back) and remove the saved state.

    Returns the best evaluation: its step, metric, score and shape.
    """
    run.write(
        finished=True,
        metric=progress.best["metric"],
        dev_score=progress.best["score"],
        best=progress.best,
        shape=str(Shape.of(model.config)),
        parameters=parameter_count(model.config),
        weights=weights_hash(model.state_dict()),
        steps=progress.step,
        seconds=round(progress.seconds, 1),
        history=progress.history,
    )
    shutil.rmtree(run.folder / "last", ignore_errors=True)
    return progress.best


def finish_scores(run: Run, progress: Progress) -> None:
    """Write the final run.json of a scores folder and remove the saved state."""
    run.write(
        finished=True,
        steps=progress.step,
        seconds=round(progress.seconds, 1),
        history=progress.history,
    )
    shutil.rmtree(run.folder / "last", ignore_errors=True)
