"""What a shape costs and what it keeps, without building it: thousands of shapes at once.

Shapes are rows of an integer array (n, 4): keep_heads, keep_layers, ffn_hidden_dim,
emb_hidden_dim, as the fields of `Shape`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rosita.budget.costs import file_bytes, parameters, rows_of, shape_macs, shape_of
from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.pruning.cut import factorize
from rosita.pruning.importance import ffn_scores, head_scores
from rosita.pruning.shape import Shape

FFN_STEPS = 16  # candidates keep 1/16, 2/16, ... of the FFN units
LEAST_RANK = 1 / 32  # of the embedding's width: its smallest candidate rank


def candidates(config: RositaConfig) -> np.ndarray:
    """The shapes to choose from, (n, 4): every number of heads and layers, FFN sizes in
    `FFN_STEPS` steps, the present embedding and those smaller ranks that are a power of two or
    divide its width.
    """
    now = Shape.of(config)
    ffn = {now.ffn_hidden_dim * step // FFN_STEPS for step in range(1, FFN_STEPS + 1)} - {0}
    width = config.embedding_size
    dense = now.emb_hidden_dim == -1
    limit = width if dense else now.emb_hidden_dim
    ranks = {
        rank
        for rank in range(max(1, int(width * LEAST_RANK)), limit)
        if (width % rank == 0 or rank & (rank - 1) == 0)
        and not (dense and rank * (config.vocab_size + width) >= config.vocab_size * width)
    } | {now.emb_hidden_dim}
    axes = (
        np.arange(1, now.keep_heads + 1),
        np.arange(1, now.keep_layers + 1),
        sorted(ffn),
        sorted(ranks),
    )
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=1).astype(np.int64)


# --- what is kept ----------------------------------------------------------------------------


@dataclass(frozen=True)
class KeptScore:
    """The share of a model's Taylor score that a shape keeps.

    `heads[l, h]` and `ffn[l, f]` are the summed importance of the h best heads and the f best FFN
    units of each of the first l layers, `embedding[r]` the share of its squared norm that the
    embedding keeps at rank r. Importance is the first-order change of the loss, so heads' and
    units' add up; the embedding has no such score, and its share multiplies:

        kept = (heads[l, h] + ffn[l, f]) / (heads[L, n] + ffn[L, F]) * embedding[r]

    1 is the whole model. It ranks shapes of one model; it is no forecast of a dev score.
    """

    heads: np.ndarray  # (layers + 1, heads + 1)
    ffn: np.ndarray  # (layers + 1, units + 1)
    embedding: np.ndarray  # (rank + 1,)

    @classmethod
    def of(cls, model: RositaForSequenceClassification, scores: dict[str, Tensor]) -> KeptScore:
        """From a model and its scores (`rosita.pruning.importance.load_scores`)."""
        count = model.config.num_attention_heads
        layers = range(model.config.num_hidden_layers)
        return cls(
            _kept_sums([head_scores(scores, layer, count) for layer in layers]),
            _kept_sums([ffn_scores(scores, layer) for layer in layers]),
            embedding_shares(model),
        )

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The share (n,) that each shape keeps."""
        heads, layers, ffn, rank = rows.T
        kept = self.heads[layers, heads] + self.ffn[layers, ffn]
        whole = self.heads[-1, -1] + self.ffn[-1, -1]
        return kept / whole * np.where(rank == -1, 1.0, self.embedding[np.maximum(rank, 0)])


