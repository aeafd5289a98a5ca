"""Fine-tuning and Taylor scores as stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rosita.checkpoint import TaskModel
from rosita.config import FineTuneSettings
from rosita.distillation.losses import LabelLoss
from rosita.errors import RositaError
from rosita.stages.inputs import load_data
from rosita.stages.job import Job
from rosita.stages.record import new_run
from rosita.training.plan import Plan


def fine_tune_stage(
    start: TaskModel, settings: FineTuneSettings, accelerator: Accelerator
) -> dict[str, Any] | None:
    """Train on the labels; returns the best evaluation, or None if nothing ran (`Job.begin`)."""
    job = _label_job("fine_tune", start, settings, accelerator)
    if not job.begin():
        return None
    return job.train(Path(settings.logging_dir or job.run.folder / "logging"))


def score_stage(start: TaskModel, settings: FineTuneSettings, accelerator: Accelerator) -> None:
    """Write output_dir/taylor.pkl by the label loss."""
    job = _label_job("taylor", start, settings, accelerator)
    if job.begin():
        job.score(mean=False)


def _label_job(
    stage: str, start: TaskModel, settings: FineTuneSettings, accelerator: Accelerator
) -> Job:
    if not start.task.train_labelled:
        raise RositaError(
            f"{start.task.name} has no labels in train (train_labelled is false): learn from a"
            " teacher instead, with KD/train.py"
        )
    data = load_data(settings, start.task, start.tokenizer, accelerator, start.model.config)
    run = new_run(stage, settings, data, {"model": start}, Path(settings.output_dir), accelerator)
    rows = settings.per_gpu_train_batch_size * settings.gradient_accumulation_steps
    update = stage == "fine_tune"
    plan = Plan(settings, settings.warmup_steps, settings.per_gpu_train_batch_size, update=update)
    sampler = data.sampler(rows * accelerator.num_processes, settings.seed)
    return Job(start, data, LabelLoss(), sampler, plan, accelerator, run)
