"""The pictures of RESULTS.md."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from numbers_over_seeds import shares_kept
from records import difference_95

DARK, PALE, GRID = "#1f3a5f", "#c6d6e8", "#eeeeee"
COLOURS = ("#1b6ca8", "#c1440e", "#3a7d44", "#7b4ea3", "#a07b00")  # of tasks
# % kept: what lies below is an arrow with its number, so that the rest can be told apart
LOWEST = 75


def draw_lines(path: Path, groups: dict[str, list[dict]], title: str, shares: bool) -> None:
    """What each line of a table keeps of its teacher, or scores: a dot a seed, a tick their mean,
    and the intervals."""
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.3 * len(groups)), layout="constrained")
    axes.use_sticky_edges = False  # of bars: room beside them
    for place, found in enumerate(groups.values()):
        first = found[0]
        unit = first["teacher_score"] if shares else 1
        kept = [100 * record["score"] / unit for record in found]
        intervals, _ = difference_95(found)
        width = 0.45 / len(intervals)
        for number, bounds in enumerate(intervals):
            ends = [100 * (first["teacher_score"] + bound) / unit for bound in bounds]
            middle = place + width * (number - (len(intervals) - 1) / 2)
            axes.barh(middle, ends[1] - ends[0], 0.8 * width, ends[0], color=PALE)
        axes.plot(mean(kept), place, "|", color=DARK, markersize=14, markeredgewidth=2)
        axes.plot(kept, [place] * len(kept), "o", color=DARK, markersize=4)
    if shares:
        axes.axvline(100, color="#888888", linewidth=1)
    axes.set(yticks=range(len(groups)), yticklabels=groups, title=title)
    what = "% of the teacher's dev score" if shares else f"dev {first['metric']}"
    axes.set_xlabel(f"{what}: seeds, their mean, 95 % intervals")
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="x", color=GRID)
    axes.tick_params(axis="y", length=0)
    _finish(path, figure, axes, ("top", "right", "left"))


def draw_summary(path: Path, tasks: dict[str, dict[str, list[dict]]], names: list[str]) -> None:
    """What the lines `names` keep on each task: a dot a seed, a bar the mean over them, and below
    each name the mean over the tasks, where all have it. `tasks`: records by task and line."""
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    step = 0.8 / max(1, len(tasks))
    for number, (task, groups) in enumerate(tasks.items()):
        axes.plot([], [], color=COLOURS[number], linewidth=2.5, label=task)
        for place, name in enumerate(names):
            if name in groups:
                at = place + step * (number - (len(tasks) - 1) / 2)
                _draw_shares(axes, at, step, shares_kept(groups[name]), COLOURS[number])
    labels = []
    for name in names:
        means = [mean(shares_kept(groups[name])) for groups in tasks.values() if name in groups]
        labels.append(f"{name}\n" + (f"{mean(means):.1f} %" if len(means) == len(tasks) else ""))
    axes.axhline(100, color="#888888", linewidth=1)
    axes.axhline(98.5, color="#888888", linewidth=1, linestyle=":")
    axes.set(xticks=range(len(names)), xticklabels=labels, xlim=(-0.5, len(names) - 0.5))
    axes.set_ylim(bottom=LOWEST)
    axes.set_ylabel("% of the teacher's dev score")
    axes.set_title("What students of 3.5 of 22.7 M parameters keep (dotted: the goal, on average)")
    axes.legend(ncols=max(1, len(tasks)), loc="lower right", frameon=False)
    axes.grid(axis="y", color=GRID)
    axes.tick_params(axis="x", length=0)
    _finish(path, figure, axes, ("top", "right"))


def _draw_shares(axes: Axes, at: float, width: float, kept: list[float], colour: str) -> None:
    """One line of one task, at `at` on the x axis."""
    bar = [at - 0.4 * width, at + 0.4 * width]
    axes.plot(bar, [mean(kept)] * 2, color=colour, linewidth=2.5)
    axes.plot([at] * len(kept), kept, "o", color=colour, markersize=3.5)
    if mean(kept) < LOWEST:
        axes.plot(at, LOWEST + 0.8, "v", color=colour, markersize=6)
        axes.annotate(f"{mean(kept):.0f}", (at, LOWEST + 1.6), ha="center", color=colour)


def _finish(path: Path, figure: Figure, axes: Axes, bare: tuple[str, ...]) -> None:
    """Write the figure, without the frame's sides `bare`; no date in it, so that it stays equal."""
    axes.set_axisbelow(True)
    axes.spines[list(bare)].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
