"""Run the experiments of RESULTS.md that have no record yet, and write a record of each.

    python experiments/reproduce.py --tasks SST-2 --tables settings --seeds 1

Reads   data/TASK/, models/bert_pt/ (MiniLM), glove/glove.6B.50d/, KD/configurations/minilm/
Writes  data/held_out/, models/minilm/ (the models and their logs; not kept in the repository)
        experiments/minilm/records.jsonl: a line a record, scores on all of dev, the interval of
        the difference to the teacher, commit and machine; stages-TASK-DATA-SEED.jsonl: its stages
        with --serving experiments/minilm/serving-TASK.json: latency and size in every format

The best step of each stage is chosen on sentences held out of train; dev is read once, at the end.
Cut off, the same command goes on. `--jobs 2` runs two experiments at once, of two tasks, each with
half of the threads.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from chains import TEACHER_SEED, teacher
from experiments import EXPERIMENTS, FIVE, Experiment
from records import (
    add_record,
    best_of,
    curves,
    groups_of,
    has_record,
    parser_of,
    read_records,
    weights_of,
)
from rosita.checkpoint import load_model
from rosita.cli import amount, run_script
from rosita.config import Precision
from rosita.data.encode import encode_file
from rosita.deploy.latency import machine, weights_bytes
from rosita.deploy.session import require
from rosita.errors import RositaError, nearest
from rosita.evaluation import Scores, paired_bootstrap, predict, score
from rosita.files import read_json, write_json
from rosita.provenance import read_run
from rosita.runtime import auto_takes_bf16
from rosita.tasks import GLUE, Task, find_task
from rosita.tokenizer import read_tokenizer
from side_by_side import Job, run_side_by_side
from stage_lab import MODELS, REPOSITORY, StageLab, run_checked

COLA = GLUE["CoLA"]
SERVED_SEED = 1
LISTING = "--dry_run alone lists all"
WRITTEN = ("experiments/minilm", "RESULTS.md")  # by the experiments and results.py


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for package in ("onnx", "onnxruntime") if args.serving else ():
        require(package)  # now, and not after hours of training
    chosen = choose(args)
    chosen.sort(key=partial(_turn, read_records(args.results)))
    waiting: list[Job] = []
    for number, (experiment, task, seed) in enumerate(chosen, 1):
        known = has_record(args.results, experiment.table, experiment.name, task, seed)
        state = "has a record" if known else "runs" if args.jobs == 1 else "waits for its turn"
        print(
            f"[{number}/{len(chosen)}] {task} {experiment.table}/{experiment.name}, seed {seed}:"
            f" {state}",
            flush=True,
        )
        if args.dry_run:
            continue
        if not known and args.jobs > 1:
            waiting.append(job(experiment, task, seed, args.results, args.precision))
            continue
        if not known:
            run_experiment(experiment, task, seed, args.results, args.precision)
        add_interval_over_seeds(experiment, task, args.results)
    if waiting:
        run_side_by_side(waiting, args.jobs, MODELS / "logs")
    for task in args.tasks if args.serving and not args.dry_run else []:
        measure_serving(task, args.results, args.serving)


def choose(args: argparse.Namespace) -> list[tuple[Experiment, str, int]]:
    """Experiment, task and seed of all that is asked for.

    Raises `RositaError` for a word that no experiment has, and if none has all of them.
    """
    asked = {name: vars(args)[name] for name in ("tasks", "tables", "names", "seeds")}
    asked = {name: words for name, words in asked.items() if words is not None}
    every = [
        ({"tasks": task, "tables": one.table, "names": one.name, "seeds": seed}, one)
        for one in EXPERIMENTS
        for task in one.tasks
        for seed in one.seeds
    ]
    for name, words in asked.items():
        known = list(dict.fromkeys(str(facts[name]) for facts, _ in every))
        for word in map(str, words):
            if word not in known:
                hint = nearest(word, known)
                raise RositaError(f"--{name} {word!r} is in no experiment{hint}; {LISTING}")
    chosen = [
        (one, facts["tasks"], facts["seeds"])
        for facts, one in every
        if all(facts[name] in words for name, words in asked.items())
    ]
    if not chosen:
        given = " ".join(f"--{name} {','.join(map(str, words))}" for name, words in asked.items())
        raise RositaError(f"no experiment is all of {given}; {LISTING}")
    return chosen


def _turn(records: list[dict], chosen: tuple[Experiment, str, int]) -> tuple[bool, float]:
    """The settings first, then what took the fewest hours, as far as a record of its kind tells."""
    experiment, task, _ = chosen
    alike = [
        [record for record in records if all(record[name] == value for name, value in kind.items())]
        for kind in (
            {"table": experiment.table, "name": experiment.name, "task": task},
            {"table": experiment.table, "task": task},
            {"task": task},
        )
    ]
    known = next((found for found in alike if found), [])
    hours = sum(record["hours"] for record in known) / len(known) if known else float("inf")
    return experiment.table != "settings", hours


def job(experiment: Experiment, task: str, seed: int, results: Path, precision: Precision) -> Job:
    """One experiment as a process of its own."""
    flags = {"tasks": task, "tables": experiment.table, "names": experiment.name, "seeds": seed}
    words = [f"--{name}={value}" for name, value in flags.items()]
    how = (f"--results={results}", f"--precision={precision}")
    return Job(
        task,
        f"{task}-{experiment.table}-{experiment.name}-{seed}",
        (sys.executable, __file__, *words, *how),
    )


def run_experiment(
    experiment: Experiment, task: str, seed: int, results: Path, precision: Precision = "auto"
) -> None:
    """Run the chain, score teacher and student on dev, write the record."""
    made_by = {"commit": commit(REPOSITORY), "machine": this_machine()}  # as the chain begins
    lab = StageLab(task, experiment.data, seed, precision)
    lab.hold_out()
    model = experiment.chain(lab)
    ran = dict(lab.ran)  # what led to this model, and it last
    tuned = teacher(lab)
    record = {
        "table": experiment.table,
        "name": experiment.name,
        "task": task,
        "seed": seed,
        "data": lab.data,
        "train_rows": read_run(tuned)["data"]["train_rows"],
        **dev_scores(task, model, tuned),
        "bytes": weights_bytes(model),
        "stages": [
            {"folder": str(folder.relative_to(MODELS)), **short_run(folder, asked)}
            for folder, asked in ran.items()
        ],
    }
    if "dev_score" not in record["stages"][-1]:  # cut after its training
        held_out = scores_of(task, model, lab.data_dir)[1]
        record["stages"][-1] |= {"metric": held_out.metric, "dev_score": held_out.main}
    record["hours"] = round(sum(s.get("seconds", 0) for s in record["stages"]) / 3600, 3)
    add_record(results, record | made_by)
    print(
        f"{task} {experiment.table}/{experiment.name}, seed {seed}: {record['metric']}"
        f" {record['score']:.4f}, teacher {record['teacher_score']:.4f}",
        flush=True,
    )


def add_interval_over_seeds(experiment: Experiment, task: str, results: Path) -> None:
    """Add to the last seed's record the interval over rows and seeds, if their models are here."""
    found = groups_of(read_records(results), task, experiment.table)[experiment.name]
    here = list(filter(is_here, found))
    weights = [weights_of(record) for record in here]
    known = [set(r["over_seeds"]["weights"]) for r in found if "over_seeds" in r]
    tuned = StageLab(task, experiment.data, SERVED_SEED).models / f"bert_ft-{TEACHER_SEED}"
    if len(here) < 2 or any(some >= set(weights) for some in known) or not tuned.exists():
        return
    data = REPOSITORY / "data" / task
    theirs, scores, labels = scores_of(task, tuned, data)
    if any(record["teacher_score"] != scores.main for record in here):
        print(f"{task} {experiment.table}/{experiment.name}: its seeds had other teachers")
        return
    ours = [scores_of(task, model_of(record), data)[0] for record in here]
    interval = paired_bootstrap(find_task(task), [ours], [[theirs]], labels)
    together = {"weights": weights, "difference_95": interval}
    add_record(results, here[-1] | {"over_seeds": together})


