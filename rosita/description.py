"""config.json of a model folder, read strictly. Light: an ONNX export is served without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rosita.backbones import backbone_of
from rosita.errors import RositaError
from rosita.files import read_object
from rosita.tokenizer import TokenizerFiles

if TYPE_CHECKING:
    from rosita.model import RositaConfig


class Description(BaseModel):
    """Keys of `RositaConfig` and its defaults; the limits keep a mistyped size from filling the
    memory."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    vocab_size: int = Field(30522, ge=1, le=10_000_000)
    hidden_size: int = Field(768, ge=1, le=100_000)
    num_hidden_layers: int = Field(12, ge=1, le=1000)
    num_attention_heads: int = Field(12, ge=1, le=100_000)
    intermediate_size: int = Field(3072, ge=1, le=1_000_000)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = Field(0.1, ge=0, le=1)
    attention_probs_dropout_prob: float = Field(0.1, ge=0, le=1)
    max_position_embeddings: int = Field(512, ge=1, le=1_000_000)
    type_vocab_size: int = Field(2, ge=0, le=1000)
    initializer_range: float = Field(0.02, ge=0)
    layer_norm_eps: float = Field(1e-12, ge=0)
    pad_token_id: int = Field(0, ge=0)
    classifier_dropout: float | None = Field(None, ge=0, le=1)
    prun_hidden_size: int | None = Field(None, ge=1, le=100_000)
    prun_intermediate_size: int | None = Field(None, ge=1, le=1_000_000)
    emb_hidden_dim: int = Field(-1, ge=-1, le=100_000)
    classifier_activation: Literal["relu"] | None = None
    embedding_size: int | None = Field(None, ge=1, le=100_000)
    position_offset: int = Field(0, ge=0, le=1_000_000)
    pooler_activation: Literal["tanh", "relu", "gelu"] = "tanh"

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        name = "hidden_size" if self.prun_hidden_size is None else "prun_hidden_size"
        width, heads = getattr(self, name), self.num_attention_heads
        if width % heads:
            raise ValueError(f"{name} {width} is not a multiple of num_attention_heads {heads}")
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} is not in the vocabulary")
        if self.max_tokens <= 0:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} leaves none after the"
                f" padding's, {self.position_offset - 1}"
            )
        if self.emb_hidden_dim == 0:
            raise ValueError("emb_hidden_dim must be -1 or positive")
        return self

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text: the positions without those before the first token."""
        return self.max_position_embeddings - self.position_offset


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, as it stands."""
    if not (folder / "config.json").exists():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise RositaError(f"{folder} has no config.json: not a model folder; it holds {there}")
    values = read_object(folder / "config.json")
    backbone_of(values, folder)
    return values


def describe(values: dict[str, Any], folder: Path) -> Description:
    """What a config.json (`read_config`) stands for; `RositaError` names the keys that are wrong.

    Which of its fields are set tells what the file says.
    """
    backbone = backbone_of(values, folder)
    try:
        return Description.model_validate(backbone.config(values, folder / "config.json"))
    except ValidationError as error:
        faults = [
            " ".join(backbone.settings.get(str(at), str(at)) for at in fault["loc"])
            + f" {fault['input']!r:.40}: {fault['msg']}"
            if fault["loc"]
            else fault["msg"].removeprefix("Value error, ")
            for fault in error.errors()
        ]
        raise RositaError(f"{folder}/config.json makes no sense: {'; '.join(faults)}") from None


def check_length(max_seq_length: int, config: RositaConfig | Description) -> None:
    """Raise `RositaError` if texts may be longer than the model has positions."""
    if max_seq_length > config.max_tokens:
        raise RositaError(
            f"--max_seq_length {max_seq_length} is too much: the model has {config.max_tokens}"
            " positions"
        )


def check_vocabulary(tokenizer: TokenizerFiles, rows: int, folder: Path) -> None:
    """Raise `RositaError` that names the first piece for which the embedding has no row."""
    if beyond := {number: piece for piece, number in tokenizer.pieces.items() if number >= rows}:
        first = min(beyond)
        raise RositaError(
            f"{folder}: its tokenizer has {len(beyond)} more pieces than the model has rows in its"
            f" embedding ({rows}), the first is {beyond[first]!r}, id {first}; take the tokenizer"
            " that the model was trained with, or transformers' resize_token_embeddings"
        )
