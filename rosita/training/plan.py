"""What one run of the training loop is to do, and how far it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rosita.config import FineTuneSettings, KDSettings, LoopSettings
from rosita.data.batches import Sampler
from rosita.pruning.schedule import PruningSchedule


@dataclass
class Plan:
    """How the loop runs: its settings, and what a stage makes of them."""

    settings: FineTuneSettings | KDSettings
    warmup_steps: float = 0  # optimizer steps
    micro_batch_size: int = 32  # rows of one forward pass on one device
    schedule: PruningSchedule | None = None
    update: bool = True  # False: gather importance, leave the weights alone
    keep_last: bool = False  # no loss reaches the classifier, so that its dev score ranks nothing


@dataclass
class Progress:
    """Where a run stands; part of the saved state."""

    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)  # "step", "score", every metric; see `rank`
    last_gain: int = 0  # step of the last better score, or of the last pruning
    anchor_step: int = 0  # the rate decays from here, from anchor_rate (None: the peak)
    anchor_rate: float | None = None
    moment_steps: int = 0  # optimizer steps since its moments began from zero
    seconds: float = 0.0  # of earlier sessions
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)  # since the last logged point
    arithmetic: list[str] = field(default_factory=list)  # where and how it computed, in order
    survivors: dict[str, Any] | None = None  # heads and units that live (see `survivors`)


def total_steps(settings: LoopSettings, sampler: Sampler) -> int:
    """Optimizer steps of the whole run."""
    # rounded: 0.07 epochs of 100 steps are 7.000000000000001 in floating point, and not 8 steps
    steps = round(settings.num_train_epochs * sampler.steps_per_epoch, 6)
    steps = max(1, math.ceil(steps))
    return min(steps, settings.max_steps) if settings.max_steps > 0 else steps
