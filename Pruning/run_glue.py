"""Fine-tune a BERT (dense or pruned) on a task, score its weights, evaluate it, predict.

    cd Pruning && python run_glue.py --model_name_or_path ../models/bert_pt --task_name CoLA \\
        --do_train --do_eval --data_dir ../data/CoLA --output_dir ../models/bert_ft/CoLA

Reads   model_name_or_path/, data_dir/   config.json, weights, tokenizer; train.tsv, dev.tsv ...
Writes  output_dir/                      the tuned model, run.json, eval_results_TASK.txt
        or, with --compute_taylor True   taylor_score/taylor.pkl in the folder of the model
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rosita.cli import ArgumentParser, add_flags, is_first_process, run_script
from rosita.config import FineTuneSettings
from rosita.config_file import describe, is_on, load_config
from rosita.data.rows import trained_length
from rosita.errors import RositaError
from rosita.files import read_json
from rosita.provenance import require_finished, resolve_folder
from rosita.stages.identity import finished_already
from rosita.tasks import Task, find_task

if TYPE_CHECKING:
    from rosita.checkpoint import TaskModel

RETIRED = {  # flags of the published script -> what to do instead
    "--config_name": "config.json is read from the folder --model_name_or_path",
    "--tokenizer_name": "the tokenizer is read from the folder --model_name_or_path",
    "--structured": "all pruning is structured (heads, FFN units, layers, rank); leave it out",
    "--logging_first_step": "leave it out; --logging_steps 1 logs the first step, as all others",
    "--save_total_limit": "--save_steps keeps all its checkpoints; remove OUTPUT_DIR/checkpoint-N",
    "--fp16_opt_level": "there are no levels; type --precision fp16, or bf16",
    "--local_rank": "start the script by torchrun or accelerate launch; they number the processes",
    "--eval_all_checkpoints": "type --do_eval --model_name_or_path OUTPUT_DIR/checkpoint-N",
}
# What FineTuneSettings cannot be without; only training needs it typed, the rest has the model's.
NO_OUTPUT = {"output_dir": "-"}


def main(argv: list[str] | None = None) -> None:
    task, settings, flags = parse_args(argv)
    print(describe(settings, flags))
    check_model_type(resolve_folder(settings.model_name_or_path), settings)
    if settings.compute_taylor:
        compute_taylor(task, settings, flags)
        return
    folder = resolve_folder(settings.model_name_or_path)
    output = Path(flags.get("output_dir") or folder)
    if settings.do_train:
        fine_tune(task, settings)
        folder = output
    wanted = settings.do_eval or settings.do_predict
    if settings.dry_run or not wanted or not is_first_process():
        return
    from rosita.stages.test import evaluate_model, open_for_test, predict_model  # heavy imports

    if not settings.do_train and "max_seq_length" not in flags:
        settings = settings.model_copy(update=trained_length(folder))
    model = open_for_test(folder, task, settings)
    if settings.do_eval:
        evaluate_model(model, settings, f"eval_results_{task.name.lower()}", output)
    if settings.do_predict:
        predict_model(model, settings, output)


def fine_tune(task: Task, settings: FineTuneSettings) -> None:
    """Train on the labels; the best dev score (or the last step) is the model that is kept."""
    source = resolve_folder(settings.model_name_or_path)
    check_is_prun(source, task, settings)
    if finished_already("fine_tune", settings, task, {"model": source}):
        return
    from rosita.runtime import start_accelerator  # heavy imports
    from rosita.stages.fine_tune import fine_tune_stage

    accelerator = start_accelerator(settings)
    start = open_model(task, settings, new_classifier=True)
    best = fine_tune_stage(start, settings, accelerator)
    if best:
        print(
            f"best dev {best['metric']} {best['score']:.4f} at step {best['step']};"
            f" the model is in {Path(settings.output_dir)}"
        )


def compute_taylor(task: Task, settings: FineTuneSettings, flags: dict[str, str]) -> None:
    """One pass over train.tsv: |w * sum over batches of |gradient||; no weight changes."""
    source = resolve_folder(settings.model_name_or_path)
    require_finished(source, task.name, "score a model tuned on this task")
    folder = Path(flags.get("output_dir") or source) / "taylor_score"
    there = settings.model_copy(update={"output_dir": str(folder)})
    if finished_already("taylor", there, task, {"model": source}):
        return
    from rosita.runtime import start_accelerator  # heavy imports
    from rosita.stages.fine_tune import score_stage

    accelerator = start_accelerator(settings)
    score_stage(open_model(task, settings, new_classifier=False), there, accelerator)


def parse_args(argv: list[str] | None) -> tuple[Task, FineTuneSettings, dict[str, str]]:
    """The task, the settings, and the texts of the flags that gave some of them."""
    parser = ArgumentParser(description=__doc__.split("\n")[0], retired=RETIRED)
    parser.add_argument("--task_name", required=True, help="GLUE task, or a task.json of your own")
    add_flags(parser, FineTuneSettings)
    flags = vars(parser.parse_args(argv))
    task = find_task(flags.pop("task_name"))
    if "num_train_epochs" not in flags:
        flags["num_train_epochs"] = default_epochs(task, flags)
    if is_on(FineTuneSettings, flags, "fp16"):
        flags["precision"] = "fp16"
    flags.pop("fp16", None)
    settings = load_config(FineTuneSettings, task, NO_OUTPUT | flags)
    if not (
        settings.do_train or settings.do_eval or settings.do_predict or settings.compute_taylor
    ):
        raise RositaError(
            "nothing to do: give --do_train, --do_eval, --do_predict or --compute_taylor True"
        )
    for name in ("do_train", "do_eval", "do_predict"):
        if settings.compute_taylor and getattr(settings, name):
            raise RositaError(
                f"--compute_taylor True scores the weights, no more: leave --{name} out"
            )
    if settings.do_train and not flags.get("output_dir"):
        raise RositaError("--do_train needs --output_dir")
    return task, settings, flags


def default_epochs(task: Task, flags: dict[str, str]) -> str:
    """5 epochs; 20 for a pruned CoLA model; one pass for scores."""
    if is_on(FineTuneSettings, flags, "compute_taylor"):
        return "1"
    return "20" if is_on(FineTuneSettings, flags, "is_prun") and task.name == "CoLA" else "5"


def check_is_prun(source: Path, task: Task, settings: FineTuneSettings) -> None:
    """The flag must agree with the model, so that nobody trains the wrong one for hours."""
    pruned = require_finished(source, task.name, "start from models/bert_pt")
    is_pruned = pruned.get("stage") == "one_step_prune"
    if is_pruned and not settings.is_prun:
        raise RositaError(f"{source} is a pruned model: add --is_prun True")
    if settings.is_prun and pruned and not is_pruned:
        raise RositaError(f"{source} is not a pruned model: leave --is_prun True out")


def check_model_type(source: Path, settings: FineTuneSettings) -> None:
    """The flag of the published commands, if it is given, must agree with a pretrained model."""
    path = source / "config.json"
    values = read_json(path) if settings.model_type and path.exists() else {}
    kind = values.get("model_type", "bert") if isinstance(values, dict) else "bert"
    if values and kind not in ("rosita", settings.model_type):
        raise RositaError(
            f"--model_type {settings.model_type}: {source} is a {kind!r} model; leave the flag out"
        )


def open_model(task: Task, settings: FineTuneSettings, new_classifier: bool) -> TaskModel:
    """The model to tune or to score, with its tokenizer."""
    from rosita.checkpoint import TaskModel  # heavy imports

    return TaskModel.open(
        settings.model_name_or_path,
        task,
        new_classifier=new_classifier,
        do_lower_case=settings.do_lower_case,
        classifier_activation=settings.classifier_activation,
        label_names=settings.label_names,
        accept_changed=settings.accept_changed,
    )


if __name__ == "__main__":
    run_script(main, of_many=True)
