"""AdamW as the settings want it: groups, rate over time, clipping."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import nn

from rosita.config import LoopSettings
from rosita.training.plan import Plan, Progress


def learning_rate(plan: Plan, progress: Progress, total: int, done: int) -> float:
    """The rate after `done` of `total` steps, by `lr_schedule`.

    none: constant. warmup_linear, warmup_cosine: warmed up, then decaying to 0; after a pruning
    warmup_linear does not warm up but decays from where it was. decay_after_pruning: warmed up,
    constant until the last pruning, then decaying to 0, linearly.
    """
    peak, how = plan.settings.learning_rate, plan.settings.lr_schedule
    if how == "none":
        return peak
    if how == "warmup_linear" and progress.anchor_rate is not None:
        whole = max(1, total - progress.anchor_step)
        return progress.anchor_rate * max(0.0, (total - done) / whole)
    if done < plan.warmup_steps:
        return peak * done / plan.warmup_steps
    begin = plan.warmup_steps
    if how == "decay_after_pruning" and plan.schedule:
        begin = max(begin, plan.schedule.count * plan.schedule.period)
    left = min(1.0, max(0.0, (total - done) / max(1.0, total - begin)))
    if how == "warmup_cosine":
        return peak * (1 - math.cos(math.pi * left)) / 2
    return peak * left


def build_optimizer(model: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW, fused; no weight decay on biases and LayerNorm, each layer at its `rate_share`."""
    named = list(model.named_parameters())
    layers = max((layer for name, _ in named if (layer := _layer(name))), default=0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in named:
        share = rate_share(name, layers, settings.layer_decay)
        decays = not name.endswith("bias") and "LayerNorm" not in name
        groups.setdefault((share, decays), []).append(weight)
    return torch.optim.AdamW(
        [
            {
                "params": weights,
                "weight_decay": settings.weight_decay if decays else 0.0,
                "rate_share": share,
            }
            for (share, decays), weights in groups.items()
        ],
        lr=settings.learning_rate,
        eps=settings.adam_epsilon,
        fused=True,
    )


def rate_share(name: str, layers: int, decay: float) -> float:
    """What part of the learning rate a weight of BERT has, by its name (Howard & Ruder, ACL 2018).

    Pooler, classifier and the top one of `layers` have all of it, each layer below `decay` times
    that of the one above, and the embedding `decay` times that of the first layer.
    """
    if ".embeddings" in name:  # ELECTRA's projection of them too
        return decay**layers
    return decay ** (layers - (_layer(name) or layers))


def _layer(name: str) -> int | None:
    """The layer that a weight is of, counted from 1."""
    found = re.search(r"\.layer\.(\d+)\.", name)
    return 1 + int(found[1]) if found else None


def set_rate(
    optimizer: torch.optim.Optimizer, settings: LoopSettings, rate: float, done: int
) -> None:
    """Give AdamW the rate of its next step; `done`: its steps since the moments began from zero.

    Without bias correction a step is rate * m / (sqrt(v) + eps), as the published KD scripts have
    it. torch's AdamW always divides m by 1 - b1^t and v by 1 - b2^t: with the rate times their
    quotient, and epsilon and decay adapted, its step is that one exactly, not about.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_share"]
        if settings.bias_correction:
            continue
        first, second = (1 - beta ** (done + 1) for beta in group["betas"])
        factor = first / second**0.5
        group["lr"] *= factor
        group["eps"] = settings.adam_epsilon / second**0.5
        if group["weight_decay"]:
            group["weight_decay"] = settings.weight_decay / factor


@torch.no_grad()
def clip_gradients(weights: Iterable[nn.Parameter], norm: float, together: bool) -> None:
    """Shorten gradients, in place, to `norm` at most: of all weights together, or of each."""
    weights = list(weights)
    if together:
        nn.utils.clip_grad_norm_(weights, norm)
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    lengths = torch.stack(torch._foreach_norm(gradients))
    # as clip_grad_norm_ counts, so that a lone tensor is shortened alike by both
    torch._foreach_mul_(gradients, list((norm / (lengths + 1e-6)).clamp(max=1.0).unbind()))


def gradients_are_finite(accelerator: Accelerator, model: nn.Module) -> bool:
    """False for an overflow under the loss scale of fp16, which the optimizer skips too."""
    if not accelerator.scaler:
        return True
    return all(
        weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None
    )
