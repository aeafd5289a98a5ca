"""Distil a teacher tuned on a task into a student: as it is, or pruning it on the way.

    cd KD && python train.py --config_dir configurations/config_setting1.json --task_name CoLA \\
        --do_lower_case --aug_train

Reads   teacher_model/, student_model/   config.json, weights, tokenizer
        data_dir/                        train_aug.tsv (or train.tsv), dev.tsv
Writes  output_dir/                      the student, run.json; with --compute_taylor: taylor.pkl
        or, with --do_eval               eval_results.txt and .json of the student as it is
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rosita.cli import ArgumentParser, add_flags, is_first_process, run_script
from rosita.config import KD, KDSettings
from rosita.config_file import describe, is_on, load_config
from rosita.data.rows import trained_length
from rosita.errors import RositaError
from rosita.provenance import require_finished, resolve_folder
from rosita.stages.identity import finished_already, kd_stage
from rosita.tasks import Task, find_task

RETIRED = {  # flags of the published script -> what to do instead
    "--wd": "type --weight_decay",
    "--data_url": "get the data by download_glue_data.py and name the task's folder by --data_dir",
}
# What KDSettings cannot be without and scoring the student on dev has no use for.
UNUSED = {"teacher_model": "-", "output_dir": "-", "pred_distill": "True"}


def main(argv: list[str] | None = None, subsets: bool = False) -> None:
    task, flags, config = parse_args(argv)
    if flags.pop("do_eval") == "True":
        evaluate(task, flags, config)
        return
    settings = read_settings(task, flags, config)
    print(describe(settings, flags, config))
    parents = check_parents(task, settings, None if "student_model" in flags else config)
    if finished_already(kd_stage(settings), settings, task, parents, subsets):
        return
    done = distil(task, settings, subsets)
    if done is None:
        return
    folder = Path(settings.output_dir)
    print(
        f"best dev {done['metric']} {done['score']:.4f} at step {done['step']}, shape"
        f" {done['shape']}; the student is in {folder}"
    )


def distil(task: Task, settings: KDSettings, subsets: bool) -> dict[str, Any] | None:
    """Open teacher and student and run the stage; the best evaluation."""
    # heavy imports: all complaints above come without them
    from rosita.checkpoint import TaskModel
    from rosita.runtime import start_accelerator
    from rosita.stages.distil import distil_stage

    accelerator = start_accelerator(settings)
    how: dict[str, Any] = {
        "classifier_activation": settings.classifier_activation,
        "label_names": settings.label_names,
        "accept_changed": settings.accept_changed,
    }
    teacher = TaskModel.open(settings.teacher_model, task, **how)
    student = TaskModel.open(
        settings.student_model,
        task,
        new_classifier=True,
        do_lower_case=settings.do_lower_case,
        **how,
    )
    return distil_stage(teacher, student, settings, accelerator, subsets)


def evaluate(task: Task, flags: dict[str, str], config: str | None) -> None:
    """Score the student on dev, train nothing; the results go to --output_dir, or beside it.

    The output_dir of a JSON file is not theirs: it holds the student that training makes.
    """
    settings = read_settings(task, UNUSED | flags, config)
    for name in ("compute_taylor", "dry_run"):
        if getattr(settings, name):
            raise RositaError(f"--do_eval scores the student on dev, no more: leave --{name} out")
    if not is_first_process():
        return
    student = resolve_folder(settings.student_model)
    if "max_seq_length" not in flags:
        settings = settings.model_copy(update=trained_length(student))
    print(f"{student} is scored on dev, nothing is trained")
    from rosita.stages.test import evaluate_model, open_for_test  # heavy imports

    output = Path(flags.get("output_dir", student))
    evaluate_model(open_for_test(student, task, settings), settings, "eval_results", output)


def check_parents(task: Task, settings: KDSettings, config: str | None) -> dict[str, Path]:
    """Both models come from finished runs on this task; the teacher is not freshly pruned.

    Returns their folders.

    `config`: the JSON file that names the student, None if the command line does.
    """
    student = resolve_folder(settings.student_model)
    run = require_finished(student, task.name, "give another --student_model")
    check_not_trained(settings, run, config)
    teacher = resolve_folder(settings.teacher_model)
    run = require_finished(teacher, task.name, "give another --teacher_model")
    # one that lost nothing but pieces of its vocabulary says what it said before
    if run.get("stage") == "one_step_prune" and run.get("from_shape") != run.get("shape"):
        raise RositaError(
            f"the teacher {teacher} was pruned and not trained since; the teacher of a setting is"
            " bert_ft, bert_student or bert-8layer"
        )
    return {"teacher": teacher, "student": student}


def check_not_trained(settings: KDSettings, run: dict[str, Any], config: str | None) -> None:
    """A student pruned in one step starts as it was pruned, unless the command line names another.

    `run`: the student's run.json. The folders of "no KD" and of Setting 1's start differ by a word.
    """
    one_step = not settings.depth_or_width and not settings.compute_taylor
    stage = run.get("stage", "one_step_prune")  # a model from elsewhere does not say
    if not one_step or stage == "one_step_prune" or run.get("shape") != str(settings.target):
        return
    trained = f"{settings.student_model} was trained since it was pruned (stage {stage})"
    if config is None:
        print(f"{trained}; this run trains it further")
        return
    raise RositaError(
        f"{config}: the student {trained}; this setting starts from the output of"
        " pruning_one_step.py, models/prun_bert or models/prun_bert_student: make student_model"
        " that, or type --student_model to train this one further"
    )


def parse_args(argv: list[str] | None) -> tuple[Task, dict[str, str], str | None]:
    """The task, the flags of settings as typed, by name, with do_eval; the JSON file, or None."""
    parser = ArgumentParser(description=__doc__.split("\n")[0], retired=RETIRED)
    parser.add_argument("--config_dir", help="JSON file of settings, see configurations/")
    parser.add_argument("--task_name", required=True, help="GLUE task, or a task.json of your own")
    parser.add_argument(
        "--do_eval",
        nargs="?",
        const="True",
        default="False",
        metavar="DO_EVAL",
        type=str.capitalize,
        choices=("True", "False"),
        help="score the student on dev, train nothing; eval_results.txt and .json go to the"
        " --output_dir typed, or beside the student (default: False)",
    )
    add_flags(parser, KDSettings)
    flags = vars(parser.parse_args(argv))
    config = flags.pop("config_dir")
    task = find_task(flags.pop("task_name"))
    return task, flags, config


def read_settings(task: Task, flags: dict[str, str], config: str | None) -> KDSettings:
    """The settings of this run; paths in the JSON file are relative to KD/."""
    if is_on(KDSettings, flags, "compute_taylor"):
        flags = {"num_train_epochs": "1"} | flags
    return load_config(KDSettings, task, flags, config, KD)


def launch(subsets: bool = False) -> None:
    """Run this script's main from the command line; KD/train_with_subset.py shares it."""
    run_script(lambda: main(subsets=subsets), of_many=True)


if __name__ == "__main__":
    launch()
