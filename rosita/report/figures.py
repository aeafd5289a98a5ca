"""The report's pictures: score against cost, curves over the steps, what was kept, times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator

from rosita.errors import RositaError
from rosita.pruning.shape import Shape
from rosita.report.drawing import (
    LINE,
    PALETTE,
    drawing,
    log_ticks,
    new_figure,
    renderer_of,
    to_svg,
    words,
)
from rosita.report.runs import Entry, Layer, Model
from rosita.report.texts import duration, metric_label, shortened


@dataclass(frozen=True)
class Point:
    """One mark of a Pareto picture; `name` is empty for a mark without a label."""

    x: float
    y: float
    name: str
    color: str
    marker: str = "o"
    error: float | None = None


# ---------------------------------------------------------------------- score against cost


def pareto_front(points: list[Point]) -> list[Point]:
    """The points that no other beats in both: cheaper (x) or better (y), by ascending x."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def pareto(points: list[Point], x_label: str, y_label: str, title: str) -> Markup:
    """Score against cost on a logarithmic axis, with the front and a name beside each mark."""
    with drawing():
        figure = new_figure(3.7)
        axes = figure.add_subplot()
        front = pareto_front(points)
        if len(front) > 1:
            x, y = [point.x for point in front], [point.y for point in front]
            axes.plot(x, y, drawstyle="steps-post", color=LINE, linewidth=1.6, zorder=1)
        for point in points:
            axes.errorbar(
                point.x,
                point.y,
                yerr=point.error,
                color=point.color,
                zorder=3,
                marker=point.marker,
                markersize=8 if point.name else 5,
                capsize=4,
                markeredgewidth=0,
                alpha=1 if point.name else 0.75,
            )
        axes.set(xlabel=x_label, ylabel=words(y_label), xscale="log")
        axes.margins(x=0.2, y=0.2)
        log_ticks(axes.xaxis, most=12)
        axes.grid(axis="y", linewidth=0.5)
        _name_points(figure, axes, points)
        return to_svg(figure, title)


def _name_points(figure: Figure, axes: Axes, points: list[Point]) -> None:
    """A name beside each mark, at the first place where it hides least."""
    renderer, inside = renderer_of(figure), axes.get_window_extent()
    marks = [tuple(axes.transData.transform((point.x, point.y))) for point in points]
    taken: list[Any] = []
    sides = [(9, 0), (-9, 0), (0, 11), (0, -11), (9, 13), (9, -13), (-9, 13), (-9, -13)]
    rows = [sign * step for step in range(14, 113, 14) for sign in (1, -1)]
    # many models of one size stand above each other: their names go further out, on a leash
    places = [
        *sides,
        (0, 25),
        (0, -25),
        (-9, 27),
        (-9, -27),
        *((x, y) for x in (26, -26) for y in rows),
    ]
    for point in filter(lambda point: point.name, points):
        costs = []
        for place in places:
            text = _annotate(axes, point, place)
            box = _box(text, renderer)
            text.remove()
            outside = (
                box.x0 < inside.x0
                or box.x1 > inside.x1 + 6
                or not (inside.y0 < box.y0 and box.y1 < inside.y1)
            )
            hidden = sum(
                box.x0 - 4 < x < box.x1 + 4 and box.y0 - 3 < y < box.y1 + 3 for x, y in marks
            )
            overlaps = sum(map(box.overlaps, taken))
            costs.append(4 * outside + 2 * overlaps + hidden + 0.005 * abs(place[1]))
        text = _annotate(axes, point, places[int(np.argmin(costs))])
        taken.append(_box(text, renderer))


def _box(text: Annotation, renderer: Any) -> Any:
    """Where the words are, without their leash."""
    text.update_positions(renderer)
    return Text.get_window_extent(text, renderer)


def _annotate(axes: Axes, point: Point, place: tuple[int, int]) -> Annotation:
    """The point's name, so many units right of and above it."""
    return axes.annotate(
        words(point.name),
        (point.x, point.y),
        place,
        textcoords="offset points",
        fontsize=11,
        zorder=4,
        arrowprops={"arrowstyle": "-", "color": LINE} if abs(place[0]) > 20 else None,
        ha=("center", "left", "right")[int(np.sign(place[0]))],
        va=("center", "bottom", "top")[int(np.sign(place[1]))],
    )


# ---------------------------------------------------------------------- over steps


def curves(model: Model, start: Shape | None, embedding_size: int | None) -> Markup | None:
    """Loss, dev score and, for a run that pruned, its shape over the steps; None without any."""
    with drawing():
        figure = curves_figure(model, start, embedding_size)
        if not figure:
            return None
        return to_svg(figure, f"loss, score and shape of {model.name} over its steps")


