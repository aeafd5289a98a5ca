"""Write RESULTS.md and its pictures from the records of the experiments.

    python experiments/results.py

Reads   experiments/minilm/*.jsonl, the records, as experiments/reproduce.py writes them
        experiments/minilm/findings.md: what a table shows, in words, under `# TASK TABLE`;
        `{NAME kept}` in it becomes that line's number (also: held_out, dev, ...: see NUMBERS)
Writes  RESULTS.md; experiments/minilm/TASK-TABLE.png
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from statistics import mean, stdev
from textwrap import fill

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from experiments import EXPERIMENTS, FIVE, REFERENCES, TABLES
from records import best_on_held_out, difference_95, groups_of, held_out, read_records
from rosita.cli import ArgumentParser, run_script
from rosita.deploy.figures import draw_benchmark
from rosita.errors import RositaError
from rosita.files import atomic_write, read_json
from rosita.tables import markdown

REPOSITORY = Path(__file__).resolve().parent.parent
HEAD = """# Results

all-MiniLM-L6-v2 (6 layers of 384, 22.7 M parameters) compressed on real GLUE data. Written by
`experiments/results.py`: every number of a table is from the records in `experiments/minilm/`,
which `experiments/reproduce_minilm.sh` makes; run again, that script makes what has no record yet.

The goal is that the best compressed models keep, on average over five tasks, 98.5 % of their
teachers' dev scores at 6.5x fewer parameters (the paper's share, for BERT-base at 7.5x on a partly
other five), and on each task 97 %. Where it stands:
"""
READING = """## How to read the tables

- The best step of every stage is chosen on rows held out of train with all their phrases (SST-2:
  3,000 rows of eight words or more, as dev has whole sentences; CoLA 1,000, STS-B 600, MRPC 400,
  RTE 300). "held out" is that score: the best of many evaluations, so a little high, the more so
  the longer the run. Lines are sorted by it, best first; one in bold is of another table, to
  compare with.
- **dev** is all of GLUE's dev set, read once for each model, after its training; no step and no
  best model is chosen by it. "teacher" is the model that taught, on the same dev rows, tuned on
  the same training data; "kept" is dev by teacher. Standard errors, in points, on dev (and held
  out): SST-2 1.2 (0.6), CoLA 3 (3), MRPC 2 (2), STS-B 0.7 (1), RTE 3 (3); as a share of a low
  score they are more: 10 % on CoLA.
- The interval is that of the difference to the teacher, in points: a 95 % paired bootstrap, over
  dev rows and the line's seeds together where it has a †, else over dev rows, of each seed.
- Deviations are over student seeds. Differences within a standard error or two are noise. A line
  of one seed next to a mean of three is best compared with that line's first seed.
- Hours are those of all stages that lead to the model, shared ones included, on one core each, by
  the wall clock. The same stage took up to six times as long beside other work and in other
  arithmetic: they are an order of magnitude. Writing an augmented file is not counted.
- CoLA's dev has sentences of the books and papers that train quotes too ("known sources") and of
  others ("new ones"); the scores of the two parts are given for the later runs only.
- Records differ in what the scripts of their commit do beside the settings: in bf16 or fp32, and
  in pools of 50 or of up to 200 batches that are sorted by length together.

A record is a line of `experiments/minilm/records.jsonl`, one a seed: its scores to all digits, the
commit and the machine that made it, its stages. Each of these is a line of
`stages-TASK-DATA-SEED.jsonl`: settings, losses, held-out scores on the way. By name:

    grep '"table":"settings","name":"setting1","task":"SST-2"' experiments/minilm/records.jsonl
    grep '"key":"SST-2/20k/setting1-1@' experiments/minilm/stages-SST-2-20k-1.jsonl

To run a line again beside its record, with MiniLM, GloVe and GLUE in place (without `--results` a
line that has a record does not run again; the same seed on another machine, or in other
arithmetic, gives another model: half a point apart on SST-2, three on CoLA):

    python experiments/reproduce.py --tasks SST-2 --names setting1 --seeds 1 --results models/again
