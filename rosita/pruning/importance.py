"""First-order Taylor importance of weights: gather it, save it, read it without running code."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from rosita.errors import RositaError
from rosita.files import read_torch, write_torch
from rosita.model import RositaForSequenceClassification
from rosita.provenance import check_unchanged, read_run, weights_hash

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


def scored_weights(
    model: nn.Module, matrices: tuple[str, ...] = MATRICES
) -> dict[str, nn.Parameter]:
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
    batch, before the sum. With `by_unit` w * gradient is summed over a head's columns of
    attention.output.dense, or over an FFN unit's row or column, before the absolute value is taken
    (as Michel et al. 2019 score heads), and shared out evenly over these weights.
    """

    def __init__(
        self,
        model: RositaForSequenceClassification,
        matrices: tuple[str, ...] = MATRICES,
        by_unit: bool = False,
    ) -> None:
        self.matrices = matrices
        self.by_unit = by_unit
        self.head_dim = model.config.head_dim
        self.steps = 0
        weights = scored_weights(model, matrices)
        self.sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add |gradient| of every scored weight; call once after each step's backward."""
        weights = scored_weights(model, self.matrices)
        # of all of them: below, lists of different length are refused
        gradients = [g for name in self.sums if (g := weights[name].grad) is not None]
        if self.by_unit:
            for (name, total), gradient in zip(self.sums.items(), gradients, strict=True):
                total += self._of_units(name, weights[name] * gradient)
        else:
            torch._foreach_add_(list(self.sums.values()), torch._foreach_abs(gradients))
        self.steps += 1

    def _of_units(self, name: str, change: Tensor) -> Tensor:
        """|sum of `change`| of a weight's unit, in equal shares; other matrices by the weight."""
        if name.endswith("intermediate.dense.weight"):
            return change.mean(dim=1, keepdim=True).abs().expand_as(change)
        if name.endswith("attention.output.dense.weight"):
            heads = change.view(len(change), -1, self.head_dim)
            return heads.mean(dim=(0, 2), keepdim=True).abs().expand_as(heads).reshape(change.shape)
        if name.endswith("output.dense.weight"):
            return change.mean(dim=0, keepdim=True).abs().expand_as(change)
        return change.abs()

    @torch.no_grad()
    def scores(self, model: nn.Module, divide_by: int = 1) -> dict[str, Tensor]:
        """|w * sum of |gradient|| / divide_by, shaped as the weights; or what `by_unit` says."""
        if self.by_unit:
            return {name: total / divide_by for name, total in self.sums.items()}
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


def magnitude_scores(model: nn.Module) -> dict[str, Tensor]:
    """|w| as the score of every weight: what to compare Taylor's with."""
    return {name: weight.detach().abs() for name, weight in scored_weights(model).items()}


def random_scores(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Scores that rank heads and FFN units at random."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=random)
        for name, weight in scored_weights(model).items()
    }


def save_scores(path: Path, scores: dict[str, Tensor]) -> None:
    """Write `taylor.pkl`: a dict, parameter name without `bert.` -> score tensor."""
    write_torch(path, {name: score.cpu() for name, score in scores.items()})


def load_scores(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read and check scores for `model`: names, shapes, finite numbers. Runs no code of the file;
    what it has of other weights, as of biases, is left out.

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
    given = {str(name).removeprefix("bert."): score for name, score in scores.items()}
    found = {}
    for name, weight in scored_weights(model).items():
        score = given.get(name)
        if not isinstance(score, Tensor) or score.shape != weight.shape:
            there = "no score" if score is None else f"scores {list(getattr(score, 'shape', []))}"
            raise RositaError(
                f"{path} has {there} for {name} {list(weight.shape)}: scores of another model;"
                " run run_glue.py --compute_taylor True on this one"
            )
        if not math.isfinite(score.double().sum().item()):
            raise RositaError(f"{path} has NaN or infinite scores for {name}; score again")
        found[name] = score
    return found


def read_scores(
    source: Path, model: RositaForSequenceClassification, accept_changed: bool = False
) -> dict[str, Tensor]:
    """The Taylor scores of this very model; `accept_changed`: also if the file was edited."""
    folder = source / "taylor_score"
    if not (folder / "taylor.pkl").exists():
        raise RositaError(
            f"{source} has no taylor_score/taylor.pkl; create it with Pruning/run_glue.py"
            f" --compute_taylor True --model_name_or_path {source}, or KD/train.py --compute_taylor"
        )
    run = read_run(folder) if accept_changed else check_unchanged(folder)
    scored = run.get("identity", {}).get("parents", {})
    scored_hash = scored.get("student", scored.get("model"))
    if scored_hash not in (None, weights_hash(model.state_dict())):
        raise RositaError(
            f"{folder} holds the scores of other weights than those of {source}; score it again"
            " with --compute_taylor and --overwrite_output_dir True"
        )
    return load_scores(folder / "taylor.pkl", model)


def head_scores(scores: dict[str, Tensor], layer: int, num_heads: int) -> Tensor:
    """Importance of each head of a layer (num_heads,): its columns of attention.output.dense."""
    columns = scores[f"encoder.layer.{layer}.attention.output.dense.weight"].sum(dim=0)
    return columns.view(num_heads, -1).sum(dim=1)


def ffn_scores(scores: dict[str, Tensor], layer: int) -> Tensor:
    """Importance of each FFN unit of a layer (ffn,): its row going in and its column going out."""
    rows = scores[f"encoder.layer.{layer}.intermediate.dense.weight"].sum(dim=1)
    return rows + scores[f"encoder.layer.{layer}.output.dense.weight"].sum(dim=0)


def top_units(score: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` highest scores, ascending: survivors stay in their original order.

    Of equal scores the earlier one is kept, so that the result is the same on every device.
    """
    if not 0 < keep <= score.numel():
        raise ValueError(f"keep={keep} must lie in 1..{score.numel()}")
    order = torch.sort(score, descending=True, stable=True).indices
    return order[:keep].sort().values


def important_layers(scores: dict[str, Tensor], layers: int, keep: int) -> list[int]:
    """The `keep` of `layers` layers whose weights' scores sum up to most, ascending."""
    sums = torch.zeros(layers, dtype=torch.float64)
    for name, score in scores.items():
        sums[int(name.split(".")[2])] += score.double().sum().cpu()  # encoder.layer.N.
    return top_units(sums, keep).tolist()
