"""Experiments side by side: each in a process of its own, with its share of the threads."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rosita.errors import RositaError
from rosita.progress import Bar
from rosita.training.signals import stop_on_signal

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """A command that runs one experiment; of one `task`, never two at once: they share stages."""

    task: str
    name: str
    command: tuple[str, ...]


def run_side_by_side(jobs: Sequence[Job], count: int, logs: Path) -> None:
    """Run all jobs, `count` at a time and in their order, as far as no task runs twice.

    Each has its share of torch's threads as it begins. What a job says goes to `logs`/NAME.log.
    Raises `RositaError` for one that failed, after those that ran beside it have ended; what had
    not begun then does not begin. Raises `KeyboardInterrupt` after SIGTERM or SIGINT, when all have
    ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, failed = list(jobs), list[Job]()
    running: dict[Job, subprocess.Popen] = {}
    with Bar(total=len(jobs), unit="experiment") as bar, stop_on_signal() as stop:
        while running or (waiting and not failed):
            while not failed and len(running) < count and (job := _next(waiting, running)):
                tasks = {job.task for job in (*waiting, *running)}
                threads = torch.get_num_threads() // min(count, len(tasks))
                waiting.remove(job)
                with (logs / f"{job.name}.log").open("ab") as log:
                    running[job] = subprocess.Popen(
                        job.command,
                        stdout=log,
                        stderr=log,
                        env=os.environ | {"OMP_NUM_THREADS": str(max(1, threads))},
                    )
                bar.write(f"{job.name}: runs, and says how far it is in {log.name}")
            for job in [job for job, process in running.items() if process.poll() is not None]:
                failed += [job] if running.pop(job).returncode else []
                bar.write(f"{job.name}: {'failed' if job in failed else 'has a record'}")
                bar.update()
            if stop.requested:
                _end(running.values())
                raise KeyboardInterrupt
            time.sleep(POLL_SECONDS)
    if failed:
        last = failed[0].name
        raise RositaError(f"{last} failed: its last lines are in {logs / last}.log")


def _end(processes: Collection[subprocess.Popen]) -> None:
    """Ask each for its end, at which it saves its state, then wait for all."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _next(waiting: Sequence[Job], running: dict[Job, subprocess.Popen]) -> Job | None:
    busy = {job.task for job in running}
    return next((job for job in waiting if job.task not in busy), None)
