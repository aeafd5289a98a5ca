"""Scores and a target shape in, a smaller model out: pure, in memory, for any head size."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification

_NAME = re.compile(r"a(\d+)_l(\d+)_f(\d+)_e(-1|\d+)")


@dataclass(frozen=True)
class Shape:
    """Size of an architecture: `a{heads}_l{layers}_f{ffn}_e{embedding rank}`, rank -1: full."""

    keep_heads: int
    keep_layers: int
    ffn_hidden_dim: int
    emb_hidden_dim: int = -1

    @classmethod
    def of(cls, config: RositaConfig) -> Shape:
        """The shape that a model's configuration describes."""
        return cls(
            config.num_attention_heads,
            config.num_hidden_layers,
            config.prun_intermediate_size,
            config.emb_hidden_dim,
        )

    @classmethod
    def parse(cls, name: str) -> Shape:
        """The shape called e.g. `a2_l8_f512_e128`."""
        if not (match := _NAME.fullmatch(name)):
            raise RositaError(f"{name!r} is not a shape; write it like a2_l8_f512_e128")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return (
            f"a{self.keep_heads}_l{self.keep_layers}_f{self.ffn_hidden_dim}_e{self.emb_hidden_dim}"
        )


def check_target(config: RositaConfig, target: Shape) -> None:
    """Raise `RositaError`, naming every flag at fault, if `target` does not fit `config`."""
    now = Shape.of(config)
    faults = [
        f"{name} {wanted} must lie in 1..{there}"
        for name, wanted, there in (
            ("keep_heads", target.keep_heads, now.keep_heads),
            ("keep_layers", target.keep_layers, now.keep_layers),
            ("ffn_hidden_dim", target.ffn_hidden_dim, now.ffn_hidden_dim),
        )
        if not 1 <= wanted <= there
    ]
    rank = target.emb_hidden_dim
    limit = config.hidden_size if now.emb_hidden_dim == -1 else now.emb_hidden_dim
    if rank == -1 and now.emb_hidden_dim != -1:
        faults.append(f"emb_hidden_dim -1: the embedding is already factorized to {limit}")
    elif rank != -1 and not 1 <= rank <= limit:
        faults.append(f"emb_hidden_dim {rank} must be -1 or lie in 1..{limit}")
    if faults:
        raise RositaError(f"cannot cut {target} out of {now}: {'; '.join(faults)}")


def needs_scores(config: RositaConfig, target: Shape) -> bool:
    """Whether heads or FFN units are cut: layers and embedding need no importance."""
    now = Shape.of(config)
    return (now.keep_heads, now.ffn_hidden_dim) != (target.keep_heads, target.ffn_hidden_dim)


