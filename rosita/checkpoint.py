"""A model folder: atomic write, strict read; opens ours, the reference's, and `BACKBONES`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor
from transformers.activations import ACT2FN

from rosita.backbones import Backbone, backbone_of
from rosita.cli import is_first_process
from rosita.config import ClassifierActivation
from rosita.data.rows import Rows
from rosita.description import check_vocabulary, describe, read_config
from rosita.errors import RositaError, first_line, nearest
from rosita.files import (
    atomic_write,
    check_kind,
    check_readable,
    read_torch,
    shard_names,
    values_hash,
)
from rosita.labels import asked_names, check_labels, set_names
from rosita.model import RositaConfig, RositaForSequenceClassification, build_model
from rosita.provenance import (
    OTHER_TASK,
    changed,
    check_unchanged,
    config_hash,
    file_hashes,
    require_finished,
    resolve_folder,
    say_once,
    weights_hash,
)
from rosita.pruning.shape import Shape, parameter_count
from rosita.tasks import Task
from rosita.tokenizer import TokenizerFiles, read_tokenizer, save_tokenizer

WEIGHTS = "model.safetensors"
OWN_HASH = "weights_hash"  # key of its metadata: the weights say themselves whether they are whole
REFERENCE_WEIGHTS = "pytorch_model.bin"


def save_model(
    folder: Path, model: RositaForSequenceClassification, tokenizer: TokenizerFiles, task: Task
) -> None:
    """Write config.json, the tokenizer and model.safetensors; the weights' rename comes last.

    A folder whose configuration changes gives up its old weights first: a reader finds a whole
    model or none.
    """
    save_description(folder, model.config, tokenizer, task)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(folder / WEIGHTS, "wb") as file:
        file.writelines(_with_hash(serialize(state, metadata={"format": "pt"}), state))


def _with_hash(content: bytes, state: dict[str, Tensor]) -> tuple[bytes, memoryview]:
    """A safetensors file whose metadata hold the hash of its weights: its beginning, and the rest.

    safetensors writes metadata of several keys in an order that it draws; here it is always one.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"][OWN_HASH] = weights_hash(state)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the weights begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text, memoryview(content)[end:]


