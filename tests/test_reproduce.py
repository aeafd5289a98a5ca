"""The experiments: what is held out, what a record says, whose numbers the tables hold."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, WORDS, make_bert, python, run_script, sentences, write_cola
from test_readme import IGNORED
from test_shell import Checkout

from rosita.config import KDSettings
from rosita.config_file import load_config
from rosita.data.tsv import TsvFile
from rosita.errors import RositaError
from rosita.evaluation import paired_bootstrap, score
from rosita.provenance import read_run
from rosita.runtime import auto_takes_bf16
from rosita.tasks import GLUE
from rosita.training.loop import Training

sys.path.insert(0, str(REPOSITORY / "experiments"))
(chains, compare, figures, floors, hold_out, numbers_over_seeds, records, reproduce, results,
 side_by_side, stage_lab) = map(
    importlib.import_module,
    "chains compare figures floors hold_out numbers_over_seeds records reproduce results"
    " side_by_side stage_lab".split(),
)  # fmt: skip
EXPERIMENTS, FIVE = reproduce.EXPERIMENTS, reproduce.FIVE
LARGE_ENOUGH = {  # for chains.SHAPE
    "hidden_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
STAGES = ["fine_tune", "taylor", "one_step_prune", "distil"]  # of Setting 1

PHRASES = ["a b c d", "b c", "d", "e f", "f", "b c", "g h", "x e f"]


def test_whole_families_are_held_out():
    rows = [phrase.split() for phrase in PHRASES]
    families = [{0, 1, 2, 5}, {3, 4, 7}, {6}]  # of "a b c d", of "x e f", of "g h"
    seen = set()
    for seed in range(20):
        held = set(hold_out.hold_out(rows, 1, seed).tolist())
        assert held in families
        seen.add(tuple(sorted(held)))
    assert len(seen) == 3
    held = set(hold_out.hold_out(rows, 6, 0).tolist())
    assert len(held) >= 6 and all(family <= held or not family & held for family in families)


def test_held_out_and_kept_rows_are_the_training_file_and_some_rows_are_the_same_every_time(
    tmp_path,
):
    data = write_cola(tmp_path / "CoLA", train=60)
    for name, more in (
        ("all", ()),
        ("some", ("--train_rows", 20)),
        ("again", ("--train_rows", 20)),
    ):
        run_script("experiments/hold_out.py", "--task_name", "CoLA", "--data_dir", data,
                   "--rows", 15, "--output_dir", tmp_path / name, *more)  # fmt: skip
    lines = {
        name: [
            (tmp_path / name / f"{part}.tsv").read_text().splitlines() for part in ("train", "dev")
        ]
        for name in ("all", "some", "again")
    }
    assert sorted(sum(lines["all"], [])) == sorted((data / "train.tsv").read_text().splitlines())
    assert len(lines["all"][1]) >= 15 and lines["all"][1] == lines["some"][1]
    assert len(lines["some"][0]) == 20 and set(lines["some"][0]) < set(lines["all"][0])
    assert lines["some"] == lines["again"]


def test_only_long_rows_are_chosen_on_and_their_short_parts_are_not_trained_on_either():
    whole = [f"{word} is what this film has and no other film does" for word in "abcdefgh"]
    rows = [text.split() for text in whole] + [text.split()[:2] for text in whole]
    held = hold_out.hold_out(rows, 3, 0, min_words=5)
    long = [number for number in held if number < 8]
    assert len(long) == 3
    assert sorted(held) == sorted(long + [number + 8 for number in long])


@pytest.mark.parametrize("how", ["the same", "relative", "a link", "a folder of links"])
def test_rows_are_never_held_out_into_the_folder_that_they_are_read_from(
    how, tmp_path, monkeypatch
):
    data = output = write_cola(tmp_path / "CoLA", train=60)
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    monkeypatch.chdir(tmp_path)
    if how == "relative":
        output = Path("CoLA", "..", "CoLA")
    if how == "a link":
        output = tmp_path / "link"
        output.symlink_to(data)
    if how == "a folder of links":
        data = tmp_path / "links"
        data.mkdir()
        (data / "train.tsv").symlink_to(output / "train.tsv")
    flags = ["--task_name", "CoLA", "--data_dir", str(data), "--rows", "15"]
    with pytest.raises(RositaError, match="train.tsv of --data_dir.*name another folder"):
        hold_out.main([*flags, "--output_dir", str(output)])
    assert {path.name: path.read_bytes() for path in Path("CoLA").iterdir()} == before


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--rows", 5), "--rows 5: no row of .*train.tsv is left to train on"),  # one family
        (("--rows", 5, "--min_words", 8), "only 3 rows have 8 words or more"),
        (("--rows", 5, "--min_words", 80), "only 0 rows have 80 words or more"),
        (("--rows", 0), "'0' is not a whole number from 1 on"),
        (("--train_rows", -1), "'-1' is not a whole number from 1 on"),
        (("--seed", -1), "--seed -1 must not be negative"),
    ],
)
def test_no_file_is_written_that_has_fewer_rows_than_were_asked_for(flags, says, tmp_path):
    words = "one sentence and its parts are held out all together".split()
    rows = [f"src\t1\t\t{' '.join(words[:length])}\n" for length in range(1, 11)]
    (tmp_path / "train.tsv").write_text("".join(rows))
    folders = ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(RositaError, match=says):
        hold_out.main(["--task_name", "CoLA", *folders, *map(str, flags)])
    assert not (tmp_path / "out").exists()


def test_the_floors_are_those_of_the_better_answer_and_of_the_bound_that_is_best_on_train(
    tmp_path,
):
    assert floors.overlap(("A man is here.", "a man, a MAN")) == 1
    assert floors.overlap(("a b c d", "c d e f g")) == 2 / 4
    head = "index\tsentence1\tsentence2\tlabel\n"
    alike, half, other = "a b\tb a", "a b\tb c", "a b\tc d"
    answers = {"train": (alike, 1), "dev": (alike, 0)}, {"train": (half, 1), "dev": (half, 1)}
    for name in ("train", "dev"):
        rows = [(pairs[name][0], pairs[name][1]) for pairs in answers]
        rows += [(other, 0)] * 3
        lines = (f"{n}\t{t}\t{('not_', '')[y]}entailment\n" for n, (t, y) in enumerate(rows))
        (tmp_path / f"{name}.tsv").write_text(head + "".join(lines))
    train, dev = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    assert floors.floors(GLUE["RTE"], train, train) == {"one_answer": 3 / 5, "words_in_common": 1}
    found = floors.floors(GLUE["RTE"], train, dev)
    assert found == {"one_answer": 4 / 5, "words_in_common": 4 / 5}


def test_the_bootstrap_interval_is_that_of_the_normal_approximation_on_many_rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=2000)
    right = rng.random((2, 2000)) < np.array([[0.8], [0.9]])
    logits = [np.eye(2)[np.where(found, labels, 1 - labels)] for found in right]
    low, high = paired_bootstrap(GLUE["SST-2"], [logits[:1]], [logits[1:]], labels)
    difference = right[0].astype(float) - right[1]
    half = 1.96 * difference.std() / len(labels) ** 0.5
    assert low == pytest.approx(difference.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(difference.mean() + half, abs=0.15 * half)


def test_an_interval_over_seeds_has_the_variance_of_rows_and_of_the_drawn_seeds():
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=3000)
    wrong = rng.random((4, 3000)) < np.array([[0.1], [0.2], [0.3], [0.15]])
    *ours, theirs = (np.eye(2)[labels ^ row] for row in wrong)
    low, high = paired_bootstrap(GLUE["SST-2"], [ours], [[theirs]], labels)
    means = 1 - wrong[:3].mean(axis=1)
    of_seeds = means.var() / 3  # of a mean of three draws, with replacement
    of_rows = (wrong[3].astype(float) - wrong[:3].mean(axis=0)).var() / 3000
    half = 1.96 * (of_seeds + of_rows) ** 0.5
    center = means.mean() - (1 - wrong[3].mean())
    assert (low + high) / 2 == pytest.approx(center, abs=0.1 * half)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_an_interval_between_two_sides_has_the_variance_of_rows_and_of_each_lines_seeds():
    rng = np.random.default_rng(2)
    labels = rng.integers(2, size=3000)
    rates = {"ours": [(0.1, 0.2), (0.15, 0.3, 0.2)], "theirs": [(0.25, 0.3)]}
    wrong = {
        side: [rng.random((len(line), 3000)) < np.array(line)[:, None] for line in lines]
        for side, lines in rates.items()
    }
    logits = {
        side: [[np.eye(2)[labels ^ row] for row in line] for line in lines]
        for side, lines in wrong.items()
    }
    low, high = paired_bootstrap(GLUE["SST-2"], logits["ours"], logits["theirs"], labels)
    right = {
        side: np.mean([1 - line.mean(axis=0) for line in lines], axis=0)  # by row
        for side, lines in wrong.items()
    }
    of_rows = (right["ours"] - right["theirs"]).var() / 3000
    of_seeds = sum(
        line.mean(axis=1).var() / len(line) / len(lines) ** 2
        for lines in wrong.values()
        for line in lines
    )
    half = 1.96 * (of_rows + of_seeds) ** 0.5
    assert (low + high) / 2 == pytest.approx(
        (right["ours"] - right["theirs"]).mean(), abs=half / 10
    )
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_colas_dev_is_scored_apart_by_whether_train_quotes_the_same_source(tmp_path):
    train, dev = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    train.write_text("ks08\t1\t\ta b\nl-93\t0\t*\tc d\n")
    dev.write_text("".join(f"{('ks08', 'swb04')[n % 2]}\t{n // 2 % 2}\t\te\n" for n in range(80)))
    labels = np.arange(80) // 2 % 2
    wrong_on_new = np.where(np.arange(80) % 2, 1 - labels, labels)
    ours, theirs = np.eye(2)[wrong_on_new], np.eye(2)[labels]
    found = reproduce.by_source(GLUE["CoLA"], dev, ours, theirs, labels)
    assert found == {
        "known": {"rows": 40, "score": 1, "teacher_score": 1},
        "new": {"rows": 40, "score": -1, "teacher_score": 1},
    }


def test_agreement_is_the_share_of_rows_answered_alike_and_of_a_regression_the_correlation():
    answers = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 0])
    ours, theirs = (np.eye(2)[found] * 3 - 1 for found in answers)
    assert reproduce.agreement(GLUE["RTE"], ours, theirs) == 3 / 5
    a, b = np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.0, 5.0])
    by_hand = ((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())
    found = reproduce.agreement(GLUE["STS-B"], a[:, None], b[:, None])
    assert found == pytest.approx(by_hand)


def record(name: str, seed: int, score: float) -> dict:
    return {
        "table": "settings", "name": name, "task": "SST-2", "seed": seed,
        "data": "20k", "train_rows": 20_000, "metric": "accuracy", "score": score,
        "teacher_score": 0.9, "difference_95": [-0.03, 0.01], "bytes": 14_100_000, "hours": 0.5,
        "stages": [
            {"folder": "SST-2/20k/bert_ft-1", "dev_score": 0.9, **reproduce.curves([
                {"step": 1, "loss_label": 0.6912345}, {"step": 2, "loss_label": 0.25},
                {"step": 2, "metric": "accuracy", "score": 0.9, "accuracy": 0.9, "shape": "a2"},
            ])},
            {"folder": f"SST-2/20k/{name}-{seed}", "parameters": 3_500_000, "dev_score": 0.84},
        ],
    }  # fmt: skip


def write_records(folder: Path, scores: dict[str, list[float]]) -> list[str]:
    """Records of SST-2's settings; returns the flags that make RESULTS.md of them."""
    for name, found in scores.items():
        for seed, value in enumerate(found, 1):
            records.add_record(folder / "results", record(name, seed, value))
    return ["--results", str(folder / "results"), "--output", str(folder / "RESULTS.md")]


