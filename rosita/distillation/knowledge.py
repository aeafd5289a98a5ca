"""Hidden state knowledge: the part of a teacher's hidden states that a student follows.

Liu, Li, Lin et al., "Marginal Utility Diminishes: Exploring the Minimum Knowledge for BERT
Knowledge Distillation", ACL 2021 (arXiv 2106.05691) cut it along depth, length and width, and found
a hundredth of it as good as all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rosita.config import HskAmount
from rosita.data.batches import Encoded
from rosita.errors import RositaError
from rosita.model import RositaLayer


@dataclass
class State:
    """A hidden state of the teacher as far as it is followed.

    `values` (rows, length, kept units) at `places` (rows, length, bool); `units` are the numbers of
    those units, or None if they are all.
    """

    values: Tensor
    places: Tensor
    units: Tensor | None = None


@dataclass(frozen=True)
class Knowledge:
    """What is followed of the teacher's states: how much, and by which scheme along each dimension.

    Depth: `layer_map`. Length, of each row's real tokens: the first ones, or those that [CLS]
    attends to most in the layer that makes the state, with or without [SEP]. Width: fixed units,
    drawn or evenly spread, or the largest absolute values of a row (the authors': of the batch; but
    how a batch is dealt out may change nothing). Units that are not followed are zeros of the
    target, as published, or `left_out` of the loss. `row_means`: a row's error is the mean over its
    followed positions, not their sum.
    """

    amount: HskAmount = HskAmount()
    depth: str = "uniform"
    length: str = "left_first"
    width: str = "uniform_mask"
    left_out: bool = False
    seed: int = 42
    sep_id: int | None = None  # of [SEP]
    row_means: bool = False

    def mapping(self, teacher_layers: int, student_layers: int) -> dict[int, int]:
        """Teacher state that each followed state of the student follows."""
        every = layer_map(teacher_layers, student_layers, self.depth)
        return dict(list(every.items())[-(self.amount.layers or len(every)) :])

    def units(self, hidden_size: int) -> Tensor | None:
        """The units that are followed in every batch, in rising order; None: no subset."""
        if self.amount.hidden == 1 or self.width == "importance_mask_dynamic":
            return None
        kept = max(1, round(self.amount.hidden * hidden_size))
        if self.width == "uniform_mask":
            return torch.arange(kept) * hidden_size // kept
        drawn = np.random.default_rng(self.seed).permutation(hidden_size)[:kept]
        return torch.from_numpy(np.sort(drawn))

    def kept_units(self, hidden_size: int) -> int:
        """How many units are kept of a state: all of them where the values of a row decide."""
        units = self.units(hidden_size)
        return hidden_size if units is None else len(units)

    def places(
        self, ids: Tensor, mask: Tensor, layer: RositaLayer | None, below: Tensor | None
    ) -> Tensor:
        """Positions that are followed of rows of token `ids` (rows, length), bool of that size.

        `mask` is 1 at real tokens; `layer` makes the state from `below`, the state under it
        (rows, length, hidden): both may be None where attention does not choose.
        """
        real = mask.bool()
        if self.amount.tokens is None:
            return real
        if not self.asks_attention:
            return real & (real.cumsum(dim=1) <= self.amount.tokens)
        assert layer is not None and below is not None
        allowed = real & (ids != self.sep_id) if self.length == "attention_no_sep" else real
        attended = first_token_attention(layer, below, real).masked_fill(~allowed, -1.0)
        order = attended.sort(dim=1, descending=True, stable=True).indices
        chosen = torch.zeros_like(real).scatter_(1, order[:, : self.amount.tokens], True)
        return chosen & allowed

    @property
    def asks_attention(self) -> bool:
        """Whether the positions depend on the teacher's attention."""
        return self.amount.tokens is not None and self.length != "left_first"

    def token_counts(self, file: Encoded) -> np.ndarray:
        """Positions of each row of a file that are followed (rows,)."""
        counts = file.lengths().astype(np.int64)
        if self.amount.tokens is None:
            return counts
        if self.length == "attention_no_sep":
            counts -= np.add.reduceat(file.ids == self.sep_id, file.offsets[:-1], dtype=np.int64)
        return np.minimum(counts, self.amount.tokens)

    def squared_error(self, student: Tensor, state: State) -> Tensor:
        """Squared error of a state (rows, length, hidden) against the teacher's: summed over the
        rows and their followed positions (see `row_means`), mean over the units."""
        weight = state.places.unsqueeze(-1)
        if self.row_means:
            weight = weight * state.places.sum(dim=1).clamp(min=1).rsqrt()[:, None, None]
        values, hidden = state.values.float(), student.shape[-1]
        student = student.float()
        if state.units is not None:
            followed = student[..., state.units]
            error = ((followed - values) * weight).square().sum()
            if self.left_out:
                return error / len(state.units)
            others = (student * weight).square().sum() - (followed * weight).square().sum()
            return (error + others) / hidden
        if self.amount.hidden == 1:
            return ((student - values) * weight).square().sum() / hidden
        largest = self._largest(values, state.places)
        if self.left_out:
            error = ((student - values) * largest * weight).square().sum()
            return error / (self.amount.hidden * hidden)
        return ((student - values * largest) * weight).square().sum() / hidden

    def _largest(self, values: Tensor, places: Tensor) -> Tensor:
        """True for the largest absolute values at the followed positions of each row."""
        size = values.abs().masked_fill(~places.unsqueeze(-1), -1.0).flatten(1)
        kept = (self.amount.hidden * places.sum(dim=1) * values.shape[-1]).round().clamp(min=1)
        order = size.argsort(dim=1, descending=True, stable=True)
        ranks = torch.empty_like(order)
        ranks.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
        return (ranks < kept[:, None]).view(values.shape) & places.unsqueeze(-1)

    def name(self) -> str:
        """What decides which values are kept of a state, as part of a file's name; "" for all."""
        parts = []
        if self.amount.tokens is not None:
            parts.append(f"{self.amount.tokens}t_{self.length}")
        if self.amount.hidden != 1 and self.width != "importance_mask_dynamic":
            parts.append(f"{self.amount.hidden:g}h_{self.width}")
            parts += [str(self.seed)] * (self.width == "rand_mask")
        return "_".join(parts)


