import json
import os
import subprocess
import sys

import boto3
import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import SMALL, error_line, make_bert, run_script, write_cola
from markdown_it import MarkdownIt
from moto.server import ThreadedMotoServer

from rosita.checkpoint import load_model
from rosita.deploy.hub import write_card
from rosita.deploy.onnx import OnnxModel, export_onnx, quantize_onnx
from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.tasks import GLUE, Task
from rosita.tokenizer import read_tokenizer

PRUNED = {"num_attention_heads": 1, "prun_hidden_size": 8, "prun_intermediate_size": 24}


def model(**changes) -> RositaForSequenceClassification:
    torch.manual_seed(0)
    config = RositaConfig(vocab_size=300, num_labels=3, **{**SMALL, **changes})
    made = RositaForSequenceClassification(config)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made


def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 300, (batch, length), generator=torch.Generator().manual_seed(length))
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    mask[0, length // 2 + 1 :] = 0
    types[:, length // 2 :] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@pytest.mark.parametrize("changes", [{}, {**PRUNED, "emb_hidden_dim": 6}])
def test_onnx_gives_pytorchs_logits_at_every_batch_size_and_length(tmp_path, changes):
    made = model(**changes).train()
    export_onnx(made, tmp_path / "model.onnx")
    assert made.training
    opened = OnnxModel(tmp_path / "model.onnx")
    for batch, length in ((1, 1), (1, 16), (5, 3), (3, 31)):
        given = inputs(batch, length)
        with torch.no_grad():
            expected = made.eval()(**given).logits
        actual = torch.from_numpy(opened.logits(**given))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_int8_stores_a_byte_per_matrix_element_and_keeps_the_logits_within_its_rounding(tmp_path):
    made = model(emb_hidden_dim=6).eval()
    export_onnx(made, tmp_path / "model.onnx")
    quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    stored = onnx.load(tmp_path / "int8.onnx").graph.initializer
    whole = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    int8 = sum(np.prod(t.dims) for t in stored if t.data_type in whole and len(t.dims) == 2)
    encoder = sum(w.numel() for w in made.bert.encoder.parameters() if w.dim() == 2)
    assert int8 >= encoder + made.bert.get_input_embeddings().weight.numel()
    given = inputs(4, 12)
    exact = OnnxModel(tmp_path / "model.onnx").logits(**given)
    rounded = OnnxModel(tmp_path / "int8.onnx").logits(**given)
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_a_file_that_is_no_onnx_model_is_named_in_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(RositaError, match="model.onnx is not an ONNX model"):
        OnnxModel(tmp_path / "model.onnx")
    with pytest.raises(RositaError, match="does not exist; Deploy/export.py writes it"):
        OnnxModel(tmp_path / "other.onnx")


def test_no_text_of_a_run_breaks_out_of_the_model_card(tmp_path):
    evil = '<script>x</script>](http://x) |\n---\nlicense: mit\n# {{7*7}} "`\\'
    task = Task.model_construct(name=evil, labels=(evil, "b"))
    report = {"shape": evil, "parameters": 1234, "metric": evil, "score": 0.5,
              "formats": {evil: {"score": 0.4, "agreement": 1.0, "bytes": 2e6}}}  # fmt: skip
    run = {"parents": {evil: {"path": f"../models/{evil}", "weights": evil}},
           "identity": {"settings": {"learning_rate": evil, "seed": 42}},
           "data": {"train_rows": 16, "train": [evil]}}  # fmt: skip
    write_card(tmp_path, report, run, task)
    _, header, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers", "pipeline_tag": "text-classification",
        "license": "apache-2.0", "tags": ["rosita", evil],
    }  # fmt: skip
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    kinds = {part.type for token in tokens for part in (token, *(token.children or ()))}
    assert not kinds & {"html_block", "html_inline", "link_open", "hr", "code_inline"}
    assert [token.type for token in tokens].count("heading_open") == 2
    assert [token.type for token in tokens].count("td_open") == 2 * 4
    assert "http://" not in body
    shown = ["".join(part.content for part in token.children or ()) for token in tokens]
    assert "learning_rate: " + " ".join(evil.split()) in shown


@pytest.mark.parametrize("name, expected", [("CoLA", ["glue"]), ("Mood", None)])
def test_the_card_names_glue_only_for_a_task_of_glue(tmp_path, name, expected):
    task = Task(name=name, labels=("a", "b"), metric="accuracy", text_columns=(0,))
    report = {"shape": "a2_l8_f512_e128", "parameters": 1, "metric": "accuracy", "score": 0.5}
    write_card(tmp_path, {**report, "formats": {}}, {}, task)
    header = (tmp_path / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(header).get("datasets") == expected


# --- the script ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder with data/CoLA and a tuned, pruned model."""
    root = tmp_path_factory.mktemp("export")
    data = write_cola(root / "data" / "CoLA")
    tune = ["--task_name", "CoLA", "--data_dir", data, "--learning_rate", 1e-3]
    run_script("Pruning/run_glue.py", "--model_name_or_path", make_bert(root / "bert"),
               "--do_train", "--output_dir", root / "ft" / "CoLA", *tune)  # fmt: skip
    run_script("Pruning/run_glue.py", "--model_name_or_path", root / "ft" / "CoLA",
               "--compute_taylor", "True", *tune)  # fmt: skip
    run_script("Pruning/pruning_one_step.py", "-model_path", root / "ft", "-task", "CoLA",
               "-output_dir", root / "cut", "-keep_heads", 2, "-num_layers", 2,
               "-ffn_hidden_dim", 20, "-emb_hidden_dim", 8)  # fmt: skip
    return root


def export(root, output, *more, ok=True):
    return run_script("Deploy/export.py", "--model", root / "cut" / "CoLA" / "a2_l2_f20_e8",
                      "--output_dir", output, "--data_dir", root / "data" / "CoLA",
                      "--max_drop", 1, *more, ok=ok)  # fmt: skip


STRANGER = """
import json, sys
sys.modules["rosita"] = None
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder = sys.argv[1]
classify = pipeline("text-classification", folder, trust_remote_code=True)
found = classify(["the dog ran", "a cat sings happy songs slowly and never"], top_k=None)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
print(json.dumps({"found": found, "parameters": model.num_parameters()}))
"""


def test_an_export_opens_in_a_pipeline_without_this_package_and_gives_our_probabilities(
    tuned, tmp_path
):
    told = export(tuned, tmp_path / "out").stdout
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert list(report["formats"]) == ["hf", "onnx", "int8"]
    for name in ("hf", "onnx"):
        assert report["formats"][name]["agreement"] == 1.0
        assert report["formats"][name]["drop"] == 0.0
    assert "predictions equal 100.00 %" in told
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "out")], capture_output=True, text=True,
        cwd=tmp_path, env={**os.environ, "HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    source = tuned / "cut" / "CoLA" / "a2_l2_f20_e8"
    ours = load_model(source, GLUE["CoLA"]).eval()
    assert answer["parameters"] == report["parameters"] == ours.num_parameters()
    encoding = read_tokenizer(source).build().encode("the dog ran")
    with torch.no_grad():
        logits = ours(input_ids=torch.tensor([encoding.ids])).logits
    expected = dict(zip(("0", "1"), logits.softmax(-1)[0].tolist(), strict=True))
    actual = {one["label"]: one["score"] for one in answer["found"][0]}
    assert actual == pytest.approx(expected, abs=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name:")
    assert f"{report['parameters']:,} parameters, shape a2_l2_f20_e8" in card


def test_an_export_that_loses_too_much_writes_nothing_and_another_folder_is_not_replaced(
    tuned, tmp_path
):
    done = export(tuned, tmp_path / "out", "--formats", "onnx,int9", ok=False)
    assert "--formats 'int9' is not one of hf, onnx, int8" in error_line(done)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    done = export(tuned, tmp_path / "mine", "--overwrite_output_dir", ok=False)
    assert "is no export" in error_line(done)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    export(tuned, tmp_path / "out", "--formats", "onnx")
    assert [path.name for path in (tmp_path / "out" / "onnx").iterdir()] == ["model.onnx"]
    assert "holds an export" in error_line(export(tuned, tmp_path / "out", ok=False))
    from rosita.stages.export import check_drop

    report = {"metric": "matthews", "formats": {"int8": {"drop": 0.02}}}
    check_drop(report, 0.02)
    with pytest.raises(RositaError, match="int8 loses 0.0200 matthews on dev"):
        check_drop(report, 0.01)


def test_an_export_is_published_to_an_s3_store_its_report_last(tuned, tmp_path, monkeypatch):
    server = ThreadedMotoServer(port=0, verbose=False)
    for name, value in (("ACCESS_KEY_ID", "AKIADUMMY"), ("SECRET_ACCESS_KEY", "dummysecret"),
                        ("DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket="models")
    there = ["--formats", "hf,onnx", "--endpoint_url", url, "--allow_http", "--publish"]
    export(tuned, tmp_path / "out", *there, "s3://models/rosita/CoLA")
    stored = client.list_objects_v2(Bucket="models")["Contents"]
    names = {path.relative_to(tmp_path / "out").as_posix()
             for path in (tmp_path / "out").rglob("*") if path.is_file()}  # fmt: skip
    assert {one["Key"] for one in stored} == {f"rosita/CoLA/{name}" for name in names}
    body = client.get_object(Bucket="models", Key="rosita/CoLA/model.safetensors")["Body"].read()
    assert body == (tmp_path / "out" / "model.safetensors").read_bytes()
    done = export(tuned, tmp_path / "again", *there, "s3://nowhere/x", ok=False)
    assert "cannot upload" in error_line(done)
    assert "dummysecret" not in done.stdout + done.stderr
    server.stop()
