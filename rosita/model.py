"""BERT for classification with narrower attention, narrower FFN, a factorized embedding.

One class for dense and pruned models, of BERT and of the encoders that differ from it in settings
alone (RoBERTa, XLM-R, DistilBERT, ELECTRA). This file needs torch and transformers only, so that it
can travel with an exported model. Parameter names are BERT's (Devlin et al., 2019); a factorized
word embedding is `word_embeddings1` (V x r) followed by `word_embeddings2` (r -> e, no bias).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput


class RositaConfig(PretrainedConfig):
    """BERT's configuration and what pruning left of it.

    `num_attention_heads` is the kept number; `prun_hidden_size` the width of all kept heads
    together (default: `hidden_size`), `prun_intermediate_size` the kept FFN units (default:
    `intermediate_size`), `emb_hidden_dim` the rank of the word embedding (-1: not factorized).
    `classifier_activation` "relu" is applied to the pooled output before the classifier
    (checkpoints of the reference's KD code); None applies nothing.

    Other encoders: the first token has the position `position_offset` (RoBERTa); embeddings are
    `embedding_size` wide and then projected to the hidden size (ELECTRA; default: `hidden_size`, no
    projection); `pooler_activation` is tanh, relu (DistilBERT) or gelu (ELECTRA). A model with a
    `type_vocab_size` of 0 (DistilBERT) or 1 (RoBERTa) ignores all token types that it is given.
    """

    model_type = "rosita"
    if TYPE_CHECKING:  # transformers' own may be None, where labels have no names
        num_labels: int
        id2label: dict[int, str]

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        pad_token_id: int = 0,
        classifier_dropout: float | None = None,
        classifier_activation: str | None = None,
        prun_hidden_size: int | None = None,
        prun_intermediate_size: int | None = None,
        emb_hidden_dim: int = -1,
        embedding_size: int | None = None,
        position_offset: int = 0,
        pooler_activation: str = "tanh",
        **kwargs,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.classifier_dropout = classifier_dropout
        self.classifier_activation = classifier_activation
        self.prun_hidden_size = hidden_size if prun_hidden_size is None else prun_hidden_size
        self.prun_intermediate_size = (
            intermediate_size if prun_intermediate_size is None else prun_intermediate_size
        )
        self.emb_hidden_dim = emb_hidden_dim
        self.embedding_size = hidden_size if embedding_size is None else embedding_size
        self.position_offset = position_offset
        self.pooler_activation = pooler_activation
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id

    @property
    def head_dim(self) -> int:
        """Width of one attention head; pruning keeps it."""
        return self.prun_hidden_size // self.num_attention_heads

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text: the positions without those before the first token."""
        return self.max_position_embeddings - self.position_offset


class RositaEmbeddings(nn.Module):
    """Word + position + token type embeddings, then LayerNorm and dropout."""

    def __init__(self, config: RositaConfig) -> None:
        super().__init__()
        width, pad = config.embedding_size, config.pad_token_id
        if config.emb_hidden_dim == -1:
            self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=pad)
        else:
            rank = config.emb_hidden_dim
            self.word_embeddings1 = nn.Embedding(config.vocab_size, rank, padding_idx=pad)
            self.word_embeddings2 = nn.Linear(rank, width, bias=False)
        self.position_offset = config.position_offset
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.type_vocab_size = config.type_vocab_size
        if self.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(self.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def words(self, input_ids: Tensor) -> Tensor:
        """Word embeddings (batch, length, width) of token ids (batch, length)."""
        if hasattr(self, "word_embeddings"):
            return self.word_embeddings(input_ids)
        return self.word_embeddings2(self.word_embeddings1(input_ids))

    def forward(
        self, words: Tensor, token_type_ids: Tensor | None, position_ids: Tensor | None
    ) -> Tensor:
        """Embedding output (batch, length, width) from that of the words, of the same size.

        No token types means all 0, no positions offset, offset + 1, ...: padding is on the right.
        """
        if self.type_vocab_size > 1 and token_type_ids is not None:
            words = words + self.token_type_embeddings(token_type_ids)
        elif self.type_vocab_size:
            words = words + self.token_type_embeddings.weight[0]
        if position_ids is None:
            first = self.position_offset
            positions = self.position_embeddings.weight[first : first + words.shape[1]]
        else:
            positions = self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(words + positions))


class RositaSelfAttention(nn.Module):
    """Multi-head attention whose width (kept heads x head_dim) may be below the hidden size."""

    def __init__(self, config: RositaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.query = nn.Linear(config.hidden_size, config.prun_hidden_size)
        self.key = nn.Linear(config.hidden_size, config.prun_hidden_size)
        self.value = nn.Linear(config.hidden_size, config.prun_hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Context (batch, length, kept heads x head_dim); `mask` (batch, 1, 1, length) is bool."""
        batch, length, _ = hidden.shape
        query, key, value = (
            layer(hidden).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        context = self.attend(query, key, value, mask)
        return context.transpose(1, 2).reshape(batch, length, -1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of each head, all (batch, heads, length, head_dim)."""
        dropout = self.dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)


class RositaOutput(nn.Module):
    """Linear back to the hidden size, dropout, residual, LayerNorm: ends attention and FFN."""

    def __init__(self, in_features: int, config: RositaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(inner)) + residual)


class RositaAttention(nn.Module):
    def __init__(self, config: RositaConfig) -> None:
        super().__init__()
        self.self = RositaSelfAttention(config)
        self.output = RositaOutput(config.prun_hidden_size, config)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return self.output(self.self(hidden, mask), hidden)