def model_of(record: dict) -> Path:
    return MODELS / record["stages"][-1]["folder"]


def is_here(record: dict) -> bool:
    """Whether models/minilm/ has the very model that the record is of, not one made anew."""
    made = weights_of(record)
    return made is not None and read_run(model_of(record)).get("weights") == made


def commit(repository: Path) -> str | None:
    """The commit checked out, "-dirty" if a file of it is changed; None outside git.

    What experiments write does not count: it is no part of what made them.
    """

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        top, made_by = git("rev-parse", "--show-toplevel", "HEAD").split("\n")[:2]
        if Path(top) != repository.resolve():  # a copy within another repository
            return None
        changed = git(
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ".",
            *(f":(exclude){path}" for path in WRITTEN),
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return made_by + ("-dirty" if changed else "")


def this_machine() -> dict[str, object]:
    """What the hours depend on and, by the precision, the scores."""
    found = machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": found["cpu"],
        "threads": found["threads"],
        "gpu": gpu,
        "bf16": auto_takes_bf16(no_cuda=False),
    }


def measure_serving(task: str, results: Path, seconds: float) -> None:
    """Time the settings' models and the best one, as far as they are here, in every format."""
    records = read_records(results)
    groups = [best_of(records, task), *groups_of(records, task, "settings").values()]
    models = {}
    for record in (r for found in groups for r in found if r["seed"] == SERVED_SEED):
        lab = StageLab(task, record["data"], SERVED_SEED)
        folder = model_of(record)
        taught = f"{record['train_rows']:,} rows"
        tuned = lab.models / f"bert_ft-{TEACHER_SEED}"
        for name, model in ((f"teacher, {taught}", tuned), (f"{record['name']}, {taught}", folder)):
            if read_run(model).get("finished"):
                models[str(model)] = name
    served = results / f"serving-{task}.json"
    known = {row["model"] for row in read_json(served)["rows"]} if served.exists() else set()
    if known >= set(models.values()):
        return
    output = MODELS / task / "serving"
    run_checked("Deploy/benchmark.py", "--models", *models, "--batch_sizes", 1, "--lengths", 32,
                "--data_dir", REPOSITORY / "data" / task, "--output_dir", output,
                "--seconds", seconds)  # fmt: skip
    report = read_json(output / "benchmark.json")
    rows = [row | {"model": models[row["model"]]} for row in report["rows"]]
    write_json(served, {"machine": report["machine"], "rows": rows})


