"""Scores and a target shape in, a smaller model out: pure, in memory, for any head size."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification, build_model
from rosita.pruning.shape import Shape, check_target, shaped_config


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
