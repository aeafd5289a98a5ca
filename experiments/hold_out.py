"""Hold rows of train.tsv out to choose models on, so that dev stays untouched until the end.

    python experiments/hold_out.py --task_name SST-2 --data_dir data/SST-2 --rows 3000 \\
        --output_dir data/held_out/SST-2

Whole families are held out: sentences drawn at random, and every row that is a part of one of them
(SST-2's phrases), so that nothing of them is trained on. Where dev has whole sentences only, as
SST-2's, --min_words leaves the shorter parts out of the held-out file too.

Reads   data_dir/      train.tsv
Writes  output_dir/    train.tsv: the other rows, or --train_rows of them drawn at random;
                       dev.tsv: the rows held out, of --min_words or more
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rosita.cli import ArgumentParser, positive, run_script
from rosita.data.tsv import Row, TsvFile
from rosita.errors import RositaError
from rosita.files import atomic_write
from rosita.tasks import find_task


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    task = find_task(args.task_name)
    source = TsvFile(args.data_dir / task.train_file, task)
    rows = list(source.rows())
    check_output(args.output_dir / task.train_file, source.path)
    sentences = [" ".join(row.texts).split() for row in rows]
    held = hold_out(sentences, args.rows, args.seed, args.min_words)
    chosen_by = [number for number in held if len(sentences[number]) >= args.min_words]
    kept = np.setdiff1d(np.arange(len(rows)), held)
    if not len(kept):
        raise RositaError(
            f"--rows {args.rows}: no row of {source.path} is left to train on; ask for fewer"
        )
    if args.train_rows:
        if args.train_rows > len(kept):
            raise RositaError(f"--train_rows {args.train_rows}: only {len(kept)} rows are left")
        random = np.random.default_rng([args.seed, 1])
        kept = np.sort(random.choice(kept, args.train_rows, replace=False))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, chosen in ((task.train_file, kept), (task.dev_files[0], chosen_by)):
        write_rows(args.output_dir / name, source.header, [rows[index] for index in chosen])
    print(f"{args.output_dir}: {len(kept):,} rows to train on, {len(chosen_by):,} held out")


def check_output(train: Path, source: Path) -> None:
    """Raise `RositaError` if the file to write is the one that was read, by whatever path."""
    if train.exists() and train.samefile(source):
        raise RositaError(
            f"--output_dir {train.parent} holds the {train.name} of --data_dir, whose rows would be"
            " lost; name another folder"
        )


def hold_out(sentences: list[list[str]], count: int, seed: int, min_words: int = 1) -> np.ndarray:
    """Numbers of whole families of rows, drawn at random, ascending.

    As many as give at least `count` rows of `min_words` or more.

    A family is a sentence that is no part of another one, and all rows that are a run of its words.
    """
    if not 0 < count < len(sentences):
        raise RositaError(f"--rows {count} must lie in 1..{len(sentences) - 1}")
    by_text: dict[str, list[int]] = {}
    for number, words in enumerate(sentences):
        by_text.setdefault(" ".join(words), []).append(number)
    is_part = np.zeros(len(sentences), dtype=bool)
    for words in sentences:
        for part in parts(words, by_text):
            if len(part.split()) < len(words):
                is_part[by_text[part]] = True
    held: dict[int, None] = {}
    for root in np.random.default_rng(seed).permutation(np.flatnonzero(~is_part)):
        for part in parts(sentences[root], by_text):
            held.update(dict.fromkeys(by_text[part]))
        if sum(len(sentences[number]) >= min_words for number in held) >= count:
            break
    else:
        long = sum(len(words) >= min_words for words in sentences)
        raise RositaError(
            f"--rows {count}: only {long} rows have {min_words} words or more (--min_words); ask"
            " for fewer, or for shorter ones"
        )
    return np.sort(np.fromiter(held, dtype=np.int64))


def parts(words: list[str], known: dict[str, list[int]]) -> list[str]:
    """The runs of words of a sentence that are rows themselves; the sentence is one of them."""
    found: dict[str, None] = {}
    for begin in range(len(words)):
        for end in range(begin + 1, len(words) + 1):
            text = " ".join(words[begin:end])
            if text in known:
                found[text] = None
    return list(found)


def write_rows(path: Path, header: str | None, rows: list[Row]) -> None:
    with atomic_write(path) as file:
        if header is not None:
            file.write(header + "\n")
        file.writelines("\t".join(row.fields) + "\n" for row in rows)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task_name", required=True, help="GLUE task, or a task.json of your own")
    parser.add_argument("--data_dir", required=True, type=Path, help="folder of train.tsv")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--rows", type=positive, default=3000, help="hold out at least so many (3000)"
    )
    parser.add_argument(
        "--min_words", type=positive, default=1, help="count and write these only (1)"
    )
    parser.add_argument("--train_rows", type=positive, help="keep so many of the others (all)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise RositaError(f"--seed {args.seed} must not be negative")
    return args


if __name__ == "__main__":
    run_script(main)
