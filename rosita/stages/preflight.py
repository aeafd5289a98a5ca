"""Before hours of training: room on the disk, the teacher's labels, the plan and its time."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from rosita.data.batches import Batch, Encoded
from rosita.distillation.losses import LossSum, Objective
from rosita.errors import RositaError
from rosita.evaluation import predict
from rosita.model import RositaConfig
from rosita.pruning.shape import Shape, parameter_count, shaped_config
from rosita.tasks import Task
from rosita.training.loop import Training
from rosita.training.plan import Plan, total_steps

if TYPE_CHECKING:
    from rosita.stages.job import Job

TIMED_STEPS, WARM_STEPS = 12, 4
SAMPLE = 1000  # dev rows that the label check and the timing of an evaluation look at
NO_CHANCE = 1e-6  # probability below which a score is not bad luck


def disk_needed(config: RositaConfig) -> int:
    """Bytes that a run writes at most at a time.

    The model, the state (weights, two moments, importance), and each once more while it is
    replaced.
    """
    return 2 * 5 * 4 * parameter_count(config)


def check_disk(folder: Path, config: RositaConfig) -> None:
    """Raise `RositaError` if the disk of `folder` has no room for a run of this model."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    needed, free = disk_needed(config), shutil.disk_usage(there).free
    if free < needed:
        raise RositaError(
            f"the disk of {folder} has {free / 1e6:,.0f} MB free, a run of this model needs"
            f" {needed / 1e6:,.0f} MB for model and state; make room, or give another --output_dir"
        )


def check_label_order(
    task: Task, teacher: nn.Module, dev: Encoded, folder: str, eval_batch_size: int = 32
) -> None:
    """Refuse a teacher that knows the task but has its labels in another order.

    A dev accuracy below chance is that or bad luck; it is refused where bad luck is out of the
    question and another order is better than chance. `folder` is the teacher's, for the message.
    """
    labels = task.labels
    if labels is None or task.multi_label:
        return
    from scipy.optimize import linear_sum_assignment  # heavy imports, only needed here
    from scipy.stats import binomtest

    part = _sample(dev)
    said = predict(teacher, part, eval_batch_size).argmax(axis=1)
    counts = np.zeros((task.num_labels, task.num_labels), dtype=int)  # said, is
    np.add.at(counts, (said, np.asarray(part.labels)), 1)
    rows, chance = len(part), 1 / task.num_labels
    right = int(counts.trace())
    if binomtest(right, rows, chance, alternative="less").pvalue > NO_CHANCE:
        return
    outputs, meant = linear_sum_assignment(counts, maximize=True)
    reordered = int(counts[outputs, meant].sum())
    if binomtest(reordered, rows, chance, alternative="greater").pvalue > NO_CHANCE:
        return
    order = ", ".join(
        f"its {labels[output]!r} is {labels[label]!r}"
        for output, label in zip(outputs, meant, strict=True)
        if output != label
    )
    raise RositaError(
        f"the labels of {folder} are in another order than {task.name}'s: dev accuracy"
        f" {right / rows:.3f}, below chance; reordered {reordered / rows:.3f} ({order}). Tune it"
        " again, or, if its labels have names, name them in the task's order by --label_names"
    )


def _sample(dev: Encoded) -> Encoded:
    return dev.part(0, min(SAMPLE, len(dev)))


class Timed:
    """An objective that notes when each step begins."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.begun: list[float] = []

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, LossSum]:
        self.begun.append(time.perf_counter())
        return self.objective.losses(model, batch)


def show_plan(job: Job) -> None:
    """Print what a run would do, and how long: a few steps and part of dev are timed.

    The model is changed by the timed steps; nothing is written.
    """
    settings, sampler, schedule = job.plan.settings, job.sampler, job.plan.schedule
    config, dev_rows = job.start.model.config, len(job.data.dev)
    steps = total_steps(settings, sampler)
    start = Shape.of(config)
    target = schedule.target if schedule else start
    print("plan (--dry_run: nothing is written):")
    print(f"  shape       {start}" + (f" -> {target}" if target != start else ""))
    before = parameter_count(config)
    after = parameter_count(shaped_config(config, target))
    print(f"  parameters  {before:,}" + (f" -> {after:,}" if after != before else ""))
    print(f"  data        {sampler.rows:,} rows, {dev_rows:,} dev rows")
    evaluations = evaluation_count(job.plan, steps)
    print(f"  steps       {steps:,} of {sampler.batch_size} rows, {evaluations:,} evaluations")
    if job.teacher:
        print(f"  teacher     {job.teacher}")
    if schedule:
        print(f"  prunings    {schedule.count}, one every {schedule.period:,} steps:")
        for number in range(1, schedule.count + 1):
            print(f"    step {number * schedule.period:>7,}  {schedule.shape(number)}")
    step, evaluation = _timed(job)
    seconds = steps * step + evaluations * evaluation
    print(
        f"  time        {_duration(seconds)} at most: {1000 * step:.0f} ms a step,"
        f" {evaluation:.1f} s an evaluation, measured now at {start}"
    )
    print(f"  disk        {disk_needed(config) / 1e6:,.0f} MB at most")


def evaluation_count(plan: Plan, steps: int) -> int:
    """How often a run of so many steps scores dev: every eval_step, at the end, and before each
    pruning whose model is kept."""
    if not plan.update:
        return 0
    every = plan.settings.eval_step or steps
    count = -(-steps // every)
    if (schedule := plan.schedule) and schedule.save_ladder:
        before = (schedule.period * number - 1 for number in range(1, schedule.count + 1))
        count += sum(step % every > 0 or not step for step in before)
    return count


def _timed(job: Job) -> tuple[float, float]:
    """Seconds of one step and of one evaluation."""
    settings = job.plan.settings.model_copy(
        update={"max_steps": WARM_STEPS + TIMED_STEPS + 1, "save_state_steps": 10**9}
    )
    timed = Timed(job.objective)
    short = replace(job.plan, settings=settings, schedule=None)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            job.start.model,
            timed,
            job.sampler,
            short,
            job.accelerator,
            Path(folder),
            used=job.used,
        )
        training.run()
    rows = -(-job.sampler.batch_size // job.accelerator.num_processes)
    micro_batches = max(1, -(-rows // short.micro_batch_size))
    begun = timed.begun[::micro_batches]
    begun = begun[min(WARM_STEPS, len(begun) - 1) :]
    step = (begun[-1] - begun[0]) / max(1, len(begun) - 1)
    part = _sample(job.data.dev)
    start = time.perf_counter()
    predict(training.student, part, settings.eval_batch_size)
    return step, (time.perf_counter() - start) * len(job.data.dev) / len(part)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds) % 60} s"
