import base64
import json
import os
import platform
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import SMALL, error_line, make_bert, run_script, write_cola
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from moto.server import ThreadedMotoServer
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, BertConfig

from rosita import api
from rosita.checkpoint import load_model
from rosita.deploy.hub import base_model_of, write_card
from rosita.deploy.labelling import Labeller
from rosita.deploy.latency import INT8_SETS
from rosita.deploy.onnx import export_onnx, quantize_onnx
from rosita.deploy.session import OnnxModel
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


@pytest.fixture(params=["torchscript", "dynamo"])
def dynamo(request) -> bool:
    """Which of torch's exporters, the one that goes or the one that stays."""
    if request.param == "dynamo":
        pytest.importorskip("onnxscript")
    elif not hasattr(torch.onnx, "utils"):
        pytest.skip("this torch has no exporter by TorchScript")
    return request.param == "dynamo"


@pytest.mark.parametrize(
    "changes",
    [{}, {**PRUNED, "emb_hidden_dim": 6},
     {"type_vocab_size": 1, "position_offset": 2, "max_position_embeddings": 66},  # RoBERTa
     {"type_vocab_size": 0, "pooler_activation": "relu"},  # DistilBERT
     {"embedding_size": 16, "pooler_activation": "gelu"}],  # ELECTRA
)  # fmt: skip
def test_onnx_gives_pytorchs_logits_at_every_batch_size_and_length(tmp_path, changes, dynamo):
    made = model(**changes).train()
    export_onnx(made, tmp_path / "model.onnx", dynamo)
    assert made.training
    opened = OnnxModel(tmp_path / "model.onnx")
    for batch, length in ((1, 1), (1, 7), (1, 64), (3, 1), (3, 7), (3, 64), (5, 3)):
        given = inputs(batch, length)
        with torch.no_grad():
            expected = made.eval()(**given).logits
        actual = torch.from_numpy(opened.logits(**given))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_exporter_of_torch_export_is_asked_where_torchscripts_is_gone(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.onnx, "utils")
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # which it alone needs
    with pytest.raises(RositaError, match="onnxscript is not installed.* pip install onnxscript"):
        export_onnx(model(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_int8_stores_a_byte_per_matrix_element_and_keeps_the_logits_within_its_rounding(
    tmp_path, dynamo
):
    made = model(emb_hidden_dim=6).eval()
    export_onnx(made, tmp_path / "model.onnx", dynamo)
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
    report = {"shape": evil, "parameters": 1234, "metric": evil, "score": 0.5, "dev_rows": 20,
              "formats": {evil: {"score": 0.4, "agreement": 1.0, "bytes": 2e6}}}  # fmt: skip
    run = {
        "parents": {evil: {"path": f"../models/{evil}", "weights": evil}},
        "identity": {"settings": {"learning_rate": evil, "seed": 42}},
        "data": {"train_rows": 16, "train": [evil]},
    }
    write_card(tmp_path, report, run, task, license=evil, base_model=evil)
    _, header, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    told, line = yaml.safe_load(header), " ".join(evil.split())
    (model,) = told.pop("model-index")
    assert told == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["rosita", line],
        "license": line,
        "base_model": line,
    }
    assert model["name"] == f"ROSITA {line}" and model["results"][0]["dataset"]["name"] == line
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    kinds = {part.type for token in tokens for part in (token, *(token.children or ()))}
    assert not kinds & {"html_block", "html_inline", "link_open", "hr", "code_inline"}
    assert [token.type for token in tokens].count("heading_open") == 2
    assert [token.type for token in tokens].count("td_open") == 2 * 4
    assert "http://" not in body
    shown = ["".join(part.content for part in token.children or ()) for token in tokens]
    assert "learning_rate: " + " ".join(evil.split()) in shown


@pytest.mark.parametrize("name", ["CoLA", "MNLI"])
def test_the_card_names_the_file_and_rows_of_its_score_and_no_dataset_that_nobody_knows_it_to_be(
    tmp_path, name
):
    task = GLUE[name]  # a sample of that name, or rows held out, are no part of GLUE's dev
    report = {"shape": "a2_l8_f512_e128", "parameters": 1, "metric": task.metric, "score": 0.5,
              "formats": {}, "dev_rows": 1800}  # fmt: skip
    write_card(tmp_path, report, {}, task)
    card = ModelCard.load(tmp_path / "README.md")  # refuses a model-index that is none
    (result,) = card.data.eval_results
    scored = f"{task.dev_files[0]} of {name}'s data, 1,800 rows"
    assert (result.dataset_type, result.dataset_name) == (name, scored)
    assert result.dataset_split is None and result.dataset_config is None
    assert f"Its scores are of {scored}." in card.text
    assert "glue" not in card.content.lower()


@pytest.mark.parametrize("name, metric", [("CoLA", "matthews_correlation"), ("Mood", "accuracy")])
def test_the_card_says_where_its_score_is_from_and_no_license_that_nobody_gave(
    tmp_path, name, metric
):
    ours = {"matthews_correlation": "matthews"}.get(metric, metric)
    task = Task(name=name, labels=("a", "b"), metric=ours, text_columns=(0,))
    report = {"shape": "a2_l8_f512_e128", "parameters": 1, "metric": ours, "score": 0.51234,
              "dev_rows": 20}  # fmt: skip
    write_card(tmp_path, {**report, "formats": {}}, {}, task)
    header = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    assert "datasets" not in header
    assert "license" not in header and "base_model" not in header
    (result,) = header["model-index"][0]["results"]
    shown = {"CoLA": "dev.tsv of CoLA's data, 20 rows", "Mood": "Mood"}[name]
    assert result["dataset"] == {"type": name, "name": shown}
    assert result["metrics"] == [{"type": metric, "name": f"dev {ours}", "value": 0.5123}]


def test_the_base_model_is_the_one_that_the_first_of_the_ancestors_was_fetched_as(tmp_path):
    for folder, run in {
        "bert": {"stage": "download_bert", "model": "bert-base-uncased"},
        "ft": {"stage": "fine_tune", "parents": {"model": {"path": str(tmp_path / "bert")}}},
        "kd": {"stage": "kd", "parents": {"teacher": {"path": "gone"},
                                          "student": {"path": str(tmp_path / "ft")}}},
        "orphan": {"stage": "fine_tune", "parents": {"model": {"path": "gone"}}},
    }.items():  # fmt: skip
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.json").write_text(json.dumps(run))
    assert base_model_of(tmp_path / "kd") == "bert-base-uncased"
    assert base_model_of(tmp_path / "orphan") is None


@pytest.mark.parametrize("now", [{"model.safetensors": "b"}, {"pytorch_model.bin": "a"}])
def test_a_base_model_that_another_has_replaced_since_is_not_named(tmp_path, now):
    read = {"model.safetensors": "a", "vocab.txt": "c"}
    parent = {"path": str(tmp_path / "bert"), "files": read}
    for files, expected in ((read | {"vocab.txt": "d"}, "bert-base-uncased"), (now, None)):
        for folder, run in {
            "bert": {"stage": "download_bert", "model": "bert-base-uncased", "files": files},
            "ft": {"stage": "fine_tune", "parents": {"model": parent}},
        }.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "run.json").write_text(json.dumps(run))
        assert base_model_of(tmp_path / "ft") == expected


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


