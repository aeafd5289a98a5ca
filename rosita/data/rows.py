"""What a model's rows are like: told by its task, or by the record of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rosita.errors import RositaError
from rosita.provenance import read_maker, read_run, resolve_folder
from rosita.tasks import GLUE, Task


class Rows(BaseModel):
    """How many texts a row has, after how many tokens it is cut, and what a regression's numbers
    lie within; None: not known. An export.json holds these keys, and a run.json those that do not
    decide its run."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    texts: int | None = Field(None, ge=1, le=2)
    max_seq_length: int | None = Field(None, ge=3)
    label_range: tuple[float, float] | None = None

    @classmethod
    def of_task(cls, task: Task, max_seq_length: int | None) -> Self:
        """The rows of a task; `max_seq_length`: what its model was trained or is exported with."""
        return cls(
            texts=len(task.text_columns),
            max_seq_length=max_seq_length,
            label_range=task.label_range,
        )

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """What the record of a model folder, or of an export, says; nothing where there is none."""
        run, export = read_maker(folder), read_run(folder, "export.json")
        name = run.get("task") or export.get("task")
        glue = GLUE.get(name) if isinstance(name, str) else None
        told = cls.of_task(glue, None).model_dump() if glue else {}  # records may be older
        told |= _identity(run)
        told |= {key: run[key] for key in cls.model_fields if run.get(key) is not None}
        told |= {key: export[key] for key in cls.model_fields if export.get(key) is not None}
        try:
            return cls(**told)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise RositaError(
                f"the record of {folder} makes no sense: {wrong['loc'][0]} {wrong['input']!r:.40};"
                " make the folder again"
            ) from None


def trained_length(folder: Path) -> dict[str, int]:
    """The setting max_seq_length as a model was trained with it; {} if its record does not say."""
    length = Rows.of_folder(folder).max_seq_length
    return {} if length is None else {"max_seq_length": length}


def with_trained_length(flags: dict[str, Any], model: str) -> dict[str, Any]:
    """`flags`, and where they lack it max_seq_length as the model of the flag `model` has it."""
    return (trained_length(resolve_folder(flags[model])) if model in flags else {}) | flags


def _identity(run: dict[str, Any]) -> dict[str, Any]:
    """Those keys of `Rows` that decide a run."""
    found: dict[str, Any] = {}
    settings, rows = (run.get("identity", {}).get(name) for name in ("settings", "rows"))
    if isinstance(settings, dict) and "max_seq_length" in settings:
        found["max_seq_length"] = settings["max_seq_length"]
    if isinstance(rows, dict) and isinstance(rows.get("text_columns"), list):
        found["texts"] = len(rows["text_columns"])
    return found