def test_a_record_is_read_as_it_was_written_and_a_stage_of_two_stands_once(tmp_path):
    written = [record("no_kd", 1, 0.80), record("setting1", 2, 1 / 3)]
    for one in reversed(written):
        records.add_record(tmp_path, one)
    assert records.read_records(tmp_path) == written
    keys = {
        path.name: [json.loads(line)["key"].split("@")[0] for line in open(path, encoding="utf-8")]
        for path in tmp_path.glob("stages-*")
    }
    assert keys == {
        "stages-SST-2-20k-1.jsonl": ["SST-2/20k/bert_ft-1", "SST-2/20k/no_kd-1"],
        "stages-SST-2-20k-2.jsonl": ["SST-2/20k/setting1-2"],
    }
    assert {path.name for path in tmp_path.iterdir()} == {"records.jsonl", *keys}


def test_a_folder_that_was_made_twice_is_two_stages(tmp_path):
    here, there = record("no_kd", 1, 0.80), record("setting1", 1, 0.81)
    there["stages"][0]["seconds"] = 7
    for one in (here, there):
        records.add_record(tmp_path, one)
    assert records.read_records(tmp_path) == [here, there]


def test_a_record_that_names_a_missing_stage_and_a_broken_line_are_errors(tmp_path):
    records.add_record(tmp_path, record("no_kd", 1, 0.80))
    stages = tmp_path / "stages-SST-2-20k-1.jsonl"
    lines = stages.read_text().splitlines(keepends=True)
    stages.write_text(lines[0])
    with pytest.raises(RositaError, match="has no stage SST-2/20k/no_kd-1@.*settings/no_kd"):
        records.read_records(tmp_path)
    stages.write_text(lines[0] + "<<<<<<< HEAD\n")
    with pytest.raises(RositaError, match="stages-SST-2-20k-1.jsonl line 2 is not JSON"):
        records.read_records(tmp_path)