def test_an_exports_tokenizer_pads_to_no_fixed_length(tuned, tmp_path):
    start = api.load(tuned / "cut" / "CoLA" / "a2_l2_f20_e8", "CoLA")
    padded = start.tokenizer.build()
    padded.enable_padding(length=48, pad_id=start.tokenizer.pad_id)
    fixed = replace(start, tokenizer=replace(start.tokenizer, json=padded.to_str()))
    api.export(fixed, tmp_path / "out", tuned / "data" / "CoLA", formats="hf,onnx", max_drop=2.0)
    for folder in (tmp_path / "out", tmp_path / "out" / "onnx"):
        text = (folder / "tokenizer.json").read_text()
        ids = Tokenizer.from_str(text).encode("the dog ran").ids
        assert ids == start.tokenizer.build().encode("the dog ran").ids


def test_an_export_opens_in_a_pipeline_without_this_package_and_gives_our_probabilities(
    tuned, tmp_path
):
    told = export(tuned, tmp_path / "out").stdout
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (report["max_seq_length"], report["texts"], report["label_range"]) == (64, 1, None)
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
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    assert f"{report['parameters']:,} parameters, shape a2_l2_f20_e8" in card


def test_an_export_labels_as_its_task_and_training_had_it(tmp_path, tuned):
    """Length, range and texts of a user's own task reach predict.py through every folder."""
    words, data = " ".join(["dog"] * 30), tmp_path / "data"
    data.mkdir()
    rows = "".join(f"dog {word}\t{0.6 + index % 5 / 10}\n" for index, word in enumerate("abcdefgh"))
    for name in ("train.tsv", "dev.tsv"):
        (data / name).write_text(f"text\tscore\n{name} x\t1\n{rows}")
    task = Task(name="Mine", labels=None, metric="pearson_and_spearman", text_columns=("text",),
                label_column="score", label_range=(-1, 2))  # fmt: skip
    start = api.load(tuned / "bert", task, new_classifier=True)
    once = {"max_steps": 1, "max_seq_length": 8}
    made = api.fine_tune(start, data, tmp_path / "ft", **once)
    cut = api.prune(made, "a4_l2_f48_e-1", None, tmp_path / "cut")
    report = api.export(made, tmp_path / "out", data, formats="onnx", max_drop=2.0)
    assert (report["max_seq_length"], report["texts"]) == (8, 1)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["label_range"] == [-1, 2]
    for folder, model in (("ft", made), ("cut", cut), ("out", made)):
        of_folder, in_memory, short = (
            api.label(*given)[0].label
            for given in ((tmp_path / folder, words), (model, words), (model, "dog " * 6))
        )
        assert of_folder == pytest.approx(in_memory, abs=1e-5) == short
        whole = api.label(tmp_path / folder, words, max_seq_length=32)[0].label
        assert abs(whole - of_folder) > 1e-4  # where it is not cut
        with pytest.raises(RositaError, match="a pair, but the model's task has one text"):
            api.label(tmp_path / folder, (words, words))
    longer = api.export(made, tmp_path / "longer", data, formats="onnx", max_drop=2.0,
                        max_seq_length=16)  # fmt: skip
    assert longer["max_seq_length"] == 16


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
    assert "holds an export" in error_line(export(tuned, tmp_path / "out", ok=False))
    from rosita.stages.export import check_drop

    report = {"metric": "matthews", "formats": {"int8": {"drop": 0.02}}}
    check_drop(report, 0.02)
    with pytest.raises(RositaError, match="int8 loses 0.0200 matthews on dev"):
        check_drop(report, 0.01)


