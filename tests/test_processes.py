"""Two processes (gloo, CPU) follow one: losses, kept heads, weights, resume, augmented files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed.run
from conftest import REPOSITORY, error_line, make_bert, python, run_script, write_cola
from safetensors.torch import load_file

ROWS = 33  # the last batch of 16 has one row: one of two processes has none
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def torchrun(script: str, *arguments: object, wait: bool = True, fresh: bool = False):
    """Start a stage script in two processes, forks of the warm interpreter.

    `fresh`: interpreters of their own, as a user's are, each with its own hash seed.
    """
    here = [sys.executable, "-m", "torch.distributed.run"]
    launcher = [python(), torch.distributed.run.__file__] if wait and not fresh else here
    workers = [] if fresh else ["--no-python", python()]
    command = [*launcher, "--standalone", "--nproc_per_node", "2", *workers,
               str(REPOSITORY / script), *map(str, arguments)]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if wait:
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return printed
    return process


class World:
    """A task, a tuned and scored teacher, another model as student, all without dropout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_cola(folder / "data" / "CoLA", train=ROWS)
        for name, seed in (("teacher", 0), ("student", 1)):
            bert = make_bert(folder / f"bert_{name}", seed=seed, **NO_DROPOUT)
            run_script("Pruning/run_glue.py", *self.fine_tune(folder / name, bert, 16))

    def common(self) -> tuple:
        # Adam would make whole steps of the rounding errors that are the key biases' gradients
        return ("--task_name", "CoLA", "--data_dir", self.data, "--max_seq_length", 32,
                "--precision", "fp32", "--adam_epsilon", "1e-4")  # fmt: skip

    def fine_tune(self, output: Path, bert: Path, batch: int) -> tuple:
        return (*self.common(), "--model_name_or_path", bert, "--do_train", "--output_dir", output,
                "--per_gpu_train_batch_size", batch, "--num_train_epochs", 2,
                "--learning_rate", "1e-3", "--evaluate_during_training",
                "--logging_steps", 2)  # fmt: skip

    def distil(self, output: Path, batch: int, *more: object) -> tuple:
        return (*self.common(), "--teacher_model", self.folder / "teacher", "--student_model",
                self.folder / "student", "--output_dir", output, "--train_batch_size", batch,
                "--pred_distill", "--learning_rate", "1e-3", "--eval_step", 4, *more)  # fmt: skip


WIDTH = ("--repr_distill", "--depth_or_width", "width", "--prun_period_proportion", 0.6,
         "--keep_heads", 2, "--keep_layers", 3, "--ffn_hidden_dim", 20,
         "--emb_hidden_dim", 8)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "run.json").read_text())["history"]


def assert_follows(two: Path, one: Path) -> None:
    """Same steps, shapes and kept heads and units; losses and weights to rounding."""
    for ours, theirs in zip(history(two), history(one), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if name == "layers":
                assert [layer["heads"] for layer in ours[name]] == [x["heads"] for x in value]
                assert [layer["ffn_kept"] for layer in ours[name]] == [x["ffn_kept"] for x in value]
            else:
                expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
                assert ours[name] == expected, name
    weights, expected = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=2e-5, msg=name)


