import json
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, error_line, make_bert, run_script, write_cola
from safetensors import safe_open

from rosita.budget.costs import macs
from rosita.budget.latency_model import LatencyModel
from rosita.checkpoint import load_model, save_model
from rosita.data.encode import encode_file
from rosita.deploy.latency import (
    dev_batch,
    dev_logits,
    interleaved_seconds,
    machine,
    peak_memory,
    torch_answer,
    torch_threads,
    weights_bytes,
    write_onnx,
)
from rosita.deploy.session import OnnxModel
from rosita.errors import RositaError
from rosita.evaluation import predict, score
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.stages.benchmark import Comparison, open_formats
from rosita.tasks import GLUE, Task
from rosita.tokenizer import read_tokenizer

sys.path.insert(0, str(REPOSITORY / "Deploy"))
import benchmark  # noqa: E402

COLA = GLUE["CoLA"]
KEYS = {
    "model", "format", "batch_size", "length", "median_ms", "p95_ms", "sentences_per_second",
    "bytes", "parameters", "macs", "shape", "dev_score", "metric", "peak_memory_bytes",
    "repetitions",
}  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A tuned model folder, its export in ONNX and int8 too, and its data."""
    root = tmp_path_factory.mktemp("serving")
    data = write_cola(root / "CoLA", train=80, dev=40)
    run_script("Pruning/run_glue.py", "--model_name_or_path", make_bert(root / "bert"),
               "--do_train", "--output_dir", root / "ft", "--task_name", "CoLA", "--data_dir",
               data, "--learning_rate", 3e-3, "--num_train_epochs", 4)  # fmt: skip
    run_script("Deploy/export.py", "--model", root / "ft", "--output_dir", root / "export",
               "--data_dir", data, "--max_drop", 2)  # fmt: skip
    return root / "ft", root / "export", data


def measure(*flags) -> None:
    benchmark.main([str(flag) for flag in flags])


def dev_of(folder, data):
    return encode_file(data / "dev.tsv", COLA, read_tokenizer(folder), 64)


def test_calls_take_turns_after_an_untimed_run_each_and_are_timed_equally_often():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = interleaved_seconds(calls, repetitions=7)
    turns = "".join(order)  # 3, 3 and 1 timed, one more to warm up; each round in its own order
    assert re.fullmatch("(aaaabbbb|bbbbaaaa){2}(aabb|bbaa)", turns)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 7, "b": 7}


def test_a_spent_budget_ends_the_timing_after_the_least_number_of_runs():
    seconds = interleaved_seconds({"a": lambda: None, "b": lambda: None}, 300, budget=0)
    assert {len(times) for times in seconds.values()} == {6}


def test_a_batch_of_dev_has_exactly_the_length_rows_are_cut_or_repeated(tuned):
    folder, _, data = tuned
    dev = dev_of(folder, data)
    for rows, length in ((3, 2), (1, 50), (60, 9)):
        batch = dev_batch(dev, rows, length)
        assert {tuple(value.shape) for value in batch.values()} == {(rows, length)}
        assert batch["attention_mask"].all()
        first = dev.ids[dev.offsets[0] : dev.offsets[1]].tolist()
        expected = (first * length)[:length]
        assert batch["input_ids"][0].tolist() == expected


def test_dev_logits_are_those_of_the_evaluation(tuned):
    folder, _, data = tuned
    model, dev = load_model(folder, COLA).eval(), dev_of(folder, data)
    found = dev_logits(torch_answer(model), dev, "model")
    np.testing.assert_allclose(found, predict(model, dev, 1), atol=1e-5)


def test_the_threads_of_a_block_are_those_asked_for():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert machine()["threads"] == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert machine()["torch"] == torch.__version__ and machine()["cpu"]


def test_peak_memory_holds_the_weights_once_or_a_few_times(tmp_path):
    config = RositaConfig(vocab_size=40_000, hidden_size=256, num_attention_heads=4,
                          num_hidden_layers=1, intermediate_size=256, num_labels=2)  # fmt: skip
    model = RositaForSequenceClassification(config)
    save_model(tmp_path, model, read_tokenizer(make_bert(tmp_path / "bert")), COLA)
    size = weights_bytes(tmp_path)
    assert size > 40e6
    short = peak_memory(tmp_path, "pytorch", "CoLA", 100, (1, 8))
    assert size < short < 4 * size
    # attention and FFN of 64 x 400 tokens hold at least one hidden state more than of 8 tokens
    assert peak_memory(tmp_path, "pytorch", "CoLA", 100, (64, 400)) > short + 64 * 400 * 256 * 4


def test_memory_of_a_model_that_cannot_be_opened_is_an_error_that_names_it(tmp_path):
    with pytest.raises(RositaError, match=f"{tmp_path} as int8: .*model_int8.onnx does not exist"):
        peak_memory(tmp_path, "int8", "CoLA", 100, (1, 8))


@pytest.mark.parametrize("form", ["pytorch", "int8"])
def test_a_latency_model_keeps_its_times_and_marks_what_it_measured(tmp_path, form):
    config = RositaConfig(vocab_size=50, hidden_size=16, num_attention_heads=2,
                          num_hidden_layers=2, intermediate_size=16)  # fmt: skip
    model = LatencyModel(tmp_path, config, 2, 8, form)
    model.calibrate()
    assert len(model.times["fitted"]) == 12 and len(model.held_out()) == 4
    assert not model.times["fitted"].keys() & model.times["held_out"].keys()
    for line in model.held_out():
        assert line["error"] == pytest.approx(line["predicted_ms"] / line["measured_ms"] - 1)
    again = LatencyModel(tmp_path, config, 2, 8, form)
    again.calibrate()
    assert again.times == model.times
    assert not LatencyModel(tmp_path, config, 2, 9, form).times["fitted"]  # another length


# --- the script ------------------------------------------------------------------------------


def test_models_and_formats_stand_side_by_side_with_figures_that_can_be_checked(
    tuned, tmp_path, capsys
):
    folder, export, data = tuned
    measure(
        "--models", folder, export, "--formats", "pytorch,onnx,int8",
        "--batch_sizes", "1,4", "--lengths", "8,20", "--data_dir", data, "--output_dir", tmp_path,
        "--threads", 1, "--seconds", 0.05,
    )  # fmt: skip
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert report["machine"]["threads"] == 1 and report["machine"]["onnxruntime"]
    rows = report["rows"]
    cells = {(row["model"], row["format"], row["batch_size"], row["length"]) for row in rows}
    assert len(rows) == len(cells) == 2 * 3 * 2 * 2
    model, dev = load_model(export, COLA).eval(), dev_of(export, data)
    with safe_open(export / "model.safetensors", "pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys())
    expected = score(COLA, predict(model, dev, 32), np.asarray(dev.labels))
    for row in rows:
        assert row.keys() == KEYS
        assert 0 < row["median_ms"] <= row["p95_ms"] and row["repetitions"] >= 6
        rate = 1000 * row["batch_size"] / row["median_ms"]
        assert row["sentences_per_second"] == pytest.approx(rate)
        assert row["parameters"] == count and row["shape"] == "a4_l3_f48_e-1"
        assert row["macs"] == macs(model.config, row["length"])
        assert row["metric"] == "matthews" and row["peak_memory_bytes"] > row["bytes"]
        if row["format"] != "int8":
            assert row["dev_score"] == pytest.approx(expected.main)
        if row["model"] == str(export):
            names = {"pytorch": "model.safetensors", "onnx": "onnx/model.onnx",
                     "int8": "onnx/model_int8.onnx"}  # fmt: skip
            assert row["bytes"] == (export / names[row["format"]]).stat().st_size

    # an export made on the fly is the one that Deploy/export.py writes
    def of(path, form, key):
        return {row[key] for row in rows if (row["model"], row["format"]) == (str(path), form)}

    for form in ("onnx", "int8"):
        assert of(folder, form, "dev_score") == of(export, form, "dev_score")
        assert of(folder, form, "bytes") == of(export, form, "bytes")
    assert not (folder / "onnx").exists()
    table = (tmp_path / "benchmark.md").read_text()
    assert table in capsys.readouterr().out and table.count("\n| ") == len(rows) + 1
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_the_int8_score_is_that_of_the_int8_model(tuned, tmp_path):
    _, export, data = tuned
    measure("--models", export, "--formats", "int8", "--batch_sizes", 1, "--lengths", 8,
            "--data_dir", data, "--output_dir", tmp_path, "--seconds", 0.01)  # fmt: skip
    row = json.loads((tmp_path / "benchmark.json").read_text())["rows"][0]
    exported = json.loads((export / "export.json").read_text())["formats"]["int8"]
    assert row["dev_score"] == exported["score"] and row["bytes"] == exported["bytes"]
    assert OnnxModel(export / "onnx" / "model_int8.onnx")


def test_an_onnx_file_with_its_labels_in_another_order_is_not_scored_as_if_in_the_tasks(tmp_path):
    other = Task(name="Other", labels=("good", "bad"), metric="accuracy", text_columns=(0,))
    bert, folder = make_bert(tmp_path / "bert"), tmp_path / "model"
    model = load_model(bert, other, new_classifier=True).eval()
    save_model(folder, model, read_tokenizer(bert), other)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    write_onnx(model, folder, ["onnx"])
    dev = write_cola(tmp_path / "CoLA") / "dev.tsv"
    asked = Comparison("CoLA", ["pytorch", "onnx"], [1], [8], dev, label_names="bad,good")
    opened = open_formats("model", folder, tmp_path / "made", asked)
    expected = predict(model, opened[0].dev, 32)[:, ::-1]
    for one in opened:
        logits = dev_logits(one.answer, one.dev, one.form)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    with pytest.raises(RositaError, match="--max_seq_length 65 is too much: the model has 64"):
        open_formats("model", folder, tmp_path / "made", replace(asked, max_seq_length=65))


def test_without_data_random_ids_are_timed_and_the_score_is_null_and_said_so(
    tuned, tmp_path, capsys
):
    folder, _, _ = tuned
    if (REPOSITORY / "data" / "RTE" / "dev.tsv").exists():
        pytest.skip("real RTE data are there")
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    run = json.loads((other / "run.json").read_text()) | {"task": "RTE"}
    (other / "run.json").write_text(json.dumps(run))
    config = json.loads((other / "config.json").read_text())
    config["id2label"] = {"0": "entailment", "1": "not_entailment"}
    (other / "config.json").write_text(json.dumps(config))
    measure("--models", other, "--formats", "pytorch", "--batch_sizes", 2, "--lengths", 8,
            "--output_dir", tmp_path, "--seconds", 0.01, "--threads", 2,
            "--accept_changed")  # fmt: skip
    assert "no dev.tsv: random ids, no dev score" in capsys.readouterr().out
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert report["machine"]["threads"] == 2
    row = report["rows"][0]
    assert row["dev_score"] is None and row["metric"] is None and row["median_ms"] > 0


def test_mistakes_are_named(tuned, tmp_path):
    folder, _, _ = tuned
    common = ("--models", folder, "--lengths", 8, "--output_dir", tmp_path / "out")
    for flags, message in (
        (("--formats", "pytorch,int4"), "'int4' is not one of pytorch, onnx, int8"),
        (("--batch_sizes", "1,0"), "'0' is not a whole number from 1 on"),
        (("--lengths", "8,65"), "--lengths 65 is too much: the model has 64 positions"),
        (("--task_name", "sst-2"), "made for CoLA, not for SST-2"),
        (("--data_dir", tmp_path), "dev.tsv does not exist"),
    ):
        with pytest.raises(RositaError, match=message):
            measure(*common, *flags)
    assert not (tmp_path / "out").exists()
    done = run_script("Deploy/benchmark.py", "--models", tmp_path / "nowhere", ok=False)
    assert "nowhere does not exist" in error_line(done)
