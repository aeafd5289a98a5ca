"""Every run.json under a folder as models with parents, references and groups over seeds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosita.errors import RositaError
from rosita.files import values_hash
from rosita.report.runs import (
    LatencyRow,
    Link,
    Model,
    Parent,
    model_folders,
    named_parts,
    read_dict,
    read_embedding_size,
    read_evaluations,
    read_latency,
    read_record,
)

LATENCY_FILE = "benchmark.json"  # of Deploy/benchmark.py, in the folder of the models


# The only values of the paper that this project quotes: abstract and results of the article.
@dataclass(frozen=True)
class Published:
    source: str = "published (Liu et al., 2021), BERT-base"
    tasks: tuple[str, ...] = ("CoLA", "SST-2", "QQP", "QNLI", "MNLI")
    parameters_before: float = 109e6
    parameters_after: float = 14.5e6
    times_smaller: float = 7.5
    score_kept_percent: float = 98.5


PUBLISHED = Published()


@dataclass(eq=False)
class Group:
    """Runs that differ in their seeds only (their own or those of their parents)."""

    members: list[Model]

    @property
    def first(self) -> Model:
        return self.members[0]

    @property
    def label(self) -> str:
        return min((model.label for model in self.members), key=lambda label: (len(label), label))

    @property
    def distinct(self) -> list[tuple[Model, float]]:
        """The finished members and their dev scores; copies of the same weights count once."""
        found: dict[str, tuple[Model, float]] = {}
        for model in self.members:
            record = model.record
            if record.finished and record.dev_score is not None:
                found.setdefault(record.weights or model.name, (model, record.dev_score))
        return list(found.values())

    @property
    def scores(self) -> list[float]:
        return [score for _, score in self.distinct]

    @property
    def seeds(self) -> list[Any]:
        return [model.seed for model, _ in self.distinct]

    @property
    def mean(self) -> float:
        """Mean over seeds, of which one at least must be scored: see `Report.scored`."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, with n - 1; None for a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def seconds(self) -> float | None:
        known = [m.record.seconds for m in self.members if m.record.seconds is not None]
        return statistics.fmean(known) if known else None


@dataclass
class Comparison:
    """A group beside its reference: how many times smaller, and which part of the score is kept."""

    group: Group
    reference: Group
    times_smaller: float
    kept_percent: float | None


@dataclass
class Report:
    """All that the page, the table and report.json show."""

    root: Path
    models: list[Model]
    groups: list[Group]
    latency: list[tuple[LatencyRow, Model | None]]
    exports: list[tuple[str, dict[str, Any]]]
    warnings: list[str]

    @property
    def tasks(self) -> list[str]:
        return sorted({model.record.task for model in self.models if model.record.task})

    @property
    def scored(self) -> list[Group]:
        """The groups with a dev score."""
        return [group for group in self.groups if group.scores]

    @property
    def comparisons(self) -> list[Comparison]:
        """Every compressed model beside its reference."""
        return [beside for group in self.scored if (beside := self.comparison(group))]

    def group_of(self, model: Model) -> Group:
        return next(group for group in self.groups if model in group.members)

    def comparison(self, group: Group) -> Comparison | None:
        """The group beside what it was compressed from; None for a model that is no smaller."""
        reference = group.first.reference()
        if not reference or not group.scores:
            return None
        large, small = reference.record.parameters, group.first.record.parameters
        if not large or not small or small >= large:
            return None
        top = self.group_of(reference)
        kept = 100 * group.mean / top.mean if top.scores and top.mean > 0 else None
        return Comparison(group, top, large / small, kept)


def build_report(root: Path, latency_files: list[Path] | None = None) -> Report:
    """Read every run.json (and export.json) under `root` and join them.

    `latency_files`: what Deploy/benchmark.py wrote; None: `root`/benchmark.json, if it is there.
    Unreadable files become warnings. Raises `RositaError` if there is no run at all, or if a
    latency file that was asked for cannot be used.
    """
    if not root.is_dir():
        raise RositaError(f"{root} is no folder; give the one that holds the models, as models/")
    warnings: list[str] = []
    models, exports = [], []
    for folder in model_folders(root):
        name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
        if (folder / "run.json").exists() and (record := read_record(folder, warnings)):
            evaluations = read_evaluations(folder, warnings)
            embedding_size = read_embedding_size(folder, warnings)
            models.append(Model(name, folder, record, evaluations, embedding_size))
        if (folder / "export.json").exists():
            found = read_dict(folder / "export.json", warnings)
            if isinstance(found.get("formats"), dict):
                exports.append((name, found))
    if not models:
        raise RositaError(
            f"{root} holds no run.json that can be read; train a model first"
            " (scripts/setting1.sh CoLA), or give another folder"
        )
    for model in models:
        model.parents = _parents(model, models, root)
    _join_names(models)
    if latency_files is None:
        latency_files = [path for path in (root / LATENCY_FILE,) if path.exists()]
    rows = [row for path in latency_files for row in read_latency(path)]
    latency = [(row, _measured(row, models, exports, root)) for row in rows]
    return Report(root, models, group_seeds(models), latency, exports, warnings)


