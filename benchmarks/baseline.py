"""The plain way: what the reference's scripts do, in our own few lines, to be measured against.

Every sentence is padded to `max_seq_length`, attention is written out (scores, softmax, dropout,
product), the teacher runs in every step, Adam is a loop over the parameters, gradients are clipped
per parameter, the loss is read in every step. The masked LM sees one masked word at a time, with
gradients; the embedding is factorized by a full SVD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rosita.data.batches import Encoded
from rosita.distillation.knowledge import layer_map
from rosita.model import (
    RositaForSequenceClassification,
    RositaIntermediate,
    RositaSelfAttention,
)


class WrittenOutAttention(nn.Module):
    """The attention of the reference: every intermediate result is a tensor of its own."""

    def __init__(self, layer: RositaSelfAttention) -> None:
        super().__init__()
        self.query, self.key, self.value = layer.query, layer.key, layer.value
        self.head_dim = layer.head_dim
        self.dropout = nn.Dropout(layer.dropout.p)

    def _heads(self, hidden: Tensor) -> Tensor:
        return hidden.view(*hidden.shape[:2], -1, self.head_dim).permute(0, 2, 1, 3)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        query, key = self._heads(self.query(hidden)), self._heads(self.key(hidden))
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_dim)
        weights = self.dropout(torch.softmax(scores + (1.0 - mask.float()) * -10000.0, dim=-1))
        context = weights @ self._heads(self.value(hidden))
        return context.permute(0, 2, 1, 3).reshape(*hidden.shape[:2], -1)


class WrittenOutGelu(nn.Module):
    """x * Phi(x) by its formula, four operations."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def written_out(model: RositaForSequenceClassification) -> RositaForSequenceClassification:
    """Replace, in place, the fused attention and activation of a model by written-out ones."""
    for owner in list(model.modules()):
        for name, part in owner.named_children():
            if isinstance(part, nn.Dropout):
                setattr(owner, name, nn.Dropout(part.p))
            elif isinstance(part, RositaSelfAttention):
                setattr(owner, name, WrittenOutAttention(part))
        if isinstance(owner, RositaIntermediate):
            owner.activation = WrittenOutGelu()
    return model


def padded_batches(file: Encoded, batch_size: int, length: int) -> Iterator[dict[str, Tensor]]:
    """Shuffled batches for ever, every row padded to `length`."""
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(len(file))
        for begin in range(0, len(file) - batch_size + 1, batch_size):
            inputs = file.batch(order[begin : begin + batch_size]).inputs
            missing = length - inputs["input_ids"].shape[1]
            yield {name: F.pad(value, (0, missing)) for name, value in inputs.items()}


def distillation_steps(
    teacher: nn.Module,
    student: nn.Module,
    batches: Iterator[dict[str, Tensor]],
    repr_distill: bool = True,
) -> Iterator[int]:
    """Distil step by step; yields the rows of each step after it is done."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, weight in student.named_parameters():
        groups["bias" in name or "LayerNorm" in name].append(weight)
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[False], "weight_decay": 0.01},
            {"params": groups[True], "weight_decay": 0},
        ],
        lr=5e-5,
        foreach=False,
    )
    student.train()
    for inputs in batches:
        with torch.no_grad():
            taught = teacher(**inputs, output_hidden_states=True)
        learnt = student(**inputs, output_hidden_states=True)
        target = F.softmax(taught.logits, dim=-1)
        loss = -(target * F.log_softmax(learnt.logits, dim=-1)).mean()
        if repr_distill:
            mapping = layer_map(
                len(taught.hidden_states) - 1, len(learnt.hidden_states) - 1
            ).values()
            for state, index in zip(learnt.hidden_states, mapping, strict=True):
                loss = loss + F.mse_loss(state, taught.hidden_states[index])
        loss.backward()
        for weight in student.parameters():
            nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        yield len(inputs["input_ids"])
