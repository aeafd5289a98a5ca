"""The records of finished experiments, and the stages that they share: files of JSON lines.

records.jsonl                a line a record: table, name, task, seed, scores, ... its stages' keys
stages-TASK-DATA-SEED.jsonl  a line a stage, however many records share it: settings, losses, scores
                             on the way; a file a task, training set and seed of the stage

A stage's key is TASK/DATA/FOLDER@HASH, its folder in models/minilm/ and the hash of its line: the
same folder made twice, by two machines say, is two stages. The lines are sorted, so that a file
does not tell in which order its experiments ran, and two branches' lines can be put together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from experiments import EXPERIMENTS
from rosita.cli import ArgumentParser
from rosita.errors import RositaError
from rosita.files import atomic_write, hold, parse_json

RESULTS = Path(__file__).resolve().parent / "minilm"
RECORDS, STAGES = "records.jsonl", "stages-*.jsonl"
IDENTITY = ("table", "name", "task", "seed")  # what two records differ in
DIGITS = 5  # of a loss or a score on the way: curves; the scores that tables hold stay exact
POINTS = 12  # of each curve at least, if it has as many
PATIENCE = 60  # seconds until another process has added its record: it takes a fraction of one


def parser_of(description: str) -> ArgumentParser:
    """A script's parser, of its docstring, with the folder of the records as its first flag."""
    parser = ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def read_records(folder: Path) -> list[dict]:
    """All records of `folder`, each with its stages; none if there are no files yet."""
    records = _read_lines(folder / RECORDS)  # first: a stage is written before what names it
    stages = {}
    for path in folder.glob(STAGES):
        for line in _read_lines(path):
            key = line.pop("key")
            stages[key] = {"folder": key.rpartition("@")[0], **line}
    for record in records:
        if missing := [key for key in record["stages"] if key not in stages]:
            raise RositaError(
                f"{_stage_file(folder, missing[0])} has no stage {missing[0]}, which"
                f" {'/'.join(map(str, _identity(record)))} names"
            )
        record["stages"] = [stages[key] for key in record["stages"]]
    return records


def has_record(folder: Path, table: str, name: str, task: str, seed: int) -> bool:
    lines = _read_lines(folder / RECORDS)
    return any(_identity(record) == (table, name, task, seed) for record in lines)


def add_record(folder: Path, record: dict) -> None:
    """Add a record, or put it in place of the one of the same table, name, task and seed.

    Other processes may add theirs at the same time.
    """
    keyed = [_keyed(stage) for stage in record["stages"]]
    scores = {name: value for name, value in record.items() if name != "stages"}
    line = {**scores, "stages": [stage["key"] for stage in keyed]}
    with hold(folder / f".{RECORDS}.lock", f"{folder} is being written by", PATIENCE):
        others = [r for r in _read_lines(folder / RECORDS) if _identity(r) != _identity(record)]
        for path in {_stage_file(folder, stage["key"]) for stage in keyed}:
            new = [stage for stage in keyed if _stage_file(folder, stage["key"]) == path]
            known = {stage["key"]: stage for stage in [*_read_lines(path), *new]}
            _write_lines(path, sorted(known.values(), key=lambda stage: stage["key"]))
        _write_lines(folder / RECORDS, sorted([*others, line], key=_identity))


def curves(history: list[dict]) -> dict[str, dict]:
    """A stage's history as columns, thinned: of its losses and of its scores on held-out rows.

    A text that is the same in all entries, such as the shape of a model that is not pruned, stands
    once. What the stage says itself is left out: the metric, and its own name for a score.
    """
    losses = [entry for entry in history if any(name.startswith("loss_") for name in entry)]
    scores = [entry for entry in history if "score" in entry]
    parts = {"losses": _columns(_thin(losses)), "evaluations": _columns(_thin(scores))}
    return {name: columns for name, columns in parts.items() if columns}


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


def weights_of(record: dict) -> str | None:
    """The checksum of its model's weights; None in records of before these were noted."""
    return record["stages"][-1].get("weights")


def difference_95(found: list[dict]) -> tuple[list[list[float]], bool]:
    """The interval of the difference to the teacher over rows and seeds together, and True.

    Where it was not made of all these seeds: each one's, over rows alone, and False.
    """
    weights = [weights_of(record) for record in found]
    for record in found:
        if record.get("over_seeds", {}).get("weights") == weights:
            return [record["over_seeds"]["difference_95"]], True
    return [record["difference_95"] for record in found], False


def best_of(records: list[dict], task: str) -> list[dict]:
    """The records of a task's best line, by its held-out rows over seeds; none if it has none.

    Lines that other tasks' pairs teach are in the running, beside those of table goal.
    """
    lines = groups_of(records, task, "goal") | groups_of(records, task, "transfer")
    return max(lines.values(), key=lambda found: mean(held_out(found)), default=[])


def _stage_file(folder: Path, key: str) -> Path:
    task, data, stage = key.partition("@")[0].split("/")[:3]
    return folder / STAGES.replace("*", f"{task}-{data}-{stage.rpartition('-')[2]}")


def _identity(record: dict) -> tuple:
    return tuple(record[name] for name in IDENTITY)


def _keyed(stage: dict) -> dict:
    """A stage as its line has it: under its key, which says the folder."""
    stage = dict(stage)
    folder = stage.pop("folder")
    digest = hashlib.sha256(json.dumps(stage, sort_keys=True).encode()).hexdigest()
    return {"key": f"{folder}@{digest[:8]}", **stage}


def _thin(entries: list[dict]) -> list[dict]:
    return entries[:: max(1, len(entries) // POINTS)]


def _columns(entries: list[dict]) -> dict[str, object]:
    said = {"kind", "metric"} | {entry["metric"] for entry in entries if "metric" in entry}
    names = dict.fromkeys(name for entry in entries for name in entry if name not in said)
    columns = {name: [_short(entry.get(name)) for entry in entries] for name in names}
    return {
        name: values[0] if isinstance(values[0], str) and len(set(values)) == 1 else values
        for name, values in columns.items()
    }


def _short(value: object) -> object:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _read_lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_text("utf-8").strip().split("\n"), 1):
        try:
            lines.append(parse_json(line))
        except ValueError as error:
            raise RositaError(f"{path} line {number} is not JSON: {error}") from None
    return lines


def _write_lines(path: Path, lines: Iterable[dict]) -> None:
    with atomic_write(path) as file:
        for line in lines:
            text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            file.write(text + "\n")
