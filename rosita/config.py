"""Typed, closed settings of all stages; `config_file` reads them."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from rosita.backbones import PRETRAINED
from rosita.cli import LARGEST, character_class
from rosita.pruning.shape import Shape

REPOSITORY = Path(__file__).resolve().parent.parent
TENSORBOARD = "tensorboard"
TRACKERS = (TENSORBOARD, "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab",
            "trackio")  # fmt: skip
Precision = Literal["auto", "fp32", "bf16", "fp16"]
ClassifierActivation = Literal["auto", "relu", "none"]

# rosita.evaluation.predict batches by length: what it bounds is the padded tokens of a batch
EVAL_ROWS = "rows of 128 tokens in a batch of evaluation (of shorter ones more, of longer fewer)"


KD = REPOSITORY / "KD"  # where the paths in its configurations begin
CONFIGS = KD / "configurations"


def configs_for(layers: int) -> Path:
    """The KD configs that suit a BERT of so many layers: the paper's student alone has eight."""
    return CONFIGS if layers >= 8 else CONFIGS / "minilm"


_INCIDENTAL: JsonDict = {"identity": False}


def setting(default: Any, help: str, *, identity: bool = True, **limits: Any) -> Any:
    """A field of a settings class: its default, what `--help` says of it, and its limits.

    `identity`: it decides the outcome of a run; False for what says where and how to run.
    """
    extra = None if identity else _INCIDENTAL
    if type(default) is int:
        limits = {"le": LARGEST, **limits}
    return Field(default, description=help, json_schema_extra=extra, **limits)


def decides(kind: type[BaseModel]) -> list[str]:
    """Names of the settings that decide the outcome of a run."""
    return [
        name for name, field in kind.model_fields.items() if field.json_schema_extra != _INCIDENTAL
    ]


ACCEPT_CHANGED = "read models whose files are not those that their run.json names"
LABEL_NAMES = "names of the task's labels, in its order, as negative,positive (default: its own)"
LOWER_CASE = "accepted and not needed: a model's own tokenizer decides"


def setting_defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """What each setting is where nobody says otherwise."""
    return {
        name: field.default for name, field in kind.model_fields.items() if not field.is_required()
    }


