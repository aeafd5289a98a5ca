"""What is scored without a model: by one answer for all rows, and by words that a pair shares.

    python experiments/floors.py

Reads   data/TASK/, data/held_out/TASK/, as experiments/reproduce.py makes it
Writes  experiments/minilm/floors.json: a task's scores on dev and on the held-out rows

A share of a teacher's score says little where the teacher stands near these.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from experiments import FIVE
from records import parser_of
from reproduce import commit
from rosita.cli import run_script
from rosita.data.encode import label_number
from rosita.data.tsv import TsvFile
from rosita.evaluation import score
from rosita.files import write_json
from rosita.tasks import Task, find_task
from stage_lab import REPOSITORY, StageLab


def main(argv: list[str] | None = None) -> None:
    args = parser_of(__doc__).parse_args(argv)
    tasks = {}
    for name in FIVE:
        task, lab = find_task(name), StageLab(name, "full", 1)
        lab.hold_out()
        train = lab.data_dir / task.train_file
        tests = {"dev": REPOSITORY / "data" / name, "held_out": lab.data_dir}
        tasks[name] = {
            test: floors(task, train, folder / task.dev_files[0]) for test, folder in tests.items()
        }
        print(name, tasks[name], flush=True)
    write_json(args.results / "floors.json", {"commit": commit(REPOSITORY), "tasks": tasks})


def floors(task: Task, train: Path, test: Path) -> dict[str, float]:
    """Main scores on `test` of the two rules, as far as they exist.

    `one_answer`: the better label of the two for all rows, where there are labels.
    `words_in_common`, of pairs: one label from a share of common words on and the other below, as
    is best on `train`, or in a regression that share.
    """
    texts, gold = _read(task, test)
    found = {}
    if not task.is_regression:
        same = (np.eye(task.num_labels)[[label] * len(gold)] for label in range(task.num_labels))
        found["one_answer"] = max(score(task, answers, gold).main for answers in same)
    if len(texts[0]) == 2:
        shares = _overlaps(texts)
        if task.is_regression:
            answers = shares[:, None]
        else:
            train_texts, labels = _read(task, train)
            bound, above = best_bound(_overlaps(train_texts), labels)
            answers = np.eye(2)[np.where(shares >= bound, above, 1 - above)]
        found["words_in_common"] = score(task, answers, gold).main
    return found


def overlap(texts: tuple[str, ...]) -> float:
    """Overlap coefficient of two texts' words: how many both have, of the one that has fewer."""
    first, second = (set(re.findall(r"\w+", text.lower())) for text in texts)
    return len(first & second) / max(1, min(len(first), len(second)))


def best_bound(shares: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """The bound, and the label (0 or 1) from it on, of the most right answers; (rows,) each."""
    right = {
        (bound, above): ((shares >= bound) == (labels == above)).mean()
        for bound in np.unique(shares)
        for above in (0, 1)
    }
    return max(right, key=lambda rule: right[rule])


def _overlaps(pairs: list[tuple[str, ...]]) -> np.ndarray:
    return np.array([overlap(pair) for pair in pairs])


def _read(task: Task, path: Path) -> tuple[list[tuple[str, ...]], np.ndarray]:
    file = TsvFile(path, task)
    rows = list(file.rows())
    return [row.texts for row in rows], np.array([label_number(row, file) for row in rows])


if __name__ == "__main__":
    run_script(main)
