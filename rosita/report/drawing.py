"""Matplotlib as inline SVG: narrow enough to be read on a phone, inked by the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rosita.tables import printable

WIDTH = 5.0  # inches of 72 units: text of 12 units stays 11 pixels on a phone
PALETTE = ["#2f7ed8", "#e07b00", "#1a9e77", "#d6457b", "#8a63d2", "#7a8c1e", "#c2543a", "#2a9fb8"]
_INK, LINE = "#010203", "#040506"  # stand for the page's colours, light or dark
_STYLE: dict[Any, Any] = {  # matplotlib types the keys, every one by name
    "font.size": 12, "axes.titlesize": 12, "axes.labelsize": 12, "legend.fontsize": 11,
    "xtick.labelsize": 11, "ytick.labelsize": 11, "svg.fonttype": "none",
    "svg.hashsalt": "rosita", "text.color": _INK, "axes.labelcolor": _INK, "axes.titlecolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.edgecolor": LINE, "grid.color": LINE,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "axes.facecolor": "none", "figure.facecolor": "none", "figure.dpi": 72,
    "axes.unicode_minus": False, "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-5, 7), "figure.constrained_layout.use": True,
}  # fmt: skip


@contextmanager
def drawing() -> Iterator[None]:
    """Our style, and no warning of a letter that the measuring font lacks: browsers have it."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def words(text: str) -> str:
    """A text as it is: no formula between dollar signs, nothing that cannot be printed."""
    return printable(text).replace("$", r"\$")


def new_figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height))


def renderer_of(figure: Figure) -> RendererAgg:
    """What measures the texts of a figure, once it is laid out."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def to_svg(figure: Figure, title: str) -> Markup:
    """The figure as an <svg> of the page: no size of its own, ink and lines by CSS.

    The one place where ready markup enters the page: matplotlib escapes the texts that it draws.
    """
    text = io.StringIO()
    figure.savefig(
        text,
        format="svg",
        transparent=True,
        metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
    )
    body = re.sub(r"^.*?<svg ", "", text.getvalue(), count=1, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r' (width|height)="[\d.]+pt"', "", body, count=2)
    body = _compact(body)
    body = body.replace(_INK, "currentColor").replace(LINE, "var(--line)")
    return Markup('<svg role="img" aria-label="{}" ').format(title) + Markup(body.strip())


def _compact(svg: str) -> str:
    """A third of the size: no list of fonts, coordinates to a hundredth, no turns by 0 degrees."""

    def rounded(attribute: re.Match) -> str:
        return " ".join(re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]).split("\n"))

    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r'(?<= )(?:d|x|y|transform)="[^"<>]*"', rounded, svg)
    return re.sub(r"\n\s*", "\n", svg)


def log_ticks(axis: Axis, most: int) -> None:
    """Plain numbers at 1, 2, 5 of each decade, or at fewer, not powers of ten."""
    low, high = axis.get_view_interval()
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
    for steps in ((1, 2, 5), (1,)):
        ticks = [step * decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high] or [np.sqrt(low * high)]
        if len(ticks) <= most:
            break
    axis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // most)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
