"""Experiments side by side: each in a process of its own, with its share of the cores."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rosita.errors import RositaError
from rosita.progress import Bar

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """A command that runs one experiment; of one `task`, never two at once: they share stages."""

    task: str
    name: str
    command: tuple[str, ...]


def run_side_by_side(jobs: Sequence[Job], count: int, logs: Path) -> None:
    """Run all jobs, `count` at a time and in their order, as far as no task runs twice.

    What a job says goes to `logs`/NAME.log. Raises `RositaError` for one that failed, after those
    that ran beside it have ended; what had not begun then does not begin.
    """
    logs.mkdir(parents=True, exist_ok=True)
    count = min(count, len({job.task for job in jobs}))  # more would leave cores without work
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    waiting, failed = list(jobs), list[Job]()
    running: dict[Job, subprocess.Popen] = {}
    with Bar(total=len(jobs), unit="experiment") as bar:
        try:
            while running or (waiting and not failed):
                while not failed and len(running) < count and (job := _next(waiting, running)):
                    waiting.remove(job)
                    with (logs / f"{job.name}.log").open("ab") as log:
                        running[job] = subprocess.Popen(
                            job.command, stdout=log, stderr=log, env=environment
                        )
                    bar.write(f"{job.name}: runs, and says how far it is in {log.name}")
                for job in [job for job, process in running.items() if process.poll() is not None]:
                    failed += [job] if running.pop(job).returncode else []
                    bar.write(f"{job.name}: {'failed' if job in failed else 'has a record'}")
                    bar.update()
                time.sleep(POLL_SECONDS)
        finally:  # Ctrl-C has reached them too: each saves its state
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if failed:
        last = failed[0].name
        raise RositaError(f"{last} failed: its last lines are in {logs / last}.log")


def _next(waiting: Sequence[Job], running: dict[Job, subprocess.Popen]) -> Job | None:
    busy = {job.task for job in running}
    return next((job for job in waiting if job.task not in busy), None)
