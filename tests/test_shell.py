"""The shell scripts: no text of a file or flag is ever run, paths are the user's, links work."""

import json
import os
import re
import shutil
import subprocess

import pytest
from conftest import REPOSITORY, python

from rosita.tasks import _ALIASES, GLUE

SCRIPTS = ("quickstart.sh", "scripts/common.sh", "scripts/setting1.sh", "scripts/recipe.sh")
# in place of Python: tells what it was called with, and fails where it is asked to
STUB = """#!/usr/bin/env bash
if [ "$1" = -c ]; then exec {python} "$@"; fi
echo "$PWD: $*" >> "{log}"
echo "${{OMP_NUM_THREADS:-all}} $1" >> "{log}.threads"
[[ "$*" != *{fails}* ]]
"""


class Checkout:
    """A copy of the scripts whose stages only say that they were called."""

    def __init__(self, folder, fails="nothing"):
        self.folder, self.log = folder / "checkout", folder / "log"
        for name in SCRIPTS:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, self.folder / name)
        shutil.copytree(REPOSITORY / "KD" / "configurations", self.folder / "KD/configurations")
        for name in ("Pruning", "models/bert_pt", "data", "glove/glove.6B.50d"):
            (self.folder / name).mkdir(parents=True)
        self.config(num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
        self.stub = folder / "python"
        self.stub.write_text(STUB.format(python=python(), log=self.log, fails=fails))
        self.stub.chmod(0o755)

    def config(self, **values):
        (self.folder / "models/bert_pt/config.json").write_text(json.dumps(values))

    def run(self, *command, cwd=None, **env):
        done = subprocess.run(
            ["bash", *map(str, command)],
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHON": str(self.stub), **env},
        )
        return done, self.log.read_text().splitlines() if self.log.exists() else []


def test_a_number_that_a_file_holds_is_not_calculated_with_unless_it_is_one(tmp_path):
    checkout = Checkout(tmp_path, fails="download_bert")
    clock = checkout.folder / "models/quickstart/sample-SST-2/seconds"
    clock.parent.mkdir(parents=True)
    for told in ("BASH_VERSINFO[$(touch pwned)]", "007", ""):
        clock.write_text(told)
        checkout.run("quickstart.sh")
        assert not (checkout.folder / "pwned").exists()
        assert 0 <= int(clock.read_text()) - (7 if told == "007" else 0) < 60


@pytest.mark.parametrize("task", ["../CoLA", "data/CoLA", "$(touch pwned)", ".."])
def test_a_task_that_is_no_name_is_refused_before_any_folder_is_made(tmp_path, task):
    checkout = Checkout(tmp_path)
    done, called = checkout.run("quickstart.sh", "--task", task)
    assert (done.returncode, called) == (2, [])
    assert done.stderr == f"error: --task '{task}' is no name of a GLUE task\n"
    assert not (checkout.folder / "models/quickstart").exists()


@pytest.mark.parametrize("task", ["all", "AX", "diagnostic", "CoLa2", "mine.json", "sst-"])
def test_a_task_that_the_quickstart_cannot_train_is_refused_before_any_download(tmp_path, task):
    checkout = Checkout(tmp_path)
    done, called = checkout.run("quickstart.sh", "--task", task)
    assert (done.returncode, called) == (2, [])
    assert done.stderr == (
        f"error: --task '{task}' is not one of CoLA, SST-2, MNLI, QNLI, QQP, MRPC, STS-B, RTE,"
        " WNLI\n"
    )
    assert not (checkout.folder / "models/quickstart").exists()


def test_the_quickstart_takes_every_name_of_a_task_that_the_stages_take(tmp_path):
    text = (REPOSITORY / "quickstart.sh").read_text()
    (names,) = re.findall(r"is not one of (.*)\"", text)
    assert names.split(", ") == list(GLUE)
    checkout = Checkout(tmp_path, fails="download_bert")
    for task in [*GLUE, "cola", *_ALIASES]:
        _, called = checkout.run("quickstart.sh", "--task", task)
        assert "download_bert.py" in called.pop()
        checkout.log.unlink()


@pytest.mark.parametrize("value", [[""], []])
@pytest.mark.parametrize("flag, needs", [("--task", "name"), ("--glue_mirror", "folder or an add")])
def test_a_flag_of_the_quickstart_without_a_value_is_refused(tmp_path, flag, needs, value):
    done, called = Checkout(tmp_path).run("quickstart.sh", flag, *value)
    assert (done.returncode, called) == (2, [])
    assert done.stderr.startswith(f"error: {flag} needs a") and needs in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_mirror_of_real_data_without_a_task_is_refused(tmp_path):
    done, called = Checkout(tmp_path).run("quickstart.sh", "--glue_mirror", tmp_path)
    assert (done.returncode, called) == (2, [])
    assert done.stderr == "error: --glue_mirror is for real data: add --task\n"


def test_paths_are_relative_to_where_the_user_stands_and_a_link_to_a_script_works(tmp_path):
    checkout = Checkout(tmp_path)
    mine = tmp_path / "mine"
    (mine / "data").mkdir(parents=True)
    (mine / "setting1").symlink_to(checkout.folder / "scripts/setting1.sh")
    done, called = checkout.run("setting1", "CoLA", "--data", "data", "--models", "m", cwd=mine)
    assert done.returncode == 0, done.stderr
    assert f"--data_dir {mine}/data/CoLA --output_dir {mine}/m/bert_ft/CoLA" in called[0]
    assert "-keep_heads 2 -num_layers 8 -ffn_hidden_dim 512 -emb_hidden_dim 128" in called[3]


@pytest.mark.parametrize("flags", [("nowhere/at/all.json",), ("CoLA", "--configs", "no/where")])
def test_a_path_within_a_folder_that_is_not_there_is_one_line(tmp_path, flags):
    done, called = Checkout(tmp_path).run("scripts/setting1.sh", *flags)
    assert (done.returncode, called) == (2, [])
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert str(tmp_path / "checkout" / "no") in done.stderr


@pytest.mark.parametrize(
    "task, flags",
    [("MRPC", "1e-4 --num_train_epochs 5"), ("RTE", "5e-5 --num_train_epochs 5"),
     ("QNLI", "5e-5 --num_train_epochs 3")],
)  # fmt: skip
def test_a_small_bases_teacher_is_tuned_as_its_results_say(tmp_path, task, flags):
    checkout = Checkout(tmp_path)
    checkout.config(num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    done, called = checkout.run("scripts/setting1.sh", task)
    assert done.returncode == 0 and called[0].endswith(f" --learning_rate {flags}")


@pytest.mark.parametrize("layers, most", [(6, 4), (12, 8)])
@pytest.mark.parametrize("asked", [None, "3"])
def test_distilling_takes_few_threads_and_the_other_stages_all(tmp_path, layers, most, asked):
    checkout = Checkout(tmp_path)
    checkout.config(num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536)
    environment = {name: os.environ[name] for name in os.environ if name != "OMP_NUM_THREADS"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment | ({"OMP_NUM_THREADS": asked} if asked else {}))
        done, _ = checkout.run("scripts/setting1.sh", "CoLA")
    assert done.returncode == 0, done.stderr
    told = checkout.log.with_name("log.threads").read_text().splitlines()
    threads = {line.split()[1]: line.split()[0] for line in told}
    assert threads.pop("train.py") == (asked or str(min(most, len(os.sched_getaffinity(0)))))
    assert set(threads.values()) == {asked or "all"} and len(threads) >= 3


def test_the_recipe_is_pruned_to_its_own_shape_and_draws_its_rows_from_the_vectors(tmp_path):
    checkout = Checkout(tmp_path)
    done, called = checkout.run("scripts/recipe.sh", "CoLA")
    assert (done.returncode, called) == (2, [])  # it is measured on MiniLM alone
    assert "/KD/configurations holds no config_recipe.json; name another" in done.stderr
    checkout.config(num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    done, called = checkout.run("scripts/recipe.sh", "CoLA")
    assert done.returncode == 0, done.stderr
    stages = [line.split(": ")[1].split()[0] for line in called]
    assert stages == ["run_glue.py", "run_glue.py", "pruning_one_step.py", "train.py", "test.py"]
    assert "-keep_heads 4 -num_layers 4 -ffn_hidden_dim 512 -emb_hidden_dim 26" in called[2]
    assert "minilm/config_recipe.json" in called[3] and "--aug_train" not in called[3]
    assert f"--glove_embs {checkout.folder}/glove/glove.6B.50d " in called[3]
    assert called[3].endswith("/models/recipe/CoLA/a4_l4_f512_e26")


@pytest.mark.parametrize(
    "section, message",
    [(None, "config_setting1.json, section default: keep_heads must be a whole number"),
     ({"keep_heads": "a[$(touch pwned)]"}, "keep_heads must be a whole number, it is 'a[$(touch")],
)  # fmt: skip
def test_a_config_without_a_shape_stops_the_chain_before_its_first_stage(
    tmp_path, section, message
):
    checkout = Checkout(tmp_path)
    path = checkout.folder / "KD/configurations/config_setting1.json"
    path.write_text(json.dumps({"default": section} if section else {"CoLA": {}}))
    done, called = checkout.run("scripts/setting1.sh", "CoLA")
    assert (done.returncode, called) == (2, []) and message in done.stderr
    assert done.stderr.count("\n") == 1 and not (checkout.folder / "pwned").exists()


def test_a_rank_in_the_environment_keeps_no_value_from_the_shell(tmp_path):
    checkout = Checkout(tmp_path)
    done, called = checkout.run("scripts/setting1.sh", "CoLA", RANK="1", WORLD_SIZE="2")
    assert done.returncode == 0, done.stderr
    checkout.log.unlink()
    assert called == checkout.run("scripts/setting1.sh", "CoLA")[1]
    assert "-keep_heads 2 -num_layers 8 -ffn_hidden_dim 512 -emb_hidden_dim 128" in called[3]