"""
SAYS = {(task, e.table, e.name): e.says for e in EXPERIMENTS for task in e.tasks}
# what is said above a table instead, where all its lines agree
SHARED = {
    "trained on": "trained on {}",
    "teacher": "teacher {}",
    "million parameters": "{} million parameters",
    "MB": "{} MB",
    "seeds": "seed {}",
}
# dev, of MiniLM-L6-H384-uncased and of DistilBERT
PUBLISHED_SCORES: dict[str, tuple[float | None, float]] = {
    "SST-2": (91.5, 91.3),
    "CoLA": (47.5, 51.3),
    "MRPC": (88.9, 87.5),
    "STS-B": (None, 86.9),
    "RTE": (68.8, 59.9),
}
OTHER_TEACHER = ("", "*", "**")  # marks the shares of a second teacher, and its score
BEST = "best"  # of a task, by the held-out rows
OVER_SEEDS = " †"
LEFT = ("", "what", "trained on", "seeds")  # columns of text
PARTS_OF_COLA = {"known": "on known sources", "new": "on new ones"}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=REPOSITORY / "experiments" / "minilm")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "RESULTS.md")
    args = parser.parse_args(argv)
    write_results(args)


def write_results(args: argparse.Namespace) -> None:
    """The page, table by table; tables without a record are named at the end."""
    records = read_records(args.results)
    if not records:
        raise RositaError(f"{args.results} holds no record; run experiments/reproduce_minilm.sh")
    findings = read_findings(args.results / "findings.md")
    lines = [HEAD, *goals_met(records), *summary(records)]
    lines += finding(findings, "summary", {})
    lines += [*teachers(records), READING, *without_commit(records)]
    missing: list[str] = []
    for table in TABLES:
        for task in FIVE:
            groups = groups_of(records, task, table)
            missing += not_run(task, table, groups)
            if groups:
                groups = reference(records, task, table) | groups
                lines += section(task, table, groups, args)
                lines += finding(findings, f"{task} {table}", groups)
    for task in FIVE:
        path = args.results / f"serving-{task}.json"
        if path.exists():
            lines += serving_lines(task, read_json(path), args.results, args.output.parent)
            lines += finding(findings, f"{task} serving", {})
    if missing:
        lines += ["## No record yet", "", *missing, ""]
    with atomic_write(args.output) as file:
        file.write("\n".join(lines))
    print(f"{args.output}: {len(records)} records; {len(missing)} tables lack some")


def reference(records: list[dict], task: str, table: str) -> dict[str, list[dict]]:
    """The line of another table that this table's are compared with, by name; or nothing."""
    if table not in REFERENCES:
        return {}
    other, name = REFERENCES[table]
    groups = groups_of(records, task, other)
    return {name: groups[name]} if name in groups else {}


def not_run(task: str, table: str, groups: dict[str, list[dict]]) -> list[str]:
    """A line for a table that lacks records: which experiments, of some only which seeds."""
    lacking = []
    for one in EXPERIMENTS:
        if one.table == table and task in one.tasks:
            run = {record["seed"] for record in groups.get(one.name, [])}
            if seeds := sorted(set(one.seeds) - run):
                some = f" (seed {', '.join(map(str, seeds))})" if run else ""
                lacking.append(one.name + some)
    return [f"- {task} {table}: {', '.join(lacking)}"] if lacking else []


def goals_met(records: list[dict]) -> list[str]:
    """How many tasks have a best model, what it keeps of its teacher on average and at least."""
    best = {task: found for task in FIVE if (found := best_of(records, task))}
    lines = []
    for task, found in best.items():
        seeds = f"seeds {NUMBERS['kept_by_seed'](found)}" if len(found) > 1 else "one seed"
        lines.append(
            f"- {task}: {found[0]['name']} keeps {NUMBERS['kept'](found)} ({seeds}), difference"
            f" {difference(found)} points"
        )
    means = [mean(shares_kept(found)) for found in best.values()]
    status = f"{len(best)} of {len(FIVE)} tasks have a best model, chosen on the held-out rows"
    if means:
        status += f"; on average they keep {mean(means):.1f} %, the least {min(means):.1f} %"
    return [fill(f"{status}.", 99), "", *lines, ""]


