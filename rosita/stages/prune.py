"""One-step pruning as a stage: a model in, a smaller model folder out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rosita.checkpoint import TaskModel
from rosita.provenance import Run, weights_hash
from rosita.pruning.cut import Cut
from rosita.pruning.shape import Shape
from rosita.pruning.survivors import all_units, follow


def prune_stage(
    start: TaskModel,
    target: Shape,
    scores: dict[str, Tensor] | None,
    folder: Path,
    overwrite: bool = False,
    layers: list[int] | None = None,
) -> TaskModel:
    """Cut a model to `target` in one step and write it to `folder`, unless that is done already.

    `layers`: those that are kept, if not the first ones.
    """
    config, scores = start.model.config, scores or {}
    cut = Cut.decide(config, target, scores, layers)
    pruned = replace(start, model=cut.of_model(start.model), path=str(folder))
    read, after = start.hashes(), weights_hash(pruned.model.state_dict())
    used = weights_hash(scores) if cut.heads else None
    identity: dict[str, Any] = {
        "stage": "one_step_prune",
        "task": start.task.name,
        "settings": {"shape": str(target), **({"layers": layers} if layers else {})},
        **{kind: {"model": digest} for kind, digest in read.items()},
    }
    identity["parents"]["scores"] = used
    parent = {"path": start.path, "weights": read["parents"], "files": start.files()}
    run = Run(folder, identity, {"parents": {"model": parent}})
    if run.is_finished(overwrite):
        return pruned
    run.claim(overwrite)
    _, record = follow(all_units(config), cut, scores)
    pruned.save(folder)
    entry = {"kind": "pruning", "step": 0, "shape": str(target), "layers": record}
    run.write(
        finished=True,
        shape=str(target),
        parameters=pruned.parameters,
        weights=after,
        history=[entry],
    )
    return pruned
