"""AdamW's moments of the weights that survive a pruning, for the optimizer of the smaller model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rosita.pruning.cut import Cut

EMBEDDING = "bert.embeddings.word_embeddings"
Moments = dict[str, dict[str, Tensor]]  # "step", "exp_avg", "exp_avg_sq" -> by parameter name


def surviving_moments(
    model: nn.Module,
    optimizer: Optimizer,
    cut: Cut,
    rotated: bool = False,
) -> Moments:
    """The moments of `model`, cut as its weights are.

    Those of an embedding that is factorized now, or again (`rotated`), are left out: its new
    factors have no history.
    """
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    found: Moments = {}
    for weight, state in optimizer.state.items():
        for kind, value in state.items():
            found.setdefault(kind, {})[names[weight]] = value
    return {
        kind: values if kind == "step" else _left(values, cut, rotated)
        for kind, values in found.items()
    }


def _left(values: dict[str, Tensor], cut: Cut, rotated: bool) -> dict[str, Tensor]:
    rank = cut.shape.emb_hidden_dim
    kept = cut.of_layers(values)
    if rank == -1:
        return kept
    kept.pop(f"{EMBEDDING}.weight", None)
    for name in (f"{EMBEDDING}1.weight", f"{EMBEDDING}2.weight"):
        value = kept.pop(name, None)
        if value is not None and not rotated:
            kept[name] = value[:, :rank]
    return kept


def put_moments(
    model: nn.Module, optimizer: Optimizer, moments: Moments, counted: bool = True
) -> None:
    """Give the parameters of `model` the moments of the same names; others begin from zero.

    `counted`: these count their steps from here on, for the correction of their moments; else they
    have the count of the others, by which `set_rate` takes the correction out of all steps alike.
    """
    steps = next(iter(moments.get("step", {}).values()), None)
    for name, weight in model.named_parameters():
        if name in moments.get("exp_avg", {}):
            state: dict[str, Tensor] = {kind: values[name] for kind, values in moments.items()}
        elif steps is None or counted:
            continue
        else:
            zero = torch.zeros_like(weight)
            state = {"step": steps, "exp_avg": zero, "exp_avg_sq": zero}
        optimizer.state[weight] = {
            kind: value.clone().contiguous() for kind, value in state.items()
        }