def save_description(
    folder: Path, config: RositaConfig, tokenizer: TokenizerFiles, task: Task
) -> None:
    """Write config.json and the tokenizer; old weights go first if they were of another config."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    check_kind(path)
    text = _config_text(config, task)
    if not path.exists() or path.read_bytes() != text.encode():
        for name in (WEIGHTS, REFERENCE_WEIGHTS):
            (folder / name).unlink(missing_ok=True)
            _index(folder, name).unlink(missing_ok=True)
        with atomic_write(path) as file:
            file.write(text)
    save_tokenizer(folder, tokenizer, config.max_tokens)


def load_model(
    name_or_path: str | Path,
    task: Task,
    *,
    new_classifier: bool = False,
    classifier_activation: ClassifierActivation = "auto",
    label_names: str | None = None,
    accept_changed: bool = False,
) -> RositaForSequenceClassification:
    """Read a model folder strictly: every weight there, none too many, labels in the task's order.

    `new_classifier` allows a pretrained model without a classifier: it gets a new, random one.
    `label_names`: what the model calls the task's labels, in the task's order, with commas between;
    the model answers with them from then on, in whatever folder it is saved.
    `accept_changed`: also where the files are others than the folder's run.json names.
    Raises `RositaError` naming the folder, what is wrong with it, and what to do.
    """
    folder = resolve_folder(str(name_or_path))
    values = read_config(folder)
    backbone = backbone_of(values, folder)
    state, is_bin = _read_state(folder, backbone)
    if not accept_changed:
        _check_promised(folder, state)
    tuned = "classifier.weight" in state
    if not tuned and not new_classifier:
        raise RositaError(
            f"{folder} has no classifier: it is not tuned on {task.name}; run"
            f" Pruning/run_glue.py --do_train --task_name {task.name} first"
        )
    config = model_config(values, folder, task)
    names = asked_names(label_names, task)
    if tuned:
        count = len(state["classifier.weight"])
        names, rows = check_labels(values, count, task, folder, names)
        for name in {"classifier.weight", "classifier.bias"} & state.keys():
            state[name] = state[name][rows]
    set_names(config, task, names)
    if classifier_activation != "auto":
        config.classifier_activation = _asked_activation(classifier_activation)
    elif is_bin and tuned and values.get("model_type", "bert") == "bert":
        if _is_from_kd(values):
            config.classifier_activation = "relu"
        _say_activation(folder, config.classifier_activation)
    if not tuned:
        state |= _new_head(config, has_pooler="bert.pooler.dense.weight" in state)
    _check_weights(config, state, folder, backbone)
    return build_model(config, {name: value.float() for name, value in state.items()})


def _say_case(lower_cases: bool) -> None:
    flag = "do_lower_case false" if lower_cases else "--do_lower_case"
    say_once(
        f"{'an uncased' if lower_cases else 'a cased'} model, and it stays so: {flag} changes"
        " nothing, its own tokenizer.json or tokenizer_config.json decides",
        file=sys.stderr,
    )


def _config_text(config: RositaConfig, task: Task) -> str:
    if not getattr(config, "task_labels", None):
        set_names(config, task, None)
    config.architectures = ["RositaForSequenceClassification"]
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=str) + "\n"


def _read_state(folder: Path, backbone: Backbone) -> tuple[dict[str, Tensor], bool]:
    """The weights that we use, by our names, and whether they come from .bin files."""
    files = weight_files(folder)
    state = {name: value for path in files for name, value in _read_weights(path).items()}
    names = backbone.rename(state, folder)
    return {ours: state[theirs] for ours, theirs in names.items()}, files[0].suffix == ".bin"


def _check_promised(folder: Path, state: dict[str, Tensor]) -> None:
    """Raise `RositaError` if a file is not that of run.json, or weights not what they say."""
    run = check_unchanged(folder)
    if WEIGHTS in run.get("files", {}):
        return
    promised = {_own_hash(folder / WEIGHTS), run.get("weights")} - {None}
    if promised and promised != {weights_hash(state)}:
        raise changed(folder / WEIGHTS)


def _own_hash(path: Path) -> str | None:
    """The hash that `save_model` wrote into the weights; None for those of others."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(OWN_HASH)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights: one, or the shards that an index names.

    Raises `RositaError` if there are none, or if a shard is missing.
    """
    for name in (WEIGHTS, REFERENCE_WEIGHTS):
        if (folder / name).exists():
            return [folder / name]
        if (index := _index(folder, name)).exists():
            return _shards(index)
    raise RositaError(f"{folder} has neither {WEIGHTS} nor {REFERENCE_WEIGHTS}; make it again")


def _index(folder: Path, name: str) -> Path:
    """The file that names the shards of weights which would be called `name` in one piece."""
    return folder / f"{name}.index.json"


def _shards(index: Path) -> list[Path]:
    shards = shard_names(index)
    for name in shards:
        if not (index.parent / name).is_file():
            raise RositaError(
                f"{index.parent} has no {name}, which {index.name} names as a shard of the weights;"
                " copy it there from where the others come from"
            )
    return [index.parent / name for name in shards]


def _read_weights(path: Path) -> dict[str, Tensor]:
    check_readable(path)
    try:
        state = read_torch(path) if path.suffix == ".bin" else load_file(path)
    except (SafetensorError, OSError) as error:
        reason = first_line(error)
        raise RositaError(f"{path} cannot be read, it is cut off or altered: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RositaError(f"{path} does not hold a state dict of tensors")
    return state


def model_config(values: dict[str, Any], folder: Path, task: Task) -> RositaConfig:
    """The configuration that a config.json (`read_config`) stands for, with the task's labels."""
    made = describe(values, folder)
    if made.hidden_act not in ACT2FN:
        name = backbone_of(values, folder).settings["hidden_act"]
        hint = nearest(made.hidden_act, list(ACT2FN))
        raise RositaError(
            f"{folder}/config.json makes no sense: transformers knows no {name}"
            f" {made.hidden_act!r:.40}{hint}"
        )
    given = made.model_dump(exclude_unset=True)
    return RositaConfig(**given, id2label=dict(enumerate(task.outputs)))


def _is_from_kd(values: dict[str, Any]) -> bool:
    """Whether a tuned .bin folder comes from the reference's KD code, which applies a ReLU.

    The reference's fine-tuning, of dense models and of pruned ones alike, and transformers name
    the class of the model: (Prun)BertForSequenceClassification. KD code names none.
    """
    return "ForSequenceClassification" not in str(values.get("architectures"))


def _asked_activation(word: str) -> Literal["relu"] | None:
    """What `classifier_activation`, other than auto, puts before the classifier."""
    if word not in (known := get_args(ClassifierActivation)):
        raise RositaError(f"--classifier_activation {word!r} is not one of {', '.join(known)}")
    return "relu" if word == "relu" else None


def _say_activation(folder: Path, activation: str | None) -> None:
    how, flag, other = ("with", "none", "without") if activation else ("without", "relu", "with")
    print(
        f"{folder}: its config.json has it read {how} ReLU before the classifier"
        f" (--classifier_activation {flag}: {other})"
    )


