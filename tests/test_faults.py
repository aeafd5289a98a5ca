"""A kill, or a full disk, between any two operations of a save leaves the last good state."""

from __future__ import annotations

import builtins
import errno
import os
import signal
from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import error_line, make_bert, run_script, write_cola
from hypothesis import settings
from test_training import Bench

from rosita.augmentation.file import AugmentedFile
from rosita.checkpoint import load_model, save_model
from rosita.data.tsv import TsvFile
from rosita.errors import RositaError
from rosita.files import read_json, read_torch, write_json
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer
from rosita.training.state import save_state, state_file

COLA = GLUE["CoLA"]
CALLS = {  # what a kill can come between, and what a full disk makes fail
    "kill": "replace rename fsync mkdir unlink rmdir truncate".split(),
    "full": "replace rename fsync mkdir".split(),
}


class Faults:
    """Counts the file operations of this process; at number `at` it is killed, or gets ENOSPC."""

    def __init__(self, at: int, kind: str) -> None:
        self.at, self.kind, self.count = at, kind, 0

    def tick(self) -> None:
        self.count += 1
        if self.count == self.at:
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def install(self) -> None:
        """Patch this process (a forked child, which ends soon)."""
        for name in CALLS[self.kind]:
            setattr(os, name, self._counted(getattr(os, name)))
        real_open = builtins.open

        def counted_open(path, mode="r", *arguments, **named):
            if not set(mode) & set("wax+"):
                return real_open(path, mode, *arguments, **named)
            self.tick()
            return _File(real_open(path, mode, *arguments, **named), self)

        builtins.open = counted_open

    def _counted(self, call: Callable) -> Callable:
        def counted(*arguments, **named):
            self.tick()
            return call(*arguments, **named)

        return counted


class _File:
    """A file whose writes and flushes count; what is written before a kill has reached the disk."""

    def __init__(self, file, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def write(self, data):
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._faults.tick()  # in the midst of a write
        return half + self._file.write(data[half:])

    def flush(self):
        self._faults.tick()
        self._file.flush()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *found):
        return self._file.__exit__(*found)


def in_child(work: Callable[[], None], at: int, kind: str) -> str:
    """Fork, run `work` with the fault, and tell how it ended.

    "through": there are fewer operations; "unharmed": the fault did not matter; "killed"; "error".
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            faults = Faults(at, kind)
            faults.install()
            work()
            code = 0 if faults.count < at else 3
        except RositaError as error:
            code = 2 if "\n" not in str(error) else 98
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    names = {0: "through", 2: "error", 3: "unharmed"}
    return names.get(os.WEXITSTATUS(status), f"code {os.WEXITSTATUS(status)}")


def at_every_operation(work: Callable[[], None], kind: str, check: Callable[[str], None]) -> int:
    """Inject the fault at the 1st, 2nd, ... operation until `work` gets through; their number.

    From the 40th on, the middle of hundreds of writes of one file, ever fewer are tried, but for
    the campaign, which tries all.
    """
    at = faults = 1
    every = settings.get_current_profile_name() == "campaign"
    while (end := in_child(work, at, kind)) != "through":
        assert end in (("killed",) if kind == "kill" else ("error", "unharmed")), f"{at}: {end}"
        check(f"operation {at}")
        at += 1 if every else 1 + at // 40 * 20
        faults += 1
        assert at < 10_000
    check("whole")
    print(f"{kind}: {faults - 1} faults in {at - 1} operations")
    return faults - 1


@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_json_record_is_the_old_or_the_new_one_whole(tmp_path, kind):
    path = tmp_path / "run.json"
    write_json(path, {"number": 1})

    def check(where):
        number = read_json(path)["number"]
        assert number in (1, 2), where

    found = at_every_operation(lambda: write_json(path, {"number": 2}), kind, check)
    assert found >= 5  # open, write, flush, fsync, replace
    assert read_json(path) == {"number": 2}


@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_model_folder_is_the_old_or_the_new_one_whole(tmp_path, kind):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    old = load_model(tmp_path / "bert", COLA, new_classifier=True)
    new = load_model(make_bert(tmp_path / "new", seed=1), COLA, new_classifier=True)
    folder = tmp_path / "model"
    save_model(folder, old, tokenizer, COLA)
    weight = "bert.pooler.dense.weight"
    allowed = [old.state_dict()[weight], new.state_dict()[weight]]

    def check(where):
        found = load_model(folder, COLA).state_dict()[weight]
        assert any(torch.equal(found, value) for value in allowed), where

    at_every_operation(lambda: save_model(folder, new, tokenizer, COLA), kind, check)
    assert torch.equal(load_model(folder, COLA).state_dict()[weight], allowed[1])


@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_saved_state_is_the_old_or_the_new_one_whole(tmp_path, kind):
    training = Bench(tmp_path).training(num_train_epochs=1.0, save_state_steps=2)
    training.run()
    steps = [training.progress.step, training.progress.step + 1]
    save_state(training)
    training.progress.step += 1

    def check(where):
        assert read_torch(state_file(training.folder))["progress"]["step"] in steps, where

    at_every_operation(partial(save_state, training), kind, check)
    assert read_torch(state_file(training.folder))["progress"]["step"] == steps[1]


@pytest.mark.parametrize("kind", ["kill", "full"])
def test_an_augmented_file_cut_off_anywhere_ends_as_the_uninterrupted_one(tmp_path, kind):
    path = write_cola(tmp_path / "CoLA", train=7) / "train.tsv"
    output = path.with_name("train_aug.tsv")

    def grow(first, rows):
        return [[*row.fields[:3], f"{row.texts[0]} {copy}"] for row in rows for copy in "ab"]

    def work():
        AugmentedFile(output, {"seed": 1}).write(TsvFile(path, COLA), 7, grow, 3)

    work()
    whole = output.read_bytes()
    assert whole.count(b"\n") == 14
    for file in path.parent.glob("*aug*"):
        file.unlink()

    def check(where):
        assert not output.exists() or output.read_bytes() == whole, where

    found = at_every_operation(work, kind, check)  # each try goes on from the last one
    assert found >= 10
    assert AugmentedFile(output, {"seed": 1}).is_finished()
    assert sorted(file.name for file in path.parent.glob("*aug*")) == [
        "train_aug.json",
        "train_aug.tsv",
    ]


def test_a_disk_quota_ends_training_with_one_line_and_the_last_good_model(tmp_path):
    write_cola(tmp_path / "CoLA")
    make_bert(tmp_path / "bert")
    command = [
        "Pruning/run_glue.py", "--model_name_or_path", tmp_path / "bert", "--task_name", "CoLA",
        "--do_train", "--num_train_epochs", 4, "--data_dir", tmp_path / "CoLA", "--output_dir",
        tmp_path / "out", "--evaluate_during_training", "--logging_steps", 1,
        "--save_state_steps", 2,
    ]  # fmt: skip
    model_bytes = (tmp_path / "bert" / "model.safetensors").stat().st_size
    # room for the model, none for the state with its optimizer: three times as large
    done = run_script(*command, ok=False, file_size_limit=2 * model_bytes)
    line = error_line(done)
    assert "state.pt" in line
    assert "File too large" in line
    load_model(tmp_path / "out", COLA)  # the best model so far is whole
    again = run_script(*command)
    assert "best dev" in again.stdout
