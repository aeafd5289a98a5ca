"""The exported folder and its upload, without the commands that make and send them."""

from __future__ import annotations

import ast
import json

import pytest
from conftest import make_bert
from safetensors.torch import load_file

from rosita.checkpoint import TaskModel
from rosita.deploy import hub
from rosita.errors import RositaError
from rosita.fetch.sources import Access
from rosita.tasks import GLUE


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder for transformers alone, and the model that it was made of."""
    root = tmp_path_factory.mktemp("hub")
    made = TaskModel.open(make_bert(root / "bert"), GLUE["MNLI"], new_classifier=True)
    hub.write_hub_folder(root / "out", made.model, made.tokenizer, made.task)
    return root / "out", made


def test_the_folder_has_the_weights_and_the_code_of_every_class_that_it_names(exported):
    folder, made = exported
    config = json.loads((folder / "config.json").read_text())
    code = ast.parse((folder / hub.CODE).read_text())
    classes = {node.name for node in code.body if isinstance(node, ast.ClassDef)}
    assert len(config["auto_map"]) == 3
    for auto, path in config["auto_map"].items():
        module, name = path.split(".")
        assert f"{module}.py" == hub.CODE and name in classes
        assert auto.removeprefix("Auto") in ("Config", "Model", "ModelForSequenceClassification")
    weights = load_file(folder / "model.safetensors")
    assert all(weights[name].equal(w) for name, w in made.model.state_dict().items())


def test_the_code_that_travels_imports_torch_and_transformers_alone(exported):
    code = ast.parse((exported[0] / hub.CODE).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(code)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"__future__", "typing", "torch", "transformers"}


class Store:
    """An s3 client that notes what it is given, and refuses one name."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.sent: list[tuple[str, str]] = []

    def upload_file(self, path: str, bucket: str, key: str) -> None:
        if self.refuses and path.endswith(self.refuses):
            raise OSError(f"cannot send: {self.refuses} is too large")
        self.sent.append((bucket, key))


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "export.json", "onnx/model.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "target, prefix", [("s3://store", ""), ("s3://store/my/model/", "my/model/")]
)
def test_every_file_goes_under_the_prefix_and_the_report_goes_last(
    folder, monkeypatch, target, prefix
):
    store = Store()
    monkeypatch.setattr(hub, "s3_client", lambda access: store)
    assert hub.publish(folder, target, Access()) == 3
    keys = [f"{prefix}{name}" for name in ("config.json", "onnx/model.onnx", "export.json")]
    assert store.sent == [("store", key) for key in keys]


def test_a_failed_upload_is_one_line_and_no_report_follows_it(folder, monkeypatch):
    store = Store(refuses="model.onnx")
    monkeypatch.setattr(hub, "s3_client", lambda access: store)
    with pytest.raises(RositaError, match="cannot upload model.onnx to s3://store: model"):
        hub.publish(folder, "s3://store", Access())
    assert ("store", "export.json") not in store.sent


def test_only_an_s3_address_is_published_to_and_a_secret_in_it_is_not_told(folder):
    with pytest.raises(RositaError, match="is not of the form s3://bucket/prefix") as error:
        hub.publish(folder, "https://host/place?token=secret", Access())
    assert "secret" not in str(error.value)
