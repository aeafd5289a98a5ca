"""The training stages as functions: what they set up, run and leave behind, models in hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from rosita.checkpoint import (
    TokenizerFiles,
    load_model,
    resolve_folder,
    save_model,
    weights_hash,
)
from rosita.config import FineTuneSettings, KDSettings
from rosita.data import Sampler
from rosita.distillation import DistillationLoss, LabelLoss, Objective
from rosita.errors import RositaError
from rosita.model import RositaForSequenceClassification, set_dropout
from rosita.plan import Plan, total_steps
from rosita.preflight import check_disk, check_label_order, show_plan
from rosita.provenance import Run
from rosita.pruning import PruningSchedule, Shape, needs_scores, parameter_count, prune
from rosita.runtime import freeze
from rosita.stage import (
    Data,
    dev_scores,
    finish,
    load_data,
    new_run,
    saver,
    score_weights,
    train_file_names,
    with_fresh_rows,
)
from rosita.survivors import all_units, cut
from rosita.tasks import Task
from rosita.teacher_cache import cache_teacher, states_bytes
from rosita.training import Training

IN_MEMORY = "(in memory)"


@dataclass(frozen=True, eq=False, repr=False)
class TaskModel:
    """A model for one task, with its tokenizer; `path`: the folder that it was read from."""

    model: RositaForSequenceClassification
    tokenizer: TokenizerFiles
    task: Task
    path: str = IN_MEMORY

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


@dataclass
class Job:
    """One run of the loop, ready to go: what is trained by which objective on what data."""

    start: TaskModel
    data: Data
    objective: Objective
    sampler: Sampler
    plan: Plan
    accelerator: Accelerator
    run: Run
    eval_rows: int  # of a batch in evaluation

    def train(self, log_dir: Path) -> dict[str, Any] | None:
        """Train; the best evaluation, or None for a dry run and a run that is finished."""
        if not self._begins():
            return None
        run, task = self.run, self.start.task
        training = self._training(
            dev_scores(self.data, self.eval_rows),
            saver(run, self.start.tokenizer, task),
            self.used,
        )
        return finish(run, training.run(log_dir), load_model(run.folder, task))

    def score(self, mean: bool) -> None:
        """Write taylor.pkl of one pass; `mean`: divided by the number of batches."""
        if self._begins():
            score_weights(self.run, self._training(), mean)

    def _training(self, *more: Any) -> Training:
        return Training(self.start.model, self.objective, self.sampler, self.plan,
                        self.accelerator, self.run.folder, *more)  # fmt: skip

    @cached_property
    def used(self) -> Tensor | None:
        """Ids of the tokens whose embedding rows are trained; scoring takes all."""
        vocab_size = self.start.model.config.vocab_size
        return self.data.used_tokens(vocab_size) if self.plan.update else None

    def _begins(self) -> bool:
        """Whether to start: not finished, no dry run, room on the disk; the folder is ours then."""
        settings = self.plan.settings
        if self.run.is_finished(settings.overwrite_output_dir):
            return False
        check_disk(self.run.folder, self.start.model.config)
        if settings.dry_run:
            show_plan(self.start.model, self.objective, self.sampler, self.plan, self.accelerator,
                      self.data.dev, self.eval_rows, self.used)  # fmt: skip
            return False
        self.run.claim(settings.overwrite_output_dir)
        self.accelerator.wait_for_everyone()
        if isinstance(self.objective, DistillationLoss):
            self._cache_teacher(self.objective)
        return True

    def _cache_teacher(self, objective: DistillationLoss) -> None:
        """Run the teacher once over all rows, where what is wanted of it is little enough."""
        states, files = None, self.data.train
        if self.data.fresh and not self.data.fresh.alternate:
            return  # no row is seen twice
        if objective.repr_distill:
            states = self._followed_states(objective)
            limit = self.plan.settings.teacher_cache_gb
            size = states_bytes(files, states, self.start.model.config.hidden_size) / 1e9
            if size > limit:
                if limit:
                    print(
                        f"the teacher's hidden states take {size:.2g} GB, more than"
                        f" teacher_cache_gb {limit:g}: it runs in every step instead"
                    )
                return
        elif self.data.task.is_regression and objective.learn_labels:
            return  # the teacher has no part in it
        teacher_hash = self.run.identity["parents"]["teacher"]
        cache_teacher(objective.teacher, teacher_hash, files, self.accelerator, states)

    def _followed_states(self, objective: DistillationLoss) -> list[int]:
        """Numbers of the teacher's states that the student follows, in any shape that it takes."""
        schedule = self.plan.schedule
        layers = {self.start.shape.keep_layers}
        if schedule:
            layers = {schedule.shape(number).keep_layers for number in range(schedule.count + 1)}
        return sorted({state for count in layers for state in objective.mapping(count).values()})


def fine_tune_stage(
    start: TaskModel, settings: FineTuneSettings, accelerator: Accelerator
) -> dict[str, Any] | None:
    """Train on the labels; returns the best evaluation, or None (see `Job.train`)."""
    job = _label_job("fine_tune", start, settings, accelerator)
    return job.train(Path(settings.logging_dir or job.run.folder / "logging"))


def score_stage(start: TaskModel, settings: FineTuneSettings, accelerator: Accelerator) -> None:
    """Write output_dir/taylor.pkl by the label loss."""
    _label_job("taylor", start, settings, accelerator).score(mean=False)