def test_fine_tuning_and_scores_of_two_processes_follow_one(world, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    bert = world.folder / "bert_teacher"
    run_script("Pruning/run_glue.py", *world.fine_tune(one, bert, 16))
    printed = torchrun("Pruning/run_glue.py", *world.fine_tune(two, bert, 8), "--do_eval")
    assert printed.count("best dev") == 1  # one of them speaks
    assert (two / "eval_results_cola.txt").exists()
    assert_follows(two, one)

    score = (*world.common(), "--model_name_or_path", one, "--compute_taylor", "True")
    run_script("Pruning/run_glue.py", *score, "--per_gpu_train_batch_size", 16)
    torchrun("Pruning/run_glue.py", *score, "--per_gpu_train_batch_size", 8, "--output_dir", two)
    scores, expected = (torch.load(x / "taylor_score" / "taylor.pkl") for x in (two, one))
    for name, score in expected.items():
        torch.testing.assert_close(scores[name], score, rtol=1e-3, atol=1e-7, msg=name)


def test_iterative_pruning_of_two_processes_keeps_the_heads_and_units_of_one(world, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    flags = (*WIDTH, "--num_train_epochs", 6)
    run_script("KD/train.py", *world.distil(one, 16, *flags))
    torchrun("KD/train.py", *world.distil(two, 8, *flags), fresh=True)
    assert any("layers" in entry for entry in history(one))
    assert_follows(two, one)


def test_cached_logits_filled_by_two_processes_are_those_of_one(world, tmp_path):
    caches = {who: tmp_path / f"cache_{who}" for who in ("one", "two")}
    flags = ("--num_train_epochs", 2)
    run_script("KD/train.py", *world.distil(tmp_path / "one", 16, *flags),
               "--cache_dir", caches["one"])  # fmt: skip
    torchrun("KD/train.py", *world.distil(tmp_path / "two", 8, *flags),
             "--cache_dir", caches["two"])  # fmt: skip
    assert_follows(tmp_path / "two", tmp_path / "one")
    assert len(list(caches["two"].glob("*/logits-*.npy"))) == 1


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def stop(process: subprocess.Popen, number: signal.Signals) -> None:
    """SIGTERM the launcher, which passes it on; SIGKILL everything at once."""
    workers = psutil.Process(process.pid).children(recursive=True)
    for one in workers if number == signal.SIGKILL else []:
        one.kill()
    process.send_signal(number)
    process.communicate()


def test_two_processes_cut_off_and_started_again_end_with_the_same_weights(world, tmp_path):
    whole = tmp_path / "whole"
    flags = (*WIDTH, "--num_train_epochs", 40, "--save_state_steps", 3)
    torchrun("KD/train.py", *world.distil(whole, 8, *flags))
    for number in (signal.SIGKILL, signal.SIGTERM):
        cut = tmp_path / number.name
        process = torchrun("KD/train.py", *world.distil(cut, 8, *flags), wait=False)
        wait_for(cut / "last" / "state.pt", process)
        stop(process, number)
        assert not json.loads((cut / "run.json").read_text())["finished"]
        alone = shutil.copytree(cut, tmp_path / f"alone-{number.name}")
        fresh = number == signal.SIGKILL
        printed = torchrun("KD/train.py", *world.distil(cut, 8, *flags), fresh=fresh)
        assert "going on from step" in printed
        assert (cut / "model.safetensors").read_bytes() == (
            whole / "model.safetensors"
        ).read_bytes()
        assert history(cut) == history(whole)
    done = run_script("KD/train.py", *world.distil(alone, 16, *flags))
    assert "going on from step" in done.stdout and "not to the same bits" in done.stdout
    assert_follows(alone, whole)
    done = run_script("KD/train.py", *world.distil(alone, 8, *flags), ok=False)
    assert "batch: 16 there, 8 now" in error_line(done)


def test_processes_that_drew_a_new_classifier_go_on_with_it_when_they_start_again(world, tmp_path):
    flags = ("--num_train_epochs", 40, "--save_state_steps", 3)
    tune = (*world.fine_tune(tmp_path / "cut", world.folder / "bert_teacher", 8), *flags)
    process = torchrun("Pruning/run_glue.py", *tune, wait=False)
    wait_for(tmp_path / "cut" / "last" / "state.pt", process)
    stop(process, signal.SIGTERM)
    assert not json.loads((tmp_path / "cut" / "run.json").read_text())["finished"]
    assert "going on from step" in torchrun("Pruning/run_glue.py", *tune)


def test_a_mistake_is_told_in_a_line_by_each_process_that_comes_to_it(world, tmp_path):
    """The launcher ends the others when the first has told it."""
    process = torchrun("KD/train.py", *world.distil(tmp_path / "x", 8, "--temperature", 0),
                       wait=False)  # fmt: skip
    printed, _ = process.communicate()
    told = re.findall(r"^error(?: \(process 1\))?: --temperature", printed, re.MULTILINE)
    assert process.returncode and 1 <= len(told) == len(set(told))
    assert not (tmp_path / "x").exists()


def test_augmentation_in_two_shards_writes_the_file_of_one_and_resumes(tmp_path):
    bert = make_bert(tmp_path / "bert")
    vectors = "".join(
        f"{word} {index % 7} {index % 5} {index % 3}\n"
        for index, word in enumerate((bert / "vocab.txt").read_text().split())
        if word.isalpha()
    )
    (tmp_path / "glove.txt").write_text(vectors)
    files = []
    for name in ("one", "two", "cut"):
        write_cola(tmp_path / name / "CoLA", train=ROWS)
        files.append(tmp_path / name / "CoLA" / "train_aug.tsv")
    flags = ("--pretrained_bert_model", bert, "--glove_embs", tmp_path / "glove.txt",
             "--task_name", "CoLA", "--N", 4, "--chunk_rows", 3)  # fmt: skip
    run_script("data_augmentation.py", *flags, "--glue_dir", tmp_path / "one")
    torchrun("data_augmentation.py", *flags, "--glue_dir", tmp_path / "two")
    process = torchrun("data_augmentation.py", *flags, "--glue_dir", tmp_path / "cut", wait=False)
    wait_for(files[2].with_name(".train_aug.progress-1-of-2.json"), process)
    stop(process, signal.SIGKILL)
    torchrun("data_augmentation.py", *flags, "--glue_dir", tmp_path / "cut", fresh=True)
    expected = files[0].read_bytes()
    assert expected.count(b"\n") > ROWS
    for file in files[1:]:
        assert file.read_bytes() == expected
        assert not list(file.parent.glob(".train_aug*"))
    records = [json.loads(file.with_suffix(".json").read_text()) for file in files]
    assert {record["rows_out"] for record in records} == {records[0]["rows_out"]}
    shutil.rmtree(tmp_path / "cut")
