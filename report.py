"""All models of a folder on one page: lineage, score against size and speed, curves, heat maps.

    python report.py models/ --output_dir models/report

Reads   MODELS/**/run.json, export.json; MODELS/benchmark.json of Deploy/benchmark.py if there
Writes  output_dir/report.html       one file that needs nothing else, for a browser
        output_dir/report.md         its tables
        output_dir/report.json       its numbers
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rosita.cli import ArgumentParser, run_script
from rosita.report.collection import build_report


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    report = build_report(args.models, args.latency)
    for line in report.warnings:
        print(f"warning: {' '.join(line.split())}", file=sys.stderr)
    from rosita.report.page import write_report  # heavy imports: matplotlib

    paths = write_report(report, args.output_dir or args.models / "report")
    finished = sum(model.record.finished for model in report.models)
    print(
        f"{finished} finished and {len(report.models) - finished} unfinished runs;"
        f" see {paths[0]} (tables: {paths[1].name}, numbers: {paths[2].name})"
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, help="folder of all models, as models/")
    parser.add_argument("--output_dir", type=Path, help="folder to write (default: MODELS/report)")
    parser.add_argument(
        "--latency",
        type=Path,
        nargs="+",
        help="what Deploy/benchmark.py wrote (default: MODELS/benchmark.json, if it is there)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
