"""The picture of Pruning/plan.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import pyplot

from rosita.deploy.figures import save_figure


def draw_plan(
    cost: np.ndarray, kept: np.ndarray, groups: dict[str, np.ndarray], label: str, path: Path
) -> None:
    """Taylor score kept against a cost (n,): all candidates, and those of `groups`.

    `groups` are indices: "fits", "front" (by rising cost, those that no other beats), "chosen".
    """
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    axes.scatter(cost, kept, s=2, color="lightgrey", label=f"{len(cost):,} candidates")
    fits, best, chosen = groups["fits"], groups["front"], groups["chosen"]
    axes.scatter(cost[fits], kept[fits], s=2, color="tab:blue", label=f"{len(fits):,} that fit")
    axes.plot(cost[best], kept[best], color="tab:red", linewidth=1, label="no other is better")
    axes.scatter(cost[chosen], kept[chosen], s=120, marker="*", color="tab:red", label="chosen")
    axes.set(xlabel=label, ylabel="Taylor score kept", ylim=(0, 1.02))
    axes.legend(loc="upper left", fontsize=9)
    axes.grid(alpha=0.3)
    save_figure(figure, path)
