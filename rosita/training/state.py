"""What a killed run resumes from: everything that decides the rest of it, in OUTPUT_DIR/last."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rosita.errors import RositaError
from rosita.files import read_torch, write_torch
from rosita.model import build_model
from rosita.pruning.shape import Shape, shaped_config
from rosita.runtime import arithmetic
from rosita.training.plan import Progress

if TYPE_CHECKING:
    from rosita.training.loop import Training


def state_file(folder: Path) -> Path:
    """Where the state of the run that writes `folder` is."""
    return folder / "last" / "state.pt"


def save_state(training: Training) -> None:
    """Write everything that decides the rest of the run into one file, atomically."""
    training.read_losses()
    scaler = training.accelerator.scaler  # of fp16
    progress = asdict(training.progress)
    progress["seconds"] += time.perf_counter() - training.started
    random = {"torch": torch.get_rng_state()}
    if training.accelerator.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state()
    everyone = [random]
    if training.accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        everyone = gather_object([random])
    if training.accelerator.is_main_process:
        if training.curves:
            training.curves.flush()
        state = {
            "run": training.run_hash,
            "model": training.whole_model.state_dict(),
            "vocabulary": training.vocabulary.state_dict() if training.vocabulary else None,
            "shape": str(Shape.of(training.config)),
            "optimizer": training.optimizer.state_dict(),
            "importance": training.importance.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "progress": progress,
            "random": everyone,
            "dealt": _dealt(training),
            "pool_batches": training.sampler.pool_batches,
        }
        write_torch(state_file(training.folder), state)
    training.accelerator.wait_for_everyone()


def resume(training: Training) -> None:
    """Go on from the saved state, if there is one; says from which step.

    A damaged one is left, saying so: the run begins again. Raises `RositaError` for the state of
    another run.
    """
    state = _read_state(training)
    if state is None:
        return
    config = shaped_config(training.config, Shape.parse(state["shape"]))
    training.use(build_model(config, state["model"]))
    if training.vocabulary:
        training.vocabulary.load_state_dict(state["vocabulary"])
    try:
        training.optimizer.load_state_dict(state["optimizer"])
    except ValueError:  # weights of other groups
        raise RositaError(
            f"{state_file(training.folder)} is the state of an earlier version; start afresh with"
            " --overwrite_output_dir"
        ) from None
    training.importance.load_state_dict(state["importance"])
    if state["scaler"]:
        training.accelerator.scaler.load_state_dict(state["scaler"])
    training.progress = Progress(**state["progress"])
    if state["dealt"] == _dealt(training):
        random = state["random"][training.accelerator.process_index]
        torch.set_rng_state(random["torch"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"])
    else:  # other draws of dropout: new ones, of this step and process
        step = training.progress.step
        torch.manual_seed(hash((training.settings.seed, step, training.accelerator.process_index)))
        print(
            "the rows of a step are dealt out otherwise than before: it goes on with the same"
            " batches, but not to the same bits"
        )
    began = training.progress.arithmetic
    began[:] = began or ["by a version that does not say how it computed"]
    if began[-1] != (now := arithmetic(training.accelerator)):
        print(f"the run was {began[-1]} and is {now} from here: not to the same bits")
    training.sampler.pool_batches = state.get("pool_batches", 50)  # earlier versions had no rule
    print(
        f"going on from step {training.progress.step} of {training.total_steps}"
        f" ({training.folder}/last)"
    )


def _dealt(training: Training) -> list[int]:
    """How the rows of a step are dealt out: processes, rows of a forward pass."""
    return [training.accelerator.num_processes, training.plan.micro_batch_size]


def _read_state(training: Training) -> dict[str, Any] | None:
    """The state whole and of this very run, or None."""
    path = state_file(training.folder)
    try:
        state = read_torch(path, sealed=True)
    except FileNotFoundError:
        return None
    except RositaError as error:
        print(f"{error}; the run begins again")
        return None
    if state["run"] != training.run_hash:
        raise RositaError(
            f"{path} is the state of another run; move {path.parent} away, or start afresh with"
            " --overwrite_output_dir"
        )
    return state
