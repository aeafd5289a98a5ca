"""What one run of the training loop is to do, how far it is, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rosita.config import LoopSettings
from rosita.data import Batch, Sampler
from rosita.pruning import PruningSchedule


@dataclass
class Plan:
    """How the loop runs, apart from its objective; steps are optimizer steps."""

    settings: LoopSettings
    lr_schedule: str = "warmup_linear"  # see `learning_rate`
    warmup_steps: float = 0
    micro_batch_size: int = 32  # rows of one forward pass on one device
    eval_step: int | None = None  # evaluate every so many steps; None: at the end only
    checkpoint_steps: int = 0  # keep an intermediate model every so many steps (0: none)
    patience: float | None = None  # epochs without a gain after which to stop
    schedule: PruningSchedule | None = None
    update: bool = True  # False: gather importance, leave the weights alone
    save_ladder: bool = False  # keep the model of every shape that the schedule passes
    score_by_unit: bool = False  # see `importance.TaylorImportance`
    keep_optimizer: bool = False  # a pruning leaves the moments of surviving weights
    recompute_svd: bool = False  # each cut of the embedding factorizes it anew


@dataclass
class Progress:
    """Where a run stands; part of the saved state."""

    step: int = 0
    best: dict[str, Any] | None = None  # {"step", "score", and every metric}; see `rank`
    last_gain: int = 0  # step of the last better score, or of the last pruning
    anchor_step: int = 0  # the rate decays from here, from anchor_rate (None: the peak)
    anchor_rate: float | None = None
    moment_steps: int = 0  # optimizer steps since its moments began from zero
    seconds: float = 0.0  # of earlier sessions
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)  # since the last logged point
    survivors: dict[str, Any] | None = None  # heads and units that live (see `survivors`)


def rank(evaluation: dict[str, Any]) -> tuple[bool, float]:
    """What to compare evaluations by: the score, but a collapsed model is worse than any other.

    Its Matthews is 0 by convention, and would else beat one that has learnt to be wrong.
    """
    return not evaluation.get("collapsed", False), evaluation["score"]


def total_steps(settings: LoopSettings, sampler: Sampler) -> int:
    """Optimizer steps of the whole run."""
    steps = math.ceil(settings.num_train_epochs * sampler.steps_per_epoch)
    return min(steps, settings.max_steps) if settings.max_steps > 0 else steps


@dataclass
class Step:
    """One process's part of an optimizer step; `counts` are those of the whole global batch."""

    number: int  # from 1
    micro_batches: list[Batch]
    counts: dict[str, int]  # "rows" and "tokens"
    idle: bool  # there is no row for this process: its batch counts for nothing


def steps_of(
    sampler: Sampler,
    micro_batch_size: int,
    done: int,
    total: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Step]:
    """A process's part of the steps after the `done` first, up to `total`.

    Row i of a global batch goes to process i modulo `processes`.
    """
    while done < total:
        epoch, start = divmod(done, sampler.steps_per_epoch)
        for file, rows in sampler.epoch(epoch, start):
            if done >= total:
                return
            done += 1
            mine = rows[process::processes]
            idle = not len(mine)  # an epoch's last batch may have fewer rows than processes
            mine = rows[:1] if idle else mine
            parts = np.split(mine, range(micro_batch_size, len(mine), micro_batch_size))
            counts = {"rows": len(rows), "tokens": file.token_count(rows)}
            yield Step(done, [file.batch(part) for part in parts], counts, idle)


def learning_rate(plan: Plan, progress: Progress, total: int, done: int) -> float:
    """The rate after `done` of `total` steps, by the plan's schedule.

    none: constant. warmup_linear, warmup_cosine: warmed up, then decaying to 0; after a pruning
    warmup_linear does not warm up but decays from where it was. decay_after_pruning: warmed up,
    constant until the last pruning, then decaying to 0, linearly.
    """
    peak = plan.settings.learning_rate
    if plan.lr_schedule == "none":
        return peak
    if plan.lr_schedule == "warmup_linear" and progress.anchor_rate is not None:
        left = max(1, total - progress.anchor_step)
        return progress.anchor_rate * max(0.0, (total - done) / left)
    if done < plan.warmup_steps:
        return peak * done / plan.warmup_steps
    begin = plan.warmup_steps
    if plan.lr_schedule == "decay_after_pruning" and plan.schedule:
        begin = max(begin, plan.schedule.count * plan.schedule.period)
    left = min(1.0, max(0.0, (total - done) / max(1.0, total - begin)))
    if plan.lr_schedule == "warmup_cosine":
        return peak * (1 - math.cos(math.pi * left)) / 2
    return peak * left
