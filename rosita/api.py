"""The stages from Python: load, fine-tune, score, prune, distil, evaluate, export, label.

    from rosita import api

    bert = api.load("models/bert_pt", "SST-2", new_classifier=True)
    teacher = api.fine_tune(bert, "data/SST-2", num_train_epochs=3)
    small = api.prune(teacher, "a2_l8_f512_e128", api.score(teacher, "data/SST-2"))
    student = api.distil(teacher, small, "data/SST-2", pred_distill=True, repr_distill=True)
    api.export(student, "models/export/SST-2", "data/SST-2")

Each function is a stage script without its command line: the same settings with the same
defaults, the same loop, the same files. Models stay in memory and are never changed; a function
that is given `output_dir` writes the model folder that the script would, goes on with it if the
run was cut off, and only reads it if the run is finished. (Several processes need `output_dir`.)
Training seeds torch (`seed`). In the main thread SIGTERM and SIGINT save the state and end it.
Mistakes are a `RositaError`, arguments of another type a `TypeError`.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import numbers
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import BaseModel
from torch import Tensor

from rosita.checkpoint import IN_MEMORY, TaskModel, load_model
from rosita.cli import refuse_empty
from rosita.config import (
    KD,
    ClassifierActivation,
    ExportSettings,
    FineTuneSettings,
    KDSettings,
    LoopSettings,
)
from rosita.config_file import load_config
from rosita.data.rows import Rows
from rosita.deploy.labelling import Answer, Labeller, Texts
from rosita.errors import RositaError, nearest
from rosita.evaluation import Scores, predict
from rosita.evaluation import score as score_logits
from rosita.provenance import let_go
from rosita.pruning.choice import Choice, Importance, LayersBy
from rosita.pruning.cut import prune as prune_model
from rosita.pruning.importance import load_scores
from rosita.pruning.shape import Shape
from rosita.pruning.vocabulary import used_pieces
from rosita.runtime import start_accelerator
from rosita.stages.distil import distil_stage
from rosita.stages.export import _dev, export_stage
from rosita.stages.fine_tune import fine_tune_stage, score_stage
from rosita.stages.prune import choose, keep_pieces, prune_stage
from rosita.tasks import Task, find_task

# Settings of the scripts that the arguments of the functions here stand for.
_NOT_HERE = {
    "model_type", "model_name_or_path", "teacher_model", "student_model", "do_train", "do_eval",
    "do_predict", "is_prun", "compute_taylor", "do_lower_case", "classifier_activation", "fp16",
    "overwrite_cache", "model", "label_names", "accept_changed",
}  # fmt: skip
# Those of them that a JSON file may not have either, and what to do instead.
_OF_OTHERS = {
    "compute_taylor": "call api.score",
    **dict.fromkeys(
        ("classifier_activation", "label_names", "accept_changed"), "give it to api.load"
    ),
}
Settings = TypeVar("Settings", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")


def _typed(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function refuse arguments of other types than it says, by a `TypeError`, and a path
    that is empty, which would be the current folder, by a `RositaError`."""
    signature, hints = inspect.signature(function), get_type_hints(function)

    @functools.wraps(function)
    def checked(*given: P.args, **named: P.kwargs) -> R:
        for name, value in signature.bind(*given, **named).arguments.items():
            parameter = signature.parameters[name]
            if Path in get_args(hints[name]):
                refuse_empty(value, f"{function.__name__}: {name}")
            if parameter.kind is not parameter.VAR_KEYWORD and not _fits(value, hints[name]):
                meant = parameter.annotation
                if get_origin(hints[name]) is Literal:
                    meant = " or ".join(get_args(hints[name]))
                raise TypeError(f"{function.__name__}: {name} is {value!r:.60}, not {meant}")
        return function(*given, **named)

    return checked


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of one of the types of an annotation."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    plain = (numbers.Integral if kind is int else get_origin(kind) or kind for kind in kinds)
    return isinstance(value, tuple(plain))


# ---------------------------------------------------------------------- what a user calls


