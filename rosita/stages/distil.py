"""Distillation as a stage: teacher and student in, the trained student out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from rosita.checkpoint import TaskModel
from rosita.config import KDSettings, hsk_amount
from rosita.data.batches import Sampler
from rosita.description import check_length
from rosita.distillation.knowledge import Knowledge, layer_map
from rosita.distillation.losses import DistillationLoss
from rosita.distillation.teacher import CannotRemember, Teacher
from rosita.errors import RositaError
from rosita.files import values_hash
from rosita.model import set_dropout
from rosita.provenance import read_run
from rosita.pruning.schedule import PruningSchedule
from rosita.runtime import freeze
from rosita.stages.identity import check_augmented, kd_stage, train_file_names
from rosita.stages.inputs import Data, load_data, with_fresh_rows
from rosita.stages.job import Job
from rosita.stages.preflight import check_label_order
from rosita.stages.record import new_run
from rosita.training.cpu import fast_on_cpu
from rosita.training.plan import Plan, total_steps

STATES_GB = 4.0  # of hidden states that are kept without being asked for, on a CPU


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
    data = distil_data(settings, student, accelerator, subsets)
    check_kept_pieces(teacher, data)
    parents = {"teacher": teacher, "student": student}
    folder = Path(settings.output_dir)
    run = new_run(kd_stage(settings), settings, data, parents, folder, accelerator)
    if run.is_finished(settings.overwrite_output_dir):  # before the teacher is asked anything
        return None
    sampler = data.sampler(settings.train_batch_size * accelerator.num_processes, settings.seed)
    plan = distil_plan(settings, student, sampler)
    objective = distil_loss(settings, teacher, accelerator)
    guide = objective.teacher
    with accelerator.autocast():
        check_label_order(data.task, guide.model, data.dev, teacher.path, settings.eval_batch_size)
    memory = to_remember(settings, objective, data, student, plan, sampler)
    job = Job(student, data, objective, sampler, plan, accelerator, run, teacher=memory.says)
    if not job.begin():
        return None
    if memory.wanted:
        identity = [run.identity[kind]["teacher"] for kind in ("parents", "configs")]
        try:
            guide.remember(data.train, values_hash(identity), accelerator, memory.states)
            run.details["teacher_states_bytes"] = memory.states_bytes
        except CannotRemember as error:
            asked = settings.teacher_cache_gb is not None or not memory.states
            if asked or accelerator.num_processes > 1:
                raise
            print(f"{error.why}: the teacher runs in every step instead")
    if settings.compute_taylor:
        job.score(mean=True)
        return None
    return job.train(run.folder / "logging")


def distil_data(
    settings: KDSettings, student: TaskModel, accelerator: Accelerator, subsets: bool
) -> Data:
    """The rows that the student learns from, checked against what wrote them, and dev."""
    task, folder = student.task, Path(settings.data_dir)
    if subsets and settings.fresh_vectors:
        raise RositaError(
            "fresh_augmentation draws from train.tsv, not from the subsets of train_aug.tsv: take"
            " KD/train.py, or leave it out"
        )
    names = train_file_names(folder, task, settings.aug_train, subsets)
    data = load_data(settings, task, student.tokenizer, accelerator, student.model.config, names)
    if settings.aug_train or subsets:
        check_augmented(folder, task, {file.path.name: file.sha256 for file in data.train})
    if vectors := settings.fresh_vectors:
        return with_fresh_rows(data, settings, vectors, student)
    return data


def check_kept_pieces(teacher: TaskModel, data: Data) -> None:
    """Raise `RositaError` for a teacher that lost word pieces, was not trained since, and so says
    what it said before of the texts alone whose pieces it kept, if these are others than `data`."""
    run = read_run(Path(teacher.path))
    kept = run.get("chosen", {}).get("vocabulary")
    if run.get("stage") != "one_step_prune" or not kept:
        return
    if others := [file.path.name for file in data.train if file.sha256 not in kept]:
        raise RositaError(
            f"the teacher {teacher.path} has the word pieces of other texts than {others[0]}, and"
            " was not trained on it since; cut it again with -vocabulary train, which reads what is"
            " in the data folder then"
        )


def distil_loss(
    settings: KDSettings, teacher: TaskModel, accelerator: Accelerator
) -> DistillationLoss:
    """The losses that the settings name, with the teacher frozen on its device."""
    model = freeze(fast_on_cpu(teacher.model), accelerator)
    return DistillationLoss(
        Teacher(model, followed_knowledge(settings, teacher)),
        settings.pred_distill,
        settings.repr_distill,
        settings.temperature,
        repr_weight=settings.repr_weight,
        label_weight=settings.label_weight,
        positions=settings.max_seq_length if settings.repr_mean == "positions" else None,
        learn_labels=settings.regression_target == "labels",
    )


class Memory(NamedTuple):
    """Whether the teacher runs once over all rows, which hidden states are kept, and in words."""

    wanted: bool
    states: list[int] | None
    says: str
    states_bytes: int = 0  # the room on disk that what is followed of these states takes


def to_remember(
    settings: KDSettings,
    objective: DistillationLoss,
    data: Data,
    student: TaskModel,
    plan: Plan,
    sampler: Sampler,
) -> Memory:
    """What of the teacher is kept on disk: what the student learns, if it is little enough."""
    if not objective.repr_distill and data.task.is_regression and objective.learn_labels:
        return Memory(False, None, "has no part in it: regression_target labels")
    never_twice = Memory(False, None, "runs in every step: no row is seen twice")
    if data.fresh and not data.fresh.alternate:
        return never_twice
    if not objective.repr_distill:
        return Memory(True, None, "runs once over all rows: its logits are kept on disk")
    limit = settings.teacher_cache_gb
    if limit is None:
        once = sampler.steps_per_epoch * (2 if data.fresh else 1)  # every second epoch is plain
        if total_steps(settings, sampler) <= once:
            return never_twice
        if objective.teacher.model.device.type != "cpu":
            return Memory(False, None, "runs in every step, faster than its states are read")
        limit = STATES_GB
    states = followed_states(objective, student, plan)
    size = objective.teacher.states_bytes(data.train, states)
    take = f"its hidden states take {size / 1e9:.2g} GB"
    if size / 1e9 > limit:
        return Memory(
            False, None, f"runs in every step: {take}, more than the {limit:g} of teacher_cache_gb"
        )
    where = data.train[0].cache
    says = f"runs once over all rows: {take}, and are kept in {where}"
    return Memory(True, states, says, size)


def followed_states(objective: DistillationLoss, student: TaskModel, plan: Plan) -> list[int]:
    """Numbers of the teacher's states that the student follows, in any shape that it takes."""
    schedule = plan.schedule
    layers = {student.shape.keep_layers}
    if schedule:
        layers = {schedule.shape(number).keep_layers for number in range(schedule.count + 1)}
    mappings = [objective.teacher.mapping(count) for count in layers]
    return sorted({state for mapping in mappings for state in mapping.values()})