def _kept_sums(scores: list[Tensor]) -> np.ndarray:
    """[l, k]: the sum of the k largest scores of each of the first l layers."""
    largest = -np.sort(-torch.stack(scores).double().cpu().numpy(), axis=1)
    return np.pad(largest.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


@torch.no_grad()
def embedding_shares(model: RositaForSequenceClassification) -> np.ndarray:
    """[r]: 1 - |W - W_r|^2 / |W|^2 of the word embedding W (V, d) when it is cut to rank r.

    For a dense embedding this is the share of its squared singular values; a factorized one
    loses its trailing columns, as in `rosita.pruning.cut.prune`.
    """
    embeddings = model.bert.embeddings
    if model.config.emb_hidden_dim == -1:
        weight = embeddings.word_embeddings.weight
        first, second = factorize(weight, weight.shape[1])
    else:
        first, second = embeddings.word_embeddings1.weight, embeddings.word_embeddings2.weight
    # |A B^T|^2 = sum of (A^T A) * (B^T B): that of the columns left out is the error
    product = ((first.T @ first).double() * (second.T @ second).double()).cpu().numpy()
    tails = product[::-1, ::-1].cumsum(axis=0).cumsum(axis=1).diagonal()  # of the last 1, 2, ...
    return 1 - np.concatenate([tails[::-1], [0.0]]) / tails[-1]


# --- latency ---------------------------------------------------------------------------------


def spread(rows: np.ndarray, count: int) -> list[Shape]:
    """Up to `count` different shapes spread over a full grid (n, 4), the same at every call.

    The largest and the smallest come first, then a low-discrepancy (Sobol) sequence.
    """
    from scipy.stats import qmc

    axes = [np.unique(column) for column in rows.T]
    heads, layers, ffn = (int(axis[-1]) for axis in axes[:3])
    largest = Shape(heads, layers, ffn, int(axes[3][0]))
    smallest = Shape(*(int(axis[0]) for axis in axes))
    found = dict.fromkeys((largest, smallest))
    for point in qmc.Sobol(4, rng=0).random_base2(8):
        if len(found) >= count:
            break
        values = (axis[int(share * len(axis))] for share, axis in zip(point, axes, strict=True))
        found.setdefault(Shape(*map(int, values)))
    return list(found)[:count]


def front(cost: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Indices of the shapes that no other beats in cost and in score kept, by rising cost."""
    order = np.lexsort((-kept, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], kept[order][:-1]]))
    return order[kept[order] > best]


# --- choosing --------------------------------------------------------------------------------

BUDGETS = {  # column of `Table` -> the flag that limits it
    "parameters": "--max_parameters",
    "bytes": "--max_bytes",
    "latency": "--max_latency_ms",
}


@dataclass
class Table:
    """Shapes (n, 4) and, for each, what it costs and keeps (n,)."""

    rows: np.ndarray
    kept: np.ndarray
    parameters: np.ndarray
    macs: np.ndarray  # of one sentence
    bytes: np.ndarray
    latency: np.ndarray  # ms of a batch
    measured: np.ndarray  # bool: latency is measured, not predicted

    @classmethod
    def of(
        cls, config: RositaConfig, rows: np.ndarray, length: int, kept: np.ndarray, ms: np.ndarray
    ) -> Table:
        """All figures of shapes of which the score kept and the predicted latency are known."""
        return cls(
            rows,
            kept,
            parameters(config, rows),
            shape_macs(config, rows, length),
            file_bytes(config, rows),
            ms,
            np.zeros(len(rows), dtype=bool),
        )

    @classmethod
    def to_choose_from(
        cls,
        config: RositaConfig,
        length: int,
        kept: Callable[[np.ndarray], np.ndarray],
        latency: Callable[[np.ndarray], np.ndarray],
        asked: Shape | None = None,
    ) -> Table:
        """All `candidates` and the shape that was asked for; `kept`, `latency`: of rows (n, 4)."""
        rows = candidates(config)
        if asked and not (rows == rows_of([asked])).all(axis=1).any():
            rows = np.concatenate([rows, rows_of([asked])])
        return cls.of(config, rows, length, kept(rows), latency(rows))

    def put_measured(self, milliseconds: dict[str, float]) -> None:
        """Put the measured latencies, by name of the shape, in the place of predictions."""
        for name, value in milliseconds.items():
            found = self.is_shape(name)
            self.latency[found] = value
            self.measured |= found

    def is_shape(self, name: str) -> np.ndarray:
        """Mask (n,) of the rows with this shape: one or none."""
        return (self.rows == rows_of([Shape.parse(name)])).all(axis=1)

    def ranking(self, budget: dict[str, Any]) -> np.ndarray:
        """Indices of the shapes that fit: most Taylor score first; of equals, fewer parameters.

        `budget`: keys of `BUDGETS` -> the most allowed, "shape" -> the only name allowed. Raises
        `RositaError` with the smallest shape if none fits.
        """
        limits = {name: limit for name, limit in budget.items() if name != "shape"}
        asked = np.ones(len(self.rows), dtype=bool)
        if "shape" in budget:
            asked = self.is_shape(budget["shape"])
        fits = {name: asked & (getattr(self, name) <= limit) for name, limit in limits.items()}
        fitting = np.logical_and.reduce([asked, *fits.values()])
        if not fitting.any():
            hopeless = [name for name in limits if not fits[name].any()] or list(limits)
            cost = np.where(asked, getattr(self, hopeless[0]), np.inf)
            found = self.line(int(cost.argmin()))
            flags = " and ".join(f"{BUDGETS[name]} {limits[name]:,}" for name in hopeless)
            raise RositaError(
                f"no shape fits {flags}: the smallest, {found['shape']}, has"
                f" {found['parameters']:,} parameters, {found['bytes']:,} bytes and takes"
                f" {found['latency_ms']:.2f} ms ({found['latency']})"
            )
        order = np.lexsort((self.parameters, -self.kept))
        return order[fitting[order]]

    def line(self, index: int) -> dict[str, Any]:
        """One shape, as plan.json has it."""
        return {
            "shape": str(shape_of(self.rows[index])),
            "taylor_score_kept": float(self.kept[index]),
            "parameters": int(self.parameters[index]),
            "macs": int(self.macs[index]),
            "bytes": int(self.bytes[index]),
            "latency_ms": float(self.latency[index]),
            "latency": "measured" if self.measured[index] else "predicted",
        }
