"""Flags of the published scripts: they work here, or one line says what to type instead."""

from __future__ import annotations

import pytest
from conftest import error_line, run_script

import download_glue_data
from rosita.cli import ArgumentParser
from rosita.errors import RositaError

INSTEAD = {
    ("KD/train.py", "--wd"): "type --weight_decay",
    ("KD/train.py", "--data_url"): "download_glue_data.py",
    ("KD/train_with_subset.py", "--wd"): "type --weight_decay",
    ("Pruning/run_glue.py", "--config_name"): "the folder --model_name_or_path",
    ("Pruning/run_glue.py", "--tokenizer_name"): "the folder --model_name_or_path",
    ("Pruning/run_glue.py", "--structured"): "leave it out",
    ("Pruning/run_glue.py", "--logging_first_step"): "--logging_steps 1",
    ("Pruning/run_glue.py", "--save_total_limit"): "--save_steps",
    ("Pruning/run_glue.py", "--fp16_opt_level"): "--precision fp16",
    ("Pruning/run_glue.py", "--local_rank"): "torchrun or accelerate launch",
    ("Pruning/run_glue.py", "--eval_all_checkpoints"): "OUTPUT_DIR/checkpoint-N",
    ("download_glue_data.py", "--path_to_mrpc"): "--mirror DIR",
}


@pytest.mark.parametrize("script, flag", INSTEAD)
def test_a_flag_that_is_no_more_is_one_line_that_says_what_to_type(script, flag):
    done = run_script(script, "--task_name", "CoLA", f"{flag}=-1", ok=False)
    line = error_line(done)
    assert line.startswith(f"error: {flag} is not a flag of this script: ")
    assert INSTEAD[script, flag] in line


def parser() -> ArgumentParser:
    made = ArgumentParser(retired={"--wd": "type --weight_decay", "--data": "gone"})
    for flag in ("--weight_decay", "--data_dir", "--wd_steps"):
        made.add_argument(flag)
    return made


@pytest.mark.parametrize("words", [["--wd", "0.1"], ["--wd=0.1"], ["--weight_decay", "1", "--wd"]])
def test_a_retired_flag_is_never_taken_for_the_beginning_of_another(words):
    with pytest.raises(RositaError, match="^--wd is not a flag of this script: type --weight_dec"):
        parser().parse_args(words)


def test_a_retired_flag_leaves_other_flags_their_abbreviations_and_the_help_alone():
    assert parser().parse_args(["--we", "1", "--data_d", "x"]).data_dir == "x"
    assert "--wd " not in parser().format_help()
    with pytest.raises(RositaError, match="did you mean '--weight_decay'"):
        parser().parse_args(["--weigth_decay", "1"])


def test_the_short_flags_of_the_published_download_work():
    args = download_glue_data.parse_args(["-d", "somewhere", "-t", "CoLA,SST"])
    assert str(args.data_dir) == "somewhere" and args.tasks == "CoLA,SST"


@pytest.mark.parametrize(
    "words, of",
    [
        (["--data_dir", ""], "--data_dir"),
        (["--weight_decay", "1", "--data_dir", " "], "--data_dir"),
        (["--data_dir="], "--data_dir"),
        (["--weight_decay", "1", ""], "1"),
        ([""], "the first argument"),
    ],
)
def test_an_unset_shell_variable_is_neither_the_current_folder_nor_a_flag_left_out(words, of):
    with pytest.raises(RositaError, match=f"^{of}: an empty value: give it one, or leave it out$"):
        parser().parse_args(words)
