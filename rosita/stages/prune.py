"""One-step pruning as a stage: a model in, a smaller model folder out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rosita.checkpoint import TaskModel
from rosita.data.rows import Rows
from rosita.files import values_hash
from rosita.model import RositaForSequenceClassification
from rosita.provenance import Run, read_run, weights_hash
from rosita.pruning.choice import Choice
from rosita.pruning.cut import Cut, needs_scores
from rosita.pruning.importance import important_layers, magnitude_scores, random_scores
from rosita.pruning.shape import Shape
from rosita.pruning.survivors import all_units, follow
from rosita.pruning.vocabulary import cut_tokenizer, cut_words


def choose(
    start: TaskModel, target: Shape, by: Choice, taylor: Callable[[], dict[str, Tensor]]
) -> tuple[TaskModel, dict[str, Tensor] | None, list[int] | None]:
    """The model to cut to `target`, its scores and the layers that stay: what `prune_stage` takes.

    Scores: None if none are needed; `taylor` gives them where they are Taylor's. Layers: None for
    the first ones.
    """
    scores, layers = None, None
    config = start.model.config
    if by.keep_layers_by == "score" or needs_scores(config, target):
        if by.importance == "magnitude":
            scores = magnitude_scores(start.model)
        else:
            scores = taylor() if by.reads_taylor else random_scores(start.model, by.seed)
        if by.keep_layers_by == "score":
            layers = important_layers(scores, config.num_hidden_layers, target.keep_layers)
    if by.from_scratch:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(by.seed)
            start = replace(start, model=RositaForSequenceClassification(config))
    return start, scores, layers


def prune_stage(
    start: TaskModel,
    target: Shape,
    scores: dict[str, Tensor] | None,
    folder: Path,
    overwrite: bool = False,
    layers: list[int] | None = None,
    pieces: list[int] | None = None,
    chosen: dict[str, Any] | None = None,
    from_scratch: bool = False,
) -> TaskModel:
    """Cut a model to `target` in one step and write it to `folder`, unless that is done already.

    `layers`: those that are kept, if not the first ones; `pieces`: ids of those that the vocabulary
    keeps, if not all. `chosen`: by which flags and files all this was chosen, for
    `identity.cut_already`. `from_scratch`: the weights are random, as `choose` made them.
    """
    config, scores = start.model.config, scores or {}
    cut = Cut.decide(config, target, scores, layers)
    fewer = keep_pieces(start, pieces)
    pruned = replace(fewer, model=cut.of_model(fewer.model), path=str(folder))
    read, after = start.hashes(), weights_hash(pruned.model.state_dict())
    used = weights_hash(scores) if cut.heads else None
    identity: dict[str, Any] = {
        "stage": "one_step_prune",
        "task": start.task.name,
        "settings": {
            "shape": str(target),
            **({"layers": layers} if layers else {}),
            **({"vocabulary": values_hash(pieces)} if pieces else {}),
        },
        **{kind: {"model": digest} for kind, digest in read.items()},
    }
    identity["parents"]["scores"] = used
    parent = {"path": start.path, "weights": read["parents"], "files": start.files()}
    known = Rows.of_task(start.task, start.max_seq_length)
    details = {
        "parents": {"model": parent},
        "names": start.labels,
        **({"chosen": chosen} if chosen else {}),
        **known.model_dump(exclude_none=True),
    }
    run = Run(folder, identity, details)
    if run.is_finished(overwrite):
        return pruned
    run.claim(overwrite)
    _, record = follow(all_units(config), cut, scores)
    pruned.save(folder)
    entry = {"kind": "pruning", "step": 0, "shape": str(target), "layers": record}
    run.write(
        finished=True,
        from_shape=None if from_scratch else trained_shape(start),
        shape=str(target),
        parameters=pruned.parameters,
        vocabulary=pruned.model.config.vocab_size,
        weights=after,
        history=[entry],
    )
    return pruned


def trained_shape(start: TaskModel) -> str | None:
    """The shape in which the weights were trained last; None if a cut's record does not say it."""
    run = read_run(Path(start.path))
    return run.get("from_shape") if run.get("stage") == "one_step_prune" else str(start.shape)


def keep_pieces(start: TaskModel, pieces: list[int] | None) -> TaskModel:
    """The same with these pieces of its vocabulary alone (ids, ascending; None: with all)."""
    if pieces is None:
        return start
    tokenizer = cut_tokenizer(start.tokenizer, pieces)
    model = cut_words(start.model, pieces, tokenizer.pad_id)
    return replace(start, model=model, tokenizer=tokenizer)
