"""The encoders that are read as the one class of `rosita.model`: what each calls things.

The one table of what differs between transformers' checkpoints: names of weights, keys of
config.json, and which values of them the class can stand for. All else is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from rosita.errors import RositaError

MULTI_LABEL: Final = "multi_label_classification"
Pairs = tuple[tuple[str, str], ...]

_SIZES = ("vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size"
          " hidden_act hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings"
          " type_vocab_size initializer_range layer_norm_eps pad_token_id"
          " classifier_dropout").split()  # fmt: skip
_OF_THE_REFERENCE = "prun_hidden_size prun_intermediate_size emb_hidden_dim".split()
_OF_OURS = "embedding_size position_offset pooler_activation classifier_activation".split()

# What a config.json of any kind may say where it says it at all.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "problem_type": ("single_label_classification", "regression", MULTI_LABEL),
    "quantization_config": (),
}

# Of a model without its prefix (`BertModel` alone) the parameter names begin so.
_BARE = ("embeddings", "encoder.", "pooler.", "transformer.")


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


@dataclass(frozen=True)
class Backbone:
    """One `model_type` of transformers.

    `weights`: parts of its parameter names and what stands there in ours, replaced in turn;
    `surplus`: beginnings of those that are left out, the heads of other tasks; `settings`: keys of
    `RositaConfig` -> of its config.json; `values`: what such a config means where it leaves them
    out, or cannot say them; `allows`: the values that a key may have, none: it must not be there.
    """

    prefix: str
    weights: Pairs = ()
    surplus: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=lambda: _same(*_SIZES))
    values: dict[str, Any] = field(default_factory=dict)
    allows: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    positions_after_padding: bool = False  # the first token's position is the padding's id + 1
    masked_lm: str | None = None  # the masked-LM head's names begin so

    def ours(self, name: str) -> str | None:
        """Our name of a parameter of the checkpoint; None for one that is left out."""
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")  # of the first checkpoints
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(_BARE):
            name = self.prefix + name
        if name.startswith((*self.surplus, f"{self.prefix}embeddings.position_ids")):
            return None
        for theirs, ours in ((self.prefix, "bert."), *self.weights):
            name = name.replace(theirs, ours)
        return name

    def theirs(self, name: str) -> str:
        """What the checkpoint calls a parameter of ours: for messages."""
        for theirs, ours in reversed(((self.prefix, "bert."), *self.weights)):
            name = name.replace(ours, theirs)
        return name

    def rename(self, names: Iterable[str], where: object) -> dict[str, str]:
        """Our name -> that of the checkpoint; `RositaError` if two of its names mean one weight."""
        found: dict[str, str] = {}
        for name in names:
            ours = self.ours(name)
            if ours in found:
                raise RositaError(f"{where}: {found[ours]} and {name} are the same weight")
            if ours is not None:
                found[ours] = name
        return found

    def config(self, values: dict[str, Any], where: object) -> dict[str, Any]:
        """Keys of `RositaConfig` as a config.json gives them; `RositaError` for what it may not."""
        for key, allowed in (_PLAIN | self.allows).items():
            value = values.get(key)
            if value is not None and value not in allowed:
                wanted = " or ".join(map(repr, allowed)) if allowed else "left out"
                raise RositaError(
                    f"{where}: {key} {str(value)[:40]!r} is not supported; it must be {wanted}"
                )
        given = {ours: values.get(theirs) for ours, theirs in self.settings.items()}
        found = self.values | {key: value for key, value in given.items() if value is not None}
        if self.positions_after_padding and isinstance(found["pad_token_id"], int):
            found["position_offset"] = found["pad_token_id"] + 1
        return found


# The classifiers of RoBERTa and ELECTRA are a pooler and our classifier under other names. Their
# dropout before the pooler is left out: BERT has none there. The `pooler` that a pretrained RoBERTa
# may have is no part of its classifier: a new one is drawn, as transformers does.
_CLASSIFIER: Pairs = (
    ("classifier.dense.", "bert.pooler.dense."),
    ("classifier.out_proj.", "classifier."),
)

_ROBERTA: dict[str, Any] = {
    "prefix": "roberta.",
    "weights": _CLASSIFIER,
    "surplus": ("lm_head.", "roberta.pooler."),
    "positions_after_padding": True,
    "masked_lm": "lm_head.",
}

BACKBONES = {
    "bert": Backbone(
        prefix="bert.",
        # fit_dense: the reference's KD code has one beside what it uses
        surplus=("cls.", "fit_dense"),
        settings=_same(*_SIZES, *_OF_THE_REFERENCE),
        masked_lm="cls.predictions.",
    ),
    "roberta": Backbone(**_ROBERTA, values={"vocab_size": 50265, "pad_token_id": 1}),
    "xlm-roberta": Backbone(**_ROBERTA, values={"pad_token_id": 1}),
    "distilbert": Backbone(
        prefix="distilbert.",
        weights=(
            ("bert.transformer.", "bert.encoder."),
            (".q_lin.", ".self.query."),
            (".k_lin.", ".self.key."),
            (".v_lin.", ".self.value."),
            (".ffn.lin1.", ".intermediate.dense."),
            (".ffn.lin2.", ".output.dense."),
            (".output_layer_norm.", ".output.LayerNorm."),
            (".attention.out_lin.", ".attention.output.dense."),
            (".sa_layer_norm.", ".attention.output.LayerNorm."),
            ("pre_classifier.", "bert.pooler.dense."),
        ),
        surplus=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
        settings=_same("vocab_size", "max_position_embeddings", "initializer_range", "pad_token_id")
        | {
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "classifier_dropout": "seq_classif_dropout",
        },
        values={
            "num_hidden_layers": 6,
            "classifier_dropout": 0.2,
            "type_vocab_size": 0,
            "pooler_activation": "relu",
        },
        # Positions of sines are not trained. BERT's names of the sizes would be read by
        # transformers, and not by `settings`: of the heads no shape tells the number.
        allows={"sinusoidal_pos_embds": (False,), "hidden_size": (), "num_hidden_layers": (),
                "num_attention_heads": ()},
        masked_lm="vocab_transform.",
    ),
    "electra": Backbone(
        prefix="electra.",
        weights=_CLASSIFIER,
        surplus=("discriminator_predictions.", "generator_predictions.", "generator_lm_head."),
        settings=_same(*_SIZES, "embedding_size"),
        values={
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
            "pooler_activation": "gelu",
        },
        masked_lm="generator_predictions.",
    ),
    "rosita": Backbone(
        prefix="bert.",
        surplus=("cls.", "fit_dense"),
        settings=_same(*_SIZES, *_OF_THE_REFERENCE, *_OF_OURS),
    ),
}  # fmt: skip

PRETRAINED = tuple(name for name in BACKBONES if name != "rosita")


def backbone_of(values: dict[str, Any], where: object) -> Backbone:
    """What a config.json is of; without `model_type` (the reference's first ones) of BERT.

    Raises `RositaError`, naming the kind, if it cannot be read.
    """
    kind = values.get("model_type", "bert")
    if not isinstance(kind, str) or kind not in BACKBONES:
        raise RositaError(f"{where} is a {kind!r} model; {', '.join(PRETRAINED)} can be read")
    return BACKBONES[kind]