def best_of(records: list[dict], task: str) -> list[dict]:
    """The records of the goal's best line of a task, by the held-out rows; none if it has none."""
    goals = groups_of(records, task, "goal")
    return goals[best_on_held_out(goals)] if goals else []


def summary(records: list[dict]) -> list[str]:
    """What the settings and the best recipe keep on each task, and on average over the tasks."""
    names = [e.name for e in EXPERIMENTS if e.table == "settings"]
    kept: dict[str, list[float]] = {name: [] for name in [*names, BEST]}
    rows = []
    for task in FIVE:
        groups = groups_of(records, task, "settings")
        if best := best_of(records, task):
            groups[BEST] = best
        taught = {found[0]["teacher_score"]: None for found in groups.values()}
        marks = dict(zip(taught, OTHER_TEACHER, strict=False))
        cells = []
        for name, shares in kept.items():
            found = groups.get(name, [])
            shares += [mean(shares_kept(found))] if found else []
            mark = marks[found[0]["teacher_score"]] if found else ""
            cells.append(f"{NUMBERS['kept'](found)} ({len(found)}){mark}" if found else "")
        if any(cells):
            scores = ", ".join(f"{100 * score:.1f}{mark}" for score, mark in marks.items())
            rows.append([task, scores, *cells])
    # means over other tasks each would be compared with one another
    said = [f"{mean(s):.1f} %" if len(s) == len(FIVE) else "" for s in kept.values()]
    total = [["mean", "", *said]] if any(said) else []
    return [
        "## In one table",
        "",
        "The share of its teacher's dev score that a student of 3.5 of 22.7 M parameters keeps,",
        "mean over seeds (how many). Settings of SST-2 on 20,000 rows, all else on all rows.",
        "",
        markdown([["", "teacher", *names, BEST], *rows, *total], {0}),
        "",
    ]


def without_commit(records: list[dict]) -> list[str]:
    """Which records do not say what made them."""
    null = [record for record in records if not record.get("commit")]
    if not null:
        return []
    tables = dict.fromkeys(f"{record['task']} {record['table']}" for record in null)
    text = (
        f"{len(null)} of {len(records)} records are older than these notes and name neither commit"
        f" nor machine: all or some of {', '.join(tables)}."
    )
    return [fill(text, 99), ""]


def teachers(records: list[dict]) -> list[str]:
    """Each task's bert_ft beside what is published of models of its kind."""
    rows = []
    for task in FIVE:
        if found := groups_of(records, task, "teacher").get("bert_ft"):
            f1 = [100 * r["scores"]["f1"] for r in found if "f1" in r.get("scores", {})]
            ours = f"{NUMBERS['dev'](found)} ({len(found)})" + (f", F1 {spread(f1)}" if f1 else "")
            published = (f"{s:.1f}" if s else "–" for s in PUBLISHED_SCORES[task])
            rows.append([task, found[0]["metric"], NUMBERS["held_out"](found), ours, *published])
    return [
        "## The teachers",
        "",
        "Dev scores, ours with the deviation over seeds (how many), beside those published of the",
        "plain MiniLM-L6-H384-uncased and of DistilBERT. **Ours is another tune of the former**:",
        "all-MiniLM-L6-v2, a sentence encoder trained further for similarity. Every share kept",
        "below is of our scores, not of the published ones; MRPC's are published without a word on",
        "whether they are accuracy or F1.",
        "",
        markdown([["", "metric", "held out", "dev", "MiniLM-L6", "DistilBERT"], *rows], {0, 1}),
        "",
    ]


