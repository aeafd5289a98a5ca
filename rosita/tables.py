"""A Markdown table, and a text that fits on one line of any."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def markdown(lines: Sequence[Sequence[str]], words: Collection[int] = (0, 1)) -> str:
    """A Markdown table, aligned for people too; the first line is the heading.

    The columns in `words` hold texts, the others numbers.
    """
    widths = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]  # of the rule `-:`
    rules = [
        "-" * width if at in words else "-" * (width - 1) + ":" for at, width in enumerate(widths)
    ]
    aligned = [
        [
            text.ljust(width) if at in words else text.rjust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in [lines[0], rules, *lines[1:]]
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in aligned)


def printable(text: str) -> str:
    """A text on one line, with a space for whatever cannot be printed."""
    return "".join(c if c.isprintable() else " " for c in text)
