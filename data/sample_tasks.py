"""Write small tasks in GLUE's layout: real English from a grammar, the same bytes every time.

    python data/sample_tasks.py --tasks all --data_dir data/sample

Reads   nothing
Writes  data_dir/TASK/{train,dev,test}.tsv   for CoLA, SST-2, MNLI, QNLI, QQP (MNLI: dev and test,
        matched and mismatched). A task that is there already, with the same content, is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sample_draw import Draw
from sample_rules import draw_texts
from sample_sentiment import draw_opinion
from sample_words import MISMATCHED, WORDS

from rosita.cli import ArgumentParser, run_script
from rosita.errors import RositaError, nearest
from rosita.files import atomic_write
from rosita.tasks import GLUE, PAPER_TASKS, glue_task_name

SPLITS = ("train", "dev", "test")
# rows of the train file, of each dev file, of each test file
SIZES = {
    "CoLA": (4000, 800, 400),
    "SST-2": (3000, 800, 400),
    "MNLI": (3600, 600, 300),
    "QNLI": (3000, 600, 300),
    "QQP": (3000, 600, 300),
}
_GENRES = {
    True: ("fiction", "government", "slate", "telephone", "travel"),
    False: ("facetoface", "letters", "nineeleven", "oup", "verbatim"),
}


@dataclass(frozen=True)
class Example:
    """One row: its text or two, its label, and the fillings that make it this split's."""

    texts: tuple[str, ...]
    label: str
    fillings: tuple[tuple[str, ...], ...]


@cache
def examples(task: str, file: str) -> tuple[Example, ...]:
    """The rows of one of a task's files, in order: labels in turn, no row twice.

    Rules can meet in one sentence; dev takes none that train has, test none of train and dev.
    """
    split, _, matched = file.removesuffix(".tsv").partition("_")
    draw = Draw(f"{task}/{file}", split)
    words = MISMATCHED if matched == "mismatched" else WORDS
    labels = GLUE[task].outputs
    taken = _sentences(task, SPLITS[: SPLITS.index(split)])
    found: dict[tuple[str, ...], Example] = {}
    while len(found) < SIZES[task][SPLITS.index(split)]:
        draw.used.clear()
        label = labels[len(found) % len(labels)]
        if task == "SST-2":
            texts: tuple[str, ...] = (draw_opinion(draw, label == "1"),)
        else:
            texts = draw_texts(draw, task, label, words)
        if taken.isdisjoint(texts):
            found.setdefault(texts, Example(texts, label, tuple(draw.used)))
    return tuple(found.values())


def _sentences(task: str, splits: Sequence[str]) -> set[str]:
    """Every sentence of a task's files of these splits."""
    files = [file for file in files_of(task) if file.split(".")[0].split("_")[0] in splits]
    return {text for file in files for row in examples(task, file) for text in row.texts}


def files_of(task: str) -> tuple[str, ...]:
    """Names of a task's files: train, dev, test."""
    return (GLUE[task].train_file, *GLUE[task].dev_files, *GLUE[task].test_files)


def tables(task: str) -> dict[str, str]:
    """Content of every file of a task in GLUE's layout, by file name."""
    return {file: _table(task, file) for file in files_of(task)}


def _table(task: str, file: str) -> str:
    split = file.removesuffix(".tsv").partition("_")[0]
    header, row = _LAYOUTS[task](split, file)
    lines = [header] if header else []
    lines += [row(index, example) for index, example in enumerate(examples(task, file))]
    return "".join("\t".join(line) + "\n" for line in lines)


# A layout: the header (or None) of a split's file, and how a row's fields follow from an example.
Layout = tuple[list[str] | None, Callable[[int, Example], list[str]]]


def _cola(split: str, file: str) -> Layout:
    if split == "test":
        return ["index", "sentence"], lambda index, row: [str(index), *row.texts]
    # source, label, the linguists' own mark, sentence
    return None, lambda _, row: ["smpl", row.label, "*" if row.label == "0" else "", *row.texts]