class RositaIntermediate(nn.Module):
    def __init__(self, config: RositaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.prun_intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden))


class RositaLayer(nn.Module):
    def __init__(self, config: RositaConfig) -> None:
        super().__init__()
        self.attention = RositaAttention(config)
        self.intermediate = RositaIntermediate(config)
        self.output = RositaOutput(config.prun_intermediate_size, config)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        hidden = self.attention(hidden, mask)
        return self.output(self.intermediate(hidden), hidden)


class RositaEncoder(nn.Module):
    def __init__(self, config: RositaConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(RositaLayer(config) for _ in range(config.num_hidden_layers))


class RositaPooler(nn.Module):
    """Activation (BERT: tanh) of a linear layer on the first token's last hidden state."""

    def __init__(self, config: RositaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.pooler_activation]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden[:, 0]))


class RositaPreTrainedModel(PreTrainedModel):
    """Initialization and loading, shared by the two models below."""

    config: RositaConfig
    config_class = RositaConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _supports_sdpa = True


class RositaModel(RositaPreTrainedModel):
    """The encoder: embeddings, their projection, layers, pooler; called as a `BertModel`."""

    def __init__(self, config: RositaConfig) -> None:
        super().__init__(config)
        self.embeddings = RositaEmbeddings(config)
        width, hidden = config.embedding_size, config.hidden_size
        self.embeddings_project = nn.Identity() if width == hidden else nn.Linear(width, hidden)
        self.encoder = RositaEncoder(config)
        self.gradient_checkpointing = False  # gradient_checkpointing_enable sets it, and how
        self.pooler = RositaPooler(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        name = "word_embeddings" if self.config.emb_hidden_dim == -1 else "word_embeddings1"
        return getattr(self.embeddings, name)

    def set_input_embeddings(self, value: nn.Module) -> None:
        name = "word_embeddings" if self.config.emb_hidden_dim == -1 else "word_embeddings1"
        setattr(self.embeddings, name, value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple:
        """Encode token ids (batch, length); `attention_mask` is 1 at real tokens, 0 at padding.

        `inputs_embeds` (batch, length, embedding_size) stand for the words' embeddings instead.
        `hidden_states` (if asked for) are the projected embedding output and each layer's output,
        every one (batch, length, hidden_size). Raises `ValueError` for what this model does not do.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if output_attentions:
            raise ValueError("output_attentions: this model does not return attention maps")
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has {attention_mask.dim()} dimensions; it must be (batch, length)"
            )
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        words = inputs_embeds if input_ids is None else self.embeddings.words(input_ids)
        hidden = self.embeddings_project(self.embeddings(words, token_type_ids, position_ids))
        states = [hidden]
        for layer in self.encoder.layer:
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(layer.__call__, hidden, mask)
            else:
                hidden = layer(hidden, mask)
            states.append(hidden)
        asked = output_hidden_states
        wanted = self.config.output_hidden_states if asked is None else asked
        output = BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=self.pooler(hidden),
            hidden_states=tuple(states) if wanted else None,
        )
        return output.to_tuple() if return_dict is False else output


class RositaForSequenceClassification(RositaPreTrainedModel):
    """The encoder with a linear classifier (or regressor) on the pooled output."""

    def __init__(self, config: RositaConfig) -> None:
        super().__init__(config)
        dropout = config.classifier_dropout
        self.bert = RositaModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Logits (batch, num_labels); with `labels` also the mean loss over the batch.

        The loss is that of the config's `problem_type`: cross-entropy, the squared error of a
        regression, the binary cross-entropy of several labels at once. Without one it is the
        squared error for one output, the last one for float labels, else the first. The other
        inputs are those of `RositaModel`.
        """
        encoded = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_hidden_states,
            output_attentions,
        )
        pooled = self.dropout(encoded.pooler_output)
        if self.config.classifier_activation:
            pooled = ACT2FN[self.config.classifier_activation](pooled)
        logits = self.classifier(pooled)
        loss = None if labels is None else self._loss(logits, labels)
        output = SequenceClassifierOutput(loss, logits, encoded.hidden_states)
        return output.to_tuple() if return_dict is False else output

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type
        if kind == "regression" or (kind is None and self.config.num_labels == 1):
            numbers = logits.squeeze(-1)
            return F.mse_loss(numbers, labels.to(logits.dtype).view(numbers.shape))
        if kind == "multi_label_classification" or (kind is None and labels.is_floating_point()):
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.cross_entropy(logits, labels.view(-1))


def set_dropout(model: RositaForSequenceClassification, probability: float) -> None:
    """Change the dropout of a model, everywhere, and in its configuration: in place."""
    config = model.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = probability
    config.classifier_dropout = None
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def build_model(
    config: RositaConfig, state: dict[str, Tensor], training: bool = False
) -> RositaForSequenceClassification:
    """A model that owns copies of the tensors of `state`; no time is spent on random weights."""
    with torch.device("meta"):
        model = RositaForSequenceClassification(config)
    owned = {name: weight.detach().clone().contiguous() for name, weight in state.items()}
    model.load_state_dict(owned, assign=True)
    return model.train(training)


if __name__ == "rosita.model":  # not in an exported folder, which names its classes itself
    AutoConfig.register("rosita", RositaConfig, exist_ok=True)
    AutoModel.register(RositaConfig, RositaModel, exist_ok=True)
    AutoModelForSequenceClassification.register(
        RositaConfig, RositaForSequenceClassification, exist_ok=True
    )