# ---------------------------------------------------------------------- lineage


def match_path(path: str, models: list[Model], root: Path) -> Model | None:
    """The model whose folder a path given elsewhere means: by its last parts, as far as both go.

    Stages run in Pruning/ or KD/ and write `../models/bert_ft/CoLA`; trees are moved.
    """
    parts = named_parts(path)
    return next((model for model in models if _same_end(parts, model.name, root)), None)


def _same_end(parts: list[str], name: str, root: Path) -> bool:
    theirs = [root.resolve().name, *Path(name).parts]
    common = min(len(parts), len(theirs))
    return 0 < common >= len(theirs) - 1 and parts[-common:] == theirs[-common:]


def _measured(
    row: LatencyRow, models: list[Model], exports: list[tuple[str, dict[str, Any]]], root: Path
) -> Model | None:
    """The model that a row timed, be it in its own folder or in that of its export."""
    if found := match_path(row.model, models, root):
        return found
    parts = named_parts(row.model)
    for name, export in exports:
        if _same_end(parts, name, root):
            return match_path(str(export.get("model", "")), models, root)
    return None


def _parents(model: Model, models: list[Model], root: Path) -> list[Parent]:
    others = [other for other in models if other is not model]
    if model.record.stage == "ladder":  # its record names the parents of the run that it is from
        return [_find_parent("model", Link(path=str(model.folder.parent.parent)), others, root)]
    return [_find_parent(role, link, others, root) for role, link in model.record.parents.items()]


def _find_parent(role: str, link: Link, others: list[Model], root: Path) -> Parent:
    """By the hash of the weights; among equal ones, and without a hash, by the path."""
    equal = [other for other in others if link.weights and other.record.weights == link.weights]
    if equal:
        same = match_path(link.path, equal, root) or equal[0]
        return Parent(role, link.path, link.weights, "weights", same)
    found = match_path(link.path, others, root) or _downloaded(link.path, others)
    how = "absent"
    if found:
        how = "changed" if found.record.weights and link.weights else "path"
    return Parent(role, link.path, link.weights, how, found)


def _downloaded(name: str, models: list[Model]) -> Model | None:
    """The pretrained BERT of this name: stages take `bert-base-uncased` for models/bert_pt."""
    known = (model for model in models if model.record.stage == "download_bert")
    return next((model for model in known if model.record.model == name), None)


def _join_names(models: list[Model]) -> None:
    """Join what runs call differently: the same weights are one model under all their paths.

    If one of the paths is found, so are the others. If none is, they get the same `place`.
    """
    named = [(model, parent) for model in models for parent in model.parents]
    found = {parent.weights: parent for _, parent in named if parent.model and parent.weights}
    for model, parent in named:
        twin = found.get(parent.weights or "")
        if parent.how == "absent" and twin and twin.model is not model:
            parent.how, parent.model = twin.how, twin.model
    absent = [parent for _, parent in named if parent.how == "absent"]
    places: list[set[str | None]] = []
    for parent in absent:
        names = {parent.path, parent.weights} - {"", None}
        near = [place for place in places if place & names]
        places = [place for place in places if place not in near] + [names.union(*near)]
    for parent in absent:
        names = {parent.path, parent.weights}
        parent.place = next((at for at, place in enumerate(places) if place & names), -1)


# ---------------------------------------------------------------------- seeds


def recipes(models: list[Model]) -> dict[Model, str]:
    """Of each model a hash of all that decides a run but seeds: stage, task, shape, settings, data,
    and its parents' recipes.

    Of a circle of parents (copied records) one counts by its weights or path.
    """
    found: dict[Model, str] = {}
    for model in models:
        path = {model: None}  # to the parent that is looked at; in order, and quick to search
        while path:
            at = next(reversed(path))
            above = (parent.model for parent in at.parents if parent.model)
            if missing := next((m for m in above if m not in found and m not in path), None):
                path[missing] = None
            else:
                found[at] = _recipe(at, found)
                path.popitem()
    return found


def _recipe(model: Model, known: dict[Model, str]) -> str:
    record = model.record
    settings = {key: value for key, value in record.identity.settings.items() if key != "seed"}
    parents = {
        parent.role: (parent.model and known.get(parent.model)) or parent.weights or parent.path
        for parent in model.parents
    }
    own = [record.stage, record.task, record.shape, settings, record.identity.data]
    if not parents and not settings:
        own.append(model.name)  # nothing tells it apart, as a download
    return values_hash([*own, parents])


def group_seeds(models: list[Model]) -> list[Group]:
    """Groups of runs of one recipe, in the order of the models; unfinished runs stay alone."""
    buckets: dict[str, list[Model]] = {}
    found = recipes(models)
    for model in models:
        key = found[model] if model.record.finished else model.name
        buckets.setdefault(key, []).append(model)
    return [
        Group(sorted(bucket, key=lambda m: (str(m.seed).zfill(12), m.name)))
        for bucket in buckets.values()
    ]
