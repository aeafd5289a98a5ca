"""Settings as they are given. Later wins: default < task < JSON default < JSON task < flag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from rosita.cli import refuse_empty
from rosita.config import REPOSITORY
from rosita.errors import RositaError, nearest
from rosita.files import read_json, relative_path
from rosita.tasks import Task, glue_task_name

PATHS = ("teacher_model", "student_model", "data_dir", "output_dir", "cache_dir", "glove_embs",
         "aug_stop_words")  # fmt: skip
Settings = TypeVar("Settings", bound=BaseModel)


def load_config(
    kind: type[Settings],
    task: Task,
    flags: Mapping[str, Any],
    path: str | Path | None = None,
    base: str | Path = ".",
) -> Settings:
    """Settings of one run; `flags`: texts of the command line's flags, by name, or typed values.

    `{task}` in a text of the JSON file becomes the task's name; paths in it are relative to
    `base`, those of the command line to the current folder. Raises `RositaError` with all
    complaints in one line: unknown keys, wrong types, values out of range.
    """
    values: dict[str, Any] = {"max_seq_length": task.max_seq_length}
    values["data_dir"] = relative_path(REPOSITORY / "data" / task.name)
    if "train_batch_size" in kind.model_fields:
        values["train_batch_size"] = task.train_batch_size
    if path:
        values |= _json_values(kind, Path(path), task, Path(base))
    sources = {name: f"{path} [{task.name}] {name}" for name in values}
    for name, value in flags.items():
        sources[name] = f"--{name}"
        refuse_empty(value, sources[name])
        values[name] = _from_text(kind, name, value) if isinstance(value, str) else value
    try:
        return kind.model_validate(values, strict=True)
    except ValidationError as error:
        raise RositaError(_complaints(error, sources, path)) from None


def describe(settings: BaseModel, flags: Iterable[str], path: str | None = None) -> str:
    """The settings that differ from the defaults of `--help`, a line each, and who set them.

    `flags`: names of those that the command line gave; `path`: the JSON file, if there is one.
    """
    lines = ["settings (all others as --help says):"]
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if not field.is_required() and value == field.default:
            continue
        by = f"--{name}" if name in flags else path or "the task"
        lines.append(f"  {name:<28} {value}  ({by})")
    return "\n".join(lines)


def _json_values(kind: type[BaseModel], path: Path, task: Task, base: Path) -> dict[str, Any]:
    sections = read_json(path)
    if not isinstance(sections, dict) or not all(isinstance(s, dict) for s in sections.values()):
        raise RositaError(f'{path} must be an object of sections: "default" and task names')
    defaults = sections.pop("default", {})
    spelt: dict[str, str] = {}
    for name in sections:
        if (other := spelt.setdefault(glue_task_name(name) or name, name)) != name:
            raise RositaError(
                f"{path} has the sections {other!r} and {name!r}, which are one task; take one out"
            )
    by_name = {name: sections[spelling] for name, spelling in spelt.items()}
    if task.name not in by_name and not defaults:
        raise RositaError(f"{path} has no task {task.name!r}; it has {sorted(sections)}")
    section = by_name.get(task.name, {})
    for name in sorted(defaults.keys() | section.keys()):
        if name not in kind.model_fields:
            where = task.name if name in section else "default"
            hint = nearest(name, list(kind.model_fields))
            raise RositaError(f"{path} [{where}]: unknown setting {name!r}{hint}")
    values = {**defaults, **section}
    for name, value in values.items():
        refuse_empty(value, f"{path} [{task.name}] {name}")
        if isinstance(value, str):
            values[name] = value.replace("{task}", task.name)
            if name in PATHS:
                values[name] = relative_path(base / values[name])
        elif isinstance(value, int) and kind.model_fields[name].annotation is float:
            values[name] = float(value) if not isinstance(value, bool) else value
    return values


def is_on(kind: type[BaseModel], flags: Mapping[str, str], switch: str) -> bool:
    """Whether the command line turns a switch on; `RositaError` for a text that is no switch."""
    return _from_text(kind, switch, flags.get(switch, "False"))


def _from_text(kind: type[BaseModel], name: str, text: str) -> Any:
    if text.lower() == "none" and not kind.model_fields[name].is_required():
        default = kind.model_fields[name].default
        if default is None:
            return None
    annotation: Any = kind.model_fields[name].annotation
    try:
        return TypeAdapter(annotation).validate_python(text)
    except ValidationError as error:
        raise RositaError(f"--{name} {text}: {error.errors()[0]['msg']}") from None


def _complaints(error: ValidationError, sources: dict[str, str], path: object) -> str:
    faults = []
    for fault in error.errors():
        name = str(fault["loc"][0]) if fault["loc"] else ""
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "missing":
            faults.append(f"--{name} is needed" + (f" (or in {path})" if path else ""))
        elif name:
            given = fault["input"]
            faults.append(f"{sources.get(name, name)} {given!r}: {message}")
        else:
            faults.append(message)
    return "; ".join(faults)
