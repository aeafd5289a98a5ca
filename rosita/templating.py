"""Templates -> HTML and Markdown in which every text from elsewhere stays text."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rosita.tables import markdown, printable

_FOLDERS = [Path(__file__).parent / "templates", Path(__file__).parent / "report" / "templates"]

# What Markdown reads as markup: code, emphasis, links (also bare ones), tags, entities, table cells
# and formulas anywhere; lists and quotes at the start. An underscore within a word is none.
_MARKS = re.compile(
    r"[\\`*\[\]<|~$#@]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE
)
_FIRST_MARK = re.compile(r"^(\d*)((?<=\d)[.)](?!\S)|>|[-+](?![\w.]))")


def render(template: str, **values: Any) -> str:
    """The template of this name; its ending, .html.jinja or .md.jinja, decides what is escaped.

    Values that are `Markup` stand as they are, all others as text.
    """
    environment = _MARKDOWN if template.endswith(".md.jinja") else _HTML
    return environment.get_template(template).render(values)


def one_line(text: str) -> str:
    """A text on one line, with one space between its words."""
    return " ".join(printable(text).split())


def markdown_text(value: object) -> Markup:
    """Markdown that shows a value as it is, on one line; `Markup` is Markdown already."""
    if isinstance(value, Markup):
        return value
    text = one_line(str(value))
    return Markup(_FIRST_MARK.sub(r"\1\\\2", _MARKS.sub(r"\\\g<0>", text)))


def markdown_table(
    columns: Sequence[object], rows: Sequence[Sequence[object]], words: Collection[int]
) -> Markup:
    """A Markdown table in which every cell shows its value as it is; see `tables.markdown`."""
    lines = [[str(markdown_text(cell)) for cell in line] for line in (columns, *rows)]
    return Markup(markdown(lines, words))


def pieces(text: str) -> list[str]:
    """A text cut where a line may end: after a space or a slash, not after a hyphen (`e-1`)."""
    return re.findall(r"[^/ ]+[/ ]?|[/ ]", text)


_COMMON: dict[str, Any] = {
    "loader": FileSystemLoader(_FOLDERS),
    "undefined": StrictUndefined,
    "autoescape": True,
    "trim_blocks": True,
    "lstrip_blocks": True,
    "keep_trailing_newline": True,
}
_HTML = Environment(**_COMMON)
_HTML.filters["pieces"] = pieces
_MARKDOWN = Environment(**_COMMON, finalize=markdown_text)  # comes before the escaping for HTML
_MARKDOWN.globals["table"] = markdown_table
