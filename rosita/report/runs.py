"""What the report reads: every run.json under a folder, checked, as a `Model`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from rosita.errors import RositaError
from rosita.files import read_json
from rosita.provenance import read_run

_SHAPE = re.compile(r"a\d+_l\d+_f\d+_e-?\d+")
WEIGHT_ROLES = ("student", "model")  # whose weights a run starts from; "teacher" is the other role


class Lenient(BaseModel):
    """What was read from a file: fields may be missing, those there have the right type."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())


DEEPEST = 100  # levels of a JSON file: ours have ten, Python's own functions end within a thousand
MOST = 1e15  # no quantity is as large, and none above it, nor NaN, is less
# Limits that every real run keeps and every axis can show
Score = Annotated[float, Field(ge=-1000, le=1000)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Head = Annotated[int, Field(ge=0, lt=1024)]


class Link(Lenient):
    path: str = ""
    weights: str | None = None


class Layer(Lenient):
    """One layer at one pruning; ids are those of the model at the start of the run."""

    heads_before: list[Head] = []
    head_scores: list[float | None] | None = None
    heads: list[Head] = []
    ffn_scores: list[float | None] | None = None
    ffn_kept: list[float | None] | None = None


class Entry(Lenient):
    """One point of a run's history; `kind`: "loss", "dev" (an evaluation) or "pruning"."""

    kind: str | None = None
    step: Count = 0
    score: Score | None = None
    shape: str | None = None
    layers: list[Layer] | None = None

    @model_validator(mode="after")
    def _know_kind(self) -> Entry:
        self.kind = self.kind or kind(self)
        return self

    @property
    def losses(self) -> dict[str, float]:
        extra = self.model_extra or {}
        found = {name: value for name, value in extra.items() if name.startswith("loss_")}
        return {
            name.removeprefix("loss_"): float(value)
            for name, value in found.items()
            if isinstance(value, int | float) and abs(value) < MOST
        }


def kind(entry: Entry) -> str | None:
    """What an entry that does not say so itself is, by what it holds; None: nothing we show."""
    if entry.score is not None:
        return "dev"  # has a shape besides
    if entry.shape or entry.layers:
        return "pruning"
    return "loss" if entry.losses else None


class DataUsed(Lenient):
    folder: str | None = None
    train: list[str] = []
    train_rows: Count | None = None
    dev_rows: Count | None = None


class Identity(Lenient):
    settings: dict[str, Any] = {}
    data: dict[str, Any] = {}


class Record(Lenient):
    """A run.json: everything may be missing."""

    stage: str = "unknown"
    task: str | None = None
    finished: bool = False
    parents: dict[str, Link] = {}
    data: DataUsed = DataUsed()
    metric: str | None = None
    dev_score: Score | None = None
    shape: str | None = None
    parameters: Count | None = None
    weights: str | None = None
    steps: Count | None = None
    seconds: Amount | None = None
    history: list[Entry] = []
    model: str | None = None  # the name under which a BERT was downloaded
    identity: Identity = Identity()


class LatencyRow(Lenient):
    """One row of what Deploy/benchmark.py writes."""

    model: str
    format: str = "pytorch"
    batch_size: Count = 1
    length: Count = 0
    median_ms: Amount
    p95_ms: Amount | None = None
    sentences_per_second: Amount | None = None
    bytes: Count | None = None
    parameters: Count | None = None
    macs: Amount | None = None
    dev_score: Score | None = None
    peak_memory_bytes: Count | None = None


@dataclass
class Parent:
    """What a run was made from. `how`: found by "weights" or by "path"; "changed": the folder holds
    other weights by now; "absent": it is not under the reported folder."""

    role: str
    path: str
    weights: str | None
    how: str
    model: Model | None
    place: int = 0  # of an absent one: the same for all names of one model


@dataclass(eq=False)
class Model:
    """One folder with a run.json; `name` is the folder relative to the reported one."""

    name: str
    folder: Path
    record: Record
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    embedding_size: int | None = None
    parents: list[Parent] = field(default_factory=list)

    @property
    def seed(self) -> int | None:
        return self.record.identity.settings.get("seed")

    @property
    def label(self) -> str:
        """The folder's name without task and shape: `setting1` of setting1/CoLA/a2_l8_f512_e128."""
        parts = Path(self.name).parts
        rest = [part for part in parts if part != self.record.task and not _SHAPE.fullmatch(part)]
        return "/".join(rest) or self.name

    def parent(self, *roles: str) -> Model | None:
        """The first parent in one of these roles that was found."""
        for role in roles:
            for parent in self.parents:
                if parent.role == role and parent.model:
                    return parent.model
        return None

    def ancestors(self) -> list[Model]:
        """All models that this one comes from, each once, nearest first."""
        found: list[Model] = []
        waiting = [self]
        while waiting:
            for parent in waiting.pop(0).parents:
                if parent.model and parent.model is not self and parent.model not in found:
                    found.append(parent.model)
                    waiting.append(parent.model)
        return found

    def reference(self) -> Model | None:
        """The scored model of its task that it all began with: bert_ft, as a rule."""
        scored = [
            model
            for model in self.ancestors()
            if model.record.dev_score is not None and model.record.task == self.record.task
        ]
        tops = [model for model in scored if not any(a in scored for a in model.ancestors())]
        return max(tops, key=lambda model: model.record.parameters or 0, default=None)


def model_folders(root: Path) -> Iterator[Path]:
    """Every folder under `root` in order, each real one once: links may point in circles."""
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        links: list[Path] = []
        for at, folders, _ in os.walk(waiting.pop(0)):
            folder = Path(at)
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links += [folder / name for name in folders if (folder / name).is_symlink()]
            yield folder
        waiting += links  # after the real folders, so that these give the names


def shallow(path: Path, values: Any) -> Any:
    """The values of a JSON file; `RositaError` if they nest deeper than Python can walk through."""
    level = [values] if isinstance(values, dict | list) else []
    for _ in range(DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for found in inner for one in found if isinstance(one, dict | list)]
        if not level:
            return values
    raise RositaError(f"{path} is nested too deeply to be read")


def read_record(folder: Path, warnings: list[str]) -> Record | None:
    try:
        return Record.model_validate(shallow(folder / "run.json", read_run(folder)))
    except RositaError as error:
        warnings.append(f"skipped: {error}")
    except ValidationError as error:
        warnings.append(f"skipped: {folder / 'run.json'}: {_complaint(error)}")
    return None


def read_dict(path: Path, warnings: list[str]) -> dict[str, Any]:
    try:
        found = shallow(path, read_json(path))
    except RositaError as error:
        warnings.append(f"skipped: {error}")
        return {}
    return found if isinstance(found, dict) else {}


def read_evaluations(folder: Path, warnings: list[str]) -> dict[str, dict[str, Any]]:
    """What KD/test.py or run_glue.py --do_eval found, by file name."""
    return {path.stem: read_dict(path, warnings) for path in sorted(folder.glob("eval_*.json"))}


def read_embedding_size(folder: Path, warnings: list[str]) -> int | None:
    """The width to which an embedding's rank of -1 amounts; None if no config.json tells."""
    path = folder / "config.json"
    config = read_dict(path, warnings) if path.exists() else {}
    size = config.get("embedding_size", config.get("hidden_size"))  # older folders have the latter
    return size if isinstance(size, int) and 0 < size < MOST else None


def read_latency(path: Path) -> list[LatencyRow]:
    found = shallow(path, read_json(path))
    rows = found.get("rows") if isinstance(found, dict) else None
    try:
        return TypeAdapter(list[LatencyRow]).validate_python(rows)
    except ValidationError as error:
        raise RositaError(
            f"{path} is not what Deploy/benchmark.py writes: {_complaint(error)}; run it again"
        ) from None


def _complaint(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"


def tail(path: str, parts: int = 3) -> str:
    """The last parts of a path as given: what is above them belongs to one machine only."""
    return "/".join(named_parts(path)[-parts:])


def named_parts(path: str) -> list[str]:
    """The parts of a path that name something."""
    return [part for part in Path(path).parts if part not in ("..", ".", "/")]