def section(
    task: str, table: str, groups: dict[str, list[dict]], args: argparse.Namespace
) -> list[str]:
    """One table: its command, its lines, its picture."""
    base = args.output.parent
    picture = args.results / f"{task}-{table}.png"
    draw(picture, groups, f"{task}: {TABLES[table]}", shares=table != "teacher")
    return [
        f"## {task}: {TABLES[table]}",
        "",
        f"`python experiments/reproduce.py --tasks {task} --tables {table}`",
        "",
        *table_lines(table, groups),
        "",
        f"![{task}, {table}]({picture.relative_to(base)})",
        "",
    ]


def read_findings(path: Path) -> dict[str, str]:
    """Text under each heading `# TASK TABLE` of the file; none if it is not there."""
    if not path.exists():
        return {}
    parts = re.split(r"^# (.+)\n", path.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))


def finding(findings: dict[str, str], heading: str, groups: dict[str, list[dict]]) -> list[str]:
    """What was written of a table, its `{NAME kept}` filled in from the records.

    Raises `RositaError` for a name that has no record, and for another number.
    """

    def value(match: re.Match) -> str:
        name, _, number = match[1].partition(" ")
        if name not in groups or number not in NUMBERS:
            raise RositaError(
                f"findings.md, {heading}: {match.group()} is no number of this table; its lines are"
                f" {', '.join(groups)}, its numbers {', '.join(NUMBERS)}"
            )
        return NUMBERS[number](groups[name])

    lines = []
    for paragraph in filter(None, findings.get(heading, "").split("\n\n")):
        text = re.sub(r"\{([^}]*)\}", value, " ".join(paragraph.split()))
        lines += [fill(text, 99), ""]
    return lines


def table_lines(table: str, groups: dict[str, list[dict]]) -> list[str]:
    """The Markdown table of some experiments, best first, under what all its lines share."""
    records = [record for found in groups.values() for record in found]
    parts = PARTS_OF_COLA if any("by_source" in record for record in records) else {}
    lines = [["", "what", "trained on", "held out", f"dev {records[0]['metric']}", *parts.values(),
              "teacher", "kept", "difference, 95 %", "million parameters", "MB", "hours",
              "seeds"]]  # fmt: skip
    for found in sorted(groups.values(), key=lambda found: -mean(held_out(found))):
        first, last = found[0], found[0]["stages"][-1]
        lines.append(
            [
                first["name"] if first["table"] == table else f"**{first['name']}**",
                SAYS[first["task"], first["table"], first["name"]],
                f"{first['train_rows']:,} rows",
                NUMBERS["held_out"](found),
                NUMBERS["dev"](found),
                *(NUMBERS[part](found) for part in parts),
                f"{100 * first['teacher_score']:.1f}",
                NUMBERS["kept"](found),
                difference(found),
                f"{last['parameters'] / 1e6:.1f}",
                f"{first['bytes'] / 1e6:.1f}",
                f"{mean(record['hours'] for record in found):.2f}",
                NUMBERS["seeds"](found),
            ]
        )
    if table == "teacher":  # a share of another run of itself says nothing
        at = lines[0].index("kept")
        lines = [line[:at] + line[at + 1 :] for line in lines]
    shared, lines = take_out_shared(lines)
    rules = ["---" if heading in LEFT else "---:" for heading in lines[0]]
    caption = [f"All lines: {', '.join(shared)}.", ""] if shared else []
    return [*caption, *(f"| {' | '.join(cells)} |" for cells in [lines[0], rules, *lines[1:]])]


