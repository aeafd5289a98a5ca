"""The report as one self-contained HTML page, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from tqdm import tqdm

from rosita.errors import RositaError
from rosita.files import atomic_write, write_json
from rosita.pruning.shape import Shape
from rosita.report.collection import LATENCY_FILE, PUBLISHED, Comparison, Group, Report
from rosita.report.drawing import PALETTE
from rosita.report.figures import Point, curves, evaluations, importance, pareto, times
from rosita.report.lineage import lineage
from rosita.report.runs import WEIGHT_ROLES, Model, tail
from rosita.report.style import CSS
from rosita.report.tables import (
    Table,
    beside_paper,
    exports_table,
    latency_rows,
    latency_slice,
    latency_table,
    numbers,
    over_seeds,
    plain,
    results,
    speed_up,
    unfinished,
)
from rosita.report.texts import how_made, metric_label, millions, percent

MOST_PICTURES = 16  # of one kind, so that the page stays below 2 MB
MARKERS = {"pytorch": "o", "onnx": "s", "int8": "D"}


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
    sections = (
        _headline, _tradeoffs, _results, _paper, _lineage, _curves, _importance, _times, _seeds,
        _latency, _exports, _left_out,
    )  # fmt: skip
    bar = tqdm(sections, desc="report", unit="section", leave=False)
    body = "\n".join(filter(None, (section(report) for section in bar)))
    name = escape(report.root.resolve().name)
    finished = sum(model.record.finished for model in report.models)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>ROSITA report: {name}</title><style>{CSS}</style></head><body><main>\n"
        f"<h1>ROSITA report</h1><p class=soft>{finished} finished runs in <code>{name}/</code>,"
        f" tasks: {escape(', '.join(report.tasks) or 'none')}</p>\n{body}\n</main></body></html>\n"
    )


def markdown(report: Report) -> str:
    """The tables of the page."""
    parts = ["# ROSITA report"]
    for task in report.tasks:
        if (table := results(report, task)).rows:
            parts += [f"## {plain(task)}", table.markdown()]
    parts += ["## Beside the paper", beside_paper(report).markdown(), _BESIDE]
    for title, table in _more_tables(report):
        parts += [f"## {title}", table.markdown()]
    parts += [f"- {plain(line)}" for line in report.warnings]
    return "\n\n".join(parts) + "\n"


_BESIDE = (
    "The first row is the paper's, quoted; the others are of this folder. They compare directly"
    " only where base model, tasks and data are the same."
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


def _headline(report: Report) -> str:
    """The smallest model of each task (the best of its size), beside the published values."""
    cards = []
    for task in report.tasks:
        found = [beside for beside in report.comparisons if beside.group.first.record.task == task]
        if found:
            best = max(found, key=lambda beside: (beside.times_smaller, beside.group.mean))
            cards.append(_card(best, speed_up(report, best)))
    if not cards:
        return ""
    small = millions(PUBLISHED["parameters_after"])
    cards.append(
        f'<div class="card published"><span class=tag>{escape(PUBLISHED["source"])}</span>'
        f"<div class=pair><div><b>{PUBLISHED['times_smaller']}x</b>smaller</div>"
        f"<div><b>{percent(PUBLISHED['score_kept_percent'])}</b>of the score kept</div></div>"
        f"<small>{millions(PUBLISHED['parameters_before'])} → {small} parameters, average over"
        f" {', '.join(PUBLISHED['tasks'])}</small></div>"
    )
    return f'<div class="grid cards">{"".join(cards)}</div>'


def _card(beside: Comparison, faster: float | None) -> str:
    record = beside.group.first.record
    speed = f"<div><b>{faster:.1f}x</b>faster</div>" if faster else ""
    return (
        f"<div class=card><h3>{escape(record.task)}: {escape(beside.group.label)}</h3>"
        f"<div class=pair><div><b>{beside.times_smaller:.1f}x</b>smaller</div>"
        f"<div><b>{percent(beside.kept_percent)}</b>of {escape(beside.reference.label)}'s score"
        f"</div>{speed}</div><small>{millions(beside.reference.first.record.parameters)} →"
        f" {millions(record.parameters)} parameters, {escape(record.shape or '')}</small></div>"
    )


def _tradeoffs(report: Report) -> str:
    """A picture of score against parameters, and one against latency, for each task."""
    colors = _colors(report)
    figures = []
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
        figures.append(_figure(title, pareto(points, "million parameters", label, title),
                               _error_note(groups)))  # fmt: skip
        if report.latency:
            figures.append(_latency_picture(report, task, label, colors))
    if not figures:
        return ""
    intro = (
        "Up and to the left is better. The line is the front: no other model is both smaller (or"
        " faster) and better. Small marks are the intermediate models of an iterative pruning."
    )
    return (
        f"<h2>Score against size and speed</h2><p class=soft>{intro}</p>{_grid(figures)}"
        f"{'' if report.latency else _NOT_MEASURED}"
    )


_NOT_MEASURED = (
    "<p class=soft>Latency is not measured. <code>python Deploy/benchmark.py</code> writes the file"
    " that its picture is drawn from (<code>--latency</code>; by default"
    f" <code>{LATENCY_FILE}</code> in the folder of the models).</p>"
)


def _latency_picture(report: Report, task: str, label: str, colors: dict[str, str]) -> str:
    points, formats = [], []
    for row, model in latency_rows(report):
        score = row.dev_score
        if score is None and row.format == "pytorch":  # what run.json scored
            score = model.record.dev_score
        if model.record.task != task or score is None or row.median_ms <= 0:
            continue
        group = report.group_of(model)
        name = group.label + ("" if row.format == "pytorch" else f" {row.format}")
        points.append(Point(row.median_ms, 100 * score, name, colors.get(group.label, PALETTE[0]),
                            MARKERS.get(row.format, "^")))  # fmt: skip
        formats.append(row.format)
    title = f"{task}: score against latency"
    if not points:
        return f"<figure><h3>{escape(title)}</h3>{_NOT_MEASURED}</figure>"
    batch, length = latency_slice(report)
    marks = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle"}
    kinds = ", ".join(f"{marks[MARKERS.get(f, '^')]} {f}" for f in dict.fromkeys(formats))
    note = f"Batch {batch}, {length} tokens; {kinds}."
    return _figure(title, pareto(points, "median milliseconds", label, title), note)


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


def _results(report: Report) -> str:
    parts = []
    for task in report.tasks:
        if (table := results(report, task, ladders=False)).rows:
            parts.append(f"<h2>{escape(task)}</h2>{table.html()}")
        if (table := results(report, task, ladders=True)).rows:
            folded = f"<summary>Passed on the way: {len(table.rows)}</summary>{table.html()}"
            parts.append(f"<details>{folded}</details>")
    return "".join(parts) + (f"<p class=soft>{_results_note(report)}</p>" if parts else "")


def _results_note(report: Report) -> str:
    folders = sorted({tail(model.record.data.folder or "") for model in report.models} - {""})
    data = f" Data: {escape(', '.join(folders))}." if folders else ""
    measured = latency_slice(report)
    ms = f" ms: PyTorch, batch {measured[0]}, {measured[1]} tokens." if measured else ""
    return (
        "Reference: the fine-tuned model that a model comes from. Scores are those of the dev set"
        f" that chose the best step.{ms}{data}"
    )


def _paper(report: Report) -> str:
    return f"<h2>Beside the paper</h2><p>{_BESIDE}</p>{beside_paper(report).html()}"


def _lineage(report: Report) -> str:
    trees = [
        f'<figure class="wide"><h3>{escape(task)}</h3><div class="scroll" tabindex="0">{tree}'
        "</div></figure>"
        for task in report.tasks
        if (tree := lineage(report, task))
    ]
    key = (
        '<p class=soft><span class=key></span> gives its weights &emsp; <span class="key teacher">'
        "</span> teaches. Runs that differ in the seed share a box.</p>"
    )
    return f"<h2>Where each model comes from</h2>{key}{''.join(trees)}" if trees else ""


def _curves(report: Report) -> str:
    """Iterative runs in the open, the others folded away; one run of each group."""
    iterative, others = [], []
    for group in report.groups:
        model = group.first
        if model.record.stage == "ladder" or not evaluations(model.record.history):
            continue
        shapes = {entry.shape for entry in model.record.history if entry.shape}
        known = iterative if len(shapes) > 1 else others
        known.append((group, model))
    parts = []
    if figures := _pictures(iterative, _curve):
        parts.append(f"<h2>Iterative pruning over its steps</h2>{_grid(figures)}")
    if figures := _pictures(others, _curve):
        folded = f"<summary>Runs of constant shape: {len(figures)}</summary>{_grid(figures)}"
        parts.append(f"<details>{folded}</details>")
    return "".join(parts)


def _curve(group: Group, model: Model) -> str:
    origin = model.parent(*WEIGHT_ROLES)
    picture = curves(model, _shape(origin.record.shape if origin else None), model.hidden_size)
    seed = f", seed {model.seed}" if len(group.members) > 1 else ""
    caption = f"{how_made(model)}{seed}"
    return _figure(f"{model.record.task or ''}: {group.label}", picture, caption) if picture else ""


def _shape(name: str | None) -> Shape | None:
    try:
        return Shape.parse(name) if name else None
    except RositaError:
        return None


def _importance(report: Report) -> str:
    known = [(group, group.first) for group in report.groups]
    figures = _pictures(known, _maps)
    if not figures:
        return ""
    intro = (
        "Taylor importance of what stood in each layer before a pruning, relative to the largest"
        " of its layer."
    )
    return f"<h2>What each layer kept</h2><p class=soft>{intro}</p>{_grid(figures)}"


def _maps(group: Group, model: Model) -> str:
    title = f"{model.record.task or ''}: {group.label}"
    return "".join(_figure(title, svg, caption) for caption, svg in importance(model))


def _times(report: Report) -> str:
    """A bar per stage, in the order in which one needs the other."""
    figures = []
    for task in report.tasks:
        groups = [group for group in report.groups
                  if group.first.record.task == task and group.seconds is not None]  # fmt: skip
        if not groups:
            continue
        groups.sort(key=lambda group: len(group.first.ancestors()))
        title = f"{task}: time of each stage"
        note = "By each run's own clock; mean over seeds."
        picture = times([(group.label, group.seconds) for group in groups], title)
        figures.append(_figure(title, picture, note))
    return f"<h2>Time per stage</h2>{_grid(figures)}" if figures else ""


def _seeds(report: Report) -> str:
    table = over_seeds(report)
    return f"<h2>Over seeds</h2>{table.html()}" if table.rows else ""


def _latency(report: Report) -> str:
    table = latency_table(report)
    if not table.rows:
        return ""
    folded = f"<summary>All measurements: {len(table.rows)}</summary>{table.html()}"
    return f"<h2>Latency</h2><details>{folded}</details>"


def _exports(report: Report) -> str:
    table = exports_table(report)
    return f"<h2>Exports</h2>{table.html()}" if table.rows else ""


def _left_out(report: Report) -> str:
    table = unfinished(report)
    open_runs = f"<h2>Unfinished runs</h2>{table.html()}" if table.rows else ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in report.warnings)
    return open_runs + (f"<h2>Files left out</h2><ul>{lines}</ul>" if lines else "")


def _pictures(known: list[tuple[Group, Model]], draw: Callable[[Group, Model], str]) -> list[str]:
    found = []
    for group, model in known:
        if len(found) == MOST_PICTURES:
            return [*found, "<p class=soft>More are in report.json.</p>"]
        if picture := draw(group, model):
            found.append(picture)
    return found


def _grid(figures: list[str]) -> str:
    return f'<div class="grid">{"".join(figures)}</div>'


def _figure(title: str, svg: str, caption: str) -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure><h3>{escape(title)}</h3>{svg}{text}</figure>"
