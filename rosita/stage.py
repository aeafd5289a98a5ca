"""What the training stages set up alike: data, models, the record of the run, its end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rosita.checkpoint import (
    TokenizerFiles,
    check_length,
    read_tokenizer,
    save_model,
    weights_hash,
)
from rosita.config import KDSettings, LoopSettings
from rosita.data import Encoded, Sampler, encode_file, set_length
from rosita.errors import RositaError
from rosita.evaluation import Scores, UndefinedScore, collapsed_scores, predict, score
from rosita.files import read_json
from rosita.glove import glove_hash, load_glove
from rosita.importance import save_scores
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.plan import Progress
from rosita.provenance import Run
from rosita.pruning import Shape, parameter_count
from rosita.tasks import Task
from rosita.training import Training
from rosita.tsv import TsvFile
from rosita.vocabulary import used_tokens

if TYPE_CHECKING:
    from rosita.fresh import FreshRows

# Settings that say where and how to run, but do not change the outcome.
_NOT_IDENTITY = {
    "data_dir", "output_dir", "cache_dir", "teacher_model", "student_model", "model_name_or_path",
    "save_state_steps", "no_cuda", "overwrite_output_dir", "overwrite_cache", "logging_dir",
    "do_train", "do_eval", "do_predict", "per_gpu_eval_batch_size", "eval_batch_size", "model_type",
    "save_steps", "dry_run", "glove_embs",
}  # fmt: skip


@dataclass
class Data:
    """Token ids of a task: the files to train on, and the dev set that chooses the best model."""

    task: Task
    train: list[Encoded]
    dev: Encoded
    fresh: FreshRows | None = None  # draws the rows of `train` anew, epoch by epoch

    def used_tokens(self, vocab_size: int) -> Tensor:
        """Ids of all tokens that training and the evaluation on dev can meet."""
        used = used_tokens([*self.train, self.dev], vocab_size)
        if not self.fresh:
            return used
        return torch.cat([used, self.fresh.used_tokens(vocab_size)]).unique()

    def sampler(self, batch_size: int, seed: int) -> Sampler:
        """The global batches of the training set."""
        return Sampler(self.train, batch_size, seed, self.fresh.files if self.fresh else None)


def with_fresh_rows(data: Data, settings: KDSettings, folder: Path) -> Data:
    """The same data, drawn anew, alternately or always; `folder`: of a model with the tokenizer."""
    # heavy imports, only needed here: they bring transformers' BERT in
    from rosita.augmentation import CandidateFinder, Sampling
    from rosita.fresh import FreshRows
    from rosita.masked_lm import load_tokenizer

    finder = CandidateFinder(
        load_tokenizer(folder), load_glove(settings.glove_embs), settings.aug_candidates
    )
    tokenizer = read_tokenizer(folder, settings.do_lower_case).build()
    set_length(tokenizer, settings.max_seq_length)
    plain = data.train[0]
    fresh = FreshRows(
        TsvFile(plain.path, data.task), plain, tokenizer, finder,
        Sampling(1, settings.aug_probability, settings.seed, settings.aug_edits),
        settings.fresh_augmentation == "alternate",
    )  # fmt: skip
    return replace(data, fresh=fresh)


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
    """The function that scores a model on dev, while it is trained.

    A regression whose predictions are all the same gets the worst score: early in a training, and
    in bf16 above all, a model may still answer every row alike.
    """

    def evaluate(model: RositaForSequenceClassification) -> Scores:
        logits = predict(model, data.dev, batch_size)
        try:
            return score(data.task, logits, data.dev.labels)
        except UndefinedScore as error:
            if not error.collapsed:
                raise
            return collapsed_scores(data.task)

    return evaluate


def new_run(
    stage: str,
    settings: LoopSettings,
    data: Data,
    parents: dict[str, tuple[str, RositaForSequenceClassification]],
    folder: Path,
    accelerator: Accelerator,
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
        "processes": accelerator.num_processes,
        "settings": kept,
        "parents": hashes,
        "data": {"train": [file.sha256 for file in data.train], "dev": data.dev.sha256},
    }
    if data.fresh:
        identity["data"]["glove"] = glove_hash(settings.glove_embs)
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
    return Run(folder, identity, details, accelerator.is_main_process)


def saver(run: Run, tokenizer: TokenizerFiles, task: Task) -> Any:
    """The function that writes the best model to the run's folder, or another to one within.

    With its evaluation given, such a model gets a run.json of its own: a rung of the ladder.
    """

    def save(
        model: RositaForSequenceClassification, name: str = "", evaluation: dict | None = None
    ) -> None:
        folder = run.folder / name
        save_model(folder, model, tokenizer, task)
        if evaluation:
            rung = Run(folder, run.identity | {"stage": "ladder"},
                       {**run.details, "run": str(run.folder)})  # fmt: skip
            rung.write(finished=True, best=evaluation, **_result(evaluation, model))

    return save


def _result(evaluation: dict[str, Any], model: RositaForSequenceClassification) -> dict[str, Any]:
    return {
        "metric": evaluation["metric"],
        "dev_score": evaluation["score"],
        "shape": str(Shape.of(model.config)),
        "parameters": parameter_count(model.config),
        "weights": weights_hash(model.state_dict()),
    }


def finish(run: Run, progress: Progress, model: RositaForSequenceClassification) -> dict[str, Any]:
    """Write the final run.json (`model`: the best, as read back) and remove the saved state.

    Returns the best evaluation: its step, metric, score and shape.
    """
    run.write(
        finished=True,
        best=progress.best,
        **_result(progress.best, model),
        steps=progress.step,
        seconds=round(progress.seconds, 1),
        history=progress.history,
    )
    run.remove_state()
    return progress.best


def score_weights(run: Run, training: Training, mean: bool) -> None:
    """Write the Taylor scores that one pass of `training` gathers: taylor.pkl, and run.json.

    `mean`: of the batches, as the reference has it in KD; else their sum, as in fine-tuning.
    """
    progress = training.run()
    scores = training.importance.scores(training.student, progress.step if mean else 1)
    path = run.folder / "taylor.pkl"
    if run.writes:
        save_scores(path, scores)
    run.write(
        finished=True,
        steps=progress.step,
        seconds=round(progress.seconds, 1),
        history=progress.history,
    )
    run.remove_state()
    print(f"scores of {progress.step} batches are in {path}")