def take_out_shared(lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The columns of `SHARED` in which all lines agree, as texts, and the lines without them.

    The first line has the headings.
    """
    heading, first, *others = lines
    same = [
        at
        for at, name in enumerate(heading)
        if name in SHARED and all(line[at] == first[at] for line in others)
    ]
    texts = [SHARED[heading[at]].format(first[at]) for at in same]
    return texts, [[cell for at, cell in enumerate(line) if at not in same] for line in lines]


def scores_on(part: str, found: list[dict]) -> list[float]:
    """CoLA's score, in percent, on one part of dev; of the records that have it apart."""
    return [100 * r["by_source"][part]["score"] for r in found if "by_source" in r]


def serving_lines(task: str, report: dict, results: Path, base: Path) -> list[str]:
    """What each model is in PyTorch, ONNX and int8: score, latency, size."""
    picture = results / f"{task}-serving.png"
    draw_benchmark(report["rows"], picture)
    lines = [["model", "format", "dev", "ms", "sentences/s", "MB"]]
    for row in report["rows"]:
        lines.append(
            [
                row["model"],
                row["format"],
                f"{100 * row['dev_score']:.1f}",
                f"{row['median_ms']:.1f}",
                f"{row['sentences_per_second']:.0f}",
                f"{row['bytes'] / 1e6:.1f}",
            ]
        )
    machine, first = report["machine"], report["rows"][0]
    where = (
        f"One sentence of {first['length']} tokens a call, on {machine['threads']} threads of"
        f" {machine['cpu']}; all models in turn, medians."
    )
    return [
        f"## {task}: serving",
        "",
        where,
        "",
        markdown(lines),
        "",
        f"![{task}, serving]({picture.relative_to(base)})",
        "",
    ]


def spread(values: list[float]) -> str:
    """`88.1 ± 0.3`, or the one value, or a dash."""
    if not values:
        return "–"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def difference(found: list[dict]) -> str:
    """The intervals of the difference to the teacher, in points."""
    intervals, over_seeds = difference_95(found)
    texts = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in intervals]
    return "; ".join(texts) + OVER_SEEDS * over_seeds


def shares_kept(found: list[dict]) -> list[float]:
    """Of the teacher's dev score, in percent."""
    return [100 * record["score"] / record["teacher_score"] for record in found]


# What a line of a table says of its records, by the name that findings.md calls it.
NUMBERS = {
    "held_out": lambda found: spread(held_out(found)),
    "dev": lambda found: spread([100 * record["score"] for record in found]),
    "held_out_1": lambda found: spread(held_out(found)[:1]),  # of the first seed
    "dev_1": lambda found: spread([100 * found[0]["score"]]),
    "known": lambda found: spread(scores_on("known", found)),
    "new": lambda found: spread(scores_on("new", found)),
    "kept": lambda found: f"{mean(shares_kept(found)):.1f} %",
    "kept_by_seed": lambda found: ", ".join(f"{share:.1f}" for share in shares_kept(found)),
    "seeds": lambda found: ", ".join(str(record["seed"]) for record in found),
}


def draw(path: Path, groups: dict[str, list[dict]], title: str, shares: bool) -> None:
    """What each experiment keeps of its teacher, or scores: a dot a seed, a tick their mean, and
    the intervals."""
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.3 * len(groups)), layout="constrained")
    axes.use_sticky_edges = False  # of bars: room beside them
    for place, found in enumerate(groups.values()):
        first = found[0]
        unit = first["teacher_score"] if shares else 1
        kept = [100 * record["score"] / unit for record in found]
        intervals, _ = difference_95(found)
        width = 0.45 / len(intervals)
        for number, bounds in enumerate(intervals):
            ends = [100 * (first["teacher_score"] + bound) / unit for bound in bounds]
            middle = place + width * (number - (len(intervals) - 1) / 2)
            axes.barh(middle, ends[1] - ends[0], 0.8 * width, ends[0], color="#c6d6e8")
        axes.plot(mean(kept), place, "|", color="#1f3a5f", markersize=14, markeredgewidth=2)
        axes.plot(kept, [place] * len(kept), "o", color="#1f3a5f", markersize=4)
    if shares:
        axes.axvline(100, color="#888888", linewidth=1)
    axes.set(yticks=range(len(groups)), yticklabels=groups, title=title)
    what = "% of the teacher's dev score" if shares else f"dev {first['metric']}"
    axes.set_xlabel(f"{what}: seeds, their mean, 95 % intervals")
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    run_script(main)
