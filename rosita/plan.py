"""What one run of the training loop is to do, how far it is, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rosita.config import LoopSettings
from rosita.data import Sampler
from rosita.pruning import PruningSchedule


@dataclass
class Plan:
    """How the loop runs, apart from its objective; steps are optimizer steps."""

    settings: LoopSettings
    lr_schedule: str = "warmup_linear"  # or "none": constant
    warmup_steps: float = 0
    micro_batch_size: int = 32  # rows of one forward pass on one device
    eval_step: int | None = None  # evaluate every so many steps; None: at the end only
    checkpoint_steps: int = 0  # keep an intermediate model every so many steps (0: none)
    patience: float | None = None  # epochs without a gain after which to stop
    schedule: PruningSchedule | None = None
    update: bool = True  # False: gather importance, leave the weights alone


@dataclass
class Progress:
    """Where a run stands; part of the saved state."""

    step: int = 0
    best: dict[str, Any] | None = None  # {"step", "score", and every metric}
    last_gain: int = 0  # step of the last better score, or of the last pruning
    anchor_step: int = 0  # the rate decays from here, from anchor_rate (None: the peak)
    anchor_rate: float | None = None
    seconds: float = 0.0  # of earlier sessions
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)  # since the last logged point


def total_steps(settings: LoopSettings, sampler: Sampler) -> int:
    """Optimizer steps of the whole run."""
    steps = math.ceil(settings.num_train_epochs * sampler.steps_per_epoch)
    return min(steps, settings.max_steps) if settings.max_steps > 0 else steps


def learning_rate(plan: Plan, progress: Progress, total: int, done: int) -> float:
    """The rate after `done` of `total` steps: constant, or warmed up and decaying to 0, linearly.

    After a pruning there is no warm-up: the rate decays from where it was.
    """
    peak = plan.settings.learning_rate
    if plan.lr_schedule == "none":
        return peak
    if progress.anchor_rate is not None:
        left = max(1, total - progress.anchor_step)
        return progress.anchor_rate * max(0.0, (total - done) / left)
    if done < plan.warmup_steps:
        return peak * done / plan.warmup_steps
    return peak * max(0.0, (total - done) / max(1.0, total - plan.warmup_steps))
