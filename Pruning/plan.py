"""Choose a shape by a budget: what fits, what it keeps, how fast it is; write its KD config.

    cd Pruning && python plan.py --model ../models/bert_ft/CoLA --max_parameters 15M \\
        --max_latency_ms 8 --batch 1 --length 64

Reads   model/            a tuned model, PARENT/TASK, and its taylor_score/taylor.pkl
Writes  output_dir/       plan.json, plan.png, latency-KEY.json (times of this machine, used again)
        write_config      settings for KD/train.py with the shape chosen: setting 1

Parameters, MACs and bytes (of model.safetensors, fp32) are exact. Latency is predicted: models of
random weights and of spread shapes are timed in turn and a linear model is fitted; other
shapes, never fitted, show its error. The best shapes are then timed too.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosita.cli import ArgumentParser, amount, parse_size, positive, run_script
from rosita.config import ACCEPT_CHANGED, LABEL_NAMES, configs_for
from rosita.deploy.formats import RUNNABLE
from rosita.errors import RositaError
from rosita.files import read_json, relative_path, write_json
from rosita.provenance import read_run, require_finished, resolve_folder
from rosita.pruning.shape import Shape, check_target
from rosita.tables import markdown
from rosita.tasks import Task, find_task

if TYPE_CHECKING:
    import numpy as np

    from rosita.budget.latency_model import LatencyModel
    from rosita.budget.search import Table
    from rosita.model import RositaConfig

REPOSITORY = Path(__file__).resolve().parent.parent
GOOD = 0.15  # relative error of a prediction up to which nothing is advised
LISTED = 1000  # shapes in plan.json
TIMED = 3  # best shapes that are timed at once
ROUNDS = 5  # of timing them, while those that were predicted to fit turn out too slow


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    source, output = resolve_folder(args.model), Path(args.output_dir)
    task = find_scored(source, args.task_name)
    budget = budgets(args)
    # heavy imports: the complaints above come without them
    from rosita.budget.costs import shape_of
    from rosita.budget.latency_model import LatencyModel
    from rosita.budget.search import KeptScore, Table
    from rosita.checkpoint import load_model
    from rosita.deploy.latency import torch_threads
    from rosita.description import check_length
    from rosita.pruning.importance import read_scores

    altered = args.accept_changed
    model = load_model(source, task, label_names=args.label_names, accept_changed=altered)
    check_length(args.length, model.config)
    if args.shape:
        check_target(model.config, args.shape)
    kept = KeptScore.of(model, read_scores(source, model, altered))
    with torch_threads(args.threads):
        latency = LatencyModel(output, model.config, args.batch, args.length, args.format)
        latency.calibrate(args.recalibrate)
        print(accuracy(latency))
        table = Table.to_choose_from(model.config, args.length, kept, latency.predict, args.shape)
        table.put_measured(latency.known())
        ranking = table.ranking(budget)
        for _ in range(ROUNDS):
            if table.measured[ranking[0]]:
                break
            latency.measure([shape_of(table.rows[index]) for index in ranking[:TIMED]])
            table.put_measured(latency.known())
            ranking = table.ranking(budget)
    chosen = shape_of(table.rows[ranking[0]])
    write_json(
        output / "plan.json",
        {
            "model": args.model,
            "task": task.name,
            "budget": budget,
            "candidates": len(table.rows),
            "fitting": len(ranking),
            "chosen": str(chosen),
            "latency": {
                **latency.key,
                "fitted": latency.times["fitted"],
                "held_out": latency.held_out(),
            },
            "shapes": [table.line(index) for index in ranking[:LISTED]],
        },
    )
    draw(table, ranking, budget, latency, output / "plan.png")
    print(show(table, ranking, args.top))
    config = Path(args.write_config or output / f"config_{chosen}.json")
    parent, data = parent_of(source, task), data_folder(source, task, args.data_dir)
    write_json(config, kd_config(parent, model.config, chosen, data, task))
    print(f"{output}: plan.json, plan.png; settings for {chosen}: {config}\nNext:")
    print(*commands(parent, task, chosen, config, data, args), sep="\n")


def find_scored(source: Path, name: str | None) -> Task:
    """The task of the tuned model whose scores are to be ranked by."""
    name = name or read_run(source).get("task")
    if not name:
        raise RositaError(f"{source} does not say its task: give --task_name")
    task = find_task(name)
    require_finished(source, task.name, "plan with a model tuned on this task")
    parent_of(source, task)
    return task


def parent_of(source: Path, task: Task) -> Path:
    """PARENT of the model's folder PARENT/TASK: as typed, or where a link of any name leads to."""
    for folder in (Path(os.path.abspath(source)), source.resolve()):
        if folder.name == task.name:
            return folder.parent
    raise RositaError(
        f"{source} must be called {task.name}: pruning_one_step.py reads PARENT/{task.name}"
    )