def test_curves_are_short_and_their_columns_are_as_long_as_their_steps():
    entries = [{"kind": "loss", "step": step, "loss_label": step / 7} for step in (1, 2)]
    entries += [
        {"kind": "pruning", "step": 2, "shape": "a2"},
        {"kind": "loss", "step": 3, "loss_label": 0.1, "loss_prediction": 2.0},
    ]
    scores = [
        {"kind": "dev", "step": step, "metric": "matthews", "score": 1 / 3, "matthews": 1 / 3,
         "accuracy": 0.5, "shape": shape} for step, shape in ((1, "a4"), (2, "a2"))
    ]  # fmt: skip
    assert records.curves(entries + scores) == {
        "losses": {
            "step": [1, 2, 3],
            "loss_label": [0.14286, 0.28571, 0.1],
            "loss_prediction": [None, None, 2.0],
        },
        "evaluations": {
            "step": [1, 2],
            "score": [0.33333, 0.33333],
            "accuracy": [0.5, 0.5],
            "shape": ["a4", "a2"],
        },
    }
    assert records.curves(scores[:1])["evaluations"]["shape"] == "a4"
    assert records.curves([]) == {}
    many = [{"kind": "loss", "step": step, "loss_label": 0.5} for step in range(1000)]
    assert records.POINTS <= len(records.curves(many)["losses"]["step"]) < 2 * records.POINTS


def test_two_processes_that_write_at_once_lose_no_lines(tmp_path):
    script = tmp_path / "write.py"
    script.write_text(f"""import json, sys
sys.path.insert(0, {str(REPOSITORY / "experiments")!r})
from pathlib import Path
from records import add_record
record = json.loads(Path(__file__).with_name("record.json").read_text())
for seed in range(25):
    add_record(Path(__file__).parent / "results", record | {{"name": sys.argv[1], "seed": seed}})
""")
    (tmp_path / "record.json").write_text(json.dumps(record("", 1, 0.8)))
    writers = [subprocess.Popen([python(), str(script), name]) for name in ("here", "there")]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = [(one["name"], one["seed"]) for one in records.read_records(tmp_path / "results")]
    assert found == [(name, seed) for name in ("here", "there") for seed in range(25)]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_is_named_and_whether_what_it_has_is_changed(tmp_path):
    (tmp_path / "experiments" / "minilm").mkdir(parents=True)
    assert reproduce.commit(tmp_path) is None
    code, written = tmp_path / "code.py", tmp_path / "experiments" / "minilm" / "records.jsonl"
    for file in (code, written):
        file.write_text("one")
    git(tmp_path, "init", "-q")
    assert reproduce.commit(tmp_path) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    written.write_text("two")
    assert reproduce.commit(tmp_path) == head
    code.write_text("two")
    assert reproduce.commit(tmp_path) == f"{head}-dirty"
    assert reproduce.commit(tmp_path / "experiments") is None  # a copy within another repository


def test_the_tables_hold_mean_and_deviation_of_the_records_and_name_what_is_missing(tmp_path):
    scores = {"no_kd": [0.80], "setting1": [0.85, 0.86, 0.88]}
    results.main(write_records(tmp_path, scores))
    text = (tmp_path / "RESULTS.md").read_text()
    found = [100 * value for value in scores["setting1"]]
    assert f"| {mean(found):.1f} ± {stdev(found):.1f} | {mean(found) / 0.9:.1f} % |" in text
    assert (
        "| no_kd | pruned, trained on the labels, no KD | 84.0 | 80.0 | 88.9 % | -3.0 to +1.0"
        " | 0.50 | 1 |\n" in text
    )
    shared = "trained on 20,000 of the task's rows, teacher 90.0, 3.5 million parameters, 14.1 MB"
    assert f"All lines: {shared}.\n\n|  | what | held out | dev accuracy | kept |" in text
    lacking = "no_kd (seed 2, 3), setting2, setting3, setting4"
    assert f"- SST-2 settings: {lacking}\n" in text.split("No record yet")[1]
    assert (tmp_path / "results" / "SST-2-settings.png").exists()
    assert "![all tasks](results/summary.png)" in text
    assert (tmp_path / "results" / "summary.png").exists()


def test_the_interval_over_rows_and_seeds_is_of_all_models_that_are_here_and_marked_when_of_all(
    tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=400)
    logits = {seed: np.eye(2)[labels ^ (rng.random(400) < 0.1 * seed)] for seed in (1, 2, 3)}
    task, experiment = GLUE["SST-2"], next(e for e in EXPERIMENTS if e.name == "setting1")
    teacher = np.eye(2)[labels ^ (rng.random(400) < 0.1)]
    monkeypatch.setattr(reproduce, "MODELS", tmp_path / "models")
    monkeypatch.setattr(stage_lab, "MODELS", tmp_path / "models")

    def answers(_, model, data):
        found = teacher if "bert_ft" in model.name else logits[int(model.name[-1])]
        return found, score(task, found, labels), labels

    monkeypatch.setattr(reproduce, "scores_of", answers)
    bootstrap = partial(paired_bootstrap, draws=100)
    monkeypatch.setattr(reproduce, "paired_bootstrap", bootstrap)
    (tmp_path / "models" / "SST-2" / "20k" / "bert_ft-1").mkdir(parents=True)
    flags = ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "RESULTS.md")]
    for seed, found in logits.items():
        one = record("setting1", seed, score(task, found, labels).main)
        one["teacher_score"] = score(task, teacher, labels).main
        one["stages"][-1]["weights"] = f"checksum {seed}"
        records.add_record(tmp_path / "results", one)
        run = reproduce.model_of(one) / "run.json"
        run.parent.mkdir(parents=True)
        run.write_text(json.dumps({"weights": f"checksum {seed}" if seed < 3 else "of another"}))
        reproduce.add_interval_over_seeds(experiment, "SST-2", tmp_path / "results")
    last = records.read_records(tmp_path / "results")[1:]
    interval = bootstrap(task, [[logits[1], logits[2]]], [[teacher]], labels)
    assert last[0]["over_seeds"]["difference_95"] == list(interval)
    assert "over_seeds" not in last[1]
    results.main(flags)
    assert " †" not in (tmp_path / "RESULTS.md").read_text().split("## SST-2")[1]  # two of three
    run.write_text(json.dumps({"weights": "checksum 3"}))
    reproduce.add_interval_over_seeds(experiment, "SST-2", tmp_path / "results")
    results.main(flags)
    interval = bootstrap(task, [list(logits.values())], [[teacher]], labels)
    low, high = (100 * bound for bound in interval)
    assert f"| {low:+.1f} to {high:+.1f} † |" in (tmp_path / "RESULTS.md").read_text()


