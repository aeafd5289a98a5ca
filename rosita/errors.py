"""The one exception whose message a user sees: a single line, exit code 2, no traceback."""

from __future__ import annotations

from difflib import get_close_matches


class RositaError(Exception):
    """A mistake that the user can mend: says what is wrong, where, and what to type next."""


def first_line(error: BaseException) -> str:
    """What a library says is wrong, short enough to stand within a message of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean X?` for a mistyped name, or an empty string if nothing is near."""
    lowered = {word.lower(): word for word in known}
    found = get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[found[0]]!r}?" if found else ""