def followed_knowledge(settings: KDSettings, teacher: TaskModel) -> Knowledge:
    """What the settings say of the teacher's hidden states."""
    sep, amount = teacher.tokenizer.token("sep"), hsk_amount(settings.hsk)
    return Knowledge(
        amount,
        settings.layer_map,
        settings.hsk_length,
        settings.hsk_width,
        settings.hsk_masked == "left_out",
        settings.seed,
        teacher.tokenizer.pieces[sep] if sep else None,
        row_means=settings.repr_mean == "tokens" and amount.tokens is not None,
    )


def distil_plan(settings: KDSettings, student: TaskModel, sampler: Sampler) -> Plan:
    """How the loop runs: one-step students keep their shape, iterative ones follow a schedule."""
    steps = total_steps(settings, sampler)
    schedule, target = None, settings.target
    if settings.depth_or_width and target and not settings.compute_taylor:
        # as the reference counts: rows / batch, the last partial batch as a fraction
        whole = settings.num_train_epochs * sampler.rows / sampler.batch_size
        schedule = PruningSchedule.plan(
            student.model.config,
            target,
            settings.depth_or_width,
            settings.prun_period_proportion * whole,
            steps,
        )
        check_warmup(settings, steps, schedule)
        schedule = replace(
            schedule,
            save_ladder=settings.save_ladder,
            keep_optimizer=settings.keep_optimizer,
            recompute_svd=settings.recompute_svd,
        )
        print(
            f"iterative {settings.depth_or_width} pruning: {schedule.count} prunings, one every"
            f" {schedule.period} of {steps} steps, {schedule.start} -> {schedule.target}"
        )
    states_alone = not (settings.pred_distill or settings.label_weight or settings.compute_taylor)
    if states_alone:
        print(
            "hidden states alone are learnt: the last step is kept, as no dev score tells which is"
            " the best, and patience does not count"
        )
    return Plan(
        settings,
        settings.warmup_proportion * steps,
        settings.train_batch_size // settings.gradient_accumulation_steps,
        schedule,
        update=not settings.compute_taylor,
        keep_last=states_alone,
    )


