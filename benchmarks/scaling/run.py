"""What distillation takes from 1e6 to 1e9 rows on 1 to 64 GPUs, by scaling/simulator.py.

    python benchmarks/scaling/run.py           # the tables and the picture, in seconds
    python benchmarks/scaling/run.py --check   # also: calibrate here, predict and measure runs

Reads   docs/scaling.json       the last check (without --check)
Writes  docs/scaling.json       assumptions, all figures, the check
        docs/many-machines.md   its tables, between their <!-- markers -->; the text is kept
        docs/scaling.svg        hours against rows; rows/s against the batch
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rosita.cli import ArgumentParser, run_script
from rosita.files import atomic_write, read_json, write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENT = "many-machines.md"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    # heavy imports: --help comes without them
    from scaling.figure import draw
    from scaling.tables import A100, all_tables, cells

    record = args.output_dir / "scaling.json"
    check = read_json(record).get("check") if record.exists() else None
    if args.check:
        from scaling.check import run_check

        check = run_check()
    tables = all_tables(check)
    write_json(record, {"assumed": asdict(A100), "cells": cells(), "check": check})
    update_document(args.output_dir / DOCUMENT, tables)
    draw(args.output_dir / "scaling.svg")
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    print(f"\nwritten to {args.output_dir}/{DOCUMENT}, scaling.json and .svg")


def update_document(path: Path, tables: dict[str, str]) -> None:
    """Replace the tables between their markers; a document that lacks one is left without it."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for name, made in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(pattern, partial(_filled, made=made), text, flags=re.DOTALL)
    with atomic_write(path) as file:
        file.write(text)


def _filled(markers: re.Match, made: str) -> str:
    return f"{markers[1]}{made}\n{markers[2]}"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="measure runs here, and predict them")
    parser.add_argument("--output_dir", type=Path, default=DOCS, help="folder to write (docs/)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
