"""The picture of docs/scaling.md."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from scaling.simulator import epoch_seconds, step_seconds
from scaling.tables import A100, DEVICES, ROWS, job

from rosita.files import atomic_write

matplotlib.use("Agg")  # no screen is needed
from matplotlib import pyplot  # noqa: E402


def draw(path: Path) -> None:
    """Hours of an epoch against rows, and rows/s of one GPU against its batch."""
    matplotlib.rcParams["svg.hashsalt"] = "scaling"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, style in (("base", "-"), ("large", "--")):
        for devices, color in zip(DEVICES, ("tab:blue", "tab:orange", "tab:green"), strict=True):
            hours = [epoch_seconds(job(name, rows, devices, 256), A100) / 3600 for rows in ROWS]
            left.loglog(ROWS, hours, style, color=color, label=f"BERT-{name}, {devices}")
        batches = [2**power for power in range(4, 12)]
        speed = [batch / step_seconds(job(name, batch=batch), A100).total for batch in batches]
        right.loglog(batches, speed, style, color="tab:blue", label=f"BERT-{name}")
    left.set(xlabel="rows", ylabel="hours of one epoch", title="batch 256 per GPU")
    right.set(xlabel="rows of a step", ylabel="rows/s", title="one GPU: launches, then arithmetic")
    for axes in (left, right):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