def test_settings_are_compared_over_rows_and_seeds_by_the_models_that_the_records_are_of(
    tmp_path, monkeypatch
):
    rng = np.random.default_rng(3)
    labels = rng.integers(2, size=400)
    wrong = {"no_kd": 0.3, "setting1": 0.1, "setting2": 0.1}
    logits = {
        f"{name}-{seed}": np.eye(2)[labels ^ (rng.random(400) < rate)]
        for name, rate in wrong.items()
        for seed in (1, 2, 3)
    }

    def answers(_, model, data):
        found = logits[model.name]
        return found, score(GLUE["SST-2"], found, labels), labels

    monkeypatch.setattr(reproduce, "MODELS", tmp_path / "models")
    monkeypatch.setattr(compare, "scores_of", answers)
    monkeypatch.setattr(compare, "paired_bootstrap", partial(paired_bootstrap, draws=100))
    kept, runs = tmp_path / "results", {}
    for model, found in logits.items():
        name, seed = model.split("-")
        for task in FIVE:  # the page compares what all tasks have
            one = record(name, int(seed), score(GLUE["SST-2"], found, labels).main) | {"task": task}
            one["stages"][-1]["weights"] = f"checksum of {model}"
            one["stages"][-1]["folder"] = f"{task}/20k/{model}"
            records.add_record(kept, one)
            runs[task, model] = reproduce.model_of(one) / "run.json"

    def make(model: str, weights: str) -> None:
        run = runs["SST-2", model]
        run.parent.mkdir(parents=True, exist_ok=True)
        run.write_text(json.dumps({"weights": weights}))

    def compared() -> dict:
        compare.main(["--results", str(kept)])
        return json.loads((kept / "comparisons.json").read_text())["tasks"]["SST-2"]

    for model in logits:
        make(model, f"checksum of {model}")
    make("no_kd-3", "of a model made anew")
    for seed in (2, 3):
        runs["SST-2", f"setting2-{seed}"].unlink()  # a line of one seed has no spread
    sides = ([[logits[f"{name}-{seed}"] for seed in seeds]]
             for name, seeds in (("setting1", (1, 2, 3)), ("no_kd", (1, 2))))  # fmt: skip
    low, high = paired_bootstrap(GLUE["SST-2"], *sides, labels, draws=100)
    found = compared()
    assert list(found) == ["KD: 1 over none"]
    assert found["KD: 1 over none"]["difference_95"] == [low, high]

    def cells() -> list[str]:
        results.main(["--results", str(kept), "--output", str(tmp_path / "R.md")])
        lines = (tmp_path / "R.md").read_text().splitlines()
        return [re.sub(" +", " ", line) for line in lines if "| dev, 95 % |" in line]

    expected = f"| KD: 1 over none | dev, 95 % | {100 * low:+.1f} to {100 * high:+.1f} (2, 3) |"
    assert cells() == [re.sub(" +", " ", expected + " – |" * 5)]
    runs["SST-2", "setting1-3"].unlink()
    assert compared() == found  # of more models than two each
    for model in logits:
        runs["SST-2", model].unlink(missing_ok=True)
    assert compared() == found  # of models that are gone
    one = record("no_kd", 1, 0.7)
    one["stages"][-1]["weights"] = "of another"
    records.add_record(kept, one)
    assert cells() == []
    make("no_kd-1", "of another")
    make("no_kd-2", "checksum of no_kd-2")
    with pytest.raises(RositaError, match=r"no_kd-1 scores 0.\d+ on dev, its record 0.7000: is"):
        compared()


def test_lines_are_sorted_by_their_held_out_score_and_the_line_of_another_table_is_bold(tmp_path):
    for table, name, chosen_by in (
        ("settings", "setting1", 0.84),
        ("recipe", "labels", 0.83),
        ("recipe", "dropout_0", 0.85),
    ):
        one = record(name, 1, 0.80) | {"table": table}
        one["stages"][-1]["dev_score"] = chosen_by
        records.add_record(tmp_path / "results", one)
    results.main(["--results", str(tmp_path / "results"), "--output", str(tmp_path / "R.md")])
    table = (tmp_path / "R.md").read_text().split("--tables recipe`")[1]
    names = re.findall(r"^\| (\S+) \| .* \| (8.\.0) \|", table, re.MULTILINE)
    assert [name for name, _ in names] == ["dropout_0", "**setting1**", "labels"]


def test_a_table_says_in_what_arithmetic_its_lines_are_once_or_of_each_seed_where_they_differ(
    tmp_path,
):
    def table_of(noted: list[str | None]) -> list[str]:
        for seed, arithmetic in enumerate(noted, 1):
            one = record("setting1", seed, 0.85)
            if arithmetic:
                one["stages"][-1]["arithmetic"] = f"on cpu in {arithmetic}"
            records.add_record(tmp_path / "results", one)
        results.main(["--results", str(tmp_path / "results"), "--output", str(tmp_path / "R.md")])
        text = (tmp_path / "R.md").read_text().split("--tables settings`")[1]
        return [line for line in text.splitlines() if line.startswith(("All lines", "|"))]

    caption, heading, *_ = table_of([None, None])
    assert "in fp32" not in caption and "arithmetic" not in heading
    caption, heading, *_ = table_of(["fp32", "fp32"])
    assert caption.endswith(", in fp32, seed 1, 2.") and "arithmetic" not in heading
    caption, *_ = table_of([None, "bf16", "fp32"])
    assert caption.endswith(", in –; bf16; fp32, seed 1, 2, 3.")
    records.add_record(tmp_path / "results", record("no_kd", 1, 0.80))
    _, heading, _, *lines = table_of([None, "bf16", "fp32"])
    assert heading.endswith("| hours | arithmetic | seeds |")
    assert [line.split(" | ")[-2] for line in lines] == ["", "–; bf16; fp32"]


