"""Evaluate any model folder on dev and predict test: dense, pruned, ours, the reference's.

    cd KD && python test.py --student_model ../models/setting1/CoLA/a2_l8_f512_e128 \\
        --task_name CoLA --do_lower_case --do_eval --do_predict

Reads   student_model/, data_dir/
Writes  output_dir/ (default: student_model/)   eval_results.txt and .json,
        test_results_TASK.txt; MNLI: also those of the mismatched half
        submission_dir/                         the same under the GLUE server's names, and
        submission.zip once all tasks are there
"""

from __future__ import annotations

from pathlib import Path

from rosita.cli import ArgumentParser, add_flags, run_script
from rosita.config import TestSettings
from rosita.config_file import load_config
from rosita.data.rows import with_trained_length
from rosita.errors import RositaError
from rosita.provenance import resolve_folder
from rosita.tasks import find_task


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task_name", required=True, help="GLUE task, or a task.json of your own")
    add_flags(parser, TestSettings)
    flags = vars(parser.parse_args(argv))
    task = find_task(flags.pop("task_name"))
    settings = load_config(TestSettings, task, with_trained_length(flags, "student_model"))
    if not (settings.do_eval or settings.do_predict):
        raise RositaError("nothing to do: give --do_eval, --do_predict or both")
    if settings.submission_dir and not settings.do_predict:
        raise RositaError(
            "--submission_dir collects predictions: add --do_predict, or leave it out"
        )

    folder = resolve_folder(settings.student_model)
    output = Path(settings.output_dir or folder)
    from rosita.stages.test import collect_submission, evaluate_model, open_for_test, predict_model

    model = open_for_test(folder, task, settings)
    if settings.do_eval:
        evaluate_model(model, settings, "eval_results", output)
    if settings.do_predict:
        written = predict_model(model, settings, output)
        if settings.submission_dir:
            collect_submission(Path(settings.submission_dir), written)


if __name__ == "__main__":
    run_script(main)
