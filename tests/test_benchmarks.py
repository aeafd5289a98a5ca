import json
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, run_script

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import cores  # noqa: E402
import damage  # noqa: E402
import run  # noqa: E402

PUBLISHED = json.loads((REPOSITORY / "benchmarks" / "results.json").read_text())
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


def test_a_file_of_ones_own_holds_the_lines_of_the_case_that_was_run_alone(tmp_path, monkeypatch):
    """The case itself runs in tests/test_readme.py."""
    svd = [line for line in PUBLISHED if line["name"] in ("svd", "svd_peak_memory")]
    asked = []
    monkeypatch.setattr(run, "in_process", lambda *call: asked.append(call[:2]) or svd)
    run.main(["--quick", "--only", "svd", "--output", str(tmp_path / "results.json")])
    assert asked == [("svd", True)]
    assert json.loads((tmp_path / "results.json").read_text()) == svd


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
    assert set(NAMES) <= {line["name"] for line in PUBLISHED}
    text = (REPOSITORY / "benchmarks" / "README.md").read_text()
    others = ("results_fp32.json", "results_fewer_states.json")
    files = [json.loads((REPOSITORY / "benchmarks" / name).read_text()) for name in others]
    for lines in (PUBLISHED, *files):
        check(lines)
        for line in run.table(lines).splitlines():
            assert line in text
    split = json.loads((REPOSITORY / "benchmarks" / "cores.json").read_text())
    assert cores.table(split["sentences_per_second"]) in text


def test_every_line_of_the_gpus_table_runs_on_tiny_shapes(tmp_path):
    output = tmp_path / "gpu.json"
    done = run_script("benchmarks/gpu.py", "--tiny", "--output", output)
    lines = json.loads(output.read_text())["lines"]
    names = (
        "kd_cola_8 kd_cola_8_trainer kd_mnli_8 kd_mnli_8_trainer kd_cached_logits augmentation"
        " taylor evaluation teacher_cache pruning_event"
    ).split()
    assert [line["name"] for line in lines] == names
    for line in lines:
        ratio = line["ours"] / line["baseline"]
        ratio = 1 / ratio if line["unit"] == "s" else ratio
        assert line["ratio"] == pytest.approx(ratio)
        assert f"| {line['name']} |" in done.stdout


def test_without_a_gpu_the_gpus_table_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run_script("benchmarks/gpu.py", ok=False)
    assert done.returncode != 0 and "there is no GPU here; --tiny" in done.stderr


def test_every_split_of_the_cores_is_measured_and_written_as_a_table(tmp_path, monkeypatch, capsys):
    output = tmp_path / "cores.json"
    asked = []
    monkeypatch.setattr(cores, "measured", lambda *call: asked.append(call[2]) or 10.0 * len(asked))
    cores.main(["--quick", "--only", "kd_minilm", "--output", str(output)])
    assert asked == list(cores.WAYS.values())
    (line,) = json.loads(output.read_text())["sentences_per_second"].values()
    assert list(line.values()) == [10.0, 20.0, 30.0, 40.0]
    assert "| kd_minilm | 10 | 20 | 30 | 40 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        cores.main(["--only", "kd_minilm,kd_maxilm"])
    assert "--only: kd_maxilm; the lines are kd_bert_base" in capsys.readouterr().err


def test_two_processes_of_a_run_are_timed_together(tmp_path):
    assert cores.measured("kd_minilm", 2, (1, 2, 1), 0, str(tmp_path)) > 0


def test_damage_to_a_stage_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        damage.main(["--only", "prun"])
    assert "--only prun: known are fine_tune, " in capsys.readouterr().err
