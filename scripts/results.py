"""Write RESULTS.md and its pictures from the records of the experiments.

    python scripts/results.py

Reads   results/minilm/TASK/*.json, as scripts/reproduce.py writes them
Writes  RESULTS.md; results/minilm/TASK-TABLE.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from experiments import EXPERIMENTS, REFERENCES, TABLES

from rosita.errors import ArgumentParser, RositaError, run_script
from rosita.figures import draw_benchmark, markdown
from rosita.files import atomic_write, read_json

REPOSITORY = Path(__file__).resolve().parent.parent
HEAD = """# Results

all-MiniLM-L6-v2 (6 layers of 384, 22.7 M parameters) compressed on real GLUE data. Written by
`scripts/results.py` from the records in `results/minilm/`, which `scripts/reproduce_minilm.sh`
makes; no number is typed by hand. Each line is linked to its record: scores, the settings of
every stage, its losses and held-out scores on the way. Run again, that script makes what has no
record yet.

How to read it: the best step of every stage is chosen on rows held out of train with all their
phrases (SST-2: 3,000 rows of eight words or more, as dev has whole sentences; CoLA: 1,000); "held
out" is that score. **dev** is all of GLUE's dev set, read once, at the end. "teacher" is the
bert_ft of the same training data, on the same dev rows; "kept" is dev by teacher. The interval is
that of the difference to the teacher, in points: a 95 % paired bootstrap over dev rows, of one
student (the first seed). On SST-2's 872 rows one point is about one standard error. Deviations are
over student seeds; where one seed is named, more did not fit the time. Hours are those of all
stages that lead to the model, shared ones included, on one core each, by the wall clock.
"""


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=REPOSITORY / "results" / "minilm")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "RESULTS.md")
    args = parser.parse_args(argv)
    write_results(args)


def write_results(args: argparse.Namespace) -> None:
    """The page, table by table; tables without a record are named at the end."""
    records = [read_json(path) for path in sorted(args.results.glob("*/*.json"))]
    if not records:
        raise RositaError(f"{args.results} holds no record; run scripts/reproduce_minilm.sh")
    lines, missing = [HEAD], []
    for task in dict.fromkeys(task for e in EXPERIMENTS for task in e.tasks):
        for table in TABLES:
            groups = groups_of(records, task, table)
            planned = [e for e in EXPERIMENTS if e.table == table and task in e.tasks]
            missing += [f"{task} {table}/{e.name}" for e in planned if e.name not in groups]
            if groups and table in REFERENCES:
                reference = groups_of(records, task, "settings").get(REFERENCES[table])
                groups = {REFERENCES[table]: reference, **groups} if reference else groups
            if groups:
                lines += section(task, table, groups, args)
        path = args.results / f"serving-{task}.json"
        if path.exists():
            lines += serving_lines(task, read_json(path), args.results, args.output.parent)
    if missing:
        lines += ["## Not run yet", "", ", ".join(missing) + ".", ""]
    with atomic_write(args.output) as file:
        file.write("\n".join(lines))
    print(f"{args.output}: {len(records)} records, {len(missing)} experiments without one")


def section(
    task: str, table: str, groups: dict[str, list[dict]], args: argparse.Namespace
) -> list[str]:
    """One table: its command, its lines, who is ahead where choices are made, its picture."""
    base = args.output.parent
    picture = args.results / f"{task}-{table}.png"
    draw(picture, groups, f"{task}: {TABLES[table]}")
    lines = [f"## {task}: {TABLES[table]}", "",
             f"`python scripts/reproduce.py --tasks {task} --tables {table}`", "",
             *table_lines(groups, args.results.relative_to(base)), ""]  # fmt: skip
    if len(groups) > 1:
        means = {name: mean(held_out(found)) for name, found in groups.items()}
        order = sorted(means, key=means.get, reverse=True)
        ranked = ", ".join(f"{name} ({means[name]:.1f})" for name in order)
        lines += [f"Best first on the held-out rows: {ranked}.", ""]
    return [*lines, f"![{task}, {table}]({picture.relative_to(base)})", ""]


def held_out(found: list[dict]) -> list[float]:
    """The scores, in percent, that the models were chosen by."""
    return [100 * record["stages"][-1]["dev_score"] for record in found]


def groups_of(records: list[dict], task: str, table: str) -> dict[str, list[dict]]:
    """Records by experiment, in the order of the list, seeds ascending."""
    groups = {}
    for experiment in EXPERIMENTS:
        wanted = (task, table, experiment.name)
        found = [r for r in records if (r["task"], r["table"], r["name"]) == wanted]
        if found and experiment.table == table:
            groups[experiment.name] = sorted(found, key=lambda record: record["seed"])
    return groups


def table_lines(groups: dict[str, list[dict]], folder: Path) -> list[str]:
    """The Markdown table of some experiments, each linked to its record in `folder`."""
    metric = next(iter(groups.values()))[0]["metric"]
    lines = [
        f"| | trained on | held out | dev {metric} | teacher | kept | difference, 95 % |"
        " million parameters | MB | hours | seeds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for found in groups.values():
        first, last = found[0], found[0]["stages"][-1]
        scores = [100 * record["score"] for record in found]
        path = folder / first["task"] / "{table}-{name}-{seed}.json".format(**first)
        kept = mean(100 * record["score"] / record["teacher_score"] for record in found)
        low, high = (100 * bound for bound in first["difference_95"])
        lines.append(
            f"| [{first['says']}]({path}) | {first['train_rows']:,} rows |"
            f" {spread(held_out(found))} |"
            f" {spread(scores)} | {100 * first['teacher_score']:.1f} | {kept:.1f} % |"
            f" {low:+.1f} to {high:+.1f} |"
            f" {last['parameters'] / 1e6:.1f} | {first['bytes'] / 1e6:.1f} |"
            f" {mean(record['hours'] for record in found):.2f} |"
            f" {', '.join(str(record['seed']) for record in found)} |"
        )
    return lines


def serving_lines(task: str, report: dict, results: Path, base: Path) -> list[str]:
    """What each model is in PyTorch, ONNX and int8: score, latency, size."""
    picture = results / f"{task}-serving.png"
    draw_benchmark(report["rows"], picture)
    lines = [["model", "format", "dev", "ms", "sentences/s", "MB"]]
    for row in report["rows"]:
        lines.append([
            row["model"], row["format"], f"{100 * row['dev_score']:.1f}",
            f"{row['median_ms']:.1f}", f"{row['sentences_per_second']:.0f}",
            f"{row['bytes'] / 1e6:.1f}",
        ])  # fmt: skip
    machine, first = report["machine"], report["rows"][0]
    where = (f"One sentence of {first['length']} tokens a call, on {machine['threads']} threads of"
             f" {machine['cpu']}; all models in turn, medians.")  # fmt: skip
    return [f"## {task}: serving", "", where, "", markdown(lines), "",
            f"![{task}, serving]({picture.relative_to(base)})", ""]  # fmt: skip


def spread(values: list[float]) -> str:
    """`88.1 ± 0.3`, or the one value."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def draw(path: Path, groups: dict[str, list[dict]], title: str) -> None:
    """What each experiment keeps of its teacher: a dot a seed, a bar their mean."""
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.45 * len(groups)), layout="constrained")
    for place, (name, found) in enumerate(groups.items()):
        kept = [100 * record["score"] / record["teacher_score"] for record in found]
        axes.barh(place, mean(kept), height=0.6, color="#9db7d5")
        axes.plot(kept, [place] * len(kept), "o", color="#1f3a5f", markersize=4)
        axes.text(mean(kept) / 2, place, name, va="center", ha="center", fontsize=9)
    axes.axvline(100, color="#888888", linewidth=1)
    axes.set(yticks=[], xlabel="% of the teacher's dev score", title=title)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    run_script(main)
