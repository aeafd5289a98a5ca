"""Measure models side by side in one run: latency, throughput, memory, size, dev score; on the CPU.

    cd Deploy && python benchmark.py --models ../models/bert_ft/CoLA ../models/export/CoLA \\
        --formats pytorch,onnx,int8 --batch_sizes 1,8,32 --lengths 32,128

Reads   models            trained model folders, or exports of Deploy/export.py
        data_dir/         dev.tsv: rows to time and to score; without it random ids, no score
Writes  output_dir/       benchmark.json, benchmark.md (the table), benchmark.png

Every model in every format answers in turn within each repetition, so that noise hits all alike;
a batch holds exactly so many tokens per row. Memory is the peak of a process of its own above its
imports: opening the model and its largest batch. `macs` are those of one sentence.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rosita.cli import ArgumentParser, amount, positive, run_script
from rosita.config import ACCEPT_CHANGED, LABEL_NAMES
from rosita.deploy.formats import RUNNABLE, parse_formats
from rosita.errors import RositaError
from rosita.files import atomic_write, write_json
from rosita.provenance import read_run, require_finished, resolve_folder
from rosita.tables import markdown
from rosita.tasks import Task, find_task

REPOSITORY = Path(__file__).resolve().parent.parent
COLUMNS = {  # of the table: heading -> how a row fills it
    "model": lambda row: row["model"],
    "format": lambda row: row["format"],
    "batch": lambda row: str(row["batch_size"]),
    "length": lambda row: str(row["length"]),
    "median ms": lambda row: f"{row['median_ms']:.2f}",
    "p95 ms": lambda row: f"{row['p95_ms']:.2f}",
    "sentences/s": lambda row: f"{row['sentences_per_second']:.1f}",
    "peak MB": lambda row: _or_dash(row["peak_memory_bytes"], ".0f", 1e6),
    "file MB": lambda row: f"{row['bytes'] / 1e6:.1f}",
    "M params": lambda row: f"{row['parameters'] / 1e6:.2f}",
    "M MACs": lambda row: f"{row['macs'] / 1e6:.1f}",
    "dev": lambda row: _or_dash(row["dev_score"], ".4f"),
}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    folders = {name: resolve_folder(name) for name in args.models}
    task_name = args.task_name or own_task(list(folders.values()))
    task = find_task(task_name)
    for folder in folders.values():
        require_finished(folder, task.name, "the models to compare are of one task")
    dev_file = find_dev(task, args.data_dir)
    # heavy imports: the complaints above come without them
    from rosita.deploy.figures import draw_benchmark
    from rosita.stages.benchmark import Comparison, compare_models

    asked = Comparison(
        task_name,
        args.formats,
        args.batch_sizes,
        args.lengths,
        dev_file,
        args.max_seq_length,
        args.threads,
        args.seconds,
        args.label_names,
        args.accept_changed,
    )
    data = str(dev_file) if dev_file else f"no {task.dev_files[0]}: random ids, no dev score"
    report = {"task": task.name, "data": data, **compare_models(folders, asked)}
    output = Path(args.output_dir)
    write_json(output / "benchmark.json", report)
    rows = report["rows"]
    lines = [list(COLUMNS), *([fill(row) for fill in COLUMNS.values()] for row in rows)]
    text = f"{markdown(lines)}\n\n{describe(report)}\n"
    with atomic_write(output / "benchmark.md") as file:
        file.write(text)
    draw_benchmark(rows, output / "benchmark.png")
    print(f"{text}written to {output}: benchmark.json, benchmark.md, benchmark.png")


def find_dev(task: Task, data_dir: str | None) -> Path | None:
    """The rows to time and to score; None if nobody asked for data and there are none."""
    path = Path(data_dir or REPOSITORY / "data" / task.name) / task.dev_files[0]
    if path.exists():
        return path
    if data_dir:
        raise RositaError(f"{path} does not exist; without --data_dir, random ids are timed")
    return None


def _or_dash(value: Any, form: str, scale: float = 1) -> str:
    return "-" if value is None else f"{value / scale:{form}}"


def describe(report: dict[str, Any]) -> str:
    """Where it was measured, and on what."""
    host = report["machine"]
    runtime = f", onnxruntime {host['onnxruntime']}" if host["onnxruntime"] else ""
    return (
        f"{report['task']} ({report['data']}), {host['cpu']}, {host['threads']} threads,"
        f" torch {host['torch']}{runtime}"
    )


def own_task(folders: list[Path]) -> str:
    """The task that the first model's run.json or export.json names."""
    name = read_run(folders[0]).get("task") or read_run(folders[0], "export.json").get("task")
    if not name:
        raise RositaError(f"{folders[0]} does not say its task: give --task_name")
    return name


def numbers(text: str) -> list[int]:
    """`1,8,32` as a list, each once."""
    return list(dict.fromkeys(map(positive, text.split(","))))


def formats(text: str) -> list[str]:
    """`pytorch,int8` as a list, each once."""
    return parse_formats(text, RUNNABLE)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", required=True, help="model folders or exports")
    parser.add_argument(
        "--formats", type=formats, default=list(RUNNABLE), help="default: all three"
    )
    parser.add_argument("--batch_sizes", type=numbers, default=[1, 8, 32], help="default: 1,8,32")
    parser.add_argument("--lengths", type=numbers, default=[32, 128], help="tokens: 32,128")
    parser.add_argument("--task_name", help="GLUE task or a task.json (default: the models' own)")
    parser.add_argument("--label_names", help=LABEL_NAMES)
    parser.add_argument("--accept_changed", action="store_true", help=ACCEPT_CHANGED)
    parser.add_argument("--data_dir", help="folder of dev.tsv (default: data/TASK)")
    parser.add_argument(
        "--max_seq_length", type=positive, help="of dev texts (default: as trained)"
    )
    parser.add_argument("--output_dir", default=str(REPOSITORY / "models"), help="default: models")
    parser.add_argument("--threads", type=positive, help="cores of one call (default: torch's)")
    parser.add_argument("--seconds", type=amount, default=3.0, help="of each timing (default: 3)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
