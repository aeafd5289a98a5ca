"""The shape of a model: kept heads, layers, FFN units, embedding rank."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosita.errors import RositaError

if TYPE_CHECKING:
    from rosita.model import RositaConfig

_NAME = re.compile(r"a(\d{1,9})_l(\d{1,9})_f(\d{1,9})_e(-1|\d{1,9})")


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
    limit = config.embedding_size if now.emb_hidden_dim == -1 else now.emb_hidden_dim
    if rank == -1 and now.emb_hidden_dim != -1:
        faults.append(f"emb_hidden_dim -1: the embedding is already factorized to {limit}")
    elif rank != -1 and not 1 <= rank <= limit:
        faults.append(f"emb_hidden_dim {rank} must be -1 or lie in 1..{limit}")
    if faults:
        raise RositaError(f"cannot cut {target} out of {now}: {'; '.join(faults)}")


def shaped_config(config: RositaConfig, shape: Shape) -> RositaConfig:
    """A copy of `config` with another shape; the head size stays."""
    shaped = copy.deepcopy(config)
    shaped.num_attention_heads = shape.keep_heads
    shaped.num_hidden_layers = shape.keep_layers
    shaped.prun_hidden_size = shape.keep_heads * config.head_dim
    shaped.prun_intermediate_size = shape.ffn_hidden_dim
    shaped.emb_hidden_dim = shape.emb_hidden_dim
    return shaped


def parameter_count(config: RositaConfig, shape: Shape | None = None) -> int:
    """Number of parameters of the model that `config` (in another shape, if given) describes."""
    import torch  # heavy imports: a shape's name, its limits and its schedule need no tensors

    from rosita.model import RositaForSequenceClassification

    with torch.device("meta"):
        model = RositaForSequenceClassification(shaped_config(config, shape) if shape else config)
    return sum(weight.numel() for weight in model.parameters())
