"""What decides the outcome of a run, told without opening a model: so that "finished already" is
said at once, before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rosita.augmentation.sources import glove_hash
from rosita.augmentation.words import Eligible
from rosita.config import KDSettings, LoopSettings, decides
from rosita.data.records import content_hash
from rosita.errors import RositaError
from rosita.files import read_json
from rosita.provenance import OF_MODELS, Run, file_hashes, read_run
from rosita.tasks import Task


def run_identity(
    stage: str,
    settings: LoopSettings,
    task: Task,
    models: dict[str, dict[str, str]],
    train: list[str],
    dev: str,
    processes: int,
) -> dict[str, Any]:
    """Everything that decides a run; `models`: of each kind of `OF_MODELS`, role -> hash; `train`
    and `dev`: hashes of the files."""
    identity: dict[str, Any] = {
        "stage": stage,
        "task": task.name,
        "labels": list(task.labels or ()) or "regression",
        "rows": {
            "text_columns": list(task.text_columns),
            "label_column": task.label_column,
            "header": task.header,
            "short_rows": task.short_rows,
            "train_labelled": task.train_labelled,
            "metric": task.metric,
        },
        "processes": processes,
        "settings": {name: getattr(settings, name) for name in decides(type(settings))},
        **models,
        "data": {"train": train, "dev": dev},
    }
    if isinstance(settings, KDSettings) and settings.fresh_vectors:
        identity["data"]["glove"] = glove_hash(settings.fresh_vectors)
        words = fresh_eligible(settings).identity()
        identity["data"] |= {name: value for name, value in words.items() if value is not None}
    return identity


def fresh_eligible(settings: KDSettings) -> Eligible:
    """Which words the rows drawn anew may change."""
    return Eligible.given(settings.aug_eligible, settings.aug_stop_words)


def finished_already(
    stage: str,
    settings: LoopSettings,
    task: Task,
    parents: dict[str, Path],
    subsets: bool = False,
) -> bool:
    """Whether output_dir holds this very run, finished; says it.

    `parents`: role -> its folder, whose files must be those that the run began with. False where
    that cannot be told from the files alone: the stage then looks itself. Raises `RositaError` if
    the folder holds another run.
    """
    folder = Path(settings.output_dir)
    earlier = {} if settings.overwrite_output_dir else read_run(folder)
    recorded = earlier.get("parents", {})
    if not earlier.get("finished") or any(
        recorded.get(role, {}).get("files") != file_hashes(path) for role, path in parents.items()
    ):
        return False
    data = Path(settings.data_dir)
    aug_train = getattr(settings, "aug_train", False)
    names = [*train_file_names(data, task, aug_train, subsets), task.dev_files[0]]
    if not all((data / name).exists() for name in names):
        return False
    *train, dev = (content_hash(data / name) for name in names)
    held = earlier.get("identity", {})
    models = {kind: held[kind] for kind in OF_MODELS if kind in held}
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    identity = run_identity(stage, settings, task, models, train, dev, processes)
    return Run(folder, identity).is_finished(overwrite=False)


def kd_stage(settings: KDSettings) -> str:
    """The stage that a run of KD/train.py is."""
    return "taylor" if settings.compute_taylor else "distil"


def train_file_names(folder: Path, task: Task, aug_train: bool, subsets: bool) -> list[str]:
    """The training files: train.tsv, train_aug.tsv, or its subsets train_aug0.tsv, ... in order.

    Raises `RositaError` naming the command that makes what is missing.
    """
    command = f"data_augmentation.py --task_name {task.name} --glue_dir {folder.parent}"
    if subsets:
        names: list[str] = []
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
