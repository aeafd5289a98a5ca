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
import itertools
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rosita.budget.costs import macs
from rosita.checkpoint import load_model
from rosita.cli import ArgumentParser, run_script
from rosita.data.batches import Encoded
from rosita.data.encode import encode_file
from rosita.deploy.figures import draw_benchmark
from rosita.deploy.labelling import FORMATS
from rosita.deploy.measuring import (
    Answer,
    dev_batch,
    dev_logits,
    interleaved_seconds,
    machine,
    open_answer,
    peak_memory,
    positive,
    random_batch,
    torch_threads,
    weights_bytes,
    write_onnx,
)
from rosita.deploy.onnx import FILES
from rosita.errors import RositaError
from rosita.evaluation import score
from rosita.files import atomic_write, read_json, write_json
from rosita.model import RositaConfig
from rosita.provenance import read_run, require_finished, resolve_folder
from rosita.pruning.shape import Shape, parameter_count
from rosita.tables import markdown
from rosita.tasks import Task, find_task
from rosita.tokenizer import read_tokenizer

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


@dataclass
class Candidate:
    """A model in one format, opened, with its data and what is known of it before the timing."""

    name: str
    form: str
    folder: Path  # holds the weights; a temporary one if they were exported for this run
    config: RositaConfig
    dev: Encoded | None
    answer: Answer
    facts: dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    folders = {name: resolve_folder(name) for name in args.models}
    task_name = args.task_name or own_task(list(folders.values()))
    task = find_task(task_name)
    output = Path(args.output_dir)
    with torch_threads(args.threads), tempfile.TemporaryDirectory() as temporary:
        found: list[Candidate] = []
        for number, (name, folder) in enumerate(folders.items()):
            require_finished(folder, task.name, "the models to compare are of one task")
            found += open_formats(name, folder, task_name, Path(temporary, str(number)), args)
        for candidate in found:
            measure_facts(candidate, task_name, args)
        cells = itertools.product(args.batch_sizes, args.lengths)
        rows = [row for cell in cells for row in time_all(found, *cell, args.seconds)]
        dev = found[0].dev
        data = str(dev.path) if dev else f"no {task.dev_files[0]}: random ids, no dev score"
        report = {"machine": machine(), "task": task.name, "data": data, "rows": rows}
    rows.sort(key=lambda row: (args.models.index(row["model"]), args.formats.index(row["format"])))
    write_json(output / "benchmark.json", report)
    lines = [list(COLUMNS), *([fill(row) for fill in COLUMNS.values()] for row in rows)]
    text = f"{markdown(lines)}\n\n{describe(report)}\n"
    with atomic_write(output / "benchmark.md") as file:
        file.write(text)
    draw_benchmark(rows, output / "benchmark.png")
    print(f"{text}written to {output}: benchmark.json, benchmark.md, benchmark.png")


def open_formats(
    name: str, folder: Path, task_name: str, made: Path, args: argparse.Namespace
) -> list[Candidate]:
    """The model in each format; what the folder lacks is exported to `made`."""
    task = find_task(task_name)
    model = load_model(folder, task).eval()
    check_lengths(args.lengths, model.config)
    lacking = [
        form for form in args.formats if form != "pytorch" and not (folder / FILES[form]).exists()
    ]
    write_onnx(model, made, lacking)
    dev = read_dev(folder, task, args)
    shape, count = str(Shape.of(model.config)), parameter_count(model.config)
    found = []
    for form in args.formats:
        at = made if form in lacking else folder
        size = (at / FILES[form]).stat().st_size if form != "pytorch" else weights_bytes(at)
        facts = {"bytes": size, "parameters": count, "shape": shape}
        answer = open_answer(at, form, task_name)
        found.append(Candidate(name, form, at, model.config, dev, answer, facts))
    return found


def read_dev(folder: Path, task: Task, args: argparse.Namespace) -> Encoded | None:
    """The token ids of dev by the tokenizer of this model; None without data."""
    path = Path(args.data_dir or REPOSITORY / "data" / task.name) / task.dev_files[0]
    if path.exists():
        length = args.max_seq_length or task.max_seq_length
        return encode_file(path, task, read_tokenizer(folder).build(), length)
    if args.data_dir:
        raise RositaError(f"{path} does not exist; without --data_dir, random ids are timed")
    return None


