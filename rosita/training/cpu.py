"""What makes a model fast on a CPU, put on from outside: the model itself stays plain BERT."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from rosita.model import RositaSelfAttention

Model = TypeVar("Model", bound=nn.Module)

SHORT = 128  # tokens up to which written-out attention beats the fused kernel in bf16 (measured)


class CpuDropout(nn.Dropout):
    """`nn.Dropout` with a third of its cost on the CPU: 16 random bits decide an element, not 64.

    The probability is rounded to a multiple of 2^-16; the scale is exact for the rounded one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.p == 1 or x.device.type != "cpu":
            return super().forward(x)
        # torch draws bit by bit on one core; one 64-bit draw serves four elements
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        dropped = round(self.p * 2**16)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        keep = (bits >= dropped - 2**15).to(x.dtype)
        return x * keep * (2**16 / (2**16 - dropped))  # keep * scale would round in bf16


class CpuSelfAttention(RositaSelfAttention):
    """Attention written out where the fused kernel of the CPU is slower, or knows no dropout."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """As the parent's."""
        short = query.dtype == torch.bfloat16 and query.shape[2] <= SHORT
        if query.device.type != "cpu" or not (short or (self.training and self.dropout.p)):
            return super().attend(query, key, value, mask)
        scores = query * self.head_dim**-0.5 @ key.transpose(2, 3)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return self.dropout(scores.softmax(dim=-1)) @ value


def fast_on_cpu(model: Model) -> Model:
    """The same model, in place, with the modules above where it has their parents.

    They hold the same weights and settings, so only their class changes; on another device they do
    what their parents do.
    """
    faster = {nn.Dropout: CpuDropout, RositaSelfAttention: CpuSelfAttention}
    for module in model.modules():
        module.__class__ = faster.get(type(module), type(module))
    return model