def dev_scores(task_name: str, model: Path, teacher_folder: Path) -> dict[str, object]:
    """Both models on all of dev, and the interval of their difference."""
    task = find_task(task_name)
    data = REPOSITORY / "data" / task.name
    ours, scores, labels = scores_of(task_name, model, data)
    theirs, teachers, _ = scores_of(task_name, teacher_folder, data)
    return {
        "metric": scores.metric,
        "score": scores.main,
        "scores": scores.all,
        "teacher_score": teachers.main,
        "difference_95": paired_bootstrap(task, [[ours]], [[theirs]], labels),
        "agreement": agreement(task, ours, theirs),
        "dev_rows": len(labels),
        **(
            {"by_source": by_source(task, data / task.dev_files[0], ours, theirs, labels)}
            if task is COLA
            else {}
        ),
    }


def agreement(task: Task, ours: np.ndarray, theirs: np.ndarray) -> float:
    """How alike two models answer, right or wrong (Stanton et al., NeurIPS 2021): the share of rows
    of one answer, or of a regression Pearson's correlation. Logits (rows, num_labels).
    """
    if task.is_regression:
        return float(np.corrcoef(ours[:, 0], theirs[:, 0])[0, 1])
    return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())


def scores_of(task_name: str, model: Path, data: Path) -> tuple[np.ndarray, Scores, np.ndarray]:
    """A model's answers to the dev rows of `data`, read by its own tokenizer; scores; labels."""
    task = find_task(task_name)
    dev = encode_file(data / task.dev_files[0], task, read_tokenizer(model), task.max_seq_length)
    answers, labels = predict(load_model(model, task), dev, 32), np.asarray(dev.labels)
    return answers, score(task, answers, labels), labels


def by_source(
    task: Task, dev: Path, ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray
) -> dict[str, dict[str, float]]:
    """CoLA's dev in two: sentences of the books and papers that train quotes too, and of others.

    CoLA names the source of a sentence in the first column. Logits (rows, 2), labels (rows,).
    """
    sources = {
        name: [line.split("\t")[0] for line in dev.with_name(name).read_text("utf-8").splitlines()]
        for name in ("train.tsv", dev.name)
    }
    known = np.isin(sources[dev.name], sources["train.tsv"])
    return {
        name: {
            "rows": int(rows.sum()),
            "score": score(task, ours[rows], labels[rows]).main,
            "teacher_score": score(task, theirs[rows], labels[rows]).main,
        }
        for name, rows in (("known", known), ("new", ~known))
    }


def short_run(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """A stage's run.json: its curves, no lists of heads and units, no paths of this machine.

    Of what the chain asked of it, `asked`, also what no setting of the stage tells.
    """
    run = read_run(folder)
    names = (
        "stage shape parameters metric dev_score best steps seconds arithmetic weights versions"
        " teacher_states_bytes"
    ).split()
    kept = {name: run[name] for name in names if name in run}
    untold = {key: value for key, value in asked.items() if not isinstance(value, Path)}
    settings = {**untold, **run.get("identity", {}).get("settings", {})}
    return {**kept, "settings": settings, **curves(run.get("history", []))}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__)

    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(seed) for seed in words(text)]

    add = parser.add_argument
    add("--tasks", type=words, default=list(FIVE), help=",".join(FIVE))
    add("--tables", type=words, help="of these tables only")
    add("--names", type=words, help="these experiments only")
    add("--seeds", type=numbers, default=[1, 2, 3])
    add("--serving", nargs="?", type=amount, const=3.0, metavar="SECONDS",
        help="then time the settings' models and the best, each format so long (3)")  # fmt: skip
    add("--jobs", type=int, default=1, help="experiments at once, of as many tasks (1)")
    add("--precision", choices=get_args(Precision), default="auto",
        help="of stages that are still to run (auto: bf16 where it is faster)")  # fmt: skip
    add("--dry_run", action="store_true", help="list what would run")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error("--jobs must be 1 or more")
    return args


if __name__ == "__main__":
    run_script(main)
