"""The labeller: batches by length, answers in the order of the texts, pairs and numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import make_bert, sentences
from transformers import AutoModelForSequenceClassification

from rosita.checkpoint import TaskModel, load_model
from rosita.deploy import labelling
from rosita.deploy.labelling import Answer, Labeller
from rosita.deploy.latency import write_onnx
from rosita.errors import RositaError
from rosita.stages.benchmark import Comparison, open_formats
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of untrained models of a task of sentences, of pairs and of numbers."""
    root = tmp_path_factory.mktemp("labelling")
    bert = make_bert(root / "bert")
    torch.manual_seed(0)
    for name in ("CoLA", "MNLI", "STS-B"):
        made = TaskModel.open(bert, GLUE[name], new_classifier=True)
        torch.nn.init.normal_(made.model.classifier.weight)  # answers that differ
        made.save(root / name)
    return root


def logits_one_by_one(folder, rows):
    """The oracle: each row alone, unpadded, in transformers' own way of opening a model."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = read_tokenizer(folder).build()
    with torch.no_grad():
        for row in rows:
            encoding = tokenizer.encode(*row)
            yield model(
                input_ids=torch.tensor([encoding.ids]),
                token_type_ids=torch.tensor([encoding.type_ids]),
            ).logits[0]


@pytest.mark.parametrize("name, texts", [("CoLA", 1), ("MNLI", 2)])
def test_answers_are_the_softmax_of_each_row_alone_in_order_over_many_chunks_and_batches(
    models, monkeypatch, name, texts
):
    monkeypatch.setattr(labelling, "CHUNK_ROWS", 5)
    monkeypatch.setattr(labelling, "TOKENS", 24)  # a long row stands alone, short ones together
    drawn = iter(sentences(13 * texts))
    rows = [tuple(next(drawn) for _ in range(texts)) for _ in range(13)]
    answers = list(Labeller(models / name).label(rows))
    assert len(answers) == 13
    for answer, logits in zip(answers, logits_one_by_one(models / name, rows), strict=True):
        probabilities = logits.softmax(-1)
        assert answer.label == GLUE[name].labels[int(probabilities.argmax())]
        assert answer.probability == pytest.approx(probabilities.max().item(), abs=1e-5)
    assert len({answer.probability for answer in answers}) > 6  # another order would be noticed


def test_a_regression_answers_with_its_number_alone(models):
    rows = [("the dog ran", "a cat sings"), ("she", "he reads a book")]
    answers = list(Labeller(models / "STS-B").label(rows))
    for answer, logits in zip(answers, logits_one_by_one(models / "STS-B", rows), strict=True):
        assert answer.label == pytest.approx(logits.item(), abs=1e-5)
        assert answer.probability is None


def test_a_text_is_cut_at_the_length_asked_for_and_that_within_the_models_positions(models):
    text = " ".join(["dog"] * 80)
    whole, cut = (
        next(Labeller(models / "CoLA", max_seq_length=length).label([(words,)])).probability
        for words, length in ((" ".join(["dog"] * 8), None), (text, 10))
    )
    assert cut == pytest.approx(whole, abs=1e-6)  # [CLS], 8 words, [SEP]
    with pytest.raises(RositaError, match="--max_seq_length 65 is too much: the model has 64"):
        Labeller(models / "CoLA", max_seq_length=65)


def of_own_task(folder, **record):
    """The folder of a model of a user's own task of pairs, cut after 10 tokens, from 0 to 1."""
    settings, rows = {"max_seq_length": 10}, {"text_columns": ["one", "two"]}
    run = {"task": "Mine", "identity": {"settings": settings, "rows": rows}, "label_range": [0, 1]}
    (folder / "run.json").write_text(json.dumps({"finished": True} | run | record))
    return folder


def test_a_text_is_cut_where_the_record_says_that_the_model_was_trained_to(models, tmp_path):
    folder = of_own_task(shutil.copytree(models / "MNLI", tmp_path / "model"))
    row = (" ".join(["dog"] * 40), " ".join(["cat"] * 40))
    by_default, asked, longer = (
        next(Labeller(folder, max_seq_length=length).label([row])).probability
        for length in (None, 10, 20)
    )
    assert by_default == asked != longer
    of_own_task(folder, identity={}, max_seq_length=20)  # as a cut's record says it
    assert next(Labeller(folder).label([row])).probability == longer
    of_own_task(folder, max_seq_length=1000)  # of a model with fewer positions
    assert next(Labeller(folder).label([row])).label in GLUE["MNLI"].labels


