"""The top of RESULTS.md: where it stands, the table of all tasks, the teachers, how to read it."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from statistics import mean
from textwrap import fill

from experiments import COMPARED, EXPERIMENTS, FIVE
from numbers_over_seeds import (
    NUMBERS,
    dev_scores,
    difference,
    gain,
    shares_kept,
    signed,
    spread,
)
from records import best_of, groups_of, held_out, weights_of
from rosita.files import read_json
from rosita.tables import markdown

HEAD = """# Results

all-MiniLM-L6-v2 (6 layers of 384, 22.7 M parameters) compressed on real GLUE data. Written by
`experiments/results.py`: every number of a table but the published ones is from the files in
`experiments/minilm/`, whose records `experiments/reproduce_minilm.sh` makes; run again, that script
makes what has no record yet.

The goal is that the best compressed models keep, on average over five tasks, 98.5 % of their
teachers' dev scores at 6.5x fewer parameters (the paper's share, for BERT-base at 7.5x on five
tasks, not all the same), and on each task 97 %. Where it stands, at 6.45x (difference: to the
teacher's dev score, 95 %, of each seed, or of all together with a †; names as in the tables below):
"""
READING = """## How to read the tables

- The best step of every stage is chosen on rows held out of train with all their phrases (SST-2:
  3,000 rows of eight words or more, as dev has whole sentences; CoLA 1,000, STS-B 600, MRPC 400,
  RTE 300). "held out" is that score: the best of many evaluations, so a little high, the more so
  the more there are. The experiments evaluate every 400 steps, where the shipped configs but
  config_recipe.json say 200. Lines are sorted by it, best first; one in bold is of another table,
  to compare with.
- **dev** is all of GLUE's dev set, read once for each model, after its training; no step and no
  best model is chosen by it. "teacher" is bert_ft, tuned on the same training data, on the same
  dev rows: it taught the line, in Settings 2 to 4 through bert_student; a line without KD is
  compared with it. "kept" is dev divided by teacher. Standard errors of one score, in points, on
  dev (and held out): SST-2 1.2 (0.6 or more, as several rows are parts of one sentence), CoLA 3
  (3), MRPC 2 (2), STS-B 0.7 (1), RTE 3 (3); as a share of a low score they are more: 10 % on CoLA.
- In brackets after a value: what the line in bold has. Names: `a2_l4_f256_e64` has 2 heads, 4
  layers, 256 FFN units and an embedding of rank 64; it is the shape where none is said. `bert_ft`
  is the base tuned on the task, Taylor scores are weight x gradient, the representation loss is
  that of the hidden states. "Fresh replacements" are words exchanged for GloVe neighbours anew in
  each epoch; "edited" sentences have words deleted, inserted, moved or exchanged.
- "agreement" is the share of dev rows, in percent, that student and teacher answer alike, right or
  wrong (STS-B: Pearson's correlation of their answers): how much of this teacher the student has
  taken on, whatever the teacher is worth. Older records lack it; most of SST-2's do.
- The interval is that of the difference to the teacher, in points: a 95 % paired bootstrap, over
  dev rows and the line's seeds together where it has a †, else over dev rows, of each seed. Between
  students the settings alone have one (above). bert_ft of several seeds is held against its first,
  which is one of them and taught the lines (later seeds of CoLA and SST-2: against "anew").
- ± is the standard deviation over student seeds: of two it says little, and it leaves out the error
  from the rows, which mostly is larger. One teacher, one bert_student and, where pruning is in one
  step, one cut serve all seeds: neither ± nor interval has their error (CoLA's two teachers are
  three points apart). Differences within one or two standard errors of a score are noise. A line
  of one seed next to a mean of three is best compared with that line's first seed.
- Hours are those of all stages that lead to the model, shared ones included, by the wall clock, on
  one core each where a record says it. The same stage took up to six times as long beside other
  work: they are an order of magnitude. Writing an augmented file is not counted.
- CoLA's dev has sentences of the books and papers that train quotes too ("known sources") and of
  others ("new ones"); the scores of the two parts are given for the later runs only.
- Older scripts sort rows by length among 50 batches, newer ones among up to 200. "arithmetic" is
  that of the last stage, of each seed where they differ; older records do not have it. "Training
  as published" is in bf16, but for the last stages of Setting 4, seed 3.

A record is a line of `experiments/minilm/records.jsonl`, one a seed: its scores to all digits, the
commit and the machine that made it, its stages. Each of these is a line of
`stages-TASK-DATA-SEED.jsonl`: settings, losses, held-out scores on the way. By name:

    grep '"table":"settings","name":"setting1","task":"SST-2"' experiments/minilm/records.jsonl
    grep '"key":"SST-2/20k/setting1-1@' experiments/minilm/stages-SST-2-20k-1.jsonl

To run a line again beside its record, with MiniLM, GloVe and GLUE in place (without `--results` a
line that has a record does not run again; `--precision fp32` asks for that arithmetic, whatever
the machine would take):

    python experiments/reproduce.py --tasks SST-2 --names setting1 --seeds 1 --results models/again

In fp32 the teachers of CoLA's settings, MRPC, STS-B and RTE came out bit for bit the same on a
second Intel machine, by later scripts. In other arithmetic, or by scripts that draw batches
otherwise, the same seed gives another model: on dev half a point apart on SST-2, one at most of
six pairs, three on CoLA, of one pair.
"""
TEACHERS = """## The teachers

Dev scores, ours (of how many seeds), beside those published of MiniLM with 6 layers of 384 (the
paper's, mean of 4 runs) and of DistilBERT. **Ours is another model**: all-MiniLM-L6-v2 has every
second layer of the MiniLM of 12, trained further as a sentence encoder, for similarity. It stands 3
(SST-2) to 19 points (CoLA) below that MiniLM: a share of a weak teacher is easier to keep.
DistilBERT has 66 M parameters. Every share kept is of our scores, not of the published ones;
SST-2's settings are shares of 88.9 (held out 88.3), a teacher of 20,000 rows, CoLA's settings of
26.4 (34.8). MRPC: MiniLM's paper gives accuracy, DistilBERT's does not say.

Scores without a model, held out / dev, by `experiments/floors.py`: one answer for all rows, the
better of the two; for pairs, one answer if they share enough words, else the other, the bound
fitted on train (STS-B: the share of words in common itself).
"""
FLOORS = {"one_answer": "one answer", "words_in_common": "words in common"}  # of floors.json
PUBLISHED = ("MiniLM-L6", "DistilBERT")
AGAINST = """## The settings against one another

The gain in points, mean over three seeds, ± its standard error over them: the error of the dev
rows, and of what the seeds share, which is the teacher, bert_student (a BERT of its size that
learnt from it) and the one-step cut, is not in it. "dev, 95 %" has the rows' error too: a paired
bootstrap over dev rows and seeds, by `experiments/compare.py`, of those seeds whose models were
kept: in brackets how many a line (2, 3: some lines of two, some of three). The mean over the tasks
is that of the points, as GLUE's is. KD is Setting 1 over no_kd; in 2 and 3 a stage of KD stands
before the pruning, in 1 and 2 that is in one step, in 3 and 4 iterative.
"""
# dev, of the 6-layer MiniLM of its paper and of DistilBERT
PUBLISHED_SCORES: dict[str, tuple[float | None, float]] = {
    "SST-2": (91.5, 91.3),
    "CoLA": (47.5, 51.3),
    "MRPC": (88.9, 87.5),
    "STS-B": (None, 86.9),
    "RTE": (68.8, 59.9),
}
OTHER_TEACHER = ("", "*", "**")  # marks the shares of a second teacher, and its score
RECIPE = "recipe"  # of table goal: the one for all tasks
BEST = "best"  # of a task, by the held-out rows
SUMMARY = [*(e.name for e in EXPERIMENTS if e.table == "settings"), RECIPE, BEST]


def goals_met(records: list[dict]) -> list[str]:
    """What each task's best model keeps of its teacher's score, and all of them together."""
    best = {task: found for task in FIVE if (found := best_of(records, task))}
    lines = []
    for task, found in best.items():
        seeds = f"seeds {NUMBERS['kept_by_seed'](found)}" if len(found) > 1 else "one seed"
        lines.append(
            f"- {task}: {found[0]['name']} keeps {NUMBERS['kept'](found)} ({seeds}), difference"
            f" {difference(found)} points"
        )
    means = [mean(shares_kept(found)) for found in best.values()]
    if not means:
        return ["No task has a model for it yet.", ""]
    some = "" if len(best) == len(FIVE) else f" of {len(best)} of the {len(FIVE)} tasks"
    capped = mean(mean(min(share, 100) for share in shares_kept(found)) for found in best.values())
    status = (
        f"The best models{some}, chosen on the held-out rows, keep {mean(means):.1f} % on average"
        f" ({capped:.1f} % if no seed counts for more than 100), the least {min(means):.1f} %."
    )
    return [fill(status, 99), "", *lines, ""]


def summary(records: list[dict]) -> list[str]:
    """What the settings and the best recipe keep on each task, and on average over the tasks."""
    kept: dict[str, list[float]] = {name: [] for name in SUMMARY}
    of_all: list[float] = []
    rows = []
    for task, groups in summary_lines(records).items():
        taught = {found[0]["teacher_score"]: None for found in groups.values()}
        marks = dict(zip(taught, OTHER_TEACHER, strict=False))
        cells = []
        for name, shares in kept.items():
            found = groups.get(name, [])
            shares += [mean(shares_kept(found))] if found else []
            mark = marks[found[0]["teacher_score"]] if found else ""
            cells.append(f"{NUMBERS['kept'](found)} ({len(found)}){mark}" if found else "")
        scores = ", ".join(f"{100 * score:.1f}{mark}" for score, mark in marks.items())
        tuned = groups_of(records, task, "teacher").get("bert_ft", [])
        cell = ""
        if tuned and BEST in groups:
            share = 100 * mean(dev_scores(groups[BEST])) / mean(dev_scores(tuned))
            of_all.append(share)
            cell = f"{share:.1f} % ({len(tuned)})"
        rows.append([task, scores, *cells, cell])
    # means over other tasks each would be compared with one another
    columns = [*kept.values(), of_all]
    said = [f"{mean(s):.1f} %" if len(s) == len(FIVE) else "" for s in columns]
    total = [["mean", "", *said]] if any(said) else []
    return [
        "## In one table",
        "",
        "The share of its teacher's dev score that a student of 3.5 of 22.7 M parameters keeps,",
        "mean over seeds (how many). Settings of SST-2 on 20,000 rows, all else on all rows. The",
        "last column: the best line against the mean of several tunings of the teacher (how many).",
        "",
        markdown([["", "teacher", *SUMMARY, "best / mean teacher"], *rows, *total], {0}),
        "",
    ]


def comparisons(records: list[dict], intervals: dict[str, dict[str, dict]]) -> list[str]:
    """What one setting gains over another, held out and on dev, by task and on average.

    `intervals`: those of dev rows and seeds together, by task and comparison, as compare.py has
    them; those of models that are no record's (any more) are left out.
    """
    tasks = {task: groups_of(records, task, "settings") for task in FIVE}
    rows = []
    for says, (plus, minus) in COMPARED.items():
        for where, scores in (("held out", held_out), ("dev", dev_scores)):
            gains = [
                gain([scores(found[one]) for one in plus], [scores(found[one]) for one in minus])
                for found in tasks.values()
                if found.keys() >= {*plus, *minus}
            ]
            if len(gains) == len(FIVE):
                errors = [error for _, error in gains if error is not None]
                whole = sqrt(sum(error**2 for error in errors)) / len(FIVE)
                average = (
                    mean(value for value, _ in gains),
                    whole if len(errors) == len(FIVE) else None,
                )
                rows.append([says, where, *map(plus_minus, [*gains, average])])
        cells = [over_rows(intervals.get(task, {}).get(says), tasks[task]) for task in FIVE]
        if rows and any(cells):
            rows.append([says, "dev, 95 %", *(cell or "–" for cell in cells), "–"])
    if not rows:  # some task lacks a setting
        return []
    return [AGAINST, markdown([["", "", *FIVE, "mean"], *rows], {0, 1}), ""]


def over_rows(found: dict | None, groups: dict[str, list[dict]]) -> str:
    """`+0.6 to +3.1 (2)`: the interval over rows and seeds, and of how many seeds its lines are."""
    if found is None:
        return ""
    for name, weights in found["weights"].items():
        if not set(weights) <= set(map(weights_of, groups.get(name, []))):
            return ""
    low, high = (signed(100 * bound) for bound in found["difference_95"])
    seeds = sorted({len(weights) for weights in found["weights"].values()})
    return f"{low} to {high} ({', '.join(map(str, seeds))})"


def plus_minus(gained: tuple[float, float | None]) -> str:
    """`+0.6 ± 0.7`."""
    value, error = gained
    return signed(value) + ("" if error is None else f" ± {error:.1f}")


def summary_lines(records: list[dict]) -> dict[str, dict[str, list[dict]]]:
    """Of each task that has some, the records of the lines `SUMMARY`, by name."""
    tasks = {}
    for task in FIVE:
        groups = groups_of(records, task, "settings")
        if recipe := groups_of(records, task, "goal").get(RECIPE):
            groups[RECIPE] = recipe
        if best := best_of(records, task):
            groups[BEST] = best
        if groups:
            tasks[task] = groups
    return tasks


def read_comparisons(results: Path) -> dict[str, dict[str, dict]]:
    """Intervals of settings' gains, by task and comparison; none if compare.py has not run."""
    path = results / "comparisons.json"
    return read_json(path)["tasks"] if path.exists() else {}


def read_floors(results: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Scores without a model, by task, set and rule; none if experiments/floors.py has not run."""
    path = results / "floors.json"
    return read_json(path)["tasks"] if path.exists() else {}


def teachers(records: list[dict], floors: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Each task's bert_ft beside scores without a model and published ones of its kind."""
    rows = []
    for task in FIVE:
        if found := groups_of(records, task, "teacher").get("bert_ft"):
            f1 = [100 * r["scores"]["f1"] for r in found if "f1" in r.get("scores", {})]
            ours = f"{NUMBERS['dev'](found)} ({len(found)})" + (f", F1 {spread(f1)}" if f1 else "")
            without = floors.get(task, {})
            simple = [
                " / ".join(
                    f"{100 * without[rows][rule]:.1f}"
                    for rows in ("held_out", "dev")
                    if rule in without.get(rows, {})
                )
                for rule in FLOORS
            ]
            others = ("" if score is None else f"{score:.1f}" for score in PUBLISHED_SCORES[task])
            told = (cell or "–" for cell in (*simple, *others))
            rows.append([task, found[0]["metric"], NUMBERS["held_out"](found), ours, *told])
    return [
        TEACHERS,
        markdown([["", "metric", "held out", "dev", *FLOORS.values(), *PUBLISHED], *rows], {0, 1}),
        "",
    ]


def without_commit(records: list[dict]) -> list[str]:
    """Which records do not say what made them."""
    null = [record for record in records if not record.get("commit")]
    if not null:
        return []
    tables = dict.fromkeys(f"{record['task']} {record['table']}" for record in null)
    text = (
        f"{len(null)} of {len(records)} records are older than the fields commit and machine and"
        f" have neither: all or some of {', '.join(tables)}."
    )
    return [fill(text, 99), ""]
