"""What decides the outcome of a run, told without opening a model: so that "finished already" is
said at once, before torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rosita.augmentation.file import subset_record
from rosita.augmentation.sources import glove_hash
from rosita.augmentation.words import Eligible
from rosita.cli import process_count
from rosita.config import KDSettings, LoopSettings, decides, setting_defaults
from rosita.data.records import content_hash
from rosita.errors import RositaError
from rosita.files import read_json
from rosita.provenance import OF_MODELS, Run, file_hashes, read_run
from rosita.pruning.shape import Shape
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
            **({"multi_label": True} if task.multi_label else {}),
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
    # in another order the labels of the same files are those of another model
    same_labels = earlier.get("label_names") == settings.label_names
    if not (earlier.get("finished") and same_labels) or not all(
        _are_those(path, recorded.get(role, {})) for role, path in parents.items()
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
    identity = run_identity(stage, settings, task, models, train, dev, process_count())
    run = Run(folder, identity, defaults=setting_defaults(type(settings)))
    return run.is_finished(overwrite=False)


def _are_those(folder: Path, parent: dict[str, Any]) -> bool:
    """Whether the files of a folder are surely what a run began with, by its record of `parent`: a
    model of a Python program may have been another by then, in memory, than its folder's."""
    weights = read_run(folder).get("weights", parent.get("weights"))
    return parent.get("weights") == weights and parent.get("files") == file_hashes(folder)


def cut_already(
    folder: Path, task: Task, target: Shape, source: Path, chosen: dict[str, Any]
) -> bool:
    """Whether `folder` holds this very cut of the model in `source`, finished; says it.

    `chosen`: as `prune_stage` recorded it. False where that cannot be told from the files alone.
    """
    earlier = read_run(folder)
    held = earlier.get("identity", {})
    same = (
        earlier.get("finished")
        and (held.get("task"), earlier.get("shape")) == (task.name, str(target))
        and earlier.get("chosen") == chosen
        and earlier["parents"].get("model", {}).get("files") == file_hashes(source)
    )
    return bool(same) and Run(folder, held).is_finished(overwrite=False)


def kd_stage(settings: KDSettings) -> str:
    """The stage that a run of KD/train.py is."""
    return "taylor" if settings.compute_taylor else "distil"


def train_file_names(folder: Path, task: Task, aug_train: bool, subsets: bool) -> list[str]:
    """The training files: train.tsv, train_aug.tsv, or its subsets train_aug0.tsv, ... in order.

    Raises `RositaError` naming the command that makes what is missing.
    """
    command = _augmentation(folder, task)
    if subsets:
        names: list[str] = []
        while (folder / f"train_aug{len(names)}.tsv").exists():
            names.append(f"train_aug{len(names)}.tsv")
        there = sorted(path.name for path in folder.glob("train_aug[0-9]*.tsv"))
        if names and len(there) > len(names):
            raise RositaError(
                f"{folder} has {there[-1]} and no train_aug{len(names)}.tsv: the subsets are"
                " numbered from 0, without gaps"
            )
        if not names:
            raise RositaError(
                f"{folder} has no train_aug0.tsv; make the subsets with {command}"
                " --subset_rows 1000000"
            )
        _check_made_from(folder, task)
        return names
    if not aug_train:
        return [task.train_file]
    if not (folder / "train_aug.tsv").exists():
        raise RositaError(f"{folder}/train_aug.tsv does not exist; make it with {command}")
    _check_made_from(folder, task)
    return ["train_aug.tsv"]


def _check_made_from(folder: Path, task: Task) -> None:
    """Refuse augmented rows whose record names another task, size or train.tsv than there is."""
    path, train = folder / "train_aug.tsv", folder / task.train_file
    record = _record(path.with_suffix(".json"))
    if record.get("task", task.name) != task.name:
        raise RositaError(f"{path} was made for {record['task']}, not for {task.name}")
    made_from = record.get("train_sha256")
    if made_from and train.exists() and made_from != content_hash(train):
        raise RositaError(
            f"{path} was made from another {train.name} than there is now; make it again with"
            f" {_augmentation(folder, task)} --overwrite"
        )


def check_augmented(folder: Path, task: Task, hashes: dict[str, str]) -> None:
    """Refuse augmented files, `hashes` by name, that are not those of their records.

    What has no record, such as a file made by hand, is not checked.
    """
    path, expected = folder / "train_aug.tsv", hashes
    record = _record(path.with_suffix(".json"))
    if path.name in hashes:
        expected = {path.name: record.get("sha256", hashes[path.name])}
    elif subsets := _record(subset_record(path)):
        of = record.get("sha256")
        expected = subsets.get("files", {}) if of in (None, subsets.get("of")) else {}
    for name in sorted(expected.keys() | hashes.keys()):
        if expected.get(name) != hashes.get(name):
            raise RositaError(
                f"{folder / name} is not the file that its record describes; make it again with"
                f" {_augmentation(folder, task)} --overwrite, or remove train_aug*.json if the"
                " change is meant"
            )


def _record(path: Path) -> dict[str, Any]:
    """A record of the augmentation; {} if there is none."""
    record = read_json(path) if path.exists() else {}
    if not isinstance(record, dict):
        raise RositaError(f"{path} is no record of an augmentation; remove it")
    return record


def _augmentation(folder: Path, task: Task) -> str:
    """The command that makes the augmented rows of a task."""
    return f"data_augmentation.py --task_name {task.name} --glue_dir {folder.parent}"
