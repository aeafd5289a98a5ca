import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY

NAMES = (
    "kd_bert_base kd_bert_base_trainer kd_minilm kd_minilm_trainer kd_cached_logits"
    " kd_cached_logits_8layer kd_cached_states augmentation svd svd_peak_memory"
    " pruning_event tokenize serving serving_size train_4m_rows"
).split()
KEYS = {"name", "unit", "ours", "baseline", "ratio", "fraction_of_limit", "note"}
RATES = ("sentences/s", "rows/s")  # more is better; of seconds and bytes less is


def check(lines: list[dict]) -> None:
    for line in lines:
        assert line.keys() == KEYS
        better = line["ours"] / line["baseline"]
        expected = better if line["unit"] in RATES else 1 / better
        assert line["ratio"] == pytest.approx(expected)


def test_one_case_run_alone_prints_its_table_and_writes_its_results(tmp_path):
    output = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "run.py", "--quick", "--only", "svd",
         "--output", output], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = json.loads(output.read_text())
    assert [line["name"] for line in lines] == ["svd", "svd_peak_memory"]
    check(lines)
    for line in lines:
        assert f"| {line['name']} |" in done.stdout


def test_damage_between_start_and_end_is_told_or_without_effect(tmp_path):
    output = tmp_path / "damage.json"
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "damage.py", "--only", "augment,prune",
         "--cases", "24", "--output", output], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["failed"] == []
    assert sum(sum(counts.values()) for counts in report["cases"].values()) == 24
    assert all(counts["told"] for counts in report["cases"].values())


def test_the_published_results_hold_every_line_and_stand_in_the_readme():
    lines = json.loads((REPOSITORY / "benchmarks" / "results.json").read_text())
    assert set(NAMES) <= {line["name"] for line in lines}
    check(lines)
    text = (REPOSITORY / "benchmarks" / "README.md").read_text()
    for line in lines:
        assert f"| {line['name']} | {line['unit']} | {line['ours']:.4g} |" in text
