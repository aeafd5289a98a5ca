"""Every script at the door, in every kind of trouble: one line and an exit code, or its work."""

from __future__ import annotations

import io
import os
import re
import resource
import runpy
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, vocabulary, write_cola
from test_light import scripts
from transformers import BertConfig, BertForMaskedLM

import rosita.budget.latency_model
import rosita.stages.benchmark

FT = "--task_name CoLA --data_dir {w}/data/CoLA --max_seq_length 16 --no_cuda --precision fp32"
KD = (
    f"{FT} --teacher_model {{w}}/ft/CoLA --student_model {{w}}/ft/CoLA --pred_distill --max_steps 2"
)
CUT = "-model_path {w}/ft -task CoLA -keep_heads 1 -num_layers 2 -ffn_hidden_dim 8"
CUT += " -emb_hidden_dim 4"
COMMANDS = {  # script -> what a user types: {w} is the world, {out} the folder to write
    "download_glue_data.py": "--tasks CoLA --mirror {w}/mirror --data_dir {out}",
    "download_bert.py": "--source {w}/bert --output_dir {out}",
    "download_glove.py": "--mirror {w}/mirror --output_dir {out}",
    "Pruning/run_glue.py": f"{FT} --model_name_or_path {{w}}/bert --do_train --max_steps 2"
    " --output_dir {out}",
    "data_augmentation.py": "--task_name CoLA --glue_dir {out} --pretrained_bert_model {w}/bert"
    " --glove_embs {w}/glove.txt --N 1",
    "KD/train.py": f"{KD} --max_steps 2 --output_dir {{out}}",
    "KD/train_with_subset.py": f"{KD} --max_steps 2 --output_dir {{out}}",
    "Pruning/pruning_one_step.py": f"{CUT} -output_dir {{out}}",
    "KD/pruning_one_step.py": f"{CUT} -output_dir {{out}}",
    "KD/test.py": "--student_model {w}/ft/CoLA --task_name CoLA --data_dir {w}/data/CoLA --do_eval"
    " --do_predict --max_seq_length 16 --output_dir {out} --no_cuda",
    "Deploy/export.py": "--model {w}/ft/CoLA --task_name CoLA --data_dir {w}/data/CoLA --formats"
    " onnx --max_seq_length 16 --output_dir {out}",
    "Deploy/predict.py": "--model {w}/ft/CoLA --input {w}/texts.txt --output {out}/labels.tsv",
    "Deploy/benchmark.py": "--models {w}/ft/CoLA --task_name CoLA --formats pytorch --batch_sizes 1"
    " --lengths 8 --seconds 0.01 --output_dir {out}",
    "Pruning/plan.py": "--model {w}/ft/CoLA --max_parameters 6000 --length 16 --batch 1 --threads 1"
    " --output_dir {out}",
    "report.py": "{w}/ft --output_dir {out}",
}
READS = {  # script -> a file that it reads
    "download_glue_data.py": "mirror/CoLA.zip", "download_bert.py": "bert/config.json",
    "download_glove.py": "mirror/glove.42B.300d.zip", "Pruning/run_glue.py": "data/CoLA/dev.tsv",
    "data_augmentation.py": "glove.txt", "KD/train.py": "ft/CoLA/model.safetensors",
    "KD/train_with_subset.py": "data/CoLA/train_aug0.tsv",
    "Pruning/pruning_one_step.py": "ft/CoLA/taylor_score/taylor.pkl",
    "KD/pruning_one_step.py": "ft/CoLA/run.json", "KD/test.py": "ft/CoLA/tokenizer.json",
    "Deploy/export.py": "ft/CoLA/vocab.txt", "Deploy/predict.py": "texts.txt",
    "Deploy/benchmark.py": "ft/CoLA/config.json", "Pruning/plan.py": "ft/CoLA/config.json",
    "report.py": "ft/CoLA/run.json",
}  # fmt: skip


def test_every_script_at_the_door_is_tried():
    at_the_door = [name for name in scripts() if not re.match("data/|benchm|scripts|exper", name)]
    assert sorted(COMMANDS) == sorted(READS) == sorted({*at_the_door, "KD/pruning_one_step.py"})