def test_the_first_table_has_each_task_once_marks_a_second_teacher_and_the_top_says_where_it_stands(
    tmp_path,
):
    lines = [
        record("setting1", 1, 0.81),
        record("setting2", 1, 0.83) | {"commit": "abc"},
        *(
            record("recipe", seed, score) | {"table": "goal"}
            for seed, score in ((1, 0.8), (2, 0.9))
        ),
        *(
            record("bert_ft", seed, score) | {"table": "teacher"}
            for seed, score in ((1, 0.9), (2, 0.7))
        ),
    ]
    for one in lines[2:4]:
        one["teacher_score"] = 0.85
    for one in lines:
        records.add_record(tmp_path / "results", one)
    results.main(["--results", str(tmp_path / "results"), "--output", str(tmp_path / "R.md")])
    text = (tmp_path / "R.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| SST-2 | 90.0, 85.0*")]
    assert [re.sub(" +", " ", row) for row in rows] == [
        "| SST-2 | 90.0, 85.0* | | 90.0 % (1) | 92.2 % (1) | | | 100.0 % (2)* | 100.0 % (2)*"
        " | 106.2 % (2) |"
    ]
    said = (
        "The best models of 1 of the 5 tasks, chosen on the held-out rows, keep 100.0 % on average"
    )
    top = " ".join(text.split())
    assert said in top and "the least 100.0 %" in top
    capped = mean([16 / 17 * 100, 100])
    assert f"({capped:.1f} % if no seed counts for more than 100)" in top
    intervals = "-3.0 to +1.0; -3.0 to +1.0"
    assert (
        f"- SST-2: recipe keeps 100.0 % (seeds 94.1, 105.9), difference {intervals} points" in text
    )
    assert "5 of 6 records are older than the fields commit and machine" in text
    taught = text.split("--tables teacher`")[1]
    assert "| dev accuracy | difference, 95 % |" in taught and "kept" not in taught.split("!")[0]


def test_a_gain_over_seeds_has_the_error_of_all_its_lines_and_one_seed_has_none():
    rng = np.random.default_rng(5)

    def line(true: float, seeds: int) -> list[float]:
        return list(rng.normal(true, 2.0, seeds))

    gain = numbers_over_seeds.gain
    gains = [gain([line(70, 3), line(74, 3)], [line(69, 2)]) for _ in range(4000)]
    values, errors = (np.array(column) for column in zip(*gains, strict=True))
    assert values.mean() == pytest.approx(3.0, abs=0.1)
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.05)
    assert gain([[70.0, 71.0]], [[68.0]]) == (2.5, None)


def test_settings_are_held_against_one_another_where_all_tasks_have_them(tmp_path):
    for place, task in enumerate(FIVE):
        for name, scores in (("no_kd", (0.70, 0.72)), ("setting1", (0.71, 0.79))):
            for seed, value in enumerate(scores, 1):
                one = record(name, seed, value + place / 100) | {"task": task}
                records.add_record(tmp_path / "results", one)
    one = record("setting2", 1, 0.7)
    records.add_record(tmp_path / "results", one)
    results.main(["--results", str(tmp_path / "results"), "--output", str(tmp_path / "R.md")])
    table = (tmp_path / "R.md").read_text().split("## The settings against one another")[1]
    rows = [re.sub(" +", " ", line) for line in table.split("## ")[0].splitlines() if "|" in line]
    error = np.sqrt((0.02**2 / 2 + 0.08**2 / 2) / 2) * 100  # of one task; the mean's is less
    cells = [f"+4.0 ± {error:.1f}"] * 5 + [f"+4.0 ± {error / np.sqrt(5):.1f}"]
    assert rows[2:] == [
        "| KD: 1 over none | held out |" + " +0.0 ± 0.0 |" * 6,
        f"| KD: 1 over none | dev | {' | '.join(cells)} |",
    ]


