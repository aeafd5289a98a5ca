"""Scores and a target shape in, a smaller model out: pure, in memory, for any head size."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification, build_model
from rosita.pruning.importance import ffn_scores, head_scores, top_units
from rosita.pruning.shape import Shape, check_target, shaped_config


def needs_scores(config: RositaConfig, target: Shape) -> bool:
    """Whether heads or FFN units are cut: layers and embedding need no importance."""
    now = Shape.of(config)
    return (now.keep_heads, now.ffn_hidden_dim) != (target.keep_heads, target.ffn_hidden_dim)


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


@dataclass(frozen=True, eq=False)
class Cut:
    """What a pruning keeps: decided once; weights, moments and the record all follow it.

    `layers` are numbered as in the model that is cut, whose config is `config`. For each of them
    `heads` and `units` hold the kept indices, ascending; both are empty where all of them stay.
    """

    config: RositaConfig
    shape: Shape  # afterwards
    layers: list[int]
    heads: list[Tensor]
    units: list[Tensor]

    @classmethod
    def decide(
        cls,
        config: RositaConfig,
        target: Shape,
        scores: dict[str, Tensor] | None = None,
        layers: list[int] | None = None,
    ) -> Cut:
        """Keep the most important heads and units of the first layers, or of `layers`.

        `scores` (parameter name without `bert.` -> importance, shaped as the weight) are needed
        if heads or FFN units are cut. Raises `RositaError` for a target that does not fit.
        """
        check_target(config, target)
        kept = list(range(target.keep_layers)) if layers is None else layers
        if not needs_scores(config, target):
            return cls(config, target, kept, [], [])
        if not scores:
            raise RositaError(f"cutting heads or FFN units down to {target} needs Taylor scores")
        count = config.num_attention_heads
        heads = [top_units(head_scores(scores, n, count), target.keep_heads) for n in kept]
        units = [top_units(ffn_scores(scores, n), target.ffn_hidden_dim) for n in kept]
        return cls(config, target, kept, heads, units)

    def of_layers(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that are left of `state`, by their new names; the embedding's as they are.

        `state`: weights, or anything of their shapes, by parameter name.
        """
        left = _keep_layers(state, self.layers)
        for new, (heads, units) in enumerate(zip(self.heads, self.units, strict=True)):
            prefix = f"bert.encoder.layer.{new}."
            _keep_heads(left, f"{prefix}attention.", heads, self.config.head_dim)
            _keep_ffn_units(left, prefix, units)
        return left

    @torch.no_grad()
    def of_model(
        self, model: RositaForSequenceClassification, recompute_svd: bool = False
    ) -> RositaForSequenceClassification:
        """A new, smaller model.

        A dense embedding is factorized by SVD; a factorized one loses its trailing columns, which
        are ordered by singular value as they were before training, or is factorized again.
        """
        state = self.of_layers({name: w.detach() for name, w in model.state_dict().items()})
        if self.shape.emb_hidden_dim != -1:
            cut_embedding(state, self.shape.emb_hidden_dim, recompute_svd)
        config = shaped_config(model.config, self.shape)
        return build_model(config, state, training=model.training)


def prune(
    model: RositaForSequenceClassification,
    target: Shape,
    scores: dict[str, Tensor] | None = None,
    layers: list[int] | None = None,
    recompute_svd: bool = False,
) -> RositaForSequenceClassification:
    """A new model of shape `target`: see `Cut.decide` and `Cut.of_model`."""
    return Cut.decide(model.config, target, scores, layers).of_model(model, recompute_svd)


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