def top_units(score: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` highest scores, ascending: survivors stay in their original order.

    Of equal scores the earlier one is kept, so that the result is the same on every device.
    """
    if not 0 < keep <= score.numel():
        raise ValueError(f"keep={keep} must lie in 1..{score.numel()}")
    order = torch.sort(score, descending=True, stable=True).indices
    return order[:keep].sort().values


def head_scores(scores: dict[str, Tensor], layer: int, num_heads: int) -> Tensor:
    """Importance of each head of a layer (num_heads,): its columns of attention.output.dense."""
    columns = scores[f"encoder.layer.{layer}.attention.output.dense.weight"].sum(dim=0)
    return columns.view(num_heads, -1).sum(dim=1)


def ffn_scores(scores: dict[str, Tensor], layer: int) -> Tensor:
    """Importance of each FFN unit of a layer (ffn,): its row going in and its column going out."""
    rows = scores[f"encoder.layer.{layer}.intermediate.dense.weight"].sum(dim=1)
    return rows + scores[f"encoder.layer.{layer}.output.dense.weight"].sum(dim=0)


def select_units(
    config: RositaConfig, target: Shape, scores: dict[str, Tensor], layer: int
) -> tuple[Tensor, Tensor]:
    """Indices of the heads and of the FFN units of a layer that `target` keeps, ascending."""
    heads = head_scores(scores, layer, config.num_attention_heads)
    units = ffn_scores(scores, layer)
    return top_units(heads, target.keep_heads), top_units(units, target.ffn_hidden_dim)


@torch.no_grad()
def factorize(embedding: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Truncated SVD of a word embedding W (V, d): W1 = U_r S_r (V, r) and W2 = V_r (d, r).

    The right singular vectors are the eigenvectors of W^T W (d, d), taken in float64: V is
    thousands of times d wide, and only d x d numbers have to be decomposed.
    """
    if not 0 < rank <= embedding.shape[1]:
        raise ValueError(f"rank={rank} must lie in 1..{embedding.shape[1]}")
    gram = torch.zeros(embedding.shape[1], embedding.shape[1], dtype=torch.float64)
    for rows in embedding.cpu().split(4096):  # in blocks: no second copy of W in float64
        gram.addmm_(rows.double().T, rows.double())
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :rank].contiguous()  # largest first
    vectors = vectors.to(embedding)
    return embedding @ vectors, vectors


@torch.no_grad()
def prune(
    model: RositaForSequenceClassification,
    target: Shape,
    scores: dict[str, Tensor] | None = None,
    layers: list[int] | None = None,
    recompute_svd: bool = False,
) -> RositaForSequenceClassification:
    """A new model of shape `target` with the most important heads and units of `model`.

    The first layers are kept, or those of `layers`. A dense embedding is factorized by SVD; a
    factorized one loses its trailing columns, which are ordered by singular value as they were
    before training, or is factorized again (`recompute_svd`). `scores` (parameter name without
    `bert.` -> importance, shaped as the weight) are needed if heads or FFN units are cut.
    Raises `RositaError` for a target that does not fit.
    """
    config: RositaConfig = model.config
    check_target(config, target)
    if scores is None and needs_scores(config, target):
        raise RositaError(f"cutting heads or FFN units down to {target} needs Taylor scores")
    state = {name: weight.detach() for name, weight in model.state_dict().items()}
    state = prune_layers(state, config, target, scores, layers)
    if target.emb_hidden_dim != -1:
        cut_embedding(state, target.emb_hidden_dim, recompute_svd)
    return build_model(shaped_config(config, target), state, training=model.training)


def prune_layers(
    state: dict[str, Tensor],
    config: RositaConfig,
    target: Shape,
    scores: dict[str, Tensor] | None,
    layers: list[int] | None = None,
) -> dict[str, Tensor]:
    """The tensors that are left of `state`, by their new names: layers, heads and FFN units."""
    kept = list(range(target.keep_layers)) if layers is None else layers
    state = _keep_layers(state, kept)
    for new, old in enumerate(kept if needs_scores(config, target) else []):
        heads, units = select_units(config, target, scores, old)
        _keep_heads(state, f"bert.encoder.layer.{new}.attention.", heads, config.head_dim)
        _keep_ffn_units(state, f"bert.encoder.layer.{new}.", units)
    return state


def important_layers(scores: dict[str, Tensor], layers: int, keep: int) -> list[int]:
    """The `keep` of `layers` layers whose weights' scores sum up to most, ascending."""
    sums = torch.zeros(layers, dtype=torch.float64)
    for name, score in scores.items():
        sums[int(name.split(".")[2])] += score.double().sum().cpu()  # encoder.layer.N.
    return top_units(sums, keep).tolist()


def shaped_config(config: RositaConfig, shape: Shape) -> RositaConfig:
    """A copy of `config` with another shape; the head size stays."""
    shaped = copy.deepcopy(config)
    shaped.num_attention_heads = shape.keep_heads
    shaped.num_hidden_layers = shape.keep_layers
    shaped.prun_hidden_size = shape.keep_heads * config.head_dim
    shaped.prun_intermediate_size = shape.ffn_hidden_dim
    shaped.emb_hidden_dim = shape.emb_hidden_dim
    return shaped


def build_model(
    config: RositaConfig, state: dict[str, Tensor], training: bool = False
) -> RositaForSequenceClassification:
    """A model that owns copies of the tensors of `state`; no time is spent on random weights."""
    with torch.device("meta"):
        model = RositaForSequenceClassification(config)
    owned = {name: weight.detach().clone().contiguous() for name, weight in state.items()}
    model.load_state_dict(owned, assign=True)
    return model.train(training)


def parameter_count(config: RositaConfig, shape: Shape | None = None) -> int:
    """Number of parameters of the model that `config` (in another shape, if given) describes."""
    with torch.device("meta"):
        model = RositaForSequenceClassification(shaped_config(config, shape) if shape else config)
    return sum(weight.numel() for weight in model.parameters())


def _keep_layers(state: dict[str, Tensor], kept: list[int]) -> dict[str, Tensor]:
    layer = re.compile(r"(bert\.encoder\.layer\.)(\d+)(\..+)")
    found = {}
    for name, weight in state.items():
        if match := layer.fullmatch(name):
            if int(match[2]) not in kept:
                continue
            name = f"{match[1]}{kept.index(int(match[2]))}{match[3]}"
        found[name] = weight
    return found


def _keep_heads(state: dict[str, Tensor], prefix: str, heads: Tensor, head_dim: int) -> None:
    columns = (heads[:, None] * head_dim + torch.arange(head_dim, device=heads.device)).flatten()
    for name in ("query", "key", "value"):
        for kind in ("weight", "bias"):
            _select(state, f"{prefix}self.{name}.{kind}", 0, columns)
    _select(state, f"{prefix}output.dense.weight", 1, columns)


def _keep_ffn_units(state: dict[str, Tensor], prefix: str, units: Tensor) -> None:
    _select(state, f"{prefix}intermediate.dense.weight", 0, units)
    _select(state, f"{prefix}intermediate.dense.bias", 0, units)
    _select(state, f"{prefix}output.dense.weight", 1, units)


def _select(state: dict[str, Tensor], name: str, dim: int, index: Tensor) -> None:
    state[name] = state[name].index_select(dim, index.to(state[name].device))


def cut_embedding(state: dict[str, Tensor], rank: int, recompute_svd: bool = False) -> None:
    """Replace the word embedding in `state` by one of `rank`."""
    prefix = "bert.embeddings.word_embeddings"
    if f"{prefix}.weight" in state:
        first, second = factorize(state.pop(f"{prefix}.weight"), rank)
    elif recompute_svd:
        # W1 W2^T in the orthonormal basis Q of W2's columns: no product as large as the vocabulary
        basis, inner = torch.linalg.qr(state[f"{prefix}2.weight"].double())
        first, turn = factorize(state[f"{prefix}1.weight"] @ inner.T.float(), rank)
        second = (basis @ turn.double()).to(first)
    else:
        first = state[f"{prefix}1.weight"][:, :rank]
        second = state[f"{prefix}2.weight"][:, :rank]
    state[f"{prefix}1.weight"], state[f"{prefix}2.weight"] = first, second


@dataclass(frozen=True)
class PruningSchedule:
    """Iterative pruning: which shape is reached at which step (counted from 1).

    Depth goes down one layer at a time; width one head at a time, with FFN size and embedding
    rank linear over the same number of prunings, cut to int. Pruning k comes just before the
    forward of step k * period.
    """

    start: Shape
    target: Shape
    hidden_size: int
    depth_or_width: str
    period: int

    @classmethod
    def plan(
        cls,
        config: RositaConfig,
        target: Shape,
        depth_or_width: str,
        prunings_done_after: float,
    ) -> PruningSchedule:
        """The schedule for a student of `config`, all prunings done after that many steps.

        Raises `RositaError` if nothing is left to prune or the steps do not suffice.
        """
        start = Shape.of(config)
        check_target(config, target)
        draft = cls(start, target, config.hidden_size, depth_or_width, 1)
        if depth_or_width == "depth" and target != replace(start, keep_layers=target.keep_layers):
            raise RositaError(
                f"depth_or_width depth cuts layers only: from {start} to {target} changes more"
            )
        if depth_or_width == "width" and target.keep_layers != start.keep_layers:
            raise RositaError(
                f"depth_or_width width keeps the layers: the student has {start.keep_layers},"
                f" keep_layers is {target.keep_layers}"
            )
        if not draft.count:
            what = "layers" if depth_or_width == "depth" else "heads"
            raise RositaError(f"the student {start} has no {what} more than the target {target}")
        period = int(prunings_done_after / draft.count)
        least = 1 if depth_or_width == "depth" else 2  # width needs scores from a step before
        if period < least:
            raise RositaError(
                f"prun_period_proportion leaves {prunings_done_after:.1f} steps for {draft.count}"
                f" prunings, {least} each at least; raise it, or num_train_epochs"
            )
        return replace(draft, period=period)

    @property
    def count(self) -> int:
        """Number of prunings."""
        if self.depth_or_width == "depth":
            return self.start.keep_layers - self.target.keep_layers
        return self.start.keep_heads - self.target.keep_heads

    def shape(self, number: int) -> Shape:
        """The shape after pruning `number` (0: the start)."""
        if number == 0:
            return self.start
        if self.depth_or_width == "depth":
            return replace(self.start, keep_layers=self.start.keep_layers - number)
        rank = self.target.emb_hidden_dim
        if rank != -1:
            first = self.start.emb_hidden_dim
            rank = self._between(self.hidden_size if first == -1 else first, rank, number)
        return Shape(
            self.start.keep_heads - number,
            self.start.keep_layers,
            self._between(self.start.ffn_hidden_dim, self.target.ffn_hidden_dim, number),
            rank,
        )

    def due(self, step: int) -> Shape | None:
        """The shape to prune to just before the forward of `step`, or None."""
        number, rest = divmod(step, self.period)
        return self.shape(number) if rest == 0 and 1 <= number <= self.count else None

    def _between(self, first: int, last: int, number: int) -> int:
        return (first * (self.count - number) + last * number) // self.count
