"""The real scripts, killed and run again, end with bitwise what an uninterrupted run ends with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, error_line, make_bert, python, run_script, write_cola


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    """A folder with data/CoLA and a tuned models/bert_ft/CoLA."""
    root = tmp_path_factory.mktemp("interruption")
    write_cola(root / "data" / "CoLA", train=64)
    make_bert(root / "models" / "bert_pt")
    run_script(
        "Pruning/run_glue.py", "--model_name_or_path", root / "models" / "bert_pt", "--task_name",
        "CoLA", "--do_train", "--num_train_epochs", 1, "--data_dir", root / "data" / "CoLA",
        "--output_dir", root / "models" / "bert_ft" / "CoLA",
    )  # fmt: skip
    return root


def iterative(root: Path, output: Path) -> list[str]:
    """The arguments of an iterative width pruning of 4 -> 2 heads over 96 steps."""
    tuned = root / "models" / "bert_ft" / "CoLA"
    return [
        str(REPOSITORY / "KD" / "train.py"), "--task_name", "CoLA",
        "--data_dir", str(root / "data" / "CoLA"), "--teacher_model", str(tuned),
        "--student_model", str(tuned), "--output_dir", str(output),
        "--pred_distill", "--repr_distill", "--num_train_epochs", "48", "--eval_step", "7",
        "--save_state_steps", "5", "--learning_rate", "1e-3", "--depth_or_width", "width",
        "--prun_period_proportion", "0.5", "--keep_heads", "2", "--keep_layers", "3",
        "--ffn_hidden_dim", "20", "--emb_hidden_dim", "8",
    ]  # fmt: skip


def result(folder: Path) -> tuple[bytes, dict]:
    run = json.loads((folder / "run.json").read_text())
    assert run["finished"]
    return (folder / "model.safetensors").read_bytes(), {
        name: value for name, value in run.items() if name not in ("seconds", "parents", "data")
    }


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_and_ends_with_bitwise_the_same(tuned, tmp_path, number):
    whole = tuned / "whole"
    if not whole.exists():
        run_script(*iterative(tuned, whole))
    command = iterative(tuned, tmp_path / "cut")
    kills = 0
    while kills < 2:
        process = subprocess.Popen(
            [python(), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        state = tmp_path / "cut" / "last" / "state.pt"
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None:
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(0.05 * kills)
                os.kill(process.pid, number)
                break
            time.sleep(0.005)
        code = process.wait()
        assert code == (-9 if number == signal.SIGKILL else 130), "the run ended before the kill"
        assert not json.loads((tmp_path / "cut" / "run.json").read_text())["finished"]
        kills += 1
    # an interpreter of its own: neither hash seed nor anything else is that of the others
    again = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "going on from step" in again.stdout
    assert result(tmp_path / "cut") == result(whole)
    assert not (tmp_path / "cut" / "last").exists()


def test_a_second_run_into_the_same_folder_is_told_who_holds_it(tuned, tmp_path):
    command = iterative(tuned, tmp_path / "held")
    first = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "held" / "run.json").exists():
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    second = run_script(*command, ok=False)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert f"is being written by process {first.pid}" in error_line(second)
    shutil.rmtree(tmp_path / "held")