def data_folder(source: Path, task: Task, asked: str | None) -> Path:
    """The task's files: what is asked for; what the model was tuned on, if it is there; data/TASK.

    A relative path in the model's record is taken from here, as stages run in one folder.
    """
    if asked:
        return Path(os.path.abspath(asked))
    data = read_run(source).get("data")
    tuned_on = data.get("folder") if isinstance(data, dict) else None
    if isinstance(tuned_on, str) and (Path(tuned_on) / task.train_file).is_file():
        return Path(os.path.abspath(tuned_on))
    return REPOSITORY / "data" / task.name


def budgets(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for: column of the table, or "shape" -> limit."""
    found = {
        "parameters": args.max_parameters,
        "bytes": args.max_bytes,
        "latency": args.max_latency_ms,
        "shape": args.shape and str(args.shape),
    }
    found = {name: limit for name, limit in found.items() if limit is not None}
    if not found:
        raise RositaError(
            "give a budget: --max_parameters 15M, --max_bytes 14MB, --max_latency_ms 5, or"
            " --shape a2_l8_f512_e128"
        )
    return found


def show(table: Table, ranking: np.ndarray, top: int) -> str:
    """The best shapes, for people; the first is the one chosen."""
    lines = [["shape", "latency is", "kept %", "M params", "M MACs", "MB", "ms"]]
    for found in (table.line(index) for index in ranking[:top]):
        lines.append(
            [
                found["shape"],
                found["latency"],
                f"{100 * found['taylor_score_kept']:.1f}",
                f"{found['parameters'] / 1e6:.2f}",
                f"{found['macs'] / 1e6:.1f}",
                f"{found['bytes'] / 1e6:.2f}",
                f"{found['latency_ms']:.2f}",
            ]
        )
    return f"{len(ranking):,} of {len(table.rows):,} shapes fit\n\n{markdown(lines)}\n"


def accuracy(latency: LatencyModel) -> str:
    """Prediction against measurement on the shapes held out."""
    found = latency.held_out()
    key = latency.key
    worst = max((abs(each["error"]) for each in found), default=0)
    advice = "; --recalibrate while nothing else runs" if worst > GOOD else ""
    lines = [["held out", "predicted ms", "measured ms", "error %"]]
    lines += [
        [
            each["shape"],
            f"{each['predicted_ms']:.2f}",
            f"{each['measured_ms']:.2f}",
            f"{100 * each['error']:+.1f}",
        ]
        for each in found
    ]
    return (
        f"Latency: {key['format']}, batch {key['batch']} x {key['length']}, {key['threads']}"
        f" threads, predicted from {len(latency.times['fitted'])} timed shapes ({latency.path})"
        f"\n\n{markdown(lines, words=(0,))}\n\nlargest error {100 * worst:.0f} %{advice}\n"
    )


def draw(
    table: Table, ranking: np.ndarray, budget: dict[str, Any], latency: LatencyModel, path: Path
) -> None:
    """plan.png: the score kept against what the budget limits."""
    from rosita.budget.figure import draw_plan  # heavy imports
    from rosita.budget.search import front

    by_latency = "latency" in budget and "parameters" not in budget
    key = latency.key
    label = f"ms, batch {key['batch']} x {key['length']}" if by_latency else "million parameters"
    cost = table.latency if by_latency else table.parameters / 1e6
    best = ranking[front(cost[ranking], table.kept[ranking])]
    draw_plan(cost, table.kept, {"fits": ranking, "front": best, "chosen": ranking[0]}, label, path)


def kd_config(
    parent: Path, config: RositaConfig, shape: Shape, data: Path, task: Task
) -> dict[str, Any]:
    """Setting 1 for this shape: the numbers of the repository's own file, other paths."""
    settings = read_json(configs_for(config.num_hidden_layers) / "config_setting1.json")
    models = parent.parent
    paths = {
        "teacher_model": parent / "{task}",
        "student_model": models / "prun_bert" / "{task}" / str(shape),
        "output_dir": models / "setting1" / "{task}" / str(shape),
    }
    if data != REPOSITORY / "data" / task.name:
        paths["data_dir"] = data
    settings["default"] |= {
        name: relative_path(path, REPOSITORY / "KD") for name, path in paths.items()
    }
    settings["default"] |= {
        "keep_heads": shape.keep_heads,
        "keep_layers": shape.keep_layers,
        "ffn_hidden_dim": shape.ffn_hidden_dim,
        "emb_hidden_dim": shape.emb_hidden_dim,
    }
    return settings


def commands(
    parent: Path, task: Task, shape: Shape, config: Path, data: Path, args: argparse.Namespace
) -> list[str]:
    """What to type next, in the current folder: prune, then distil."""
    name = args.task_name or task.name
    prune = [
        "python",
        REPOSITORY / "Pruning" / "pruning_one_step.py",
        "-model_path",
        parent,
        "-task",
        name,
        "-output_dir",
        parent.parent / "prun_bert",
        "-keep_heads",
        shape.keep_heads,
        "-num_layers",
        shape.keep_layers,
        "-ffn_hidden_dim",
        shape.ffn_hidden_dim,
        "-emb_hidden_dim",
        shape.emb_hidden_dim,
    ]
    distil = ["python", REPOSITORY / "KD" / "train.py", "--config_dir", config.resolve(),
              "--task_name", name]  # fmt: skip
    if (data / "train_aug.tsv").exists():
        distil.append("--aug_train")
    if args.label_names:
        prune += ["--label_names", args.label_names]
        distil += ["--label_names", args.label_names]
    if args.accept_changed:
        prune.append("--accept_changed")
        distil.append("--accept_changed")
    return [
        "  "
        + shlex.join(
            relative_path(part) if isinstance(part, Path) else str(part) for part in command
        )
        for command in (prune, distil)
    ]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", required=True, help="tuned model folder PARENT/TASK with taylor_score/")
    add("--task_name", help="GLUE task or a task.json (default: the model's own)")
    add("--label_names", help=LABEL_NAMES)
    add("--accept_changed", action="store_true", help=ACCEPT_CHANGED)
    add("--max_parameters", help="at most so many, like 15M")
    add("--max_bytes", help="of model.safetensors (fp32) at most, like 14MB")
    add("--max_latency_ms", type=amount, help="at most so many ms for a batch")
    add("--shape", type=Shape.parse, help="this shape and no other, like a2_l8_f512_e128")
    add("--batch", type=positive, default=1, help="rows of the batch that is timed (default: 1)")
    add("--length", type=positive, default=64, help="tokens of each of its rows (default: 64)")
    add("--format", choices=RUNNABLE, default="pytorch", help="what is timed (default: pytorch)")
    add("--threads", type=positive, help="cores of one call (default: torch's)")
    add("--recalibrate", action="store_true", help="time anew, whatever output_dir holds")
    add("--top", type=positive, default=20, help="lines of the table (default: 20)")
    add("--output_dir", default=str(REPOSITORY / "models" / "plan"), help="default: models/plan")
    add("--write_config", help="file to write (default: output_dir/config_SHAPE.json)")
    add(
        "--data_dir",
        help="the task's folder, for the settings written (default: what the model was"
        " tuned on, or data/TASK)",
    )
    args = parser.parse_args(argv)
    if args.max_parameters is not None:
        args.max_parameters = parse_size(args.max_parameters, "--max_parameters")
    if args.max_bytes is not None:
        args.max_bytes = parse_size(args.max_bytes, "--max_bytes", "B")
    return args


if __name__ == "__main__":
    run_script(main)
