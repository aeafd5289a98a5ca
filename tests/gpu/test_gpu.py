"""What a run does on a GPU, against the same run on the CPU: `pytest tests/gpu`.

Skipped without a GPU; with ROSITA_GPU_TESTS_ON_CPU=1 the CPU takes its place, which shows that the
tests run, not that a GPU is right.
"""

from __future__ import annotations

import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_bert, write_cola
from safetensors.torch import load_file
from test_processes import WIDTH, torchrun

from rosita import api
from rosita.checkpoint import TaskModel
from rosita.pruning.cut import Cut
from rosita.pruning.shape import Shape
from rosita.training import loop

ON_CPU = os.environ.get("ROSITA_GPU_TESTS_ON_CPU") == "1"
pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or ON_CPU), reason="needs a GPU (CUDA)"
)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# Adam would make whole steps of the rounding errors that are the key biases' gradients
COMMON = {"max_seq_length": 32, "learning_rate": 1e-3, "adam_epsilon": 1e-4, "precision": "fp32"}
LEARN = {**COMMON, "pred_distill": True, "repr_distill": True, "train_batch_size": 8}
SMALLER = {"keep_heads": 2, "keep_layers": 3, "ffn_hidden_dim": 20, "emb_hidden_dim": 8}


class World:
    """A task, a teacher tuned on the CPU, and a student of other weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_cola(folder / "CoLA", train=80)
        made = [
            api.load(make_bert(folder / name, seed, **NO_DROPOUT), "CoLA", new_classifier=True)
            for seed, name in enumerate(("teacher", "student"))
        ]
        self.teacher = api.fine_tune(
            made[0],
            self.data,
            max_seq_length=32,
            num_train_epochs=2,
            no_cuda=True,
            precision="fp32",
        )
        self.student = made[1]

    def distil(
        self, output: Path, where: str = "gpu", student: TaskModel | None = None, **settings: Any
    ) -> dict[str, Any]:
        """The run.json of 20 steps on the GPU or the CPU, with every step's losses."""
        given = {**LEARN, "num_train_epochs": 2, **settings}
        api.distil(
            self.teacher,
            student or self.student,
            self.data,
            output,
            no_cuda=where == "cpu",
            **given,
        )
        return json.loads((output / "run.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(autouse=True)
def every_step_is_recorded(monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHECK_STEPS", 1)


def losses(run: dict[str, Any]) -> np.ndarray:
    """Losses of each step (steps, losses)."""
    entries = [entry for entry in run["history"] if entry["kind"] == "loss"]
    assert [entry["step"] for entry in entries] == list(range(1, 21))
    names = sorted(name for name in entries[0] if name.startswith("loss_"))
    assert names == ["loss_prediction", "loss_representation"]
    return np.array([[entry[name] for name in names] for entry in entries])


@pytest.fixture(scope="module")
def on_cpu(world) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECK_STEPS", 1)
        return losses(world.distil(world.folder / "cpu", "cpu"))


def test_the_run_is_on_the_device_that_it_is_said_to_be_on(world, tmp_path, monkeypatch):
    seen = []
    forward = loop.Training._backward
    monkeypatch.setattr(
        loop.Training,
        "_backward",
        lambda self, *given: seen.append(self.student.device.type) or forward(self, *given),
    )
    for where in ("cpu", "gpu"):
        world.distil(tmp_path / where, where)
    assert set(seen[:20]) == {"cpu"} and set(seen[20:]) == {"cpu" if ON_CPU else "cuda"}


def test_twenty_steps_in_fp32_lose_what_they_lose_on_the_cpu(world, on_cpu, tmp_path):
    np.testing.assert_allclose(losses(world.distil(tmp_path / "gpu")), on_cpu, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_twenty_steps_in_half_precision_differ_by_its_rounding(world, on_cpu, tmp_path, precision):
    if ON_CPU and precision == "fp16":
        pytest.skip("the CPU has no gradient scaling for fp16")
    found = losses(world.distil(tmp_path / "half", precision=precision))
    np.testing.assert_allclose(found, on_cpu, rtol=0.03)


def test_scores_and_what_they_keep_are_those_of_the_cpu(world):
    found = [
        api.score(world.teacher, world.data, no_cuda=no_cuda, max_seq_length=32, precision="fp32")
        for no_cuda in (True, False)
    ]
    for name, score in found[0].items():
        torch.testing.assert_close(found[1][name], score, rtol=1e-3, atol=1e-7)
    cuts = [Cut.decide(world.teacher.model.config, Shape(2, 3, 20, 8), one) for one in found]
    for kind in ("heads", "units"):
        for ours, theirs in zip(*(getattr(cut, kind) for cut in cuts), strict=True):
            assert ours.tolist() == theirs.tolist()


def test_iterative_pruning_keeps_the_heads_and_units_that_it_keeps_on_the_cpu(world, tmp_path):
    runs = [
        world.distil(
            tmp_path / where, where, depth_or_width="width", prun_period_proportion=0.6, **SMALLER
        )
        for where in ("cpu", "gpu")
    ]
    prunings = [[e for e in run["history"] if e["kind"] == "pruning"] for run in runs]
    assert len(prunings[0]) >= 2 and runs[1]["shape"] == str(Shape(*SMALLER.values()))
    assert prunings[0] == prunings[1]
    np.testing.assert_allclose(*map(losses, runs), rtol=1e-3)


def test_a_run_ended_by_sigterm_goes_on_to_the_same_bits(world, tmp_path, monkeypatch):
    settings = {"dropout": 0.1}
    world.distil(tmp_path / "whole", **settings)
    after = loop.Training._after_step

    def stop(self, step, bar):
        after(self, step, bar)
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        patch.setattr(loop.Training, "_after_step", stop)
        world.distil(tmp_path / "cut", **settings)
    assert (tmp_path / "cut" / "last" / "state.pt").exists()
    world.distil(tmp_path / "cut", **settings)
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(cut[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize("hsk", [None, "2l_4t_0.5h"])
def test_a_teacher_that_remembers_gives_the_losses_of_one_that_runs(world, tmp_path, hsk):
    part = {"hsk": hsk, "hsk_width": "uniform_mask"} if hsk else {}
    live = losses(world.distil(tmp_path / "live", cache_dir=str(tmp_path / "1"), **part))
    remembered = losses(
        world.distil(tmp_path / "kept", cache_dir=str(tmp_path / "2"), teacher_cache_gb=1, **part)
    )
    assert list((tmp_path / "2").glob("*/states-*.npy"))
    np.testing.assert_allclose(remembered, live, rtol=2e-3)


def test_fresh_rows_are_those_of_the_cpu(world, tmp_path):
    words = sorted({word for line in (world.data / "train.tsv").open() for word in line.split()})
    vectors = tmp_path / "glove.txt"
    random = np.random.default_rng(0)
    vectors.write_text(
        "".join(f"{word} {' '.join(f'{x:.3f}' for x in random.normal(size=4))}\n" for word in words)
    )
    fresh = {"fresh_augmentation": "alternate", "glove_embs": str(vectors)}
    runs = [losses(world.distil(tmp_path / where, where, **fresh)) for where in ("cpu", "gpu")]
    np.testing.assert_allclose(*runs, rtol=1e-3)


def test_a_model_made_on_the_gpu_is_exported_and_answers_as_before(world, tmp_path):
    student = api.distil(world.teacher, world.student, world.data, num_train_epochs=1, **LEARN)
    report = api.export(student, tmp_path / "export", world.data, formats="hf,onnx", max_drop=2.0)
    assert report["formats"]["onnx"]["agreement"] == 1.0
    texts = [line.split("\t")[3] for line in (world.data / "dev.tsv").read_text().splitlines()]
    ours, theirs = api.label(student, texts), api.label(tmp_path / "export", texts, "onnx")
    for one, other in zip(ours, theirs, strict=True):
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def held() -> int:
    """Bytes of tensors on the device."""
    gc.collect()
    if not ON_CPU:
        return torch.cuda.memory_allocated()
    tensors = (t for t in gc.get_objects() if issubclass(type(t), torch.Tensor))
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def test_a_pruning_frees_the_memory_of_what_it_cuts(world, tmp_path, monkeypatch):
    wide = make_bert(
        tmp_path / "wide", hidden_size=64, intermediate_size=4096, num_attention_heads=4
    )
    student = api.load(wide, "CoLA", new_classifier=True)
    seen = []
    prune = loop.Training._prune

    def watched(self, *given):
        before = held()
        prune(self, *given)
        seen.append((before, held()))

    monkeypatch.setattr(loop.Training, "_prune", watched)
    api.distil(
        student, student, world.data, tmp_path / "out", num_train_epochs=2, depth_or_width="width",
        prun_period_proportion=0.6, **(SMALLER | {"emb_hidden_dim": -1}), **LEARN,
    )  # fmt: skip
    first, last = seen[0][0], seen[-1][1]
    dense = sum(w.numel() for w in student.model.parameters()) * 4
    # of the student, its gradients, two moments and importance next to nothing is left
    assert first - last > 2 * dense


@pytest.mark.skipif(
    not ON_CPU and torch.cuda.device_count() < 2, reason="needs two GPUs, which speak by NCCL"
)
def test_two_processes_of_half_the_batch_follow_one(world, tmp_path):
    teacher, student = (
        one.save(tmp_path / name).path
        for name, one in (("teacher", world.teacher), ("student", world.student))
    )
    flags = ("--task_name", "CoLA", "--data_dir", world.data, "--max_seq_length", 32,
             "--precision", "fp32", "--adam_epsilon", "1e-4", "--teacher_model", teacher,
             "--student_model", student, "--pred_distill", "--learning_rate", "1e-3",
             "--num_train_epochs", 2, "--eval_step", 4, *WIDTH)  # fmt: skip
    torchrun("KD/train.py", *flags, "--output_dir", tmp_path / "two", "--train_batch_size", 4)
    one = world.distil(
        tmp_path / "one", depth_or_width="width", prun_period_proportion=0.6, eval_step=4, **SMALLER
    )
    two = json.loads((tmp_path / "two" / "run.json").read_text())
    kept = [[e for e in run["history"] if e["kind"] == "pruning"] for run in (one, two)]
    assert kept[0] == kept[1]
