"""Distil a teacher tuned on a task into a student: as it is, or pruning it on the way.

    cd KD && python train.py --config_dir configurations/config_setting1.json --task_name CoLA \\
        --do_lower_case --aug_train

Reads   teacher_model/, student_model/   config.json, weights, vocab.txt
        data_dir/                        train_aug.tsv (or train.tsv), dev.tsv
Writes  output_dir/                      the student, run.json; with --compute_taylor: taylor.pkl
"""

from __future__ import annotations

from pathlib import Path

from rosita.checkpoint import load_model, read_tokenizer, resolve_folder
from rosita.config import KDSettings, add_flags, describe, load_config
from rosita.data import Sampler
from rosita.distillation import DistillationLoss, cache_teacher_logits
from rosita.errors import ArgumentParser, RositaError, run_script
from rosita.model import RositaForSequenceClassification
from rosita.plan import Plan, total_steps
from rosita.preflight import check_disk, check_label_order, show_plan
from rosita.provenance import require_finished
from rosita.pruning import PruningSchedule, Shape
from rosita.runtime import freeze, start_accelerator
from rosita.stage import (
    dev_scores,
    finish,
    load_data,
    new_run,
    saver,
    score_weights,
    train_file_names,
    with_fresh_rows,
)
from rosita.tasks import Task, find_task
from rosita.training import Training


def main(argv: list[str] | None = None, subsets: bool = False) -> None:
    task, settings = parse_args(argv)
    print(describe(settings))
    check_parents(task, settings)
    accelerator = start_accelerator(settings)
    teacher, student = open_models(task, settings)
    tokenizer = read_tokenizer(resolve_folder(settings.student_model), settings.do_lower_case)
    files = train_file_names(Path(settings.data_dir), task, settings.aug_train, subsets)
    data = load_data(settings, task, tokenizer, accelerator, student.config, files)
    data = with_fresh_rows(data, settings, resolve_folder(settings.student_model))

    folder = Path(settings.output_dir)
    stage = "taylor" if settings.compute_taylor else "distil"
    parents = {
        "teacher": (settings.teacher_model, teacher),
        "student": (settings.student_model, student),
    }
    run = new_run(stage, settings, data, parents, folder, accelerator)
    if run.is_finished(settings.overwrite_output_dir):
        return
    sampler = data.sampler(settings.train_batch_size * accelerator.num_processes, settings.seed)
    plan = plan_of(settings, student, sampler)
    teacher = freeze(teacher, accelerator)
    objective = DistillationLoss(
        teacher, settings.pred_distill, settings.repr_distill, settings.temperature
    )
    used = None if settings.compute_taylor else data.used_tokens(student.config.vocab_size)
    check_disk(folder, student.config)
    with accelerator.autocast():
        check_label_order(task, teacher, data.dev, settings.teacher_model)
    if settings.dry_run:
        show_plan(student, objective, sampler, plan, accelerator, data.dev,
                  settings.eval_batch_size, used)  # fmt: skip
        return
    run.claim(settings.overwrite_output_dir)
    accelerator.wait_for_everyone()

    if not settings.repr_distill and not task.is_regression:
        teacher_hash = run.identity["parents"]["teacher"]
        cache_teacher_logits(teacher, teacher_hash, data.train, accelerator)
    if settings.compute_taylor:
        training = Training(student, objective, sampler, plan, accelerator, folder)
        score_weights(run, training, mean=True)
        return
    training = Training(student, objective, sampler, plan, accelerator, folder,
                        dev_scores(data, settings.eval_batch_size),
                        saver(run, tokenizer, task), used)  # fmt: skip
    best = finish(run, training.run(folder / "logging"), load_model(folder, task))
    print(f"best dev {best['metric']} {best['score']:.4f} at step {best['step']}, shape"
          f" {best['shape']}; the student is in {folder}")  # fmt: skip


def plan_of(settings: KDSettings, student: RositaForSequenceClassification, sampler: Sampler):
    """How the loop runs: one-step students keep their shape, iterative ones follow a schedule."""
    steps = total_steps(settings, sampler)
    schedule = None
    if settings.depth_or_width and not settings.compute_taylor:
        # as the reference counts: rows / batch, the last partial batch as a fraction
        whole = settings.num_train_epochs * sampler.rows / sampler.batch_size
        schedule = PruningSchedule.plan(
            student.config,
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
    )


def check_parents(task: Task, settings: KDSettings) -> None:
    """Both models come from finished runs on this task; the teacher is not freshly pruned."""
    student = resolve_folder(settings.student_model)
    require_finished(student, task.name, "give another --student_model")
    teacher = resolve_folder(settings.teacher_model)
    run = require_finished(teacher, task.name, "give another --teacher_model")
    if run.get("stage") == "one_step_prune":
        raise RositaError(
            f"the teacher {teacher} was pruned and not trained since; the teacher of a setting is"
            " bert_ft, bert_student or bert-8layer"
        )


def open_models(task: Task, settings: KDSettings):
    """Teacher and student; they must share hidden size and vocabulary."""
    activation = settings.classifier_activation
    teacher = load_model(settings.teacher_model, task, classifier_activation=activation)
    student = load_model(
        settings.student_model, task, new_classifier=True, classifier_activation=activation
    )
    for name in ("hidden_size", "vocab_size"):
        theirs, ours = getattr(teacher.config, name), getattr(student.config, name)
        if theirs != ours:
            raise RositaError(
                f"teacher {settings.teacher_model} has {name} {theirs}, student"
                f" {settings.student_model} has {ours}; the student must come from the same BERT"
            )
    if settings.target and not settings.depth_or_width and not settings.compute_taylor:
        check_shape(settings, student)
    return teacher, student


def check_shape(settings: KDSettings, student: RositaForSequenceClassification) -> None:
    """A one-step setting that names its shape must be given a student of this shape."""
    now = Shape.of(student.config)
    if now != settings.target:
        raise RositaError(
            f"{settings.student_model} has the shape {now}, the settings name {settings.target};"
            " prune it with pruning_one_step.py"
        )


def parse_args(argv: list[str] | None) -> tuple[Task, KDSettings]:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config_dir", help="JSON file of settings, see configurations/")
    parser.add_argument("--task_name", required=True, help="GLUE task, or a task.json of your own")
    add_flags(parser, KDSettings)
    flags = vars(parser.parse_args(argv))
    config = flags.pop("config_dir")
    task = find_task(flags.pop("task_name"))
    if flags.get("compute_taylor", "").lower() == "true":
        flags.setdefault("num_train_epochs", "1")
    base = Path(__file__).resolve().parent  # paths in the JSON files are relative to KD/
    return task, load_config(KDSettings, task, flags, config, base)


def launch(subsets: bool = False) -> None:
    """Run this script's main from the command line; KD/train_with_subset.py shares it."""
    run_script(lambda: main(subsets=subsets))


if __name__ == "__main__":
    launch()