class LoopSettings(BaseModel):
    """What every run of the training loop has: the same names in every stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data_dir: str = setting("data/TASK", "folder of the task's .tsv files", identity=False)
    output_dir: str = setting(..., "model folder to write", identity=False)
    cache_dir: str | None = setting(
        None, "folder for cached token ids (default: beside the data)", identity=False
    )
    # no part of what decides a run: an order other than the model's gives its weights another hash
    label_names: str | None = setting(None, LABEL_NAMES, identity=False)
    accept_changed: bool = setting(False, ACCEPT_CHANGED, identity=False)
    max_seq_length: int = setting(128, "tokens after which a text is cut", ge=3)
    learning_rate: float = setting(5e-5, "peak learning rate", gt=0)
    layer_decay: float = setting(
        1.0,
        "the rate of each layer is this part of that of the layer above it, the embedding's of the"
        " first layer's; pooler and classifier have the whole rate",
        gt=0,
        le=1,
    )
    num_train_epochs: float = setting(3.0, "passes over the training data (scoring: 1)", gt=0)
    weight_decay: float = setting(0.0, "AdamW weight decay, not on bias and LayerNorm", ge=0)
    adam_epsilon: float = setting(1e-8, "AdamW epsilon", gt=0)
    bias_correction: bool = setting(True, "correct Adam's moments for their start at zero")
    clip: Literal["tensor", "global"] = setting(
        "global", "what max_grad_norm limits: the gradient of each weight tensor, or all together"
    )
    max_grad_norm: float = setting(1.0, "largest norm of a gradient", gt=0)
    gradient_accumulation_steps: int = setting(1, "micro-batches per step", ge=1)
    max_steps: int = setting(-1, "stop after this many steps (-1: after the epochs)", ge=-1)
    save_state_steps: int = setting(
        500, "save the state to resume from every so many steps", ge=1, identity=False
    )
    seed: int = setting(42, "random seed", ge=0)
    precision: Precision = setting(
        "auto", "auto: bf16 where a GPU has it, or a CPU is faster by it"
    )
    no_cuda: bool = setting(False, "stay on the CPU", identity=False)
    score_by: Literal["weight", "unit"] = setting(
        "weight", "Taylor score: |weight x gradient|, or of their sum over a head or FFN unit"
    )
    report_to: str = setting(
        TENSORBOARD,
        f"where curves are drawn: some of {', '.join(TRACKERS)}; or none",
        identity=False,
    )
    dry_run: bool = setting(
        False, "check everything, print the plan and its time, write nothing", identity=False
    )
    overwrite_output_dir: bool = setting(
        False, "start afresh, whatever output_dir holds", identity=False
    )

    @field_validator("report_to")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        """Trackers that are known and there; the default one may be missing, which the run says."""
        names = value.replace(" ", "").split(",")
        if names == ["none"]:
            return value
        for name in names:
            if name not in TRACKERS:
                raise ValueError(f"{name!r} is not one of {', '.join(TRACKERS)}, none")
            if name != TENSORBOARD and not find_spec(name):
                raise ValueError(f"{name} is not installed: pip install {name}")
        return ",".join(names)

    @property
    def trackers(self) -> list[str]:
        """The trackers of `report_to`."""
        return [] if self.report_to == "none" else self.report_to.split(",")

    @field_validator("max_steps")
    @classmethod
    def _trains(cls, steps: int) -> int:
        if not steps:
            raise ValueError("0 steps train nothing; -1 trains for num_train_epochs")
        return steps


class FineTuneSettings(LoopSettings):
    """Settings of Pruning/run_glue.py: fine-tuning and Taylor scores."""

    model_type: Literal[PRETRAINED] | None = setting(  # type: ignore[valid-type]  # at runtime
        None,
        "not needed: config.json says it, and a flag that says otherwise is refused",
        identity=False,
    )
    model_name_or_path: str = setting(
        ..., "model folder, or a name that download_bert.py fetched", identity=False
    )
    output_dir: str = setting(
        ..., "model folder to write, needed by do_train (default: the model's own)", identity=False
    )
    per_gpu_train_batch_size: int = setting(32, "rows per device and micro-batch", ge=1)
    per_gpu_eval_batch_size: int = setting(8, EVAL_ROWS, ge=1, identity=False)
    learning_rate: float = setting(2e-5, "peak learning rate", gt=0)
    num_train_epochs: float = setting(5.0, "passes (pruned CoLA: 20; scoring: 1)", gt=0)
    warmup_steps: int = setting(0, "steps of linear warm-up", ge=0)
    do_train: bool = setting(False, "fine-tune", identity=False)
    do_eval: bool = setting(False, "evaluate on dev; write eval_results_TASK.txt", identity=False)
    do_predict: bool = setting(False, "predict test; write test_results_TASK.txt", identity=False)
    evaluate_during_training: bool = setting(False, "evaluate every logging_steps, keep the best")
    logging_dir: str | None = setting(
        None, "TensorBoard folder (default: output_dir/logging)", identity=False
    )
    logging_steps: int = setting(50, "log, and evaluate if asked to, every so many steps", ge=1)
    save_steps: int = setting(
        0, "keep an intermediate checkpoint every so many steps (0: none)", ge=0, identity=False
    )
    is_prun: bool = setting(False, "the model given is a pruned one")
    compute_taylor: bool = setting(False, "score the weights, train nothing")
    do_lower_case: bool | None = setting(None, LOWER_CASE)
    fp16: bool = setting(False, "the same as --precision fp16")
    overwrite_cache: bool = setting(
        False, "accepted and not needed: a cache is never stale", identity=False
    )
    classifier_activation: ClassifierActivation = setting(
        "auto", "before the classifier (auto: relu for the reference's KD checkpoints)"
    )

    # what KDSettings has as settings of these names
    lr_schedule: ClassVar[str] = "warmup_linear"
    patience: ClassVar[float | None] = None

    @property
    def eval_batch_size(self) -> int:
        """Rows of a batch in evaluation."""
        return self.per_gpu_eval_batch_size

    @property
    def eval_step(self) -> int | None:
        """Evaluate every so many steps; None: at the end only."""
        return self.logging_steps if self.evaluate_during_training else None

    @property
    def log_step(self) -> int | None:
        """Log the losses every so many steps; None: so often that a curve has enough points."""
        return self.logging_steps


# settings that nothing reads unless another one is on: what that one is, and how to turn it on;
# a loss's weight is no such setting: it stays in the file while an ablation turns its loss off
READ_WITH = {
    "repr_distill": ("the hidden states", "set repr_distill", ("hsk",)),
    "hsk_tokens": ("a part of the tokens", "set hsk, as 10t", ("hsk_length",)),
    "hsk_share": ("a part of the units", "set hsk, as 0.1h", ("hsk_width", "hsk_masked")),
    "pred_distill": ("the logits", "set pred_distill", ("temperature", "regression_target")),
    "fresh_augmentation": (
        "fresh_augmentation",
        "set it to alternate or always",
        ("glove_embs", "aug_candidates", "aug_probability", "aug_edits", "aug_eligible",
         "aug_stop_words"),
    ),
    "depth_or_width": (
        "iterative pruning",
        "set depth_or_width",
        ("save_ladder", "keep_optimizer", "recompute_svd"),
    ),
}  # fmt: skip


class KDSettings(LoopSettings):
    """Settings of KD/train.py, KD/train_with_subset.py and the files in KD/configurations/."""

    teacher_model: str = setting(..., "folder of the teacher, tuned on this task", identity=False)
    student_model: str = setting(..., "folder of the student to train", identity=False)
    do_lower_case: bool | None = setting(None, LOWER_CASE)
    aug_train: bool = setting(False, "train on train_aug.tsv instead of train.tsv")
    fresh_augmentation: Literal["never", "alternate", "always"] = setting(
        "never", "replace words of train.tsv anew, by GloVe, in every other epoch or in each"
    )
    glove_embs: str | None = setting(
        None, "vectors for fresh_augmentation, from download_glove.py", identity=False
    )
    aug_candidates: int = setting(15, "fresh_augmentation: candidates per word (M)", ge=1)
    aug_probability: float = setting(
        0.4, "fresh_augmentation: probability that a word is replaced (p)", ge=0, le=1
    )
    aug_edits: float = setting(
        0.0,
        "fresh_augmentation: probability that a sentence's words are also deleted, inserted,"
        " moved or exchanged",
        ge=0,
        le=1,
    )
    # these two are part of a run's identity where they are used and not as published
    aug_eligible: str = setting(
        "a-z",
        "fresh_augmentation: characters of the words that may be replaced, a regular"
        " expression's class, or letters for those of all scripts",
        identity=False,
    )
    aug_stop_words: str | None = setting(
        None,
        "fresh_augmentation: file of the words that are not replaced (default: TinyBERT's"
        " English ones)",
        identity=False,
    )
    train_batch_size: int = setting(32, "rows per step and process", ge=1)
    eval_batch_size: int = setting(32, EVAL_ROWS, ge=1, identity=False)
    adam_epsilon: float = setting(1e-6, "AdamW epsilon", gt=0)
    weight_decay: float = setting(0.01, "AdamW weight decay, not on bias and LayerNorm", ge=0)
    # the published KD scripts leave the correction out and clip each tensor: docs/fidelity.md
    bias_correction: bool = setting(False, "correct Adam's moments for their start at zero")
    clip: Literal["tensor", "global"] = setting(
        "tensor", "what max_grad_norm limits: the gradient of each weight tensor, or all together"
    )
    lr_schedule: Literal["none", "warmup_linear", "warmup_cosine", "decay_after_pruning"] = setting(
        "warmup_linear", "rate over time (decay_after_pruning: constant while shapes change)"
    )
    warmup_proportion: float = setting(0.1, "part of the steps that warms up", ge=0, lt=1)
    eval_step: int = setting(50, "evaluate every so many steps", ge=1)
    patience: float | None = setting(None, "stop after so many epochs without a gain", gt=0)
    temperature: float = setting(1.0, "softens the logits of the prediction loss", gt=0)
    pred_distill: bool = setting(False, "learn the teacher's logits")
    repr_distill: bool = setting(False, "learn the teacher's hidden states")
    repr_weight: float = setting(1.0, "weight of the hidden states' loss; the logits' is 1", gt=0)
    repr_mean: Literal["positions", "tokens"] = setting(
        "positions", "hidden states' loss: mean over max_seq_length positions, or over real tokens"
    )
    regression_target: Literal["teacher", "labels"] = setting(
        "teacher", "what pred_distill learns in a regression: the teacher's number or the label's"
    )
    label_weight: float = setting(0.0, "weight of the gold labels' loss (0: not learnt)", ge=0)
    dropout: float | None = setting(
        None,
        "the student's dropout from now on (default: as its config.json says, mostly 0.1)",
        ge=0,
        lt=1,
    )
    layer_map: str = setting(
        "uniform",
        "teacher layers that the student's follow: uniform, last, ends (the last one alone), or"
        " t_topN (uniform over its first N)",
    )
    hsk: str | None = setting(
        None,
        "how much is followed of the hidden states, as 1l_10t_0.1h: of the last student states,"
        " tokens of a row, share of the units (default: all)",
    )
    hsk_length: Literal["left_first", "attention", "attention_no_sep"] = setting(
        "attention_no_sep",
        "hsk: which tokens, the first or those that [CLS] attends to most (no_sep: not [SEP])",
    )
    hsk_width: Literal["rand_mask", "uniform_mask", "importance_mask_dynamic"] = setting(
        "importance_mask_dynamic",
        "hsk: which units, fixed ones, drawn or evenly spread, or a row's largest values",
    )
    hsk_masked: Literal["zeros", "left_out"] = setting(
        "zeros", "hsk: what the student learns of the other units: zeros, or nothing"
    )
    teacher_cache_gb: float | None = setting(
        None,
        "keep the teacher's hidden states on disk, if they take no more than this (where it is not"
        " said: 4 on a CPU, 0 on a GPU)",
        identity=False,
        ge=0,
    )
    compute_taylor: bool = setting(False, "score the student's weights, train nothing")
    depth_or_width: Literal["depth", "width"] | None = setting(
        None, "prune iteratively: layers, or heads with FFN and embedding"
    )
    prun_period_proportion: float = setting(
        0.1, "part of the training after which all prunings are done", gt=0, le=1
    )
    keep_optimizer: bool = setting(
        False, "carry the moments of surviving weights through a pruning, else begin from zero"
    )
    recompute_svd: bool = setting(
        False, "factorize the trained embedding anew at each cut, else drop its last columns"
    )
    save_ladder: bool = setting(
        False, "keep the model of every shape on the way, just before the next pruning"
    )
    keep_heads: int | None = setting(None, "attention heads per layer to keep", ge=1)
    keep_layers: int | None = setting(None, "layers to keep", ge=1)
    ffn_hidden_dim: int | None = setting(None, "FFN units per layer to keep", ge=1)
    emb_hidden_dim: int | None = setting(None, "rank of the embedding (-1: not factorized)", ge=-1)
    classifier_activation: ClassifierActivation = setting(
        "auto", "before the classifier (auto: relu for the reference's KD checkpoints)"
    )

    # what FineTuneSettings has: intermediate checkpoints, and how often losses are logged
    save_steps: ClassVar[int] = 0
    log_step: ClassVar[int | None] = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.pred_distill and not self.repr_distill:
            raise ValueError("set pred_distill or repr_distill, or both: there is no other loss")
        if self.train_batch_size % self.gradient_accumulation_steps:
            raise ValueError("train_batch_size must be a multiple of gradient_accumulation_steps")
        shape = [part.name for part in fields(Shape)]
        given = [name for name in shape if getattr(self, name) is not None]
        if self.depth_or_width and not given:
            raise ValueError(f"depth_or_width needs {', '.join(shape)}")
        if given and self.target is None:
            missing = [name for name in shape if name not in given]
            raise ValueError(
                f"{', '.join(given)} {'names' if len(given) == 1 else 'name'} no shape without"
                f" {', '.join(missing)}"
            )
        if self.fresh_augmentation != "never" and self.aug_train:
            raise ValueError("fresh_augmentation draws from train.tsv: leave aug_train out")
        if self.fresh_augmentation != "never" and not self.glove_embs:
            raise ValueError("fresh_augmentation needs glove_embs, the vectors' file or folder")
        try:
            character_class(self.aug_eligible)
        except ValueError as error:
            raise ValueError(f"aug_eligible {self.aug_eligible!r} {error}") from None
        if self.lr_schedule == "decay_after_pruning" and not self.depth_or_width:
            raise ValueError("decay_after_pruning is for iterative pruning: set depth_or_width")
        if self.emb_hidden_dim == 0:
            raise ValueError("emb_hidden_dim must be -1 or positive")
        self._refuse_unread()
        return self

    def _refuse_unread(self) -> None:
        defaults = setting_defaults(type(self))
        for switch, (what, turn_on, names) in READ_WITH.items():
            unread = [name for name in names if getattr(self, name) != defaults[name]]
            if unread and getattr(self, switch) in (None, False, "never"):
                verb = "is" if len(unread) == 1 else "are"
                default_flags = " ".join(f"--{name} {defaults[name]}" for name in unread)
                raise ValueError(
                    f"{', '.join(unread)} {verb} for {what}: {turn_on}, or type {default_flags}"
                )

    @property
    def target(self) -> Shape | None:
        """The shape that keep_heads, keep_layers, ffn_hidden_dim, emb_hidden_dim name, or None."""
        heads, layers = self.keep_heads, self.keep_layers
        ffn, rank = self.ffn_hidden_dim, self.emb_hidden_dim
        if heads is None or layers is None or ffn is None or rank is None:
            return None
        return Shape(heads, layers, ffn, rank)

    @field_validator("layer_map")
    @classmethod
    def _is_a_map(cls, value: str) -> str:
        if not re.fullmatch(r"uniform|last|ends|t_top[1-9]\d{0,3}", value):
            raise ValueError(
                "must be uniform, last, ends, or t_top8 for a teacher's first 8 layers"
            )
        return value

    @field_validator("hsk")
    @classmethod
    def _is_an_amount(cls, value: str | None) -> str | None:
        hsk_amount(value)
        return value

    @property
    def hsk_tokens(self) -> bool:
        """Whether some tokens of a row are followed, not all."""
        return hsk_amount(self.hsk).tokens is not None

    @property
    def hsk_share(self) -> bool:
        """Whether some units of a state are followed, not all."""
        return hsk_amount(self.hsk).hidden < 1

    @property
    def fresh_vectors(self) -> str | None:
        """The vectors by which words are replaced anew in the epochs; None if they are not."""
        return None if self.fresh_augmentation == "never" else self.glove_embs


class HskAmount(NamedTuple):
    """How much is followed of the teacher's hidden states; `hsk_amount` reads it."""

    layers: int | None = None  # the student's last so many states; None: all
    tokens: int | None = None  # positions of each row; None: all
    hidden: float = 1.0  # share of the units of a state


