"""config.json of a model folder: read, checked, and said in the terms of `RositaConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from transformers.activations import ACT2FN

from rosita.backbones import backbone_of
from rosita.errors import RositaError
from rosita.files import read_object
from rosita.model import RositaConfig
from rosita.tasks import Task

BERT_BASE = RositaConfig()  # what a config.json that leaves keys out means


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, as it stands."""
    if not (folder / "config.json").exists():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise RositaError(f"{folder} has no config.json: not a model folder; it holds {there}")
    values = read_object(folder / "config.json")
    backbone_of(values, folder)
    return values


class _ConfigValues(BaseModel):
    """What config.json may say: the limits keep a mistyped size from filling the memory."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    vocab_size: int | None = Field(None, ge=1, le=10_000_000)
    hidden_size: int | None = Field(None, ge=1, le=100_000)
    num_hidden_layers: int | None = Field(None, ge=1, le=1000)
    num_attention_heads: int | None = Field(None, ge=1, le=100_000)
    intermediate_size: int | None = Field(None, ge=1, le=1_000_000)
    hidden_act: Literal[tuple(ACT2FN)] | None = None  # type: ignore[valid-type]  # read at runtime
    hidden_dropout_prob: float | None = Field(None, ge=0, le=1)
    attention_probs_dropout_prob: float | None = Field(None, ge=0, le=1)
    max_position_embeddings: int | None = Field(None, ge=1, le=1_000_000)
    type_vocab_size: int | None = Field(None, ge=0, le=1000)
    initializer_range: float | None = Field(None, ge=0)
    layer_norm_eps: float | None = Field(None, ge=0)
    pad_token_id: int | None = Field(None, ge=0)
    classifier_dropout: float | None = Field(None, ge=0, le=1)
    prun_hidden_size: int | None = Field(None, ge=1, le=100_000)
    prun_intermediate_size: int | None = Field(None, ge=1, le=1_000_000)
    emb_hidden_dim: int | None = Field(None, ge=-1, le=100_000)
    classifier_activation: Literal["relu"] | None = None
    embedding_size: int | None = Field(None, ge=1, le=100_000)
    position_offset: int | None = Field(None, ge=0, le=1_000_000)
    pooler_activation: Literal["tanh", "relu", "gelu"] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        heads = self.num_attention_heads or BERT_BASE.num_attention_heads
        for name in ("prun_hidden_size", "hidden_size"):
            width = getattr(self, name)
            if width is not None:
                if width % heads:
                    raise ValueError(
                        f"{name} {width} is not a multiple of num_attention_heads {heads}"
                    )
                break
        if (self.pad_token_id or 0) >= (self.vocab_size or BERT_BASE.vocab_size):
            raise ValueError(f"pad_token_id {self.pad_token_id} is not in the vocabulary")
        positions = self.max_position_embeddings or BERT_BASE.max_position_embeddings
        offset = self.position_offset or 0
        if offset >= positions:
            raise ValueError(
                f"max_position_embeddings {positions} leaves none after the padding's, {offset - 1}"
            )
        if self.emb_hidden_dim == 0:
            raise ValueError("emb_hidden_dim must be -1 or positive")
        return self


def model_config(values: dict[str, Any], folder: Path, task: Task) -> RositaConfig:
    """The configuration that a config.json (`read_config`) stands for, with the task's labels."""
    backbone = backbone_of(values, folder)
    given = backbone.config(values, folder / "config.json")
    try:
        made = _ConfigValues.model_validate(given).model_dump(exclude_unset=True)
    except ValidationError as error:
        faults = [
            " ".join(backbone.settings.get(str(at), str(at)) for at in fault["loc"])
            + f" {fault['input']!r:.40}: {fault['msg']}"
            if fault["loc"]
            else fault["msg"].removeprefix("Value error, ")
            for fault in error.errors()
        ]
        raise RositaError(f"{folder}/config.json makes no sense: {'; '.join(faults)}") from None
    return RositaConfig(**made, id2label=dict(enumerate(task.outputs)))
