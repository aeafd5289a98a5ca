"""Label texts with a model folder or an export: from stdin or a file, to stdout or a file.

    echo "the dog ran" | python Deploy/predict.py --model models/export/CoLA
    python Deploy/predict.py --model models/export/CoLA --format int8 --input reviews.csv \\
        --text_columns review --output labels.tsv

Reads   model/            config.json, the tokenizer, model.safetensors or onnx/
        input             lines of text, TSV, CSV or JSONL (by its name, or --input_format)
Writes  output            label<TAB>probability per row, in order; CSV or JSONL if its name says so
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rosita.cli import ArgumentParser, positive, run_script
from rosita.config import ACCEPT_CHANGED
from rosita.deploy.formats import RUNNABLE, choose_format
from rosita.deploy.labelling import Answer, Labeller, with_bar
from rosita.deploy.texts import INPUT_FORMATS, format_of, open_input, read_texts
from rosita.errors import RositaError
from rosita.files import atomic_write


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    model_format = choose_format(args.model, args.format)
    form = args.input_format or format_of(args.input)
    if args.text_columns and form == "text":
        raise RositaError(
            f"--text_columns: {args.input} is read as lines of text, which have no columns; add"
            " --input_format tsv, csv or jsonl"
        )
    written = args.output_format or format_of(args.output)
    line_of = {"csv": Answer.as_csv, "jsonl": Answer.as_json}.get(written, Answer.as_tsv)
    count = 0
    with open_input(args.input, form) as source:
        labeller = Labeller(args.model, model_format, args.max_seq_length, args.accept_changed)
        check_columns(labeller, form, args)
        with open_output(args.output) as target:
            rows = read_texts(source, args.input, form, args.text_columns)
            for answer in labeller.label(with_bar(rows)):
                target.write(line_of(answer) + "\n")
                count += 1
            if not count:
                raise RositaError(f"{args.input} holds no text")
    if args.output != "-":
        print(f"{count} labels are in {args.output}")


def check_columns(labeller: Labeller, form: str, args: argparse.Namespace) -> None:
    """Raise `RositaError`, with the flags to type, if rows have not the texts of the model's."""
    wanted, given = labeller.rows.texts, len(args.text_columns or [0])
    if wanted in (None, given):
        return
    if wanted == 1:
        advice = "one text a row: give --text_columns one column"
    elif form == "text":
        advice = (
            "pairs: give a table: --input_format tsv --text_columns 0,1 reads a tab between the two"
        )
    else:
        advice = "pairs: --text_columns A,B names the columns of the two"
    raise RositaError(f"{args.model} labels {advice}")


@contextmanager
def open_output(path: str) -> Iterator[IO[str]]:
    """stdout for `-`, or a file that appears whole or not at all."""
    if path == "-":
        if sys.stdout is None:
            raise RositaError("stdout is closed: give --output FILE")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as its input is, whatever the locale says
        yield sys.stdout
    else:
        with atomic_write(path, through=True) as file:
            yield file


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model folder, or what Deploy/export.py wrote")
    add("--format", choices=("auto", *RUNNABLE), default="auto", help="which of its forms to run")
    add("--input", default="-", help="file of texts (default: stdin)")
    add("--input_format", choices=INPUT_FORMATS, help="default: by the file's name, else text")
    add(
        "--text_columns", type=columns, help="of a table: the text's column or key; A,B: a pair (0)"
    )
    add("--output", default="-", help="file to write (default: stdout)")
    add(
        "--output_format",
        choices=("tsv", "csv", "jsonl"),
        help="default: by the file's name, else tsv",
    )
    add("--accept_changed", action="store_true", help=ACCEPT_CHANGED)
    add("--max_seq_length", type=positive, help="cuts texts (default: as trained or exported; 128)")
    return parser.parse_args(argv)


def columns(text: str) -> list[str]:
    """`A` or `A,B` as a list."""
    if text.count(",") > 1:
        raise argparse.ArgumentTypeError("takes one column, or two with a comma between")
    return text.split(",")


if __name__ == "__main__":
    run_script(main)
