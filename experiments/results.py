"""Write RESULTS.md and its pictures from the records of the experiments.

    python experiments/results.py

Reads   experiments/minilm/*.jsonl, the records, as experiments/reproduce.py writes them
        experiments/minilm/floors.json, comparisons.json, as floors.py and compare.py write them
        experiments/minilm/findings.md: what a table shows, in words, under `# TASK TABLE`;
        `{NAME kept}` in it becomes that line's number (also: held_out, dev, ...: see NUMBERS)
Writes  RESULTS.md; experiments/minilm/TASK-TABLE.png, summary.png
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from statistics import mean
from textwrap import fill

from experiments import EXPERIMENTS, FIVE, REFERENCES, TABLES
from figures import draw_lines, draw_summary
from numbers_over_seeds import NUMBERS, difference
from overview import (
    HEAD,
    READING,
    SUMMARY,
    comparisons,
    goals_met,
    read_comparisons,
    read_floors,
    summary,
    summary_lines,
    teachers,
    without_commit,
)
from records import groups_of, held_out, parser_of, read_records
from rosita.cli import run_script
from rosita.deploy.figures import draw_benchmark
from rosita.errors import RositaError
from rosita.files import atomic_write, read_json
from rosita.tables import markdown

REPOSITORY = Path(__file__).resolve().parent.parent
SAYS = {(task, e.table, e.name): e.says for e in EXPERIMENTS for task in e.tasks}
# what is said above a table instead, where all its lines agree
SHARED = {
    "trained on": "trained on {}",
    "teacher": "teacher {}",
    "million parameters": "{} million parameters",
    "MB": "{} MB",
    "arithmetic": "in {}",
    "seeds": "seed {}",
}
LEFT = ("", "what", "trained on", "arithmetic", "seeds")  # columns of text
PARTS_OF_COLA = {"known": "on known sources", "new": "on new ones"}


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "RESULTS.md")
    args = parser.parse_args(argv)
    write_results(args)


def write_results(args: argparse.Namespace) -> None:
    """The page, table by table; tables without a record are named at the end."""
    records = read_records(args.results)
    if not records:
        raise RositaError(f"{args.results} holds no record; run experiments/reproduce_minilm.sh")
    findings = read_findings(args.results / "findings.md")
    floors = read_floors(args.results)
    lines = [HEAD, *goals_met(records), *summary(records)]
    picture = args.results / "summary.png"
    draw_summary(picture, summary_lines(records), SUMMARY)
    lines += [f"![all tasks]({picture.relative_to(args.output.parent)})", ""]
    lines += finding(findings, "summary", {}, {})
    lines += comparisons(records, read_comparisons(args.results))
    lines += finding(findings, "comparisons", {}, {})
    lines += [*teachers(records, floors), READING, *without_commit(records)]
    missing: list[str] = []
    for table in TABLES:
        for task in FIVE:
            groups = groups_of(records, task, table)
            missing += not_run(task, table, groups)
            if groups:
                groups = reference(records, task, table) | groups
                lines += section(task, table, groups, args)
                lines += finding(findings, f"{task} {table}", groups, floors.get(task, {}))
    for task in FIVE:
        path = args.results / f"serving-{task}.json"
        if path.exists():
            lines += serving_lines(task, read_json(path), args.results, args.output.parent)
            lines += finding(findings, f"{task} serving", {}, {})
    if missing:
        lines += [
            "## No record yet",
            "",
            "Defined and not run: table, then lines.",
            "",
            *missing,
            "",
        ]
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


def section(
    task: str, table: str, groups: dict[str, list[dict]], args: argparse.Namespace
) -> list[str]:
    """One table: its command, its lines, its picture."""
    base = args.output.parent
    picture = args.results / f"{task}-{table}.png"
    draw_lines(picture, groups, f"{task}: {TABLES[table]}", shares=table != "teacher")
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


def finding(
    findings: dict[str, str],
    heading: str,
    groups: dict[str, list[dict]],
    floors: dict[str, dict[str, float]],
) -> list[str]:
    """What was written of a table, its `{NAME kept}` filled in from the records.

    `floors` are the task's scores without a model, `{words_in_common dev}`. Raises `RositaError`
    for a name that has no record, and for another number.
    """

    def value(match: re.Match) -> str:
        name, _, number = match[1].partition(" ")
        if name in floors.get(number, {}):
            return f"{100 * floors[number][name]:.1f}"
        if name not in groups or number not in NUMBERS:
            raise RositaError(
                f"findings.md, {heading}: {match.group()} is no number of this table; its lines are"
                f" {', '.join(groups)}, its numbers {', '.join(NUMBERS)}"
            )
        return NUMBERS[number](groups[name])

    lines = []
    for paragraph in filter(None, findings.get(heading, "").split("\n\n")):
        for item in re.split(r"\n(?=- )", paragraph):  # of a list, or all of it
            text = re.sub(r"\{([^}]*)\}", value, " ".join(item.split()))
            indent = "  " * text.startswith("- ")
            lines.append(fill(text, 99, subsequent_indent=indent, break_on_hyphens=False))
        lines.append("")
    return lines


def table_lines(table: str, groups: dict[str, list[dict]]) -> list[str]:
    """The Markdown table of some experiments, best first, under what all its lines share."""
    records = [record for found in groups.values() for record in found]
    parts = PARTS_OF_COLA if any("by_source" in record for record in records) else {}
    if any("agreement" in record for record in records):
        parts = {**parts, "agreement": "agreement"}
    if table == "knowledge":
        parts = {**parts, "states_kept": "MB of states kept", "minutes": "minutes of KD"}
    lines = [["", "what", "trained on", "held out", f"dev {records[0]['metric']}", *parts.values(),
              "teacher", "kept", "difference, 95 %", "million parameters", "MB", "hours",
              "arithmetic", "seeds"]]  # fmt: skip
    for found in sorted(groups.values(), key=lambda found: -mean(held_out(found))):
        first, last = found[0], found[0]["stages"][-1]
        lines.append(
            [
                first["name"] if first["table"] == table else f"**{first['name']}**",
                SAYS[first["task"], first["table"], first["name"]],
                f"{first['train_rows']:,} of the task's rows",
                NUMBERS["held_out"](found),
                NUMBERS["dev"](found),
                *(NUMBERS[part](found) for part in parts),
                NUMBERS["teacher"](found),
                NUMBERS["kept"](found),
                difference(found),
                f"{last['parameters'] / 1e6:.1f}",
                f"{first['bytes'] / 1e6:.1f}",
                f"{mean(record['hours'] for record in found):.2f}",
                NUMBERS["arithmetic"](found),
                NUMBERS["seeds"](found),
            ]
        )
    if table == "teacher":  # a share of another run of itself says nothing
        lines = without(lines, "kept")
    if not any(map(NUMBERS["arithmetic"], groups.values())):
        lines = without(lines, "arithmetic")
    shared, lines = take_out_shared(lines)
    rules = ["---" if heading in LEFT else "---:" for heading in lines[0]]
    caption = [f"All lines: {', '.join(shared)}.", ""] if shared else []
    return [*caption, *(f"| {' | '.join(cells)} |" for cells in [lines[0], rules, *lines[1:]])]


def without(lines: list[list[str]], *headings: str) -> list[list[str]]:
    """The lines without the columns of these headings, which the first line has."""
    kept = [at for at, heading in enumerate(lines[0]) if heading not in headings]
    return [[line[at] for at in kept] for line in lines]


def take_out_shared(lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The columns of `SHARED` in which all lines agree, as texts, and the lines without them.

    The first line has the headings.
    """
    columns = zip(*lines, strict=True)  # each with its heading first
    same = {name: cells[0] for name, *cells in columns if name in SHARED and len(set(cells)) == 1}
    texts = [SHARED[name].format(cell) for name, cell in same.items()]
    return texts, without(lines, *same)


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


if __name__ == "__main__":
    run_script(main)