def curves_figure(model: Model, start: Shape | None, embedding_size: int | None) -> Figure | None:
    """A panel for the losses, one for the score, and a low one for each part of the shape.

    Heads and FFN units shrink at the same rate, as a rule: in one panel they would hide each other.
    """
    history = model.record.history
    losses = [entry for entry in history if entry.kind == "loss" and entry.losses]
    scores = evaluations(history)
    parts = shape_parts(history, start, embedding_size)
    rows: list[tuple[float, Callable[[Axes], None]]] = []  # (height, what draws it)
    if losses:
        rows.append((1.65, partial(_draw_losses, losses)))
    if scores:
        rows.append((1.65, partial(_draw_scores, scores, model.record.metric)))
    for color, (label, sizes) in zip(PALETTE[3:], parts.items(), strict=False):
        rows.append((0.95, partial(_draw_sizes, label, sizes, history[-1].step, color)))
    if not rows:
        return None
    heights = [height for height, _ in rows]
    figure = new_figure(0.5 + sum(heights))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (_, draw) in zip(panels, rows, strict=True):
        for step in prunings(history):
            axes.axvline(step, color=LINE, linewidth=0.7)
        draw(axes)
    panels[-1].set_xlabel("step" + (" (lines: prunings)" if parts else ""))
    return figure


def prunings(history: list[Entry]) -> list[int]:
    """The steps at which a run pruned."""
    return [entry.step for entry in history if entry.kind == "pruning" and entry.step]


def evaluations(history: list[Entry]) -> list[tuple[int, float]]:
    """The (step, score) of every evaluation on dev."""
    return [
        (entry.step, entry.score)
        for entry in history
        if entry.kind == "dev" and entry.score is not None
    ]


def shape_parts(
    history: list[Entry], start: Shape | None, embedding_size: int | None
) -> dict[str, list[tuple[int, int]]]:
    """How much of each part of the shape is left, by step; {} if all is."""
    shapes = [(0, start)] if start else []
    for entry in history:
        if entry.shape:
            try:
                shapes.append((entry.step, Shape.parse(entry.shape)))
            except RositaError:
                continue
    found: dict[str, list[tuple[int, int]]] = {}
    for name, label in (
        ("keep_heads", "heads"), ("keep_layers", "layers"),
        ("ffn_hidden_dim", "FFN units"), ("emb_hidden_dim", "embedding rank"),
    ):  # fmt: skip
        sizes = [(step, getattr(shape, name)) for step, shape in shapes]
        if name == "emb_hidden_dim":  # -1: as wide as the embedding
            whole = embedding_size or -1
            sizes = [(step, whole if size == -1 else size) for step, size in sizes]
        if len({size for _, size in sizes}) > 1 and all(size > 0 for _, size in sizes):
            found[label] = sizes
    return found


def _draw_losses(entries: list[Entry], axes: Axes) -> None:
    names = list(dict.fromkeys(name for entry in entries for name in entry.losses))
    for name, color in zip(names, PALETTE, strict=False):
        points = [(entry.step, entry.losses[name]) for entry in entries if name in entry.losses]
        axes.plot(*zip(*points, strict=True), color=color, label=words(name), linewidth=1.6)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    values = [value for entry in entries for value in entry.losses.values()]
    if max(values) > 10 * min(values) > 0:  # losses of several kinds, far apart
        axes.set_yscale("log")
        log_ticks(axes.yaxis, most=5)
    axes.set_ylabel("loss")
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.02, 0.97),
        ncols=len(names),
        borderpad=0,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _draw_scores(points: list[tuple[int, float]], metric: str | None, axes: Axes) -> None:
    steps, scores = zip(*points, strict=True)
    percent = 100 * np.array(scores)
    axes.plot(steps, percent, color=PALETTE[2], marker="o", markersize=3.5, linewidth=1.6)
    axes.set_ylabel(words(metric_label(metric).removeprefix("dev ")))


def _draw_sizes(
    label: str, sizes: list[tuple[int, int]], last: int, color: str, axes: Axes
) -> None:
    """How many there are from step to step, between nothing and as many as at the start."""
    steps, left = zip(*sizes, (last, sizes[-1][1]), strict=True)
    axes.plot(steps, left, drawstyle="steps-post", color=color, linewidth=2)
    axes.set(ylim=(0, 1.1 * max(left)), yticks=[0, max(left)])
    axes.set_title(f"{label}: {left[0]} → {left[-1]}", fontsize=11, loc="left", pad=3)


# ---------------------------------------------------------------------- what was kept


def importance(model: Model) -> list[tuple[str, Markup]]:
    """Heat maps of a pruning, as (caption, svg): heads, then FFN units; [] if nothing is known."""
    cuts = [e.layers for e in model.record.history if e.kind == "pruning" and e.layers]
    if not cuts:
        return []
    with drawing():
        found = [_heads(cuts, model.name), _ffn(cuts, model.name)]
    return [picture for picture in found if picture]


