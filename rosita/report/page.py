"""What stands on the page and in its Markdown; how it looks is in the templates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rosita.errors import RositaError
from rosita.files import atomic_write, write_json
from rosita.progress import Bar
from rosita.pruning.shape import Shape
from rosita.report.collection import LATENCY_FILE, PUBLISHED, Comparison, Group, Report
from rosita.report.drawing import PALETTE
from rosita.report.figures import Point, curves, evaluations, importance, pareto, times
from rosita.report.lineage import Tree, lineage
from rosita.report.runs import WEIGHT_ROLES, tail
from rosita.report.tables import (
    Table,
    beside_paper,
    exports_table,
    latency_rows,
    latency_slice,
    latency_table,
    numbers,
    over_seeds,
    results,
    speed_up,
    unfinished,
)
from rosita.report.texts import how_made, metric_label, millions, percent
from rosita.templating import render

MOST_DRAWN = 16  # models in one gallery, so that the page stays below 2 MB
MARKERS = {"pytorch": "o", "onnx": "s", "int8": "D"}
NOTE = (
    "The first row is the paper's, quoted; the others are of this folder. They compare directly"
    " only where base model, tasks and data are the same."
)


@dataclass(frozen=True)
class Picture:
    """A picture with its title; without an `svg`, the page says how to measure latency."""

    title: str
    svg: Markup | None
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    pictures: list[Picture]
    more: bool = False  # whether some are left out


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.html, report.md and report.json into `folder`; the same input, the same bytes.

    Returns the paths.
    """
    for name, text in (("report.html", page(report)), ("report.md", markdown(report))):
        with atomic_write(folder / name) as file:
            file.write(text.encode("utf-8", "replace").decode())
    write_json(folder / "report.json", numbers(report))
    return [folder / name for name in ("report.html", "report.md", "report.json")]


def page(report: Report) -> str:
    """The whole page; every text of a run is escaped, nothing is loaded from elsewhere."""
    parts: dict[str, Callable[[Report], Any]] = {
        "cards": _cards, "tradeoffs": _tradeoffs, "results": _results, "paper": beside_paper,
        "trees": _trees, "curves": _curves, "importance": _importance, "times": _times,
        "more": _more_tables, "measured": latency_slice, "folders": _data_folders,
    }  # fmt: skip
    bar = Bar(parts.items(), desc="report", unit="part", leave=False)
    return render(
        "page.html.jinja",
        report=report,
        name=report.root.resolve().name,
        finished=sum(model.record.finished for model in report.models),
        published=PUBLISHED,
        latency_file=LATENCY_FILE,
        note=NOTE,
        millions=millions,
        percent=percent,
        **{name: make(report) for name, make in bar},
    )


def markdown(report: Report) -> str:
    """The tables of the page."""
    found = [(task, results(report, task)) for task in report.tasks]
    return render(
        "report.md.jinja",
        report=report,
        results=[(task, table) for task, table in found if table.rows],
        paper=beside_paper(report),
        note=NOTE,
        more=_more_tables(report),
    )


def _more_tables(report: Report) -> list[tuple[str, Table]]:
    tables = [
        ("Over seeds", over_seeds(report)),
        ("Latency", latency_table(report)),
        ("Exports", exports_table(report)),
        ("Unfinished runs", unfinished(report)),
    ]
    return [(title, table) for title, table in tables if table.rows]


# ---------------------------------------------------------------------- parts of the page


def _cards(report: Report) -> list[tuple[Comparison, float | None]]:
    """The smallest model of each task (the best of its size), and how many times faster it is."""
    cards = []
    for task in report.tasks:
        found = [beside for beside in report.comparisons if beside.group.first.record.task == task]
        if found:
            best = max(found, key=lambda beside: (beside.times_smaller, beside.group.mean))
            cards.append((best, speed_up(report, best)))
    return cards


def _tradeoffs(report: Report) -> list[Picture]:
    """A picture of score against parameters, and one against latency, for each task."""
    colors = _colors(report)
    pictures = []
    for task in report.tasks:
        groups = [group for group in report.scored if group.first.record.task == task]
        points = [
            _point(group, group.first.record.parameters / 1e6, colors)
            for group in groups
            if group.first.record.parameters
        ]
        if not points:
            continue
        label = metric_label(groups[0].first.record.metric)
        title = f"{task}: score against parameters"
        svg = pareto(points, "million parameters", label, title)
        pictures.append(Picture(title, svg, _error_note(groups)))
        if cell := latency_slice(report):
            pictures.append(_latency_picture(report, task, label, cell, colors))
    return pictures


