"""SIGTERM and SIGINT ask for the end; the loop stops at a good place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator


class Stop:
    """Whether a signal has asked for the end."""

    requested = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Within the block SIGTERM and SIGINT only set `requested`; the loop stops at a good place.

    Outside the main thread (a web server, a task queue) signals are not ours to take.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: object) -> None:
        stop.requested = True

    earlier = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def agree_to_stop(accelerator: Accelerator, stop: Stop, ask: bool) -> bool:
    """Whether to stop here. Many processes do so together, and only where they `ask` each other."""
    if accelerator.num_processes == 1:
        return stop.requested
    if not ask:
        return False
    requested = torch.tensor(float(stop.requested), device=accelerator.device)
    return accelerator.reduce(requested, "sum").item() > 0
