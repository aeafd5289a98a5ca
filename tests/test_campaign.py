"""The long kill campaign: every stage's real script, killed at moments drawn over a whole run.

    pytest --campaign tests/test_campaign.py

writes benchmarks/kill_campaign.json: kills, restarts and equal results per stage.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, make_bert, run_script, write_cola

pytestmark = pytest.mark.campaign
KILLS = 12  # per stage
KILLS_PER_RUN = 3
CLOCKS = ("seconds",)
LAST = "--save_state_steps 5 --learning_rate 1e-3 --max_seq_length 32".split()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """data/CoLA with train_aug.tsv and subsets, vectors, a tuned model with scores."""
    root = tmp_path_factory.mktemp("campaign")
    write_cola(root / "data" / "CoLA", train=96)
    make_bert(root / "bert")
    run_script("Pruning/run_glue.py", *fine_tune(root, root / "tuned"))
    make_glove(root / "glove.txt")
    for number in range(2):
        shutil.copy(root / "data/CoLA/train.tsv", root / f"data/CoLA/train_aug{number}.tsv")
    return root


def make_glove(path: Path) -> None:
    from conftest import WORDS

    draw = random.Random(0)
    rows = [f"{word} " + " ".join(f"{draw.gauss(0, 1):.4f}" for _ in range(20)) for word in WORDS]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def fine_tune(root: Path, output: Path) -> list[object]:
    return [
        "--model_name_or_path", root / "bert", "--task_name", "CoLA", "--do_train",
        "--num_train_epochs", 24, "--data_dir", root / "data" / "CoLA", "--output_dir", output,
        "--evaluate_during_training", "--logging_steps", 7, "--save_state_steps", 5,
    ]  # fmt: skip


def score(root: Path, output: Path) -> list[object]:
    return [
        "--compute_taylor", "True", "--model_name_or_path", root / "tuned", "--task_name", "CoLA",
        "--data_dir", root / "data" / "CoLA", "--output_dir", output, "--save_state_steps", 5,
        "--per_gpu_train_batch_size", 2,
    ]  # fmt: skip


def distil(root: Path, output: Path) -> list[object]:
    return [
        "--task_name", "CoLA", "--data_dir", root / "data" / "CoLA", "--teacher_model",
        root / "tuned", "--student_model", root / "tuned", "--output_dir", output,
        "--pred_distill", "--repr_distill", "--num_train_epochs", 24, "--eval_step", 7, *LAST,
    ]  # fmt: skip


def prune_iteratively(root: Path, output: Path) -> list[object]:
    return [
        *distil(root, output), "--depth_or_width", "width", "--prun_period_proportion", 0.5,
        "--keep_heads", 2, "--keep_layers", 3, "--ffn_hidden_dim", 20, "--emb_hidden_dim", 8,
    ]  # fmt: skip


def augment(root: Path, output: Path) -> list[object]:
    folder = output / "CoLA"
    if not folder.exists():
        folder.mkdir(parents=True)
        shutil.copy(root / "data" / "CoLA" / "train.tsv", folder)
    return [
        "--pretrained_bert_model", root / "bert", "--glove_embs", root / "glove.txt", "--glue_dir",
        output, "--task_name", "CoLA", "--N", 200, "--chunk_rows", 4,
    ]  # fmt: skip


STAGES = {
    "fine_tune": ("Pruning/run_glue.py", fine_tune),
    "taylor": ("Pruning/run_glue.py", score),
    "distil": ("KD/train.py", distil),
    "distil_iterative": ("KD/train.py", prune_iteratively),
    "distil_subsets": ("KD/train_with_subset.py", distil),
    "augment": ("data_augmentation.py", augment),
}


def content(folder: Path) -> dict[str, object]:
    """All that a run left, clocks, logs and paths aside."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith(("logging", "CoLA/cache")) or name == ".lock":
            continue
        if path.suffix == ".json":
            value = json.loads(path.read_text())
            value = {k: v for k, v in value.items() if k not in (*CLOCKS, "parents", "data")}
            found[name] = json.dumps(value, sort_keys=True)
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def record():
    """The figures of the campaign; written when it is over."""
    figures: dict[str, dict[str, float]] = {}
    yield figures
    total = {key: sum(stage[key] for stage in figures.values()) for key in ("kills", "equal")}
    path = REPOSITORY / "benchmarks" / "kill_campaign.json"
    path.write_text(json.dumps({"total": total, **figures}, indent=1) + "\n")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_anywhere_ends_as_one_never_interrupted(stage, home, tmp_path, record):
    script, arguments = STAGES[stage]

    def command(output: Path) -> list[str]:
        return [sys.executable, str(REPOSITORY / script), *map(str, arguments(home, output))]

    start = time.perf_counter()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    length = time.perf_counter() - start
    expected = content(tmp_path / "whole")
    draw = random.Random(stage)
    figures = record.setdefault(stage, {"run_seconds": round(length, 1), "kills": 0, "equal": 0})
    while figures["kills"] < KILLS:
        output = tmp_path / f"cut{figures['kills']}"
        moments = []
        while len(moments) < KILLS_PER_RUN:
            process = subprocess.Popen(
                command(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            moment = draw.uniform(0, length)
            try:
                process.wait(moment)
                if not moments or process.returncode:
                    assert process.returncode == 0
                break  # this run was through before its kill: it does not count
            except subprocess.TimeoutExpired:
                process.kill()
                assert process.wait() == -9
                moments.append(moment)
        done = subprocess.run(command(output), capture_output=True, text=True)
        assert done.returncode == 0, f"killed at {moments}: {done.stderr}"
        assert content(output) == expected, f"killed at {moments}"
        figures["kills"] += len(moments)
        figures["equal"] += len(moments)
        shutil.rmtree(output)
