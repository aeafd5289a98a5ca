"""Teacher and ROSITA side by side: a table for people, models/quickstart/summary.json for programs.

    python scripts/summarize.py --task_name SST-2 --data_dir data/sample/SST-2 --teacher T \\
        --student S --output models/quickstart/summary.json --seconds 300
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rosita.cli import ArgumentParser, run_script
from rosita.files import write_json
from rosita.provenance import resolve_folder
from rosita.pruning.shape import Shape, parameter_count
from rosita.tasks import find_task

REPOSITORY = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    task = find_task(args.task_name)
    folders = {role: resolve_folder(str(getattr(args, role))) for role in ("teacher", "student")}
    # heavy imports: the complaints above come without them
    from rosita.checkpoint import load_model
    from rosita.data.encode import encode_file
    from rosita.deploy.latency import interleaved_latency, weights_bytes
    from rosita.evaluation import predict, score
    from rosita.tokenizer import read_tokenizer

    models = {role: load_model(folder, task).eval() for role, folder in folders.items()}
    tokenizer = read_tokenizer(args.student)
    path = args.data_dir / task.dev_files[0]
    dev = encode_file(path, task, tokenizer, task.max_seq_length)
    latency = interleaved_latency(models, dev)

    summary: dict[str, object] = {"task": task.name, "dev_rows": len(dev)}
    for role, model in models.items():
        scores = score(task, predict(model, dev, 32), dev.labels)
        summary[role] = {
            "path": os.path.relpath(folders[role], REPOSITORY),
            "shape": str(Shape.of(model.config)),
            "dev_score": scores.main,
            "metric": scores.metric,
            "parameters": parameter_count(model.config),
            "bytes": weights_bytes(folders[role]),
            "ms_per_sentence": latency[role],
        }
    summary["seconds"] = args.seconds
    write_json(args.output, summary)
    print(table(summary))
    print(f"written to {os.path.relpath(args.output)}; the whole job took {args.seconds:.0f} s")


def table(summary: dict) -> str:
    """Both models and their ratio, aligned."""
    teacher, student = summary["teacher"], summary["student"]
    kept = student["dev_score"] / teacher["dev_score"] if teacher["dev_score"] > 0 else float("nan")
    rows = [
        (f"{summary['task']}, {summary['dev_rows']} dev rows", "teacher", "ROSITA", ""),
        ("shape", teacher["shape"], student["shape"], ""),
        (
            f"dev {teacher['metric']}",
            f"{100 * teacher['dev_score']:.1f}",
            f"{100 * student['dev_score']:.1f}",
            f"{100 * kept:.1f} % kept",
        ),
    ]
    for label, key, scale, digits, better in (
        ("parameters (millions)", "parameters", 1e6, 1, "fewer"),
        ("size on disk (MB)", "bytes", 1e6, 1, "smaller"),
        ("ms per sentence", "ms_per_sentence", 1, 2, "faster"),
    ):
        values = [model[key] / scale for model in (teacher, student)]
        ratio = f"{values[0] / values[1]:.1f}x {better}"
        rows.append((label, f"{values[0]:.{digits}f}", f"{values[1]:.{digits}f}", ratio))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3]]
        )
        for row in rows
    ]
    return "\n".join(["", lines[0], "-" * max(map(len, lines)), *lines[1:], ""])


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task_name", required=True)
    for name in ("data_dir", "teacher", "student", "output"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--seconds", required=True, type=float, help="what the whole job took")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