def measure_facts(candidate: Candidate, task_name: str, args: argparse.Namespace) -> None:
    """Add the peak memory and the dev score of a model in its format."""
    largest = max(args.batch_sizes), max(args.lengths)
    vocabulary = candidate.config.vocab_size
    peak = peak_memory(candidate.folder, candidate.form, task_name, vocabulary, largest)
    candidate.facts |= {"peak_memory_bytes": peak, "dev_score": None, "metric": None}
    if candidate.dev is None:
        return
    label = f"{candidate.name} as {candidate.form}"
    logits = dev_logits(candidate.answer, candidate.dev, label)
    try:
        scores = score(find_task(task_name), logits, np.asarray(candidate.dev.labels))
    except RositaError as error:  # the metric is undefined: no score, and all else is of use
        print(f"{label} gets no dev score: {error}")
        return
    candidate.facts |= {"dev_score": scores.main, "metric": scores.metric}


def time_all(
    found: list[Candidate], batch_size: int, length: int, seconds: float
) -> list[dict[str, Any]]:
    """A row per candidate for one batch size and length, all of them timed in turn."""
    calls = {}
    for number, candidate in enumerate(found):
        source = candidate.dev or candidate.config.vocab_size
        make_batch = dev_batch if candidate.dev else random_batch
        batch = make_batch(source, batch_size, length)
        calls[str(number)] = lambda answer=candidate.answer, batch=batch: answer(batch)
    print(f"timing batch {batch_size} x {length} ...", file=sys.stderr)
    rows = []
    timed = interleaved_seconds(calls, budget=seconds).values()
    for candidate, times in zip(found, timed, strict=True):
        median, p95 = np.percentile(times, (50, 95))
        rows.append({
            "model": candidate.name, "format": candidate.form, "batch_size": batch_size,
            "length": length, "median_ms": 1000 * median, "p95_ms": 1000 * p95,
            "sentences_per_second": batch_size / median, "repetitions": len(times),
            "macs": macs(candidate.config, length), **candidate.facts,
        })  # fmt: skip
    return rows


def _or_dash(value: Any, form: str, scale: float = 1) -> str:
    return "-" if value is None else f"{value / scale:{form}}"


def describe(report: dict[str, Any]) -> str:
    """Where it was measured, and on what."""
    host = report["machine"]
    runtime = f", onnxruntime {host['onnxruntime']}" if host["onnxruntime"] else ""
    return (f"{report['task']} ({report['data']}), {host['cpu']}, {host['threads']} threads,"
            f" torch {host['torch']}{runtime}")  # fmt: skip


def own_task(folders: list[Path]) -> str:
    """The task that the first model's run.json or export.json names."""
    record = folders[0] / "export.json"
    name = read_run(folders[0]).get("task") or (record.exists() and read_json(record).get("task"))
    if not name:
        raise RositaError(f"{folders[0]} does not say its task: give --task_name")
    return name


def check_lengths(lengths: list[int], config: RositaConfig) -> None:
    """Raise `RositaError` if a batch would be longer than the model has positions."""
    if max(lengths) > config.max_position_embeddings:
        raise RositaError(
            f"--lengths {max(lengths)} is too much: the model has"
            f" {config.max_position_embeddings} positions"
        )


def numbers(text: str) -> list[int]:
    """`1,8,32` as a list, each once."""
    return list(dict.fromkeys(map(positive, text.split(","))))


def formats(text: str) -> list[str]:
    """`pytorch,int8` as a list, each once."""
    parts = text.replace(" ", "").split(",")
    unknown = [part for part in parts if part not in FORMATS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(FORMATS)}")
    return list(dict.fromkeys(parts))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", required=True, help="model folders or exports")
    parser.add_argument("--formats", type=formats, default=list(FORMATS), help="default: all three")
    parser.add_argument("--batch_sizes", type=numbers, default=[1, 8, 32], help="default: 1,8,32")
    parser.add_argument("--lengths", type=numbers, default=[32, 128], help="tokens: 32,128")
    parser.add_argument("--task_name", help="GLUE task or a task.json (default: the models' own)")
    parser.add_argument("--data_dir", help="folder of dev.tsv (default: data/TASK)")
    parser.add_argument(
        "--max_seq_length", type=positive, help="of dev texts (default: the task's)"
    )
    parser.add_argument("--output_dir", default=str(REPOSITORY / "models"), help="default: models")
    parser.add_argument("--threads", type=positive, help="cores of one call (default: torch's)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timing (default: 3)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