def _latency_picture(
    report: Report, task: str, label: str, cell: tuple[int, int], colors: dict[str, str]
) -> Picture:
    """Score against latency; `cell`: the batch size and length of `latency_slice`."""
    points, formats = [], []
    for row, model in latency_rows(report):
        score = row.dev_score
        if score is None and row.format == "pytorch":  # what run.json scored
            score = model.record.dev_score
        if model.record.task != task or score is None or row.median_ms <= 0:
            continue
        group = report.group_of(model)
        name = group.label + ("" if row.format == "pytorch" else f" {row.format}")
        points.append(
            Point(
                row.median_ms,
                100 * score,
                name,
                colors.get(group.label, PALETTE[0]),
                MARKERS.get(row.format, "^"),
            )
        )
        formats.append(row.format)
    title = f"{task}: score against latency"
    if not points:
        return Picture(title, None)
    marks = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle"}
    kinds = ", ".join(f"{marks[MARKERS.get(f, '^')]} {f}" for f in dict.fromkeys(formats))
    note = f"Batch {cell[0]}, {cell[1]} tokens; {kinds}."
    return Picture(title, pareto(points, "median milliseconds", label, title), note)


def _point(group: Group, x: float, colors: dict[str, str]) -> Point:
    """A rung of a ladder is a small nameless mark in the colour of the run it is from."""
    rung = group.first.record.stage == "ladder"
    top = group.first.parent(*WEIGHT_ROLES) if rung else None
    label = top.label if top else group.label
    error = 100 * group.deviation if group.deviation is not None else None
    name = "" if rung else group.label
    return Point(x, 100 * group.mean, name, colors.get(label, PALETTE[0]), error=error)


def _error_note(groups: list[Group]) -> str:
    several = [group for group in groups if group.deviation is not None]
    return "Bars: standard deviation over seeds." if several else "One seed each."


def _colors(report: Report) -> dict[str, str]:
    """One colour per kind of model, the same in all pictures."""
    labels = [group.label for group in report.groups if group.first.record.stage != "ladder"]
    scored = dict.fromkeys([group.label for group in report.scored] + labels)
    named = [label for label in scored if label in labels]
    return {label: PALETTE[at % len(PALETTE)] for at, label in enumerate(named)}


def _results(report: Report) -> list[tuple[str, Table, Table]]:
    """For each task its models, and those passed on the way to them."""
    found = [
        (task, results(report, task, ladders=False), results(report, task, ladders=True))
        for task in report.tasks
    ]
    return [(task, models, passed) for task, models, passed in found if models.rows or passed.rows]


def _data_folders(report: Report) -> list[str]:
    return sorted({tail(model.record.data.folder or "") for model in report.models} - {""})


def _trees(report: Report) -> list[tuple[str, Tree]]:
    return [(task, tree) for task in report.tasks if (tree := lineage(report, task))]


def _curves(report: Report) -> tuple[Gallery, Gallery]:
    """Iterative runs and the others; one run of each group."""
    iterative: list[Group] = []
    others: list[Group] = []
    for group in report.groups:
        record = group.first.record
        if record.stage != "ladder" and evaluations(record.history):
            shapes = {entry.shape for entry in record.history if entry.shape}
            (iterative if len(shapes) > 1 else others).append(group)
    return _gallery(iterative, _curve), _gallery(others, _curve)


def _curve(group: Group) -> list[Picture]:
    model = group.first
    origin = model.parent(*WEIGHT_ROLES)
    svg = curves(model, _shape(origin.record.shape if origin else None), model.embedding_size)
    seed = f", seed {model.seed}" if len(group.members) > 1 else ""
    return [Picture(_title(group), svg, f"{how_made(model)}{seed}")] if svg else []


def _title(group: Group) -> str:
    return f"{group.first.record.task or ''}: {group.label}"


def _shape(name: str | None) -> Shape | None:
    try:
        return Shape.parse(name) if name else None
    except RositaError:
        return None


def _importance(report: Report) -> Gallery:
    return _gallery(report.groups, _maps)


def _maps(group: Group) -> list[Picture]:
    return [Picture(_title(group), svg, caption) for caption, svg in importance(group.first)]


def _times(report: Report) -> Gallery:
    """A bar per stage, in the order in which one needs the other."""
    pictures = []
    for task in report.tasks:
        groups = [group for group in report.groups if group.first.record.task == task]
        groups.sort(key=lambda group: len(group.first.ancestors()))
        bars = [(group.label, group.seconds) for group in groups if group.seconds is not None]
        if bars:
            title = f"{task}: time of each stage"
            svg = times(bars, title)
            pictures.append(Picture(title, svg, "By each run's own clock; mean over seeds."))
    return Gallery(pictures)


def _gallery(groups: Iterable[Group], draw: Callable[[Group], list[Picture]]) -> Gallery:
    """The pictures of the first groups that have any."""
    drawn: list[list[Picture]] = []
    for group in groups:
        if len(drawn) == MOST_DRAWN:
            return Gallery(list(chain(*drawn)), more=True)
        if pictures := draw(group):
            drawn.append(pictures)
    return Gallery(list(chain(*drawn)))