def test_the_picture_of_all_tasks_has_a_dot_for_each_share_and_the_means_of_what_all_tasks_have(
    tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(figures, "_finish", lambda path, figure, axes, bare: drawn.append(axes))
    scores = {"A": {"no_kd": [0.09], "setting1": [0.72, 0.9]}, "B": {"setting1": [0.99]}}
    tasks = {
        task: {
            name: [record(name, seed, score) for seed, score in enumerate(of_line, 1)]
            for name, of_line in lines.items()
        }
        for task, lines in scores.items()
    }
    figures.draw_summary(tmp_path / "summary.png", tasks, ["no_kd", "setting1"])
    (axes,) = drawn
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    shares = {(round(float(x), 1), round(y)) for dot in dots for x, y in dot.get_xydata()}
    assert shares == {(-0.2, 10), (0.8, 80), (0.8, 100), (1.2, 110)}
    assert [text.get_text() for text in axes.texts] == ["10"]  # below the picture's range
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["no_kd\n", "setting1\n100.0 %"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["A", "B"]


def test_what_the_later_records_have_alone_is_a_column_with_dashes_for_the_others(tmp_path):
    for name, more in (("no_kd", {}), ("setting1", {"agreement": 0.915})):
        records.add_record(tmp_path / "results", record(name, 1, 0.8) | more)
    results.main(["--results", str(tmp_path / "results"), "--output", str(tmp_path / "R.md")])
    text = (tmp_path / "R.md").read_text()
    assert "| held out | dev accuracy | agreement | kept |" in text
    assert "| 84.0 | 80.0 | – | 88.9 % |" in text and "| 84.0 | 80.0 | 91.5 | 88.9 % |" in text


def test_the_table_of_fewer_states_says_what_they_take_on_disk_and_how_long_kd_took(tmp_path):
    full, fewer = record("setting1", 1, 0.8), record("all_three", 1, 0.8) | {"table": "knowledge"}
    phases = record("last_state", 1, 0.8) | {"table": "knowledge"}
    full["stages"][-1] |= {"stage": "distil", "seconds": 600.0}
    fewer["stages"][-1] |= {"stage": "distil", "seconds": 240.0, "teacher_states_bytes": 2_345_678}
    phases["stages"] += [
        {
            **phases["stages"][-1],
            "stage": "distil",
            "seconds": seconds,
            "teacher_states_bytes": size,
        }
        for seconds, size in ((120.0, 1_500_000), (300.0, 0))
    ]
    large = record("ten_tokens", 1, 0.8) | {"table": "knowledge"}
    large["stages"][-1] |= {
        "stage": "distil",
        "seconds": 60.0,
        "teacher_states_bytes": 1_028_600_000,
    }
    for one in (full, fewer, phases, large):
        records.add_record(tmp_path / "results", one)
    results.main(["--results", str(tmp_path / "results"), "--output", str(tmp_path / "R.md")])
    table = (tmp_path / "R.md").read_text().split("--tables knowledge")[1]
    assert "| MB of states kept | minutes of KD |" in table
    for cells in ("2.35 | 4.0", "– | 10.0", "1.5 | 7.0", "1,029 | 1.0"):
        assert f"| 84.0 | 80.0 | {cells} |" in table


def test_a_line_names_each_teacher_that_its_seeds_had():
    seeds = [record("recipe", seed, 0.8) for seed in (1, 2, 3)]
    assert numbers_over_seeds.NUMBERS["teacher"](seeds) == "90.0"
    seeds[1]["teacher_score"] = 0.85
    assert numbers_over_seeds.NUMBERS["teacher"](seeds) == "90.0, 85.0"


def test_a_column_that_differs_in_one_line_stays():
    lines = [["", "teacher", "MB"], ["a", "90.0", "14.1"], ["b", "90.0", "14.2"]]
    assert results.take_out_shared(lines) == (
        ["teacher 90.0"],
        [["", "MB"], ["a", "14.1"], ["b", "14.2"]],
    )


def test_what_is_written_of_a_table_takes_its_numbers_from_the_records(tmp_path):
    flags = write_records(tmp_path, {"no_kd": [0.80], "setting1": [0.84, 0.86]})
    findings = tmp_path / "results" / "findings.md"
    findings.write_text(
        "# CoLA settings\n\nNo table, no text.\n\n# SST-2 settings\n\nKD gives {setting1 dev} for"
        " {no_kd dev}\n({setting1\nkept} of {no_kd held_out}).\n"
    )
    results.main(flags)
    text = (tmp_path / "RESULTS.md").read_text()
    kept = mean([84 / 0.9, 86 / 0.9])
    assert f"KD gives 85.0 ± 1.4 for 80.0 ({kept:.1f} % of 84.0)." in text
    assert "no text" not in text
    without = {"SST-2": {"dev": {"one_answer": 0.509}}}
    (tmp_path / "results" / "floors.json").write_text(json.dumps({"tasks": without}))
    findings.write_text("# SST-2 settings\n\nOne answer gives {one_answer dev}.\n")
    results.main(flags)
    assert "One answer gives 50.9.\n" in (tmp_path / "RESULTS.md").read_text()
    for wrong in ("{setting2 dev}", "{no_kd mean}", "{no_kd}", "{one_answer held_out}"):
        findings.write_text(f"# SST-2 settings\n\n{wrong}\n")
        with pytest.raises(RositaError, match=f"findings.md, SST-2 settings: {wrong}"):
            results.main(flags)


def test_what_is_written_keeps_its_lists(tmp_path):
    flags = write_records(tmp_path, {"no_kd": [0.80]})
    (tmp_path / "results" / "findings.md").write_text(
        f"# summary\n\n**Shown:**\n\n- one\n  thing\n- {'long ' * 30}\n\nAnd - no list.\n"
    )
    results.main(flags)
    long = f"- {'long ' * 19}".rstrip() + f"\n  {'long ' * 11}".rstrip()
    expected = f"\n\n**Shown:**\n\n- one thing\n{long}\n\nAnd - no list.\n\n"
    assert expected in (tmp_path / "RESULTS.md").read_text()


def test_results_say_of_each_table_what_it_shows_and_what_it_does_not():
    findings = results.read_findings(REPOSITORY / "experiments" / "minilm" / "findings.md")
    known = records.read_records(REPOSITORY / "experiments" / "minilm")
    tables = {f"{one['task']} {one['table']}" for one in known}
    assert len(tables) > 20 and tables <= set(findings)
    for heading, text in findings.items():
        assert re.findall(r"^\*\*(Shown|Not shown):\*\*", text, re.MULTILINE) == [
            "Shown", "Not shown"
        ], heading  # fmt: skip


def test_a_reader_that_has_enough_ends_a_script_without_a_traceback():
    command = [sys.executable, str(REPOSITORY / "experiments" / "reproduce.py"), "--dry_run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--tasks", "sst-2"), "--tasks 'sst-2' is in no experiment; did you mean 'SST-2'"),
        (("--tables", "setting"), "--tables 'setting' .*; did you mean 'settings'"),
        (("--names", "no_kd,setting9"), "--names 'setting9' .*; did you mean 'setting"),
        (("--seeds", "9"), "--seeds '9' is in no experiment; --dry_run alone lists all"),
        (("--seeds", "one"), "--seeds: invalid numbers value: 'one'"),
        (("--tasks", "", "--names", "setting1"), "--tasks: an empty value: give it one"),
        (("--tasks", ",RTE", "--names", "setting1"), "--tasks '' is in no experiment"),
        (("--tasks", "RTE", "--names", "copies_1"),
         "no experiment is all of --tasks RTE --names copies_1 --seeds 1,2,3"),
    ],
)  # fmt: skip
def test_a_choice_that_no_experiment_meets_is_refused(flags, says):
    with pytest.raises(RositaError, match=says):
        reproduce.main([*flags, "--dry_run"])


def test_what_is_chosen_meets_all_that_was_asked_for(capsys):
    reproduce.main("--tasks CoLA,RTE --tables settings --seeds 2,3 --dry_run".split())
    lines = [line.split("] ")[1].split(":")[0] for line in capsys.readouterr().out.splitlines()]
    expected = [
        f"{task} settings/{one.name}, seed {seed}"
        for one in EXPERIMENTS
        for task in ("CoLA", "RTE")
        for seed in (2, 3)
        if one.table == "settings" and task in one.tasks and seed in one.seeds
    ]
    assert len(expected) >= 20 and sorted(lines) == sorted(expected)


@pytest.fixture
def lab(tmp_path, monkeypatch) -> stage_lab.StageLab:
    """CoLA's lab on a tiny BERT and few rows, in a folder of its own."""
    monkeypatch.setattr(stage_lab, "REPOSITORY", tmp_path)
    monkeypatch.setattr(stage_lab, "MODELS", tmp_path / "models" / "minilm")
    make_bert(tmp_path / "models" / "bert_pt", **LARGE_ENOUGH)
    made = stage_lab.StageLab("CoLA", "full", 1)
    write_cola(made.data_dir)
    return made


