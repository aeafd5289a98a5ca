"""The experiments: what is held out, what a record says, whose numbers the tables hold."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from conftest import REPOSITORY, make_bert, run_script, sentences, write_cola
from test_readme import IGNORED

from rosita.errors import RositaError
from rosita.evaluation import paired_bootstrap
from rosita.tasks import GLUE

sys.path.insert(0, str(REPOSITORY / "experiments"))
hold_out, reproduce, results = (
    importlib.import_module(name) for name in ("hold_out", "reproduce", "results")
)

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
    lines = {name: [(tmp_path / name / f"{part}.tsv").read_text().splitlines()
                    for part in ("train", "dev")] for name in ("all", "some", "again")}  # fmt: skip
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


def test_the_bootstrap_interval_is_that_of_the_normal_approximation_on_many_rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=2000)
    right = rng.random((2, 2000)) < np.array([[0.8], [0.9]])
    logits = [np.eye(2)[np.where(found, labels, 1 - labels)] for found in right]
    low, high = paired_bootstrap(GLUE["SST-2"], *logits, labels)
    difference = right[0].astype(float) - right[1]
    half = 1.96 * difference.std() / len(labels) ** 0.5
    assert low == pytest.approx(difference.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(difference.mean() + half, abs=0.15 * half)


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


def record(name: str, seed: int, score: float) -> dict:
    return {
        "table": "settings", "name": name, "task": "SST-2", "seed": seed,
        "data": "20k", "train_rows": 20_000, "metric": "accuracy", "score": score,
        "teacher_score": 0.9, "difference_95": [-0.03, 0.01], "bytes": 14_100_000, "hours": 0.5,
        "stages": [{"parameters": 3_500_000, "dev_score": 0.84}],
    }  # fmt: skip


def write_records(folder: Path, scores: dict[str, list[float]]) -> list[str]:
    """Records of SST-2's settings; returns the flags that make RESULTS.md of them."""
    (folder / "results" / "SST-2").mkdir(parents=True)
    for name, found in scores.items():
        for seed, value in enumerate(found, 1):
            path = folder / "results" / "SST-2" / f"settings-{name}-{seed}.json"
            path.write_text(json.dumps(record(name, seed, value)))
    return ["--results", str(folder / "results"), "--output", str(folder / "RESULTS.md")]


def test_the_tables_hold_mean_and_deviation_of_the_records_and_name_what_is_missing(tmp_path):
    scores = {"no_kd": [0.80], "setting1": [0.85, 0.86, 0.88]}
    results.main(write_records(tmp_path, scores))
    text = (tmp_path / "RESULTS.md").read_text()
    found = [100 * value for value in scores["setting1"]]
    assert f"| {mean(found):.1f} ± {stdev(found):.1f} | 90.0 | {mean(found) / 0.9:.1f} % |" in text
    assert (
        "| [no_kd](results/SST-2/settings-no_kd-1.json) | pruned, trained on the labels, no KD"
        " | 20,000 rows | 84.0 | 80.0 | 90.0 | 88.9 % | -3.0 to +1.0 | 3.5 | 14.1 | 0.50 | 1 |"
        in text
    )
    assert "Not run yet" in text and "SST-2 settings/setting4," in text
    assert "SST-2 settings/no_kd with seed 2, 3," in text
    assert "SST-2 settings/setting1" not in text
    assert (tmp_path / "results" / "SST-2-settings.png").exists()


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
    for wrong in ("{setting2 dev}", "{no_kd mean}", "{no_kd}"):
        findings.write_text(f"# SST-2 settings\n\n{wrong}\n")
        with pytest.raises(RositaError, match=f"findings.md, SST-2 settings: {wrong}"):
            results.main(flags)


def test_a_reader_that_has_enough_ends_a_script_without_a_traceback():
    command = [sys.executable, str(REPOSITORY / "experiments" / "reproduce.py"), "--dry_run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_an_experiment_runs_from_teacher_to_record_and_a_second_call_runs_nothing(tmp_path):
    sandbox = tmp_path / "rosita"
    shutil.copytree(REPOSITORY, sandbox, ignore=IGNORED)
    shutil.rmtree(sandbox / "experiments" / "minilm")
    make_bert(sandbox / "models" / "bert_pt", hidden_size=96, num_hidden_layers=6,
              num_attention_heads=12, intermediate_size=1536)  # fmt: skip
    data = write_cola(sandbox / "data" / "CoLA")
    rows = [f"src\t{len(text) % 2}\t\t{text}\n" for text in sentences(1040, seed=5)]
    (data / "train.tsv").write_text("".join(rows))
    dev = (data / "dev.tsv").read_text().splitlines(keepends=True)
    (data / "dev.tsv").write_text("".join(dev[:10] + [f"new-{line}" for line in dev[10:]]))
    flags = ("--tasks", "CoLA", "--names", "setting1,3e-5", "--seeds", 1, "--serving",
             "--results", tmp_path / "results")  # fmt: skip
    environment = pytest.MonkeyPatch()
    environment.setenv("PYTHONPATH", str(sandbox))  # the copy's rosita/, for the scripts' children
    with environment.context():
        run_script(sandbox / "experiments" / "reproduce.py", *flags, cwd=sandbox)
        again = run_script(sandbox / "experiments" / "reproduce.py", *flags, cwd=sandbox)
    environment.undo()
    assert again.stdout.count("has a record") == 2 and "+ " not in again.stdout
    made = json.loads((tmp_path / "results" / "CoLA" / "settings-setting1-1.json").read_text())
    assert [stage["stage"] for stage in made["stages"]] == [
        "fine_tune", "taylor", "one_step_prune", "distil"
    ]  # fmt: skip
    assert made["train_rows"] + 1000 <= 1040
    assert made["stages"][-1]["shape"] == "a2_l4_f256_e64" and made["dev_rows"] == 20
    low, high = made["difference_95"]
    assert low <= made["score"] - made["teacher_score"] <= high
    assert [part["rows"] for part in made["by_source"].values()] == [10, 10]
    tuned = json.loads((tmp_path / "results" / "CoLA" / "teacher-3e-5-1.json").read_text())
    assert [stage["folder"] for stage in tuned["stages"]] == ["teacher_3e-5-1"]
    served = json.loads((tmp_path / "results" / "serving-CoLA.json").read_text())["rows"]
    rows = f"{made['train_rows']} rows"
    assert [row["model"] for row in served] == [f"teacher, {rows}"] * 3 + [f"setting1, {rows}"] * 3
    assert [row["format"] for row in served] == ["pytorch", "onnx", "int8"] * 2
    assert served[3]["dev_score"] == pytest.approx(made["score"])
    held = (sandbox / "data" / "held_out" / "CoLA" / "full" / "dev.tsv").read_text().splitlines()
    assert len(held) >= 1000