def hsk_amount(word: str | None) -> HskAmount:
    """The amount of the authors' word `1l_10t_0.1h`, of which some parts may be left out.

    Raises `ValueError`.
    """
    if word is None:
        return HskAmount()
    found = re.fullmatch(r"(?:(\d{1,4})l)?_?(?:(\d{1,6})t)?_?(?:(\d?(?:\.\d+)?)h)?", word)
    parts = [] if found is None else [part for part in found.groups() if part]
    if found is None or word.count("_") != len(parts) - 1 or not word[0].isalnum():
        raise ValueError(
            "must be of the form 1l_10t_0.1h: student states, tokens of a row, share of the units;"
            " parts may be left out"
        )
    layers, tokens, hidden = found.groups()
    amount = HskAmount(
        int(layers) if layers else None, int(tokens) if tokens else None, float(hidden or 1)
    )
    if amount.layers == 0 or amount.tokens == 0 or not 0 < amount.hidden <= 1:
        raise ValueError("needs at least one state, one token, and a share above 0 and up to 1")
    return amount


def shared(name: str) -> Any:
    """A setting of training in another settings class: the same default, help and limits."""
    return KDSettings.model_fields[name]


class TestSettings(BaseModel):
    """Settings of KD/test.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student_model: str = setting(..., "model folder to test")
    output_dir: str | None = setting(None, "folder for the results (default: the model's)")
    data_dir: str = shared("data_dir")
    cache_dir: str | None = shared("cache_dir")
    do_lower_case: bool | None = shared("do_lower_case")
    label_names: str | None = shared("label_names")
    accept_changed: bool = shared("accept_changed")
    do_eval: bool = setting(False, "score the dev files")
    do_predict: bool = setting(False, "predict the test files")
    max_seq_length: int = shared("max_seq_length")
    eval_batch_size: int = shared("eval_batch_size")
    submission_dir: str | None = setting(None, "collect the predictions for the GLUE server here")
    seed: int = setting(42, "accepted and not needed: testing draws nothing")
    no_cuda: bool = shared("no_cuda")
    classifier_activation: ClassifierActivation = shared("classifier_activation")


class ExportSettings(BaseModel):
    """Settings of Deploy/export.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = setting(..., "model folder to export")
    output_dir: str = setting(..., "folder to write")
    formats: str = setting("hf,onnx,int8", "some of hf, onnx, int8")
    max_drop: float = setting(0.01, "fail if a format's dev score is lower by more", ge=0)
    license: str | None = setting(None, "license that the model card names, such as apache-2.0")
    base_model: str | None = setting(
        None, "pretrained model that the card names (default: what download_bert.py fetched)"
    )
    overwrite_output_dir: bool = setting(False, "replace what output_dir holds")
    label_names: str | None = shared("label_names")
    accept_changed: bool = shared("accept_changed")
    data_dir: str = shared("data_dir")
    cache_dir: str | None = shared("cache_dir")
    max_seq_length: int = setting(
        128,
        "tokens after which a text is cut, here and in labelling; as trained if it is known",
        ge=3,
    )
