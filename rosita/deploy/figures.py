"""The tables and pictures of Deploy/benchmark.py and Pruning/plan.py."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

from rosita.files import atomic_write

matplotlib.use("Agg")  # no screen is needed
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402


def draw_benchmark(rows: list[dict[str, Any]], path: Path) -> None:
    """Latency of the smallest batch as bars; dev score against it, where there are scores."""
    cell = min((row["batch_size"], row["length"]) for row in rows)
    shown = [row for row in rows if (row["batch_size"], row["length"]) == cell]
    scored = [row for row in shown if row["dev_score"] is not None]
    panels = 1 + bool(scored)
    figure, axes = pyplot.subplots(
        1,
        panels,
        figsize=(5.5 * panels, 1.5 + 0.35 * max(7, len(shown))),
        squeeze=False,
        layout="constrained",
    )
    names = [_name(row) for row in shown]
    medians = [row["median_ms"] for row in shown]
    slower = [max(0, row["p95_ms"] - row["median_ms"]) for row in shown]
    axes[0][0].barh(names, medians, color="tab:blue")
    axes[0][0].barh(names, slower, left=medians, color="tab:blue", alpha=0.3)
    axes[0][0].invert_yaxis()
    axes[0][0].set_xlabel(f"ms, batch {cell[0]} x {cell[1]} tokens: median, to p95 (light)")
    if scored:
        _scores_by_latency(axes[0][1], scored)
    save_figure(figure, path)


def _scores_by_latency(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Dev score against latency: a colour a model, a marker a format."""
    models, formats = ({row[key]: None for row in rows} for key in ("model", "format"))
    colours = matplotlib.color_sequences["tab10" if len(models) <= 10 else "tab20"]
    colour, marker = dict(zip(models, cycle(colours))), dict(zip(formats, cycle("osD^vP")))
    for row in rows:
        axes.scatter(
            row["median_ms"],
            row["dev_score"],
            s=20 + row["bytes"] / 1e6,
            alpha=0.7,
            color=colour[row["model"]],
            marker=marker[row["format"]],
        )
    axes.set(xlabel="ms (median)", ylabel=f"dev {rows[0]['metric']}")
    axes.set_title("area: size of the file", fontsize=9)
    axes.margins(0.1)
    axes.set_xlim(left=0)
    keys = [
        Line2D([], [], linestyle="", marker="o", color=colour[model], label=_model(model))
        for model in models
    ]
    keys += [
        Line2D([], [], linestyle="", marker=marker[name], color="grey", label=name)
        for name in formats
    ]
    axes.legend(handles=keys, fontsize=8)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture as PNG, whole or not at all, and let it go."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)


def _name(row: dict[str, Any]) -> str:
    return f"{_model(row['model'])}, {row['format']}"


def _model(name: str) -> str:
    """The last two parts of a model's path, or its name if it is none."""
    path = Path(name)
    path = path.resolve() if path.is_dir() else path
    return "/".join(path.parts[-2:])
