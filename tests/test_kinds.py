"""What is no file is read by nobody: a pipe that nobody writes holds no stage up."""

import os
import signal

import pytest
from conftest import stage

from rosita.augmentation.glove import load_glove
from rosita.augmentation.sources import glove_hash, has_masked_lm_head
from rosita.augmentation.words import Eligible
from rosita.checkpoint import TaskModel
from rosita.config import FineTuneSettings
from rosita.config_file import load_config
from rosita.data.encode import encode_file
from rosita.data.records import content_hash, read_arrow, read_csv, read_jsonl, read_parquet
from rosita.data.tsv import TsvFile
from rosita.deploy.texts import read_texts
from rosita.errors import RositaError
from rosita.fetch.download import fetch
from rosita.files import lock_file, read_json, read_sealed, read_text, read_torch
from rosita.provenance import read_run
from rosita.pruning.importance import read_scores
from rosita.tasks import GLUE, find_task
from rosita.tokenizer import read_tokenizer

COLA = GLUE["CoLA"]


def read_dataset(path):
    (path.parent / "state.json").write_text(f'{{"_data_files": [{{"filename": "{path.name}"}}]}}')
    return list(read_arrow(path.parent))


def read_vocabulary(path):
    """That of a RoBERTa, of which transformers reads the second file."""
    (path.parent / "vocab.json").write_text('{"<s>": 0}')
    return read_tokenizer(path.parent)


READERS = {  # name of the file -> who reads it
    "a.txt": read_text,
    "a.json": read_json,
    "task.json": lambda path: find_task(str(path)),
    "config_setting1.json": lambda path: load_config(FineTuneSettings, COLA, {}, path),
    "run.json": lambda path: read_run(path.parent),
    "done.json": read_sealed,
    "state.pt": read_torch,
    ".lock": lambda path: lock_file(path, "held by"),
    "train.tsv": lambda path: list(TsvFile(path, COLA).rows()),
    "dev.tsv": content_hash,
    "t.csv": lambda path: list(read_csv(path)),
    "t.jsonl": lambda path: list(read_jsonl(path)),
    "t.parquet": lambda path: list(read_parquet(path)),
    "data-0.arrow": read_dataset,
    "glove.txt": load_glove,
    "vectors.txt": glove_hash,
    "stop_words": lambda path: Eligible.given("a-z", str(path)),
    "merges.txt": read_vocabulary,
    "CoLA.zip": lambda path: fetch(path, path.with_name("target")),
}


@pytest.fixture(autouse=True)
def within_seconds():
    signal.alarm(20)  # whoever waits for a writer ends the tests
    yield
    signal.alarm(0)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_by_whoever_would_read_it(name, kind, tmp_path):
    path = tmp_path / name
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(RositaError, match=f"{name} is a {kind}, not a file$"):
        READERS[name](path)


@pytest.mark.parametrize("name", ["a.txt", "a.json", "state.pt", "train.tsv", "stop_words"])
def test_a_folder_where_a_file_should_be_is_one_line(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(RositaError, match=f"{name} is a folder, not a file$"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize(
    "name", "config.json model.safetensors pytorch_model.bin vocab.txt tokenizer.json".split()
)
def test_a_file_of_a_model_that_is_a_pipe_is_named(name, bert):
    if name == "pytorch_model.bin":
        (bert / "model.safetensors").unlink()
    (bert / name).unlink(missing_ok=True)
    os.mkfifo(bert / name)
    with pytest.raises(RositaError, match=f"{name} is a pipe, not a file$"):
        TaskModel.open(bert, COLA, new_classifier=True)
    if name in ("model.safetensors", "pytorch_model.bin"):
        with pytest.raises(RositaError, match=f"{name} is a pipe, not a file$"):
            has_masked_lm_head(bert)


def test_scores_and_caches_that_are_pipes_are_named(bert, cola):
    start = TaskModel.open(bert, COLA, new_classifier=True)
    (bert / "taylor_score").mkdir()
    os.mkfifo(bert / "taylor_score" / "taylor.pkl")
    with pytest.raises(RositaError, match="taylor.pkl is a pipe, not a file$"):
        read_scores(bert, start.model)
    array = encode_file(cola / "dev.tsv", COLA, start.tokenizer, 32).cache / "ids.bin"
    array.unlink()
    os.mkfifo(array)
    with pytest.raises(RositaError, match="ids.bin is a pipe, not a file$"):
        encode_file(cola / "dev.tsv", COLA, start.tokenizer, 32)


def test_a_folder_to_write_with_a_pipe_in_it_is_refused(bert, tmp_path):
    start = TaskModel.open(bert, COLA, new_classifier=True)
    for name in ("config.json", "tokenizer.json"):
        folder = tmp_path / f"with a {name}"
        folder.mkdir()
        os.mkfifo(folder / name)
        with pytest.raises(RositaError, match=f"{name} is a pipe, not a file$"):
            start.save(folder)


def test_predict_reads_a_pipe_as_a_stream(bert, tmp_path, capsys):
    TaskModel.open(bert, COLA, new_classifier=True).save(tmp_path / "model")
    out, into = os.pipe()  # as <(...) of a shell
    os.write(into, b"a dog\nthe cat\n")
    os.close(into)
    stage("Deploy/predict.py")("--model", tmp_path / "model", "--input", f"/dev/fd/{out}")
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.parametrize("form", ["text", "jsonl", "csv"])
def test_a_device_without_end_is_left_in_time(form, monkeypatch):
    monkeypatch.setattr("rosita.data.records.MAX_LINE", 1 << 20)
    with open("/dev/zero", encoding="utf-8") as file, pytest.raises(RositaError, match="line [01]"):
        list(read_texts(file, "/dev/zero", form, ["0"]))
