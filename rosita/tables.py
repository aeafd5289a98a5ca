"""A Markdown table."""

from __future__ import annotations


def markdown(lines: list[list[str]], left: int = 2) -> str:
    """A Markdown table, aligned for people too; the first line is the heading.

    The first `left` columns are text, the others numbers.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rules = ["-" * width if at < left else "-" * (width - 1) + ":" for at, width in
             enumerate(widths)]  # fmt: skip
    return "\n".join(
        "| " + " | ".join(
            text.ljust(width) if at < left else text.rjust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ) + " |"
        for line in [lines[0], rules, *lines[1:]]
    )  # fmt: skip