def test_a_row_has_as_many_texts_as_the_record_says_of_a_task_of_ones_own(models, tmp_path):
    folder = of_own_task(shutil.copytree(models / "MNLI", tmp_path / "model"))
    with pytest.raises(RositaError, match="text 2 is one text, but the model's task has pairs"):
        list(Labeller(folder).label([("a dog", "a cat"), ("a dog",)]))


def test_a_number_is_cut_to_the_range_of_the_task_as_the_record_says_it(models, tmp_path):
    folder = shutil.copytree(models / "STS-B", tmp_path / "model")
    rows = [(text, other) for text in sentences(6) for other in sentences(2)]
    whole = [answer.label for answer in Labeller(folder).label(rows)]
    low, high = sorted(whole)[3], sorted(whole)[8]
    of_own_task(folder, label_range=[low, high], max_seq_length=64)
    found = [answer.label for answer in Labeller(folder).label(rows)]
    assert found == pytest.approx([min(max(number, low), high) for number in whole])
    assert len(set(found)) < len(set(whole))


@pytest.mark.parametrize(
    "key, value", [("max_seq_length", "x"), ("label_range", [1]), ("texts", 3)]
)
def test_a_record_that_makes_no_sense_is_named_with_what_is_wrong(models, tmp_path, key, value):
    folder = of_own_task(shutil.copytree(models / "MNLI", tmp_path / "model"), **{key: value})
    with pytest.raises(RositaError, match=f"the record of .*model makes no sense: {key}"):
        Labeller(folder)


def test_a_label_is_written_with_its_probability_and_a_number_alone():
    label, number = Answer("élan", 0.12345678), Answer(3.14159, None)
    assert (label.as_tsv(), number.as_tsv()) == ("élan\t0.123457", "3.1416")
    assert json.loads(label.as_json()) == {"label": "élan", "probability": 0.123457}
    assert json.loads(number.as_json()) == {"label": 3.14159}


@pytest.mark.parametrize("names", [{"no": "0", "yes": "1"}, {"0": "a", "-1": "b"}, ["a", "b"]])
def test_names_of_labels_that_are_not_numbered_are_refused_in_one_line(models, tmp_path, names):
    folder = shutil.copytree(models / "CoLA", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": names}))
    with pytest.raises(RositaError, match="model/config.json: id2label must map numbers to names"):
        Labeller(folder)


def test_an_onnx_model_that_is_not_of_the_export_recorded_beside_it_is_refused(models, tmp_path):
    folder = shutil.copytree(models / "CoLA", tmp_path / "mixed")
    write_onnx(load_model(folder, GLUE["CoLA"]), folder, ["onnx"])
    assert Labeller(folder, "onnx")
    (folder / "export.json").write_text('{"files": {}}')
    with pytest.raises(RositaError, match="model.onnx is not of the export that export.json rec"):
        Labeller(folder, "onnx")
    assert Labeller(folder, "onnx", accept_changed=True)
    asked = Comparison("CoLA", ["pytorch", "onnx"], [1], [8], None)
    with pytest.raises(RositaError, match="model.onnx is not of the export that export.json rec"):
        open_formats("mixed", folder, tmp_path / "made", asked)
    both = open_formats("mixed", folder, tmp_path, replace(asked, accept_changed=True))
    assert [(one.form, one.folder) for one in both] == [("pytorch", folder), ("onnx", folder)]


def test_an_onnx_model_of_other_labels_than_its_config_names_is_refused(models, tmp_path):
    folder = shutil.copytree(models / "MNLI", tmp_path / "model")
    write_onnx(load_model(folder, GLUE["MNLI"]), folder, ["onnx"])
    assert len(list(Labeller(folder, "onnx").label([("a dog", "a cat")]))) == 1
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(RositaError, match="config.json names 2 labels, but the model has 3"):
        list(Labeller(folder, "onnx").label([("a dog", "a cat")]))


@pytest.mark.parametrize("name, texts", [("CoLA", ("a dog",)), ("STS-B", ("a dog", "a cat"))])
def test_an_answer_that_is_no_number_is_refused(models, monkeypatch, name, texts):
    labeller = Labeller(models / name)
    rows = [texts, tuple(f"{text} ran" for text in texts)]
    logits = labeller.model.logits
    monkeypatch.setattr(
        labeller.model, "logits", lambda **given: logits(**given) + [[0], [float("nan")]]
    )
    with pytest.raises(RositaError, match=f"{name} gives NaN or infinite logits"):
        list(labeller.label(rows))
