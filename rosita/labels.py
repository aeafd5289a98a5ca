"""What a model calls the labels of its task: the task's own names, or readable ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosita.backbones import MULTI_LABEL
from rosita.errors import RositaError
from rosita.tasks import Task

if TYPE_CHECKING:
    from rosita.model import RositaConfig


def asked_names(label_names: str | None, task: Task) -> list[str] | None:
    """The names of --label_names; `RositaError` unless they are one for each of the labels."""
    if label_names is None:
        return None
    if task.labels is None:
        raise RositaError(f"--label_names: {task.name} is a regression and has no labels")
    names = [name.strip() for name in label_names.split(",")]
    if not all(names) or not len(set(names)) == len(names) == len(task.labels):
        raise RositaError(
            f"--label_names {label_names}: give {len(task.labels)} different names, one for each"
            f" of {task.name}'s {', '.join(task.labels)}, in that order"
        )
    return names


def stored_names(config: dict[str, Any], folder: Path, count: int = 2) -> list[str]:
    """The names of a config.json's `count` labels, in the order of the logits.

    transformers writes none where they are those that it gives two labels by default.
    """
    names = config.get("id2label") or {}
    if not isinstance(names, dict) or not all(key.isdecimal() for key in names):
        raise RositaError(f"{folder}/config.json: id2label must map numbers to names")
    return [str(names[key]) for key in sorted(names, key=int)] or _unnamed(count)


def _unnamed(count: int) -> list[str]:
    return [f"LABEL_{index}" for index in range(count)]


def check_labels(
    config: dict[str, Any], count: int, task: Task, folder: Path, asked: list[str] | None
) -> tuple[list[str] | None, list[int]]:
    """What a tuned model calls the task's labels, in the task's order, None for the task's own
    names; and the row of its classifier for each.

    `config`: its config.json; `count`: the rows of its classifier; `asked`: the names that the
    user gave. Raises `RositaError` if the model has other labels.
    """
    if count != task.num_labels:
        raise RositaError(
            f"{folder} has {count} labels, {task.name} has {task.num_labels}:"
            " it was tuned on another task"
        )
    several = config.get("problem_type") == MULTI_LABEL
    if several != task.multi_label:
        what = "several labels at once" if several else "one label a row"
        raise RositaError(
            f"{folder} gives {what} (problem_type in its config.json), {task.name} has multi_label"
            f" {str(task.multi_label).lower()}: it was tuned on another task"
        )
    own, rows = list(task.outputs), list(range(count))
    unnamed, stored = _unnamed(count), stored_names(config, folder, count)
    # written by `set_names`: in the task's order
    is_ours = config.get("task_labels") == own or (
        config.get("model_type") == "rosita" and stored == own
    )
    if asked and set(asked) == set(stored):
        if asked == stored or not is_ours:
            return asked, [stored.index(name) for name in asked]
    elif is_ours:
        return asked or stored, rows
    # LABEL_0 tells nothing, unless it is what the task calls a label of its own
    elif stored == own or (stored == unnamed and set(stored) != set(own)):
        return asked, rows
    if asked:
        raise RositaError(
            f"{folder} has the labels {stored}, --label_names has {asked}: give the folder's own,"
            f" in the order of {task.name}'s {', '.join(own)}"
        )
    hint = f"; if they mean the same, name them in the order of {', '.join(own)}:"
    hint += f" --label_names {','.join(stored)}"
    raise RositaError(
        f"{folder} has the labels {stored}, {task.name} has {own}: another task, or another order"
        + hint * bool(task.labels)
    )


def set_names(config: RositaConfig, task: Task, names: list[str] | None) -> None:
    """Have the model answer with `names`, in the task's order; None: with the task's own.

    `task_labels` beside other names says whose labels they are: the next stage needs no flag.
    """
    if task.multi_label:
        config.problem_type = MULTI_LABEL
    config.id2label = dict(enumerate(names or task.outputs))
    config.label2id = {name: index for index, name in config.id2label.items()}
    if names and names != list(task.outputs):
        config.task_labels = list(task.outputs)