@_typed
def load(
    folder: str | Path,
    task: str | Task,
    *,
    new_classifier: bool = False,
    do_lower_case: bool | None = None,
    classifier_activation: ClassifierActivation = "auto",
    label_names: str | None = None,
    accept_changed: bool = False,
    seed: int = 42,
) -> TaskModel:
    """Read a model folder, or the name of a BERT that download_bert.py fetched, in fp32 on the CPU.

    `task`: a GLUE task's name, or the path of a task.json. A pretrained BERT has no classifier:
    `new_classifier` gives it a random one, drawn from `seed`. `label_names` is what the model calls
    the task's labels, in the task's order, as "negative,positive". The folder decides the case:
    `do_lower_case` is accepted and answered. `accept_changed` reads files too that are not those of
    the folder's run.json, and a model that it says was made for another task. Raises `RositaError`
    for a missing folder, weights that do not fit the config, other labels than the task's. Reads
    our format, a plain BERT's and that of the authors' models.
    """
    found = task if isinstance(task, Task) else find_task(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TaskModel.open(
            folder,
            found,
            new_classifier=new_classifier,
            do_lower_case=do_lower_case,
            classifier_activation=classifier_activation,
            label_names=label_names,
            accept_changed=accept_changed,
        )


@_typed
def fine_tune(
    start: TaskModel,
    data_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
    **settings: Any,
) -> TaskModel:
    """A copy of `start` trained on the labels of train.tsv: Pruning/run_glue.py --do_train.

    `settings` are those of `FineTuneSettings`: learning_rate (peak, per step), num_train_epochs (5;
    of a pruned CoLA model the script takes 20), max_steps, per_gpu_train_batch_size (rows),
    evaluate_during_training (keep the best dev score instead of the last step) ... Raises
    `RositaError` for unknown or wrong settings and broken data. `data_dir` holds train.tsv and
    dev.tsv (default: data/TASK of the repository).
    """
    with _output(output_dir) as folder:
        resolved = _settings(FineTuneSettings, start.task, settings, data_dir, folder)
        _check_kept("save_steps", resolved.save_steps, output_dir)
        fine_tune_stage(_copy(start), resolved, _accelerator(resolved))
        return _written(start, folder, output_dir, resolved)


@_typed
def score(
    start: TaskModel,
    data_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
    *,
    teacher: TaskModel | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """First-order Taylor scores |w * sum of |gradient|| of one pass over train.tsv (ROSITA, eq. 1).

    Returns parameter name without `bert.` -> score, shaped as the weight (out, in), for the six
    matrices of each layer. The gradient is that of the label loss, or of the distillation loss
    against `teacher` (then `settings` are those of `KDSettings`: pred_distill, repr_distill ...;
    else of `FineTuneSettings`). With `output_dir`, writes taylor_score/taylor.pkl into it.
    """
    with _output(output_dir) as model_folder:
        folder = model_folder / "taylor_score"
        given = {"num_train_epochs": 1, **settings}
        if teacher is None:
            by_label = _settings(FineTuneSettings, start.task, given, data_dir, folder)
            score_stage(_copy(start), by_label, _accelerator(by_label))
        else:
            resolved = _settings(KDSettings, start.task, given, data_dir, folder)
            by_teacher = resolved.model_copy(update={"compute_taylor": True})
            distil_stage(_copy(teacher), _copy(start), by_teacher, _accelerator(by_teacher))
        if settings.get("dry_run"):
            return {}
        return load_scores(folder / "taylor.pkl", start.model)


@_typed
def prune(
    start: TaskModel,
    shape: Shape | str,
    scores: dict[str, Tensor] | None = None,
    output_dir: str | Path | None = None,
    *,
    importance: Importance = "taylor",
    keep_layers_by: LayersBy = "position",
    from_scratch: bool = False,
    seed: int = 42,
    vocabulary: list[str] | None = None,
) -> TaskModel:
    """A smaller copy of `start`, at a `Shape` or its name: Pruning/pruning_one_step.py.

    `scores` as `score` returns them; needed if heads or FFN units are cut, or the layers that stay
    are chosen by score, unless `importance` is magnitude or random. `from_scratch` cuts random
    weights of the model's shape, as a baseline; `seed` is theirs and that of random importance.
    `vocabulary`: texts whose word pieces are kept alone, with every single character; the tokenizer
    is cut to match.
    With `output_dir`, writes the model folder that the script would. Raises `RositaError` for a
    shape that does not fit.
    """
    target = Shape.parse(shape) if isinstance(shape, str) else shape
    by = Choice(importance, keep_layers_by, from_scratch, seed)
    if scores is not None and not by.reads_taylor:
        raise RositaError("scores are for importance taylor, of a tuned model: leave them out")

    def taylor() -> dict[str, Tensor]:
        if not scores:
            raise RositaError(f"cutting to {target} needs Taylor scores: give those of api.score")
        return scores

    start, needed, layers = choose(start, target, by, taylor)
    pieces = None if vocabulary is None else used_pieces(start.tokenizer, vocabulary)
    if output_dir is not None:
        return prune_stage(
            start,
            target,
            needed,
            Path(output_dir),
            layers=layers,
            pieces=pieces,
            from_scratch=from_scratch,
        )
    start = keep_pieces(start, pieces)
    return replace(start, model=prune_model(start.model, target, needed, layers), path=IN_MEMORY)


@_typed
def distil(
    teacher: TaskModel,
    student: TaskModel,
    data_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
    *,
    config: str | Path | None = None,
    **settings: Any,
) -> TaskModel:
    """A copy of `student` trained to follow `teacher`, the best on dev: KD/train.py.

    `config`: a JSON file of settings, as those of KD/configurations/; arguments win over it, and
    the folders of models in it are not looked at. Its paths begin at KD/.

    `settings` are those of `KDSettings`: pred_distill, repr_distill (one at least), learning_rate,
    num_train_epochs, train_batch_size (rows), temperature, aug_train (train_aug.tsv), eval_step
    (steps between dev scores), patience (epochs) ...; depth_or_width with keep_heads, keep_layers,
    ffn_hidden_dim and emb_hidden_dim prunes on the way. Both models need the same tokenizer, with
    repr_distill the same hidden size too. Raises `RositaError` for models that do not match and
    wrong settings.
    """
    with _output(output_dir) as folder:
        resolved = _settings(KDSettings, student.task, settings, data_dir, folder, config)
        _check_kept("save_ladder", resolved.save_ladder, output_dir)
        distil_stage(_copy(teacher), _copy(student), resolved, _accelerator(resolved))
        return _written(student, folder, output_dir, resolved)


@_typed
def evaluate(
    start: TaskModel, data_dir: str | Path | None = None, max_seq_length: int | None = None
) -> Scores:
    """The task's metrics on the (first) dev file, in fp32: `main` (0..1 or -1..1) and `all`.

    Texts are cut after `max_seq_length` tokens (default: as in the model's training, if that is
    known, else the task's).
    """
    given = _as_trained(start)
    if max_seq_length is not None:
        given["max_seq_length"] = max_seq_length
    dev = _dev(start, _settings(ExportSettings, start.task, given, data_dir, Path("-")))
    return score_logits(start.task, predict(start.model, dev, 32), np.asarray(dev.labels))


@_typed
def export(
    start: TaskModel,
    output_dir: str | Path,
    data_dir: str | Path | None = None,
    *,
    formats: str = "hf,onnx,int8",
    **settings: Any,
) -> dict[str, Any]:
    """Write a model for transformers alone (hf), as ONNX, in int8: Deploy/export.py.

    Each format is opened and run on dev first. Returns the report that export.json holds: score,
    and per format its score, drop, share of equal predictions (0..1), bytes. Raises `RositaError`
    if one loses more than `max_drop` (of the metric, default 0.01), with nothing written.
    `max_seq_length` is by default what the model was trained with, if that is known, else the
    task's.
    """
    given = {**_as_trained(start), **settings, "formats": formats}
    resolved = _settings(ExportSettings, start.task, given, data_dir, Path(output_dir))
    return export_stage(start, resolved)


@_typed
def label(
    start: TaskModel | str | Path,
    texts: str | Texts | Iterable[str | Texts],
    form: str = "auto",
    max_seq_length: int | None = None,
) -> list[Answer]:
    """A label and its probability (0..1) per text or pair of texts; in regression a number.

    `texts`: a text; a pair, which is a tuple of two; or a list, or any other iterable, of texts or
    of pairs. `start`: a model in memory, or a model folder or export, of which `form` pytorch, onnx
    or int8 is run (auto: the first that is there). Texts are cut after `max_seq_length` tokens
    (default: as in the model's training, if that is known, else the task's). Raises `TypeError` for
    what is no text, and `RositaError` for a pair where the task has one text in a row, or the other
    way round.
    """
    rows = list(_rows(texts))
    if not isinstance(start, TaskModel):
        return list(Labeller(Path(start), form, max_seq_length).label(rows))
    known = Rows.of_task(start.task, start.max_seq_length or start.task.max_seq_length)
    with tempfile.TemporaryDirectory(prefix="rosita-") as folder:
        start.save(folder)
        labeller = Labeller(Path(folder), form, max_seq_length, rows=known)
        return list(labeller.label(rows))


def _rows(texts: str | Texts | Iterable[str | Texts]) -> Iterator[Texts]:
    """One text, one pair, or many of either, told apart by their types."""
    if isinstance(texts, str | tuple):
        yield _row(texts, "texts")
    elif isinstance(texts, bytes | Mapping | Set) or not isinstance(texts, Iterable):
        raise TypeError(f"label: texts is {texts!r:.60}; give a text, a pair, or a list of them")
    else:
        for number, text in enumerate(texts):
            yield _row(text, f"texts[{number}]")


def _row(text: object, name: str) -> Texts:
    row = (text,) if isinstance(text, str) else text
    if isinstance(row, tuple | list) and len(row) in (1, 2):
        if all(isinstance(part, str) for part in row):
            return tuple(row)
    raise TypeError(
        f"label: {name} is {text!r:.60}; a text is a str, a pair a tuple of two, and many of them"
        " are a list"
    )


# ---------------------------------------------------------------------- settings and folders


def _settings(
    kind: type[Settings],
    task: Task,
    given: dict[str, Any],
    data_dir: object,
    output: Path,
    config: str | Path | None = None,
) -> Settings:
    """Typed settings of a stage, checked and defaulted as those of the command line are."""
    known = sorted(kind.model_fields.keys() - _NOT_HERE)
    if unknown := sorted(given.keys() - known):
        hint = nearest(unknown[0], known)
        raise RositaError(f"unknown setting {unknown[0]!r}{hint} (known: {', '.join(known)})")
    values = {**given, "output_dir": output}
    if data_dir is not None:
        values["data_dir"] = data_dir
    for name in ("model", "model_name_or_path", "teacher_model", "student_model"):
        if name in kind.model_fields:
            values[name] = IN_MEMORY
    typed = {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}
    resolved = load_config(kind, task, typed, config, KD)
    for name in _OF_OTHERS & kind.model_fields.keys():
        if getattr(resolved, name) != kind.model_fields[name].default:
            raise RositaError(
                f"{config} [{task.name}] {name}: not for this function; take it out, and"
                f" {_OF_OTHERS[name]}"
            )
    return resolved


def _as_trained(start: TaskModel) -> dict[str, Any]:
    """The setting max_seq_length as the model was trained with it; {} if that is not known."""
    return {} if start.max_seq_length is None else {"max_seq_length": start.max_seq_length}


def _accelerator(settings: LoopSettings) -> Accelerator:
    """A new accelerator: accelerate keeps one precision per process, and refuses a second one."""
    gc.collect()  # circles of references hold the models of the stage before, its optimizer too
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    return start_accelerator(settings)


def _copy(start: TaskModel) -> TaskModel:
    """The same with a model of its own: training moves, casts and cuts the one it gets."""
    return replace(start, model=copy.deepcopy(start.model))


@contextmanager
def _output(output_dir: str | Path | None) -> Iterator[Path]:
    """The folder to write, or a temporary one: the loop keeps its state and best model there."""
    if output_dir is not None:
        yield Path(output_dir)
        return
    with tempfile.TemporaryDirectory(prefix="rosita-") as folder:
        try:
            yield Path(folder)
        finally:
            let_go(Path(folder))  # Windows removes no file that is open


def _check_kept(name: str, asked: object, output_dir: object) -> None:
    """Raise `RositaError` for models that are to be kept on the way, with no folder to be in."""
    if asked and output_dir is None:
        raise RositaError(f"{name} keeps models in output_dir: give one, or leave {name} out")


def _written(start: TaskModel, folder: Path, output_dir: object, settings: LoopSettings):
    """What a stage wrote, as read back; of a dry run, what it was given."""
    if settings.dry_run:
        return start
    path = IN_MEMORY if output_dir is None else str(output_dir)
    model, length = load_model(folder, start.task), settings.max_seq_length
    return replace(start, model=model, path=path, max_seq_length=length)