def test_a_chain_that_ctrl_c_ends_goes_on_where_it_was(lab, tmp_path, monkeypatch):
    chain = chains.setting1
    steps = {"num_train_epochs": 3, "train_batch_size": 8}
    whole = (chain(lab, "whole", **steps) / "model.safetensors").read_bytes()
    after_step, seen = Training._after_step, []

    def ctrl_c(self, step, bar):
        after_step(self, step, bar)
        seen.append(step)
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "_after_step", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        chain(lab, "cut", **steps)
    lab.ran.clear()
    cut = chain(lab, "cut", **steps)
    assert seen == list(range(1, 16))  # no step twice, and no other stage ran again
    assert (cut / "model.safetensors").read_bytes() == whole
    assert [read_run(folder)["stage"] for folder in dict.fromkeys(lab.ran)] == STAGES


@pytest.mark.parametrize("task", reproduce.FIVE)
def test_the_settings_scripts_tune_a_small_bases_teacher_as_its_results_are_made(task, tmp_path):
    checkout = Checkout(tmp_path)
    checkout.config(num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    _, called = checkout.run("scripts/setting1.sh", task)
    words = called[0].split()
    chosen = stage_lab.FINE_TUNE[task, "20k" if task in stage_lab.LARGE else "full"]
    for name in ("learning_rate", "num_train_epochs"):
        assert float(words[words.index(f"--{name}") + 1]) == chosen[name]
    assert "--warmup_steps" not in words and "warmup_steps" not in chosen


def test_the_records_of_the_recipe_have_the_settings_of_its_config():
    found = records.read_records(REPOSITORY / "experiments" / "minilm")
    path = stage_lab.CONFIGS / "config_recipe.json"
    taught = [one for one in found if (one["table"], one["name"]) == ("goal", "recipe")]
    assert {one["task"] for one in taught} >= {"CoLA"}
    for one in taught:
        config = load_config(KDSettings, GLUE[one["task"]], {}, path, path.parent).model_dump()
        used = one["stages"][-1]["settings"]
        how = {"seed", "precision", "teacher_cache_gb", "do_lower_case"}
        shared = config.keys() & used.keys() - how
        assert len(shared) > 30
        assert {name: used[name] for name in shared} == {name: config[name] for name in shared}


def test_the_keys_of_the_records_stages_are_the_hashes_of_their_lines():
    for path in (REPOSITORY / "experiments" / "minilm").glob(records.STAGES):
        for line in map(json.loads, path.read_text().splitlines()):
            key = line.pop("key")
            assert records._keyed({"folder": key.rpartition("@")[0], **line})["key"] == key


def test_renewed_layers_are_drawn_anew_by_the_seed_and_the_others_stay(lab):
    loaded = [lab._load(lab.base, 1) for _ in range(3)]
    start, again, other = (one.model for one in loaded)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    for one, seed in zip(loaded, (1, 1, 2), strict=True):
        stage_lab.renew(one, 2, seed)
    drawn = ("encoder.layer.4.", "encoder.layer.5.", "pooler.")
    for name, value in start.state_dict().items():
        matrix = value.dim() == 2  # biases and LayerNorm begin at 0 and 1 whatever the seed
        new = any(part in name for part in drawn)
        assert torch.equal(value, again.state_dict()[name])
        assert torch.equal(value, before[name]) != (new and matrix), name
        if new and matrix:
            assert value.std() == pytest.approx(0.02, rel=0.1)
            assert not torch.equal(value, other.state_dict()[name])


def test_pairs_of_another_task_stand_after_a_tasks_own_in_its_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(stage_lab, "REPOSITORY", tmp_path)
    lab = stage_lab.StageLab("RTE", "full", 1)
    lab.data_dir.mkdir(parents=True)
    heads = {"RTE": "index\tsentence1\tsentence2\tlabel", "MRPC": "Quality\ti\tj\ta\tb"}
    own = f"{heads['RTE']}\n0\ta b\tc\tentailment\n1\td\te\tnot_entailment\n"
    for name in ("train.tsv", "dev.tsv"):
        (lab.data_dir / name).write_text(own)
    other = tmp_path / "data" / "MRPC" / "train.tsv"
    other.parent.mkdir(parents=True)
    other.write_text(f"{heads['MRPC']}\n1\t7\t8\tf g\th\n0\t9\t6\ti\tj\n")
    folder = lab.with_pairs_of(("MRPC",))
    rows = list(TsvFile(folder / "train.tsv", GLUE["RTE"]).rows())
    assert [row.texts for row in rows] == [("a b", "c"), ("d", "e"), ("f g", "h"), ("i", "j")]
    assert (folder / "train.tsv").read_text().startswith(own)
    assert (folder / "dev.tsv").read_text() == (lab.data_dir / "train.tsv").read_text() == own
    assert [chains.rows_of(one, "RTE") for one in (folder, lab.data_dir)] == [4, 2]


def test_a_student_of_fewer_pieces_answers_texts_of_these_as_before_by_its_own_tokenizer(
    lab, tmp_path
):
    teacher, dev = chains.teacher(lab), lab.data_dir
    own = lab.keep_pieces("own", teacher, "CoLA")
    before, scores, labels = reproduce.scores_of("CoLA", teacher, dev)
    after, same, _ = reproduce.scores_of("CoLA", own, dev)  # dev has the words of train
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert same.main == scores.main and len(labels) == 20
    film = tmp_path / "data" / "SST-2" / "train.tsv"
    film.parent.mkdir(parents=True)
    film.write_text("sentence\tlabel\n" + "".join(f"{word}\t1\n" for word in WORDS[:2]))
    other = lab.keep_pieces("other", teacher, "SST-2")
    sizes = [read_run(folder)["vocabulary"] for folder in (own, other)]
    whole = json.loads((teacher / "config.json").read_text())["vocab_size"]
    assert sizes[1] < sizes[0] <= whole
    found, _, _ = reproduce.scores_of("CoLA", other, dev)
    assert found.shape == before.shape and not np.allclose(found, before, atol=1e-5)


def noted_jobs(*jobs):
    """Jobs of (task, name, seconds, exit code) that note when they begin, on how many threads, and
    when they end."""
    note = (
        "import os, sys, time; print(time.time(), os.environ['OMP_NUM_THREADS'], flush=True);"
        " time.sleep({}); print(time.time()); sys.exit({})"
    )
    return [
        side_by_side.Job(task, name, (sys.executable, "-c", note.format(seconds, code)))
        for task, name, seconds, code in jobs
    ]


def notes_of(folder, jobs):
    return [tuple(map(float, (folder / f"{job.name}.log").read_text().split())) for job in jobs]


def test_experiments_run_side_by_side_in_their_order_but_never_two_of_a_task(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(side_by_side.torch, "get_num_threads", lambda: 6)
    jobs = noted_jobs(("A", "a1", 2.0, 0), ("A", "a2", 0.1, 0), ("B", "b1", 2.5, 0))
    side_by_side.run_side_by_side(jobs, 2, tmp_path)
    (a1, share, a1_end), (a2, _, _), (b1, other, _) = notes_of(tmp_path, jobs)
    begun = re.findall(r"^(\w+): runs", capsys.readouterr().out, flags=re.MULTILINE)
    assert begun == ["a1", "b1", "a2"]  # b1 goes before a2, whose task is busy
    assert max(a1, b1) < a1_end <= a2
    assert share == other == 3
    side_by_side.run_side_by_side(jobs[:2], 2, tmp_path / "one")
    (_, first, first_end), (second, last, _) = notes_of(tmp_path / "one", jobs[:2])
    assert first_end <= second and first == last == 6  # no core idles beside a lone task


def test_after_a_failed_experiment_no_other_begins_and_those_beside_it_end(tmp_path):
    jobs = noted_jobs(("A", "a", 0.1, 3), ("B", "b", 1.5, 0), ("C", "c", 0, 0))
    with pytest.raises(RositaError, match=r"^a failed: its last lines are in .*a\.log$"):
        side_by_side.run_side_by_side(jobs, 2, tmp_path)
    assert len(notes_of(tmp_path, jobs[1:2])[0]) == 3
    assert not (tmp_path / "c.log").exists()


def test_a_signal_ends_the_experiments_side_by_side_each_in_its_own_way(tmp_path):
    saves = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('saved'));"
    script = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {str(REPOSITORY / "experiments")!r})
