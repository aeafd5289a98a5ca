"""First-order Taylor importance of weights: gather it, save it, read it without running code."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from rosita.errors import RositaError
from rosita.files import read_torch, write_torch

# The six weight matrices of a layer that the scores file holds; cutting needs the last three.
MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
CUT_MATRICES = MATRICES[3:]
_SCORED = re.compile(r"bert\.(encoder\.layer\.\d+\.(.+)\.weight)")


def scored_weights(model: nn.Module, matrices: tuple[str, ...] = MATRICES) -> dict[str, Tensor]:
    """The weights that get a score: parameter name without `bert.` -> the parameter itself."""
    found = {}
    for name, weight in model.named_parameters():
        match = _SCORED.fullmatch(name)
        if match and match[2] in matrices:
            found[match[1]] = weight
    return found


class TaylorImportance:
    """Sums |gradient| of the batches; the score of a weight w is |w * sum| (ROSITA, eq. 1).

    The gradient is that of the (global) batch at its mean loss; the absolute value is taken per
    batch, before the sum.
    """

    def __init__(self, model: nn.Module, matrices: tuple[str, ...] = MATRICES) -> None:
        self.matrices = matrices
        self.steps = 0
        weights = scored_weights(model, matrices)
        self.sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add |gradient| of every scored weight; call once after each step's backward."""
        weights = scored_weights(model, self.matrices)
        gradients = [weights[name].grad for name in self.sums]
        torch._foreach_add_(list(self.sums.values()), torch._foreach_abs(gradients))
        self.steps += 1

    @torch.no_grad()
    def scores(self, model: nn.Module, divide_by: int = 1) -> dict[str, Tensor]:
        """|w * sum of |gradient|| / divide_by, shaped as the weights."""
        weights = scored_weights(model, self.matrices)
        return {
            name: (weights[name] * total).abs() / divide_by for name, total in self.sums.items()
        }

    def state_dict(self) -> dict[str, object]:
        """What `load_state_dict` needs to go on from here."""
        return {"steps": self.steps, "sums": self.sums}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a saved state of a model of the same shape."""
        self.steps = state["steps"]
        self.sums = {name: state["sums"][name].to(zero) for name, zero in self.sums.items()}


def save_scores(path: Path, scores: dict[str, Tensor]) -> None:
    """Write `taylor.pkl`: a dict, parameter name without `bert.` -> score tensor."""
    write_torch(path, {name: score.cpu() for name, score in scores.items()})


def load_scores(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read and check scores for `model`: names, shapes, finite numbers. Runs no code of the file.

    Raises `RositaError` for a missing, broken or hostile file and for scores of another model.
    """
    try:
        scores = read_torch(path)
    except FileNotFoundError:
        raise RositaError(
            f"{path} does not exist; make it with run_glue.py --compute_taylor True"
        ) from None
    if not isinstance(scores, dict):
        raise RositaError(f"{path} holds a {type(scores).__name__}, not a dict of scores")
    scores = {str(name).removeprefix("bert."): score for name, score in scores.items()}
    for name, weight in scored_weights(model).items():
        score = scores.get(name)
        if not isinstance(score, Tensor) or score.shape != weight.shape:
            there = "no score" if score is None else f"scores {list(getattr(score, 'shape', []))}"
            raise RositaError(
                f"{path} has {there} for {name} {list(weight.shape)}: scores of another model;"
                " run run_glue.py --compute_taylor True on this one"
            )
        if not math.isfinite(score.double().sum().item()):
            raise RositaError(f"{path} has NaN or infinite scores for {name}; score again")
    return scores
