"""Progress bars: on a terminal as tqdm draws them, in a log file a line every ten seconds."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

LOG_SECONDS = 10


class Bar(tqdm):
    """`tqdm` that does not fill a log file with what only a terminal can draw over."""

    def __init__(self, *args: Any, **more: Any) -> None:
        file = more.get("file") or sys.stderr
        if file is None:  # closed by whoever started this
            more["disable"] = True
        elif not file.isatty():
            more = {"mininterval": LOG_SECONDS, **more, "file": _Lines(file)}
        super().__init__(*args, **more)


class _Lines:
    """A stream on which each state of a bar is a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if state := text.strip():  # not the blanks that wipe a terminal's line
            self._stream.write(state + "\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