def _label_job(
    stage: str, start: TaskModel, settings: FineTuneSettings, accelerator: Accelerator
) -> Job:
    data = load_data(settings, start.task, start.tokenizer, accelerator, start.model.config)
    parents = {"model": (start.path, start.model)}
    run = new_run(stage, settings, data, parents, Path(settings.output_dir), accelerator)
    rows = settings.per_gpu_train_batch_size * settings.gradient_accumulation_steps
    update = stage == "fine_tune"
    plan = Plan(
        settings,
        "warmup_linear" if update else "none",
        settings.warmup_steps,
        settings.per_gpu_train_batch_size,
        eval_step=settings.logging_steps if settings.evaluate_during_training else None,
        checkpoint_steps=settings.save_steps,
        update=update,
        score_by_unit=settings.score_by == "unit",
    )
    sampler = data.sampler(rows * accelerator.num_processes, settings.seed)
    return Job(start, data, LabelLoss(), sampler, plan, accelerator, run, settings.eval_batch_size)


def distil_stage(
    teacher: TaskModel,
    student: TaskModel,
    settings: KDSettings,
    accelerator: Accelerator,
    subsets: bool = False,
) -> dict[str, Any] | None:
    """Train the student, or with compute_taylor write taylor.pkl; returns the best evaluation.

    `subsets`: train on train_aug0.tsv, train_aug1.tsv, ... Both models are changed.
    """
    check_pair(teacher, student, settings)
    if settings.dropout is not None:
        set_dropout(student.model, settings.dropout)
    task = student.task
    files = train_file_names(Path(settings.data_dir), task, settings.aug_train, subsets)
    data = load_data(settings, task, student.tokenizer, accelerator, student.model.config, files)
    if settings.fresh_augmentation != "never":
        data = with_fresh_rows(data, settings, resolve_folder(student.path))
    stage = "taylor" if settings.compute_taylor else "distil"
    parents = {role: (one.path, one.model) for role, one in
               (("teacher", teacher), ("student", student))}  # fmt: skip
    run = new_run(stage, settings, data, parents, Path(settings.output_dir), accelerator)
    if run.is_finished(settings.overwrite_output_dir):  # before the teacher is asked anything
        return None
    sampler = data.sampler(settings.train_batch_size * accelerator.num_processes, settings.seed)
    plan = distil_plan(settings, student, sampler)
    frozen = freeze(teacher.model, accelerator)
    objective = DistillationLoss(
        frozen, settings.pred_distill, settings.repr_distill, settings.temperature,
        repr_weight=settings.repr_weight, label_weight=settings.label_weight,
        layer_map=settings.layer_map,
        positions=settings.max_seq_length if settings.repr_mean == "positions" else None,
        learn_labels=settings.regression_target == "labels",
    )  # fmt: skip
    with accelerator.autocast():
        check_label_order(task, frozen, data.dev, teacher.path, settings.eval_batch_size)
    job = Job(student, data, objective, sampler, plan, accelerator, run, settings.eval_batch_size)
    if settings.compute_taylor:
        job.score(mean=True)
        return None
    return job.train(run.folder / "logging")


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
    config = start.model.config
    pruned = replace(start, model=prune(start.model, target, scores, layers), path=str(folder))
    before, after = (weights_hash(one.model.state_dict()) for one in (start, pruned))
    used = weights_hash(scores) if needs_scores(config, target) else None
    identity = {
        "stage": "one_step_prune",
        "task": start.task.name,
        "settings": {"shape": str(target), **({"layers": layers} if layers else {})},
        "parents": {"model": before, "scores": used},
    }
    run = Run(folder, identity, {"parents": {"model": {"path": start.path, "weights": before}}})
    if run.is_finished(overwrite):
        return pruned
    run.claim(overwrite)
    _, record = cut(all_units(config), config, target, scores, layers)
    pruned.save(folder)
    run.write(finished=True, shape=str(target), parameters=pruned.parameters, weights=after,
              history=[{"step": 0, "shape": str(target), "layers": record}])  # fmt: skip
    return pruned


def distil_plan(settings: KDSettings, student: TaskModel, sampler: Sampler) -> Plan:
    """How the loop runs: one-step students keep their shape, iterative ones follow a schedule."""
    steps = total_steps(settings, sampler)
    schedule = None
    if settings.depth_or_width and not settings.compute_taylor:
        # as the reference counts: rows / batch, the last partial batch as a fraction
        whole = settings.num_train_epochs * sampler.rows / sampler.batch_size
        schedule = PruningSchedule.plan(
            student.model.config,
            settings.target,
            settings.depth_or_width,
            settings.prun_period_proportion * whole,
        )
        print(
            f"iterative {settings.depth_or_width} pruning: {schedule.count} prunings, one every"
            f" {schedule.period} of {steps} steps, {schedule.start} -> {schedule.target}"
        )
    return Plan(
        settings,
        settings.lr_schedule,
        settings.warmup_proportion * steps,
        settings.train_batch_size // settings.gradient_accumulation_steps,
        eval_step=settings.eval_step,
        patience=settings.patience,
        schedule=schedule,
        update=not settings.compute_taylor,
        save_ladder=settings.save_ladder,
        score_by_unit=settings.score_by == "unit",
        keep_optimizer=settings.keep_optimizer,
        recompute_svd=settings.recompute_svd,
    )


def check_pair(teacher: TaskModel, student: TaskModel, settings: KDSettings) -> None:
    """Teacher and student share hidden size and vocabulary; a shape that is named is the student's.

    Raises `RositaError`.
    """
    for name in ("hidden_size", "vocab_size"):
        theirs, ours = (getattr(one.model.config, name) for one in (teacher, student))
        if theirs != ours:
            raise RositaError(
                f"teacher {teacher.path} has {name} {theirs}, student {student.path} has {ours};"
                " the student must come from the same BERT"
            )
    one_step = not settings.depth_or_width and not settings.compute_taylor
    if settings.target and one_step and student.shape != settings.target:
        raise RositaError(
            f"{student.path} has the shape {student.shape}, the settings name {settings.target};"
            " prune it with pruning_one_step.py"
        )