def test_a_folder_that_appears_while_the_export_is_made_is_left_alone(tuned, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def write_card_late(*given, **named):
        out.mkdir()
        (out / "thesis.txt").write_text("years")
        write_card(*given, **named)

    monkeypatch.setattr("rosita.stages.export.write_card", write_card_late)
    start = api.load(tuned / "cut" / "CoLA" / "a2_l2_f20_e8", "CoLA")
    with pytest.raises(RositaError, match="out is no export; give another --output_dir"):
        api.export(start, out, tuned / "data" / "CoLA", formats="hf", overwrite_output_dir=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]


def test_of_a_link_the_folder_that_it_leads_to_is_replaced_and_the_link_stays(tuned, tmp_path):
    (tmp_path / "link").symlink_to("disk/export")
    export(tuned, tmp_path / "link", "--formats", "hf")  # the folder is made
    export(tuned, tmp_path / "link", "--formats", "onnx", "--overwrite_output_dir")
    assert (tmp_path / "link").readlink() == Path("disk/export")
    assert (tmp_path / "disk" / "export" / "onnx" / "model.onnx").exists()
    assert not (tmp_path / "disk" / "export" / "model.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["export"]


def test_one_format_alone_has_all_that_a_client_needs(tuned, tmp_path):
    out = tmp_path / "out"
    export(tuned, out, "--formats", "int8", "--license", "mit")
    assert sorted(path.name for path in (out / "onnx").iterdir()) == [
        "config.json",
        "model_int8.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    config = AutoConfig.from_pretrained(out / "onnx")
    assert type(config) is BertConfig and config.id2label == {0: "0", 1: "1"}
    text = "The dog ran, happily."
    ours = read_tokenizer(tuned / "cut" / "CoLA" / "a2_l2_f20_e8").build().encode(text).ids
    assert AutoTokenizer.from_pretrained(out / "onnx")(text)["input_ids"] == ours
    assert [one.label for one in api.label(out, [text])] == [
        one.label for one in Labeller(out, "int8").label([(text,)])
    ]
    assert "license: mit" in (out / "README.md").read_text()
    report = json.loads((out / "export.json").read_text())
    assert report["machine"]["instructions"] in (*INT8_SETS, platform.machine())


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
    names = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert {one["Key"] for one in stored} == {f"rosita/CoLA/{name}" for name in names}
    body = client.get_object(Bucket="models", Key="rosita/CoLA/model.safetensors")["Body"].read()
    assert body == (tmp_path / "out" / "model.safetensors").read_bytes()
    done = export(tuned, tmp_path / "again", *there, "s3://nowhere/x", ok=False)
    assert "cannot upload" in error_line(done)
    assert "dummysecret" not in done.stdout + done.stderr
    server.stop()


@pytest.mark.parametrize(
    "flags, words",
    [(["--publish", "/tmp/x"], "--publish /tmp/x is not of the form s3://bucket/prefix"),
     (["--publish", "s3:///x"], "s3:///x is not of the form s3://bucket/prefix"),
     (["--publish", "s3://bucket/x", "--endpoint_url", "http://example.org"], "is not https"),
     (["--endpoint_url", "https://s3.example"], "--endpoint_url is for s3:// alone: give --pub"),
     (["--push_to_hub", "a/b", "--allow_http"], "--allow_http is for http:// and s3:// alone"),
     (["--push_to_hub", "small"], "--push_to_hub small is not OWNER/NAME"),
     (["--push_to_hub", "https://hub/me/small"], "https://hub/me/small is not OWNER/NAME")],
)  # fmt: skip
def test_a_place_that_nothing_can_be_uploaded_to_is_refused_before_anything_is_written(
    tuned, tmp_path, flags, words
):
    assert words in error_line(export(tuned, tmp_path / "out", *flags, ok=False))
    assert not list(tmp_path.iterdir())


class Hub(BaseHTTPRequestHandler):
    """The hub's protocol as far as an upload needs it; `server.files` holds what was committed."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server, path = self.server, self.path.split("?")[0]
        server.asked.append((path, self.headers["Authorization"]))
        if server.refuses:
            return self.answer({"error": "You don't have the rights"}, 403)
        if path == "/api/repos/create":
            server.created.append(json.loads(body))
            return self.answer({"url": f"http://{self.headers['Host']}/me/small", "id": "me/small"})
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.answer({"files": [{"path": name, **modes} for name in names]})
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    server.files[line["value"]["path"]] = content
            url = f"http://{self.headers['Host']}/me/small/commit/abc"
            return self.answer({"commitUrl": url, "commitOid": "abc", "pullRequestUrl": None})
        return self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        self.answer({"sha": "abc", "id": "me/small", "siblings": []})

    def answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.created, server.asked, server.refuses = {}, [], [], False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


PUSH = "import sys; from rosita.deploy.hub import push_to_hub as p; from pathlib import Path;" \
       "print(p(Path(sys.argv[1]), 'me/small', True))"  # fmt: skip


def push(folder, hub):
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    env = {**os.environ, "HF_ENDPOINT": address, "HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "0",
           "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(folder)], capture_output=True, text=True, env=env
    )


def test_a_folder_is_pushed_to_the_hub_that_the_environment_names(tmp_path, hub):
    (tmp_path / "onnx").mkdir()
    for name, content in {"config.json": b"{}", "onnx/model.onnx": b"\0graph"}.items():
        (tmp_path / name).write_bytes(content)
    done = push(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    assert hub.files == {"config.json": b"{}", "onnx/model.onnx": b"\0graph"}
    assert hub.created[0]["name"] == "small"
    assert hub.created[0].get("private") or hub.created[0]["visibility"] == "private"
    assert done.stdout.strip().endswith("/me/small")
    assert {token for path, token in hub.asked} == {"Bearer hf_secret"}
    hub.refuses = True
    done = push(tmp_path, hub)
    assert "RositaError: cannot upload to me/small at the hub: " in done.stderr
    assert "hf_secret" not in done.stdout + done.stderr