def _sst2(split: str, file: str) -> Layout:
    if split == "test":
        return ["index", "sentence"], lambda index, row: [str(index), *row.texts]
    return ["sentence", "label"], lambda _, row: [*row.texts, row.label]


def _qnli(split: str, file: str) -> Layout:
    header = ["index", "question", "sentence"]
    if split == "test":
        return header, lambda index, row: [str(index), *row.texts]
    return [*header, "label"], lambda index, row: [str(index), *row.texts, row.label]


def _qqp(split: str, file: str) -> Layout:
    if split == "test":
        return ["id", "question1", "question2"], lambda index, row: [str(index), *row.texts]
    header = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]
    first = {"train": 0, "dev": 1_000_000}[split]  # every question has a number of its own

    def fields(index: int, row: Example) -> list[str]:
        number = first + 2 * index
        return [str(number // 2), str(number + 1), str(number + 2), *row.texts, row.label]

    return header, fields


def _mnli(split: str, file: str) -> Layout:
    # train has one annotator's label, dev five; test has none
    annotators = {"train": 1, "dev": 5, "test": 0}[split]
    header = ["index", "promptID", "pairID", "genre"]
    header += ["sentence1_binary_parse", "sentence2_binary_parse"]
    header += ["sentence1_parse", "sentence2_parse", "sentence1", "sentence2"]
    header += [f"label{number + 1}" for number in range(annotators)]
    header += ["gold_label"] if annotators else []
    genres = _GENRES[not file.endswith("_mismatched.tsv")]

    def fields(index: int, row: Example) -> list[str]:
        prompt = str(index + 1)
        pair = prompt + (row.label[0] if annotators else "x")  # the real ones tell the label too
        binary = [f"( {text.rstrip('.')} . )" for text in row.texts]
        parse = [f"(ROOT (S {text.rstrip('.')} (. .)))" for text in row.texts]
        labels = [row.label] * (annotators + 1) if annotators else []
        genre = genres[index % len(genres)]
        return [str(index), prompt, pair, genre, *binary, *parse, *row.texts, *labels]

    return header, fields


_LAYOUTS: dict[str, Callable[[str, str], Layout]] = {
    "CoLA": _cola, "SST-2": _sst2, "MNLI": _mnli, "QNLI": _qnli, "QQP": _qqp,
}  # fmt: skip


def write_task(task: str, folder: Path) -> str:
    """Write a task's files into `folder` unless they are there; a line that says what was done."""
    content = {folder / file: text.encode() for file, text in tables(task).items()}
    if all(path.is_file() and path.read_bytes() == data for path, data in content.items()):
        return f"{folder} is there already, nothing to do"
    for path, data in content.items():
        with atomic_write(path, "wb") as file:
            file.write(data)
    lines = (f"{path.name} {data.count(10)} lines" for path, data in content.items())
    return f"{folder}: {', '.join(lines)}"


def parse_tasks(text: str) -> list[str]:
    """Task names from `all` or a comma list, in any case; `RositaError` names an unknown one."""
    if text.strip().lower() == "all":
        return list(PAPER_TASKS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    found = []
    for name in names or [text]:
        task = glue_task_name(name)
        if task is None or task not in PAPER_TASKS:
            known = list(PAPER_TASKS)
            raise RositaError(
                f"--tasks {name!r} has no sample; choose from all, {', '.join(known)}"
                f"{nearest(name, known)}"
            )
        found.append(task)
    return list(dict.fromkeys(found))


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Write the sample tasks in GLUE's layout.")
    parser.add_argument("--tasks", default="all", help="all, or a comma list like SST-2,CoLA")
    default = Path(__file__).resolve().parent / "sample"
    parser.add_argument("--data_dir", type=Path, default=default, help="default: %(default)s")
    args = parser.parse_args(argv)
    for task in parse_tasks(args.tasks):
        print(write_task(task, args.data_dir / task))


if __name__ == "__main__":
    run_script(main)