def _new_head(config: RositaConfig, has_pooler: bool) -> dict[str, Tensor]:
    width, std = config.hidden_size, config.initializer_range
    head = {
        "classifier.weight": torch.randn(config.num_labels, width) * std,
        "classifier.bias": torch.zeros(config.num_labels),
    }
    if not has_pooler:
        head["bert.pooler.dense.weight"] = torch.randn(width, width) * std
        head["bert.pooler.dense.bias"] = torch.zeros(width)
    return head


def _check_weights(
    config: RositaConfig, state: dict[str, Tensor], folder: Path, backbone: Backbone
) -> None:
    with torch.device("meta"):
        expected = RositaForSequenceClassification(config).state_dict()
    missing = sorted(expected.keys() - state.keys())
    surplus = sorted(state.keys() - expected.keys())
    if missing or surplus:
        missing, surplus = (list(map(backbone.theirs, names)) for names in (missing, surplus))
        parts = [
            f"{kind} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            for kind, names in (("lacks", missing), ("has the surplus", surplus))
            if names
        ]
        hint = nearest(missing[0], surplus) if missing and surplus else ""
        raise RositaError(
            f"the weights in {folder}: {', '.join(parts)}{hint}; they do not fit its config.json"
        )
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise RositaError(
                f"{folder}: {backbone.theirs(name)} has the shape {list(state[name].shape)},"
                " config.json says"
                f" {list(value.shape)}"
            )
        if state[name].dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise RositaError(
                f"{folder}: {backbone.theirs(name)} is of type {state[name].dtype}: a quantized"
                " model cannot be trained on; take the one that it was made from"
            )
        if not torch.isfinite(state[name]).all():
            raise RositaError(
                f"{folder}: {backbone.theirs(name)} has NaN or infinite values; make the model"
                " again"
            )


def tokenizer_hash(tokenizer: TokenizerFiles) -> str:
    """SHA-256 of all that decides the pieces of a text."""
    return values_hash([tokenizer.json, tokenizer.special])


IN_MEMORY = "(in memory)"


@dataclass(frozen=True, eq=False, repr=False)
class TaskModel:
    """A model for one task, with its tokenizer; `path`: the folder that it was read from;
    `max_seq_length`: after how many tokens its texts were cut in training, None: not known."""

    model: RositaForSequenceClassification
    tokenizer: TokenizerFiles
    task: Task
    path: str = IN_MEMORY
    max_seq_length: int | None = None

    @classmethod
    def open(
        cls,
        name_or_path: str | Path,
        task: Task,
        *,
        do_lower_case: bool | None = None,
        **how: Any,
    ) -> TaskModel:
        """Read a model folder, or the pretrained BERT of that name; `how`: see `load_model`.

        The folder decides the case; `do_lower_case` that says otherwise is answered by a line.
        """
        folder = resolve_folder(str(name_or_path))
        if not how.get("accept_changed"):
            require_finished(folder, task.name, OTHER_TASK)
        model = load_model(folder, task, **how)  # first: it tells files that were changed
        tokenizer = read_tokenizer(folder)
        check_vocabulary(tokenizer, model.config.vocab_size, folder)
        if do_lower_case not in (None, tokenizer.lower_cases) and is_first_process():
            _say_case(tokenizer.lower_cases)
        length = Rows.of_folder(folder).max_seq_length
        return cls(model, tokenizer, task, str(name_or_path), length)

    def files(self) -> dict[str, str]:
        """Hashes of the files that it was read from; none if it was made in memory."""
        return {} if self.path == IN_MEMORY else file_hashes(resolve_folder(self.path))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of what it was read as, or made as in memory, by the keys of `OF_MODELS`."""
        return {
            "parents": weights_hash(self.model.state_dict()),
            "configs": config_hash(self.model.config),
            "tokenizers": tokenizer_hash(self.tokenizer),
        }

    @property
    def labels(self) -> list[str] | None:
        """What it calls the task's labels, in the task's order; None in a regression."""
        return None if self.task.is_regression else list(self.model.config.id2label.values())

    @property
    def shape(self) -> Shape:
        """Kept heads, layers, FFN units and embedding rank."""
        return Shape.of(self.model.config)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return parameter_count(self.model.config)

    def __repr__(self) -> str:
        return f"{self.task.name} {self.shape}, {self.parameters:,} parameters, {self.path}"

    def save(self, folder: str | Path) -> TaskModel:
        """Write config, weights and tokenizer to `folder`, without the record of a run."""
        save_model(Path(folder), self.model, self.tokenizer, self.task)
        return replace(self, path=str(folder))
