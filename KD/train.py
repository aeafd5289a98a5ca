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
from rosita.errors import ArgumentParser, RositaError, run_script
from rosita.jobs import TaskModel, distil_stage
from rosita.provenance import require_finished
from rosita.runtime import start_accelerator
from rosita.tasks import Task, find_task


def main(argv: list[str] | None = None, subsets: bool = False) -> None:
    task, settings = parse_args(argv)
    print(describe(settings))
    check_parents(task, settings)
    accelerator = start_accelerator(settings)
    teacher, student = open_models(task, settings)
    done = distil_stage(teacher, student, settings, accelerator, subsets)
    if done is None:
        return
    folder = Path(settings.output_dir)
    print(f"best dev {done['metric']} {done['score']:.4f} at step {done['step']}, shape"
          f" {done['shape']}; the student is in {folder}")  # fmt: skip


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


def open_models(task: Task, settings: KDSettings) -> tuple[TaskModel, TaskModel]:
    """Teacher and student, both with the student's tokenizer."""
    activation = settings.classifier_activation
    teacher = load_model(settings.teacher_model, task, classifier_activation=activation)
    student = load_model(
        settings.student_model, task, new_classifier=True, classifier_activation=activation
    )
    tokenizer = read_tokenizer(resolve_folder(settings.student_model), settings.do_lower_case)
    return (
        TaskModel(teacher, tokenizer, task, settings.teacher_model),
        TaskModel(student, tokenizer, task, settings.student_model),
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