from pathlib import Path
from side_by_side import Job, run_side_by_side
command = (sys.executable, "-c", "{saves} print('on', flush=True); time.sleep(60)")
logs = Path({str(tmp_path)!r})
def kill():
    both = [logs / "a.log", logs / "b.log"]
    while not all(log.exists() and log.read_text() for log in both):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=kill, daemon=True).start()
try:
    run_side_by_side([Job("A", "a", command), Job("B", "b", command)], 2, logs)
except KeyboardInterrupt:
    print("interrupted")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, cwd=REPOSITORY
    )
    assert ended.stdout.endswith("interrupted\n"), ended.stderr
    assert [(tmp_path / f"{name}.log").read_text() for name in "ab"] == ["on\nsaved\n"] * 2


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_serving_without_onnx_is_refused_before_anything_runs(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    asked = ["--tasks", "RTE", "--dry_run"]
    with pytest.raises(RositaError, match=f"^{package} is not installed.*pip install {package}$"):
        reproduce.main([*asked, "--serving"])
    assert not capsys.readouterr().out
    reproduce.main(asked)
    assert "RTE settings/no_kd" in capsys.readouterr().out


def test_the_script_that_redoes_everything_installs_what_its_steps_need():
    script = (REPOSITORY / "experiments" / "reproduce_minilm.sh").read_text()
    (made,) = re.findall(r"make_environment (.+)", script)
    (always,) = re.findall(r"-e \.\[(.+)\]", (REPOSITORY / "requirements.txt").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    brought = " ".join(one for name in [*made.split(), *always.split(",")] for one in extras[name])
    for package in ("all-minilm", "glove", "matplotlib", "boto3", "onnx", "onnxruntime"):
        assert re.search(rf"\b{package}\b", brought), package


def test_an_experiment_runs_from_teacher_to_record_and_a_second_call_runs_nothing(tmp_path):
    sandbox = tmp_path / "rosita"
    shutil.copytree(REPOSITORY, sandbox, ignore=IGNORED)
    shutil.rmtree(sandbox / "experiments" / "minilm")
    make_bert(sandbox / "models" / "bert_pt", **LARGE_ENOUGH)
    data = write_cola(sandbox / "data" / "CoLA")
    rows = [f"src\t{len(text) % 2}\t\t{text}\n" for text in sentences(1040, seed=5)]
    (data / "train.tsv").write_text("".join(rows))
    dev = (data / "dev.tsv").read_text().splitlines(keepends=True)
    (data / "dev.tsv").write_text("".join(dev[:10] + [f"new-{line}" for line in dev[10:]]))
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "a copy")):
        git(sandbox, *command)
    precision = "fp32" if auto_takes_bf16(no_cuda=False) else "bf16"  # what is not taken unasked
    flags = ("--tasks", "CoLA", "--names", "setting1,3e-5", "--seeds", 1, "--serving", 0.2,
             "--jobs", 2, "--results", tmp_path / "results", "--precision", precision)  # fmt: skip
    environment = pytest.MonkeyPatch()
    environment.setenv("PYTHONPATH", str(sandbox))  # the copy's rosita/, for the scripts' children
    with environment.context():
        run_script(sandbox / "experiments" / "reproduce.py", *flags, cwd=sandbox)
        again = run_script(sandbox / "experiments" / "reproduce.py", *flags, cwd=sandbox)
    environment.undo()
    assert again.stdout.count("has a record") == 2 and "+ " not in again.stdout
    made, tuned = records.read_records(tmp_path / "results")
    assert made["commit"] == git(sandbox, "rev-parse", "HEAD")
    assert made["machine"]["cpu"] and isinstance(made["machine"]["bf16"], bool)
    assert [stage["stage"] for stage in made["stages"]] == STAGES
    computed = [stage for stage in made["stages"] + tuned["stages"] if "arithmetic" in stage]
    assert len(computed) == 4  # tuned, scored, distilled; tuned otherwise
    assert all(stage["arithmetic"].endswith(f" in {precision}") for stage in computed)
    assert made["train_rows"] + 1000 <= 1040
    assert made["stages"][-1]["shape"] == "a2_l4_f256_e64" and made["dev_rows"] == 20
    assert 0 <= made["agreement"] <= 1 and tuned["agreement"] <= 1
    low, high = made["difference_95"]
    assert low <= made["score"] - made["teacher_score"] <= high
    assert [part["rows"] for part in made["by_source"].values()] == [10, 10]
    curves = made["stages"][-1]["losses"]
    assert len(curves["step"]) == len(curves["loss_prediction"]) > 0
    assert [stage["folder"] for stage in tuned["stages"]] == ["CoLA/full/teacher_3e-5-1"]
    served = json.loads((tmp_path / "results" / "serving-CoLA.json").read_text())["rows"]
    rows = f"{made['train_rows']} rows"
    assert [row["model"] for row in served] == [f"teacher, {rows}"] * 3 + [f"setting1, {rows}"] * 3
    assert [row["format"] for row in served] == ["pytorch", "onnx", "int8"] * 2
    assert served[3]["dev_score"] == pytest.approx(made["score"])
    held = (sandbox / "data" / "held_out" / "CoLA" / "full" / "dev.tsv").read_text().splitlines()
    assert len(held) >= 1000
