"""The report's tables, and its numbers for report.json."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from rosita.report.collection import PUBLISHED, Comparison, Group, Report
from rosita.report.runs import MOST, LatencyRow, Model, tail
from rosita.report.texts import (
    duration,
    how_made,
    metric_label,
    millions,
    percent,
    pruned_how,
    score_text,
    taught_by,
    trained_on,
)


@dataclass
class Table:
    """Texts in rows; the columns in `words` are texts, the others numbers."""

    columns: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)
    marked: int | None = None  # the row that stands apart: the published one


# ---------------------------------------------------------------------- tables


def results(report: Report, task: str, ladders: bool | None = None) -> Table:
    """The scored models of a task, the largest first; `ladders`: only those of ladders, or none."""
    groups = [
        group
        for group in report.scored
        if group.first.record.task == task
        and ladders in (None, group.first.record.stage == "ladder")
    ]
    groups.sort(key=lambda group: (-(group.first.record.parameters or 0), -group.mean))
    measured = latency_slice(report)
    metric = groups[0].first.record.metric if groups else None
    columns = ["model", metric_label(metric), "of reference", "parameters", "smaller"]
    if measured:
        columns.append("ms")
    columns += ["time", "shape", "taught by", "pruning", "trained on"]
    rows = []
    for group in groups:
        record, beside = group.first.record, report.comparison(group)
        row = [
            group.label,
            score_text(group),
            percent(beside.kept_percent if beside else None),
            millions(record.parameters),
            f"{beside.times_smaller:.1f}x" if beside else "–",
        ]
        if measured:
            row.append(_number(milliseconds(report, group), 1, ".1f"))
        rows.append(
            [
                *row,
                duration(group.seconds),
                record.shape or "–",
                taught_by(group.first),
                pruned_how(group.first),
                trained_on(group.first),
            ]
        )
    return Table(columns, rows, words=(0, *range(len(columns) - 4, len(columns))))


def beside_paper(report: Report) -> Table:
    """The published values, marked as such, above ours: averages over the tasks we have."""
    rows = [
        [
            PUBLISHED.source,
            f"{PUBLISHED.times_smaller}x",
            percent(PUBLISHED.score_kept_percent),
            f"{millions(PUBLISHED.parameters_before)} → {millions(PUBLISHED.parameters_after)}",
            "BERT-base",
            "a2_l8_f512_e128",
            ", ".join(PUBLISHED.tasks),
        ]
    ]
    for (label, shape), found in by_label(report).items():
        first = found[0]
        large, small = first.reference.first.record.parameters, first.group.first.record.parameters
        rows.append(
            [
                f"ours: {label}",
                f"{first.times_smaller:.1f}x",
                percent(average_kept(found)),
                f"{millions(large)} → {millions(small)}",
                base_name(first.group.first),
                shape,
                ", ".join(beside.group.first.record.task or "–" for beside in found),
            ]
        )
    columns = ["model", "smaller", "score kept", "parameters", "from", "shape", "average over"]
    return Table(columns, rows, words=(0, 4, 5, 6), marked=0)


def by_label(report: Report) -> dict[tuple[str, str], list[Comparison]]:
    """The compressed models of each kind and shape, one per task; ladders are left out."""
    found: dict[tuple[str, str], dict[str, Comparison]] = {}
    for beside in report.comparisons:
        record = beside.group.first.record
        if record.stage != "ladder":
            tasks = found.setdefault((beside.group.label, record.shape or "–"), {})
            tasks.setdefault(record.task or "–", beside)
    return {key: list(tasks.values()) for key, tasks in found.items()}


def average_kept(found: list[Comparison]) -> float | None:
    """Average score over the tasks, in percent of the references' average; None if that is <= 0."""
    if not all(beside.reference.scores for beside in found):
        return None
    ours = statistics.fmean(beside.group.mean for beside in found)
    theirs = statistics.fmean(beside.reference.mean for beside in found)
    return 100 * ours / theirs if theirs > 0 else None


def base_name(model: Model) -> str:
    """The pretrained BERT at the root, as far as it is known."""
    for above in model.ancestors():
        if above.record.stage == "download_bert":
            return above.record.model or above.label
    absent = [p.path for m in (model, *model.ancestors()) for p in m.parents if p.how == "absent"]
    return tail(absent[-1], 2) if absent else "–"


def over_seeds(report: Report) -> Table:
    """Each group with more than one score: the scores, their mean and standard deviation."""
    rows = [
        [
            group.label,
            group.first.record.task or "–",
            ", ".join(str(seed) for seed in group.seeds),
            ", ".join(f"{100 * score:.1f}" for score in group.scores),
            f"{100 * group.mean:.2f}",
            f"{100 * group.deviation:.2f}",
            str(len(group.scores)),
        ]
        for group in report.scored
        if group.deviation is not None
    ]
    columns = ["model", "task", "seeds", "scores x 100", "mean", "standard deviation", "n"]
    return Table(columns, rows, words=(0, 1, 2, 3))