def check_warmup(settings: KDSettings, steps: int, schedule: PruningSchedule) -> None:
    """Refuse a pruning within the warm-up: by warmup_linear the rate that it finds is the highest
    of all that follow, and at the first step, of however short a warm-up, it is zero."""
    warm = settings.warmup_proportion * steps
    within = warm > (0 if schedule.period == 1 else schedule.period)
    if settings.lr_schedule == "warmup_linear" and within:
        raise RositaError(
            f"the first pruning, at step {schedule.period}, comes within the warm-up of {warm:g}"
            " steps, and by lr_schedule warmup_linear the rate rises no more after it: set"
            " warmup_proportion 0, as the configs do that prune on the way"
        )


def check_pair(teacher: TaskModel, student: TaskModel, settings: KDSettings) -> None:
    """Teacher and student read texts alike; where hidden states are learnt they have one size; a
    shape that is named is the student's.

    Raises `RositaError`.
    """
    if teacher.task.name != student.task.name:
        raise RositaError(
            f"the teacher {teacher.path} is of {teacher.task.name}, the student {student.path} of"
            f" {student.task.name}; both must be of one task"
        )
    if found := teacher.tokenizer.difference(student.tokenizer):
        raise RositaError(
            f"teacher {teacher.path} and student {student.path} read texts otherwise: {found};"
            " the student must have its teacher's tokenizer"
        )
    check_length(settings.max_seq_length, teacher.model.config)
    if settings.repr_distill:
        check_states(teacher, student, settings)
    learns_labels = settings.label_weight or (
        student.task.is_regression and settings.regression_target == "labels"
    )
    if learns_labels and not student.task.train_labelled:
        name = "label_weight" if settings.label_weight else "regression_target labels"
        raise RositaError(
            f"{name} needs labels, and {student.task.name} has none in train (train_labelled is"
            " false); leave it out"
        )
    if student.task.is_regression and settings.temperature != 1:
        raise RositaError(
            f"temperature softens the logits of labels, and {student.task.name} is a regression;"
            " leave it out"
        )
    one_step = not settings.depth_or_width and not settings.compute_taylor
    if settings.target and one_step and student.shape != settings.target:
        raise RositaError(
            f"{student.path} has the shape {student.shape}, the settings name {settings.target};"
            " prune it with pruning_one_step.py"
        )


def check_states(teacher: TaskModel, student: TaskModel, settings: KDSettings) -> None:
    """The teacher has hidden states that the student's can follow, as many as are asked for."""
    configs = teacher.model.config, student.model.config
    theirs, ours = (config.hidden_size for config in configs)
    if theirs != ours:
        raise RositaError(
            f"teacher {teacher.path} has hidden_size {theirs}, student {student.path} has {ours}:"
            " repr_distill compares their hidden states and needs one size; such a teacher is"
            " learnt by its logits alone: --pred_distill True --repr_distill False"
        )
    theirs, ours = (config.num_hidden_layers for config in configs)
    fewest = settings.target.keep_layers if settings.depth_or_width and settings.target else ours
    try:
        mappings = [layer_map(theirs, layers, settings.layer_map) for layers in (ours, fewest)]
    except RositaError as error:
        raise RositaError(f"teacher {teacher.path}, student {student.path}: {error}") from None
    states, asked = len(mappings[-1]), hsk_amount(settings.hsk).layers
    if asked and asked > states:
        raise RositaError(
            f"hsk {settings.hsk} follows {asked} states, a student of {fewest} layers has {states}"
            f" to follow by layer_map {settings.layer_map}"
        )
