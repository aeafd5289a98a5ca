"""What one setting gains over another: intervals over dev rows and seeds together.

    python experiments/compare.py

Reads   experiments/minilm/*.jsonl, the records, and data/TASK/; from models/minilm/ the models that
        they are of, as far as they are there
Writes  experiments/minilm/comparisons.json: of each task and comparison the interval and the
        models that it is of; what was there of models that are gone, or of more models, stays
"""

from __future__ import annotations

import numpy as np

from experiments import COMPARED, FIVE
from records import groups_of, parser_of, read_records, weights_of
from reproduce import is_here, model_of, scores_of
from rosita.cli import run_script
from rosita.errors import RositaError
from rosita.evaluation import paired_bootstrap
from rosita.files import read_json, write_json
from rosita.tasks import find_task
from stage_lab import REPOSITORY

ROUNDING = 0.005  # that another machine's arithmetic may move a score by
ENOUGH = 2  # seeds of a line, so that their spread can be in the interval


def main(argv: list[str] | None = None) -> None:
    args = parser_of(__doc__).parse_args(argv)
    records, path = read_records(args.results), args.results / "comparisons.json"
    known = read_json(path)["tasks"] if path.exists() else {}
    for task in FIVE:
        found = compare(task, groups_of(records, task, "settings"))
        print(f"{task}: {len(found)} of {len(COMPARED)} comparisons", flush=True)
        earlier = known.setdefault(task, {})
        earlier |= {says: new for says, new in found.items() if not has_all(earlier.get(says), new)}
    write_json(path, {"tasks": known})


def has_all(earlier: dict | None, new: dict) -> bool:
    """Whether an earlier interval is of all the models that a new one is of, or of more."""
    if earlier is None:
        return False
    return all(set(earlier["weights"][name]) >= set(made) for name, made in new["weights"].items())


def compare(task_name: str, groups: dict[str, list[dict]]) -> dict[str, dict]:
    """The interval of each comparison that has models enough of all its lines."""
    task, data = find_task(task_name), REPOSITORY / "data" / task_name
    here = {name: list(filter(is_here, found)) for name, found in groups.items()}
    here = {name: found for name, found in here.items() if len(found) >= ENOUGH}
    answers: dict[str, list[np.ndarray]] = {}
    labels = np.empty(0)
    for name, found in here.items():
        answers[name] = []
        for record in found:
            logits, scores, labels = scores_of(task_name, model_of(record), data)
            if abs(scores.main - record["score"]) > ROUNDING:
                raise RositaError(
                    f"{model_of(record)} scores {scores.main:.4f} on dev, its record"
                    f" {record['score']:.4f}: is data/{task_name} the data that it was scored on?"
                )
            answers[name].append(logits)
    intervals = {}
    for says, (plus, minus) in COMPARED.items():
        if answers.keys() >= {*plus, *minus}:
            ours, theirs = ([answers[name] for name in side] for side in (plus, minus))
            intervals[says] = {
                "difference_95": paired_bootstrap(task, ours, theirs, labels),
                "weights": {name: list(map(weights_of, here[name])) for name in (*plus, *minus)},
            }
    return intervals


if __name__ == "__main__":
    run_script(main)