def layer_map(teacher_layers: int, student_layers: int, kind: str = "uniform") -> dict[int, int]:
    """Teacher state that each student state follows, by number (0 = embedding output).

    `uniform`: floor(i * T / S), as in the paper; `t_topN`: the same with the teacher's first N
    layers alone; `last`: the embedding and the last S layers; `ends`: the embedding and the last
    layer only. Raises `RositaError` if the teacher has too few layers for it.
    """
    if kind == "ends":
        return {0: 0, student_layers: teacher_layers}
    if kind == "last":
        skipped = teacher_layers - student_layers
        if skipped < 0:
            raise RositaError(
                "layer_map last needs a teacher of as many layers as the student: it has"
                f" {teacher_layers}, the student {student_layers}; --layer_map uniform takes any"
            )
        return {0: 0} | {i: i + skipped for i in range(1, student_layers + 1)}
    top = int(kind.removeprefix("t_top")) if kind != "uniform" else teacher_layers
    if top > teacher_layers:
        raise RositaError(f"layer_map {kind}: the teacher has {teacher_layers} layers only")
    return {i: i * top // student_layers for i in range(student_layers + 1)}


def first_token_attention(layer: RositaLayer, hidden: Tensor, mask: Tensor) -> Tensor:
    """How much the first token attends to each, mean over the heads of a layer (rows, length).

    `hidden` (rows, length, hidden) goes into the layer; `mask` (rows, length, bool): real tokens.
    """
    attention = layer.attention.self
    query, key = (
        linear(states).unflatten(-1, (-1, attention.head_dim)).float()
        for linear, states in ((attention.query, hidden[:, :1]), (attention.key, hidden))
    )
    with torch.autocast(hidden.device.type, enabled=False):  # it would round them again
        scores = torch.einsum("bqhd,bkhd->bhk", query, key) * attention.head_dim**-0.5
        scores = scores.masked_fill(~mask[:, None, :], float("-inf"))
        return scores.softmax(dim=-1).mean(dim=1)