def latency_table(report: Report) -> Table:
    """The rows of the latency file."""
    rows = []
    for row, model in report.latency:
        rows.append(
            [
                model.label if model else tail(row.model),
                (model.record.task if model else "") or "–",
                row.format,
                str(row.batch_size),
                str(row.length),
                f"{row.median_ms:.2f}",
                _number(row.p95_ms, 1, ".2f"),
                _number(row.sentences_per_second, 1, ".1f"),
                _number(row.bytes, 1e6, ".1f"),
                _number(row.macs, 1e9, ".2f"),
                _number(row.peak_memory_bytes, 1e6, ".0f"),
                _number(row.dev_score, 0.01, ".1f"),
            ]
        )
    columns = ["model", "task", "format", "batch", "length", "median ms", "p95 ms", "sentences/s",
               "MB", "billion MACs", "memory MB", "dev score x 100"]  # fmt: skip
    return Table(columns, rows, words=(0, 1, 2))


def exports_table(report: Report) -> Table:
    """What Deploy/export.py wrote and checked."""
    rows = []
    for name, found in report.exports:
        for form, facts in sorted(found["formats"].items()):
            facts = facts if isinstance(facts, dict) else {}
            agreement = _finite(facts.get("agreement"))
            rows.append(
                [
                    name,
                    str(found.get("task", "–")),
                    str(form),
                    _number(_finite(facts.get("score")), 0.01, ".1f"),
                    percent(100 * agreement if agreement is not None else None),
                    _number(_finite(facts.get("bytes")), 1e6, ".1f"),
                ]
            )
    columns = ["export", "task", "format", "dev score x 100", "predictions equal", "MB"]
    return Table(columns, rows, words=(0, 1, 2))


def unfinished(report: Report) -> Table:
    rows = [
        [model.name, model.record.task or "–", how_made(model)]
        for model in report.models
        if not model.record.finished
    ]
    return Table(["folder", "task", "what"], rows, words=(0, 1, 2))


def _number(value: float | None, unit: float, form: str) -> str:
    return "–" if value is None else format(value / unit, form)


def _finite(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and abs(value) < MOST else None


# ---------------------------------------------------------------------- latency of a model


def latency_slice(report: Report) -> tuple[int, int] | None:
    """The (batch size, length) that the pictures show: the smallest batch, its commonest length."""
    if not report.latency:
        return None
    batch = min(row.batch_size for row, _ in report.latency)
    lengths = Counter(row.length for row, _ in report.latency if row.batch_size == batch)
    return batch, max(lengths, key=lambda length: (lengths[length], length))


def latency_rows(report: Report) -> list[tuple[LatencyRow, Model]]:
    """The rows of that slice whose model is in the report."""
    wanted = latency_slice(report)
    return [
        (row, model)
        for row, model in report.latency
        if model and (row.batch_size, row.length) == wanted
    ]


def speed_up(report: Report, beside: Comparison) -> float | None:
    """How many times faster than its reference a model answers, both in PyTorch."""
    before, after = (milliseconds(report, group) for group in (beside.reference, beside.group))
    return before / after if before and after else None


def milliseconds(report: Report, group: Group) -> float | None:
    """Median latency of a group in PyTorch, in the slice that the pictures show."""
    found = [
        row.median_ms
        for row, model in latency_rows(report)
        if model in group.members and row.format == "pytorch"
    ]
    return min(found, default=None)


# ---------------------------------------------------------------------- for programs


def numbers(report: Report) -> dict[str, Any]:
    """Everything the report shows, for report.json; what is not finite becomes null."""
    found = {
        "published": asdict(PUBLISHED),
        "models": [_model_numbers(model) for model in report.models],
        "groups": [_group_numbers(report, group) for group in report.groups],
        "latency": [
            {**row.model_dump(), "found": model.name if model else None}
            for row, model in report.latency
        ],
        "exports": [{"folder": name, **facts} for name, facts in report.exports],
        "warnings": report.warnings,
    }
    return _clean(found)


def _model_numbers(model: Model) -> dict[str, Any]:
    record = model.record
    return {
        "name": model.name,
        "label": model.label,
        **record.model_dump(
            include={
                "stage",
                "task",
                "finished",
                "shape",
                "parameters",
                "metric",
                "dev_score",
                "weights",
                "steps",
                "seconds",
            }
        ),
        "seed": model.seed,
        "settings": record.identity.settings,
        "pruning": pruned_how(model),
        "data": record.data.model_dump(),
        "parents": [
            {"role": p.role, "path": p.path, "found": p.how, "model": p.model and p.model.name}
            for p in model.parents
        ],
        "evaluations": model.evaluations,
        "history": [entry.model_dump(exclude_none=True) for entry in record.history],
    }


def _group_numbers(report: Report, group: Group) -> dict[str, Any]:
    beside = report.comparison(group)
    return {
        "label": group.label,
        "members": [model.name for model in group.members],
        "n": len(group.scores),
        "mean": group.mean if group.scores else None,
        "standard_deviation": group.deviation,
        "seconds": group.seconds,
        "reference": beside.reference.label if beside else None,
        "times_smaller": beside.times_smaller if beside else None,
        "score_kept_percent": beside.kept_percent if beside else None,
    }


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
