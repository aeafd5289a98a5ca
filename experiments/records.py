"""The records of finished experiments: experiments/minilm/TASK/TABLE-NAME-SEED.json."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from experiments import EXPERIMENTS
from rosita.files import read_json


def record_path(results: Path, task: str, table: str, name: str, seed: int) -> Path:
    return results / task / f"{table}-{name}-{seed}.json"


def read_records(results: Path) -> list[dict]:
    return [read_json(path) for path in sorted(results.glob("*/*.json"))]


def groups_of(records: list[dict], task: str, table: str) -> dict[str, list[dict]]:
    """Records by experiment, in the order of the list, seeds ascending."""
    groups = {}
    for experiment in EXPERIMENTS:
        wanted = (task, table, experiment.name)
        found = [r for r in records if (r["task"], r["table"], r["name"]) == wanted]
        if found and experiment.table == table:
            groups[experiment.name] = sorted(found, key=lambda record: record["seed"])
    return groups


def held_out(found: list[dict]) -> list[float]:
    """The scores, in percent, that the models were chosen by."""
    return [100 * record["stages"][-1]["dev_score"] for record in found]


def best_on_held_out(groups: dict[str, list[dict]]) -> str:
    """The experiment whose models score best on the held-out rows, on average over seeds."""
    return max(groups, key=lambda name: mean(held_out(groups[name])))