class Door:
    """The world that the scripts are called in, and the last call's code and lines."""

    def __init__(self, world: Path, out: Path) -> None:
        self.world, self.out, self.lines = world, out, ""

    def call(self, script: str, command: str | None = None) -> int:
        """Run a script as the shell would, in this process; its exit code."""
        words = (command or COMMANDS[script]).format(w=self.world, out=self.out).split(" ")
        kept = sys.argv, sys.path, sys.stderr
        AcceleratorState._reset_state(reset_partial_state=True)
        sys.argv, sys.stderr = [script, *words], io.StringIO()
        sys.path = [str((REPOSITORY / script).parent), *sys.path]
        code: object = 0
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:
            self.lines = sys.stderr.getvalue()
            sys.argv, sys.path, sys.stderr = kept
            sys.modules.pop("train", None)
        return code

    def fails(self, script: str, *words: str, command: str | None = None) -> None:
        """The call ends with code 2 and one line that has all the words."""
        assert self.call(script, command) == 2, self.lines
        told = [line for line in self.lines.splitlines() if line.startswith("error: ")]
        assert len(told) == 1 and "Traceback" not in self.lines, self.lines
        assert all(word in told[0] for word in words), told[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Data, a BERT with its masked-LM head, a tuned and scored one, vectors, a mirror; its path is
    not ASCII."""
    root = tmp_path_factory.mktemp("wörld")
    data = write_cola(root / "data" / "CoLA", train=16, dev=8, test=4)
    shutil.copy(data / "train.tsv", data / "train_aug0.tsv")
    words = [word for word in vocabulary() if word.isalpha()]
    vectors = [f"{word} {number} 1 {number % 3}" for number, word in enumerate(words, 1)]
    (root / "glove.txt").write_text("\n".join(vectors) + "\n")
    (root / "texts.txt").write_text("the dog ran\na häppy child\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    BertForMaskedLM(config).save_pretrained(root / "bert")
    (root / "bert" / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    (root / "mirror").mkdir()
    with zipfile.ZipFile(root / "mirror" / "CoLA.zip", "w") as box:
        for name in ("train", "dev", "test"):
            box.write(data / f"{name}.tsv", f"CoLA/{name}.tsv")
    with zipfile.ZipFile(root / "mirror" / "glove.42B.300d.zip", "w") as box:
        box.write(root / "glove.txt", "glove.42B.300d.txt")
    door = Door(root, root / "ft" / "CoLA")
    for flags in ("", " --compute_taylor"):
        command = COMMANDS["Pruning/run_glue.py"]
        if flags:
            command = f"{FT} --model_name_or_path {{w}}/ft/CoLA{flags}"
        assert door.call("Pruning/run_glue.py", command) == 0, door.lines
    return root


@pytest.fixture
def door(world, tmp_path, monkeypatch) -> Door:
    """Timings that take no time."""

    def at_once(calls, budget):
        return {name: [0.01] * 5 for name in calls}

    for module in (rosita.budget.latency_model, rosita.stages.benchmark):
        monkeypatch.setattr(module, "interleaved_seconds", at_once)
    monkeypatch.setattr(rosita.stages.benchmark, "peak_memory", lambda *_: 1)
    out = tmp_path / "öut"
    out.mkdir()
    shutil.copytree(world / "data" / "CoLA", out / "CoLA")  # what the augmentation writes beside
    for file in (*out.glob("CoLA/train_aug*"), out / "CoLA" / "cache"):
        shutil.rmtree(file, ignore_errors=True) if file.is_dir() else file.unlink(missing_ok=True)
    return Door(world, out)


def room(door: Door, script: str) -> None:
    """Take the task's data from the folder to write, for all but the augmentation."""
    if script != "data_augmentation.py":
        shutil.rmtree(door.out)


@pytest.mark.parametrize("script", COMMANDS)
def test_with_its_output_closed_or_in_ascii_it_does_its_work(script, door, monkeypatch):
    room(door, script)
    monkeypatch.setattr(sys, "stdout", None)
    assert door.call(script) == 0, door.lines
    said = io.BytesIO()
    with io.TextIOWrapper(said, "ascii") as ascii_only:
        monkeypatch.setattr(sys, "stdout", ascii_only)
        code = door.call(script)
        ascii_only.flush()
        text = said.getvalue().decode("ascii")
    if script == "Deploy/export.py":  # not replaced unasked
        assert code == 2 and "overwrite_output_dir" in door.lines
    else:
        assert code == 0 and ("\\xf6" in text or script == "Deploy/benchmark.py"), door.lines


@pytest.mark.parametrize("script", COMMANDS)
def test_an_output_that_is_read_only_is_one_line(script, door, as_ordinary_user):
    room(door, script)
    shut = door.out / "CoLA" if script == "data_augmentation.py" else door.out
    shut.mkdir(exist_ok=True)
    shut.chmod(0o500)
    if script in ("KD/test.py", "Deploy/predict.py", "Deploy/benchmark.py", "report.py"):
        door.fails(script, "ermission denied", "öut")
    else:  # a folder of its own
        door.out = door.out if script == "data_augmentation.py" else door.out / "new"
        door.fails(script, "ermission denied", "öut")
    shut.chmod(0o700)


@pytest.mark.parametrize("script", COMMANDS)
def test_an_input_that_may_not_be_read_is_one_line_that_names_it(script, door, as_ordinary_user):
    room(door, script)
    path = door.world / READS[script]
    path.chmod(0)
    try:
        if script == "report.py":  # of many folders, those that can be read are shown
            assert door.call(script) == 0
            assert f"warning: skipped: cannot read {path}: Permission denied" in door.lines
        else:
            door.fails(script, "ermission denied", path.name)
    finally:
        path.chmod(0o600)


@pytest.mark.parametrize("script", COMMANDS)
def test_a_full_disk_is_one_line(script, door):
    room(door, script)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        door.fails(script)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("script", COMMANDS)
def test_a_working_directory_that_is_gone_is_one_line(script, door, tmp_path):
    (tmp_path / "gone").mkdir()
    here = os.getcwd()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        door.fails(script, "the folder that you are in is gone")
    finally:
        os.chdir(here)


def flags(script: str) -> list[str]:
    """The flags of a script that take a value."""
    text = io.StringIO()
    with redirect_stdout(text):
        Door(Path("/"), Path("/")).call(script, "--help")
    flag = r"^  (?:-\w, )?(--?\w+) (?:\[?[A-Z_]+|\{)"
    return re.findall(flag, text.getvalue(), re.MULTILINE)


# an int64, a float, an amount of memory, the name of a file; a path that is not UTF-8
BEYOND = ("9" * 30, "1e999", "1099511627776", "x" * 300, "\udcf6")


@pytest.mark.parametrize("script", COMMANDS)
def test_a_value_beyond_all_limits_is_one_line_or_harmless(script, door, monkeypatch, pytestconfig):
    monkeypatch.chdir(door.out.parent)
    room(door, script)
    pairs = [(flag, value) for flag in flags(script) for value in BEYOND]
    assert len(pairs) > 5
    if not pytestconfig.getoption("--campaign"):  # a part of them, another one for each script
        pairs = pairs[len(script) % 9 :: 9]
    for flag, value in pairs:
        code = door.call(script, f"{COMMANDS[script]} {flag} {value}")
        told = [line for line in door.lines.splitlines() if line.startswith("error: ")]
        assert (code, len(told)) in ((0, 0), (2, 1)), f"{flag} {value}: {code} {door.lines}"
        if script != "data_augmentation.py":
            shutil.rmtree(door.out, ignore_errors=True)


@pytest.mark.parametrize(
    "script, flag, value, words",
    [
        ("Pruning/run_glue.py", "--seed", "9" * 30, "less than or equal to 9007199254740992"),
        ("KD/train.py", "--train_batch_size", "9" * 30, "less than or equal to"),
        ("Pruning/plan.py", "--threads", "9" * 30, "is more than 9007199254740992"),
        ("Pruning/plan.py", "--threads", "5000", "--threads 5000 is more than 1024"),
        ("Pruning/plan.py", "--max_latency_ms", "1e999", "'1e999' is not a number above 0"),
        ("Deploy/benchmark.py", "--seconds", "inf", "'inf' is not a number above 0"),
        ("Deploy/benchmark.py", "--batch_sizes", "1099511627776", "the memory is full; lower"),
        ("KD/test.py", "--output_dir", "x" * 300, "File name too long"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_value_beyond_the_limits(script, flag, value, words, door):
    room(door, script)
    door.fails(script, words, command=f"{COMMANDS[script]} {flag} {value}")


@pytest.mark.parametrize("script", COMMANDS)
def test_an_interrupt_during_the_imports_leaves_no_traceback(script, tmp_path):
    (tmp_path / "pydantic.py").write_text("raise KeyboardInterrupt\n")  # imported by all
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