def _heads(cuts: list[list[Layer]], name: str) -> tuple[str, Markup] | None:
    score, cut = head_grids(cuts)
    if not np.isfinite(score).any():
        return None
    figure = new_figure(1.1 + 0.27 * len(score))
    axes = figure.add_subplot()
    _heat(figure, axes, score, "viridis", 1)
    for (layer, head), when in np.ndenumerate(cut):
        light = score[layer, head] > 0.6
        text = "●" if when == 0 else str(when) if len(cuts) > 1 else ""
        axes.text(
            head,
            layer,
            text,
            ha="center",
            va="center",
            fontsize=9,
            color="#000000" if light else "#ffffff",
        )
    axes.set(xlabel="head", xticks=range(score.shape[1]))
    axes.set_xticklabels([str(number) for number in range(1, score.shape[1] + 1)])
    caption = "Heads. ● is kept" + (
        f"; a number says in which of {len(cuts)} prunings it went, its colour how important it"
        " was then."
        if len(cuts) > 1
        else "; the others were cut in one step."
    )
    return caption, to_svg(figure, f"importance of the heads of {name}")


def head_grids(cuts: list[list[Layer]]) -> tuple[np.ndarray, np.ndarray]:
    """(layers, heads): last known score over its layer's largest; pruning that cut it, 0 kept.

    `cuts`: the layers of each pruning.
    """
    ids = [head for layers in cuts for layer in layers for head in layer.heads_before]
    size = (max(map(len, cuts)), max(ids, default=-1) + 1)
    score, cut = np.full(size, np.nan), np.zeros(size, dtype=int)
    for number, layers in enumerate(cuts, 1):
        for row, layer in enumerate(layers):
            known = {
                head: value
                for head, value in zip(layer.heads_before, layer.head_scores or [], strict=False)
                if value is not None
            }
            largest = max(known.values(), default=0) or 1
            for head, value in known.items():
                score[row, head] = value / largest
            for head in set(layer.heads_before) - set(layer.heads):
                cut[row, head] = number
    return score, cut


def _ffn(cuts: list[list[Layer]], name: str) -> tuple[str, Markup] | None:
    score = _rows([layer.ffn_scores for layer in cuts[0]])
    kept = _rows([layer.ffn_kept for layer in cuts[-1]])
    with np.errstate(all="ignore"):
        score = score / np.nanmax(np.where(np.isfinite(score), score, 0), axis=1, keepdims=True)
    most = 10 * np.ceil(10 * np.max(np.nan_to_num(kept))) or 100
    panels = [
        (grid, *how)
        for grid, how in (
            (score, ("viridis", "importance", 1)),
            (100 * kept, ("Greens", "% kept", most)),
        )
        if np.isfinite(grid).any()
    ]
    if not panels:
        return None
    figure = new_figure(0.4 + len(panels) * (0.6 + 0.2 * len(score)))
    for axes, (grid, colors, label, top) in zip(
        figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0], panels, strict=True
    ):
        _heat(figure, axes, grid, colors, top)
        axes.set_xticks([])
        axes.set_title(label, fontsize=11, loc="left", pad=4)
    axes.set_xlabel("FFN units, in slices of equal size, as they stand")
    caption = "FFN units: mean importance of each slice, and the share of it that is kept."
    return caption, to_svg(figure, f"importance of the FFN units of {name}")


def _rows(lists: list[list[float | None] | None]) -> np.ndarray:
    """(layers, slices) with NaN where nothing is known."""
    width = max((len(row or ()) for row in lists), default=0)
    grid = np.full((len(lists), max(width, 1)), np.nan)
    for at, row in enumerate(lists):
        for column, value in enumerate(row or ()):
            grid[at, column] = np.nan if value is None else value
    return grid


def _heat(figure: Figure, axes: Axes, grid: np.ndarray, colors: str, top: float) -> None:
    """A row per layer; the scale goes from 0 to `top`."""
    image = axes.imshow(grid, cmap=colors, vmin=0, vmax=top, aspect="auto", interpolation="none")
    bar = figure.colorbar(image, ax=axes, ticks=[0, top], pad=0.02, fraction=0.05)
    bar.outline.set_visible(False)
    axes.set(ylabel="layer", yticks=range(len(grid)))
    axes.set_yticklabels([str(number) for number in range(1, len(grid) + 1)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


# ---------------------------------------------------------------------- time


def times(rows: list[tuple[str, float]], title: str) -> Markup:
    """Horizontal bars of (name, seconds), each with its time written out."""
    with drawing():
        figure = new_figure(0.6 + 0.3 * len(rows))
        axes = figure.add_subplot()
        names, values = zip(*rows, strict=True)
        axes.barh(range(len(rows)), values, color=PALETTE[0], height=0.62)
        for at, seconds in enumerate(values):
            axes.annotate(
                duration(seconds),
                (seconds, at),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
            )
        axes.set(yticks=range(len(rows)), xlim=(0, 1.28 * max(values, default=1) or 1))
        axes.set_yticklabels([words(shortened(name, 26)) for name in names])
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("seconds")
        axes.tick_params(axis="y", length=0)
        return to_svg(figure, title)
