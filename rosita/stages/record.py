"""What a run's run.json says: what decided it, what it began with, what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rosita.checkpoint import TaskModel
from rosita.config import LoopSettings, setting_defaults
from rosita.model import RositaForSequenceClassification
from rosita.provenance import OF_MODELS, Run, weights_hash
from rosita.pruning.importance import save_scores
from rosita.pruning.shape import Shape, parameter_count
from rosita.stages.identity import run_identity
from rosita.stages.inputs import Data
from rosita.training.loop import Training
from rosita.training.plan import Progress


def new_run(
    stage: str,
    settings: LoopSettings,
    data: Data,
    parents: dict[str, TaskModel],
    folder: Path,
    accelerator: Accelerator,
) -> Run:
    """The record of a run: what decides its outcome, and where its inputs stand.

    `parents`: role ("teacher", "student", "model") -> the model that it begins with; the last is
    the one that it trains or scores.
    """
    hashes = {role: one.hashes() for role, one in parents.items()}
    models = {kind: {role: found[kind] for role, found in hashes.items()} for kind in OF_MODELS}
    train = [file.sha256 for file in data.train]
    identity = run_identity(
        stage, settings, data.task, models, train, data.dev.sha256, accelerator.num_processes
    )
    *_, start = parents.values()
    details = {
        "parents": {
            role: {"path": one.path, "weights": hashes[role]["parents"], "files": one.files()}
            for role, one in parents.items()
        },
        "data": {
            "folder": settings.data_dir,
            "train": [file.path.name for file in data.train],
            "train_rows": sum(map(len, data.train)),
            "dev_rows": len(data.dev),
        },
        "label_names": settings.label_names,
        "label_range": data.task.label_range,
        **({} if stage == "taylor" else {"names": start.labels}),  # scores answer with no labels
    }
    defaults = setting_defaults(type(settings))
    return Run(folder, identity, details, accelerator.is_main_process, defaults)


def _result(evaluation: dict[str, Any], model: RositaForSequenceClassification) -> dict[str, Any]:
    return {
        "metric": evaluation["metric"],
        "dev_score": evaluation["score"],
        "shape": str(Shape.of(model.config)),
        "parameters": parameter_count(model.config),
        "weights": weights_hash(model.state_dict()),
    }


def _course(progress: Progress) -> dict[str, Any]:
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "arithmetic": ", then ".join(progress.arithmetic),
        "history": progress.history,
    }


def finish(run: Run, progress: Progress, model: RositaForSequenceClassification) -> dict[str, Any]:
    """Write the final run.json (`model`: the best, as read back) and remove the saved state.

    Returns the best evaluation: its step, metric, score and shape.
    """
    run.write(
        finished=True,
        best=progress.best,
        **_result(progress.best, model),
        **_course(progress),
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
        **_course(progress),
    )
    run.remove_state()
    print(f"scores of {progress.step} batches are in {path}")
