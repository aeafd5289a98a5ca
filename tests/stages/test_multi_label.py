"""A task whose rows have any number of labels goes through the stages; numbers against formulas."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import make_bert
from sklearn.metrics import f1_score
from transformers import pipeline

from rosita import api
from rosita.description import read_config
from rosita.distillation.losses import label_loss, sigmoid_prediction_loss
from rosita.errors import RositaError
from rosita.evaluation import mean_loss, prediction_texts, score
from rosita.tasks import Task

TASK = Task(name="Themes", labels=("pets", "music", "books"), metric="micro_f1", multi_label=True,
            text_columns=("text",), label_column="themes", train_file="train.jsonl",
            dev_files=("dev.tsv",), max_seq_length=32)  # fmt: skip
TRAINING = {"num_train_epochs": 12, "learning_rate": 3e-3}
WORDS = {"dog": "pets", "song": "music", "book": "books"}
TEXTS = ["the " + " ".join(words) for count in range(4) for words in combinations(WORDS, count)]


def themes(text):
    return [WORDS[word] for word in text.split() if word in WORDS]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("themes")
    lines = [json.dumps({"text": text, "themes": themes(text)}) for text in 6 * TEXTS]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    rows = [f"{text}\t{','.join(themes(text))}" for text in TEXTS]
    (folder / "dev.tsv").write_text("\n".join(["text\tthemes", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def teacher(data):
    start = api.load(make_bert(data / "bert"), TASK, new_classifier=True)
    return api.fine_tune(start, data, data / "ft", **TRAINING, per_gpu_train_batch_size=8)


def test_a_model_learns_which_labels_a_text_has_and_a_student_learns_them_from_it(data, teacher):
    assert api.evaluate(teacher, data).main > 0.8
    start = api.load(data / "bert", TASK, new_classifier=True, seed=7)
    student = api.distil(
        teacher, start, data, pred_distill=True, train_batch_size=8, num_train_epochs=12,
        learning_rate=1e-3, eval_step=72, dropout=0,
    )  # fmt: skip
    far = [(odds(one) - odds(teacher)).abs().mean() for one in (start, student)]
    assert far[1] < 0.5 * far[0]


@torch.no_grad()
def odds(model):
    """The probability of each label for each of the texts."""
    tokenizer = model.tokenizer.build()
    ids = [torch.tensor([tokenizer.encode(text).ids]) for text in TEXTS]
    return torch.cat([model.model.eval()(input_ids=one).logits for one in ids]).sigmoid()


def test_the_score_is_scikit_learns_micro_f1_and_the_loss_that_of_each_label(data):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(50, 3)), random.integers(2, size=(50, 3))
    found = score(TASK, logits, labels)
    assert found.main == pytest.approx(f1_score(labels, logits > 0, average="micro"))
    assert found.all["accuracy"] == ((logits > 0) == labels).all(axis=1).mean()
    assert score(TASK, np.full((2, 3), -1.0), np.zeros((2, 3))).main == 0
    odds = 1 / (1 + np.exp(-logits))
    entropy = -(labels * np.log(odds) + (1 - labels) * np.log(1 - odds))
    assert mean_loss(TASK, logits, labels) == pytest.approx(entropy.mean())
    ours = label_loss(torch.tensor(logits), torch.tensor(labels, dtype=torch.float64))
    assert ours.item() == pytest.approx(entropy.mean(axis=1).sum())
    soft, student = 1 / (1 + np.exp(-logits / 2)), random.normal(size=(50, 3))
    said = 1 / (1 + np.exp(-student / 2))
    expected = -(soft * np.log(said) + (1 - soft) * np.log(1 - said)).mean(axis=1).sum()
    ours = sigmoid_prediction_loss(torch.tensor(student), torch.tensor(logits), 2.0)
    assert ours.item() == pytest.approx(expected, rel=1e-5)
    assert prediction_texts(TASK, np.array([[1.0, -1, 2], [-1, -1, -1]])) == ["pets,books", ""]


def test_an_export_answers_with_every_label_as_transformers_pipeline_does(
    data, teacher, monkeypatch
):
    monkeypatch.setenv("HF_MODULES_CACHE", str(data / "modules"))
    report = api.export(teacher, data / "out", data, max_drop=1)
    assert report["formats"]["onnx"]["agreement"] == 1.0
    assert read_config(data / "out")["problem_type"] == "multi_label_classification"
    classify = pipeline("text-classification", str(data / "out"), trust_remote_code=True)
    text = "the dog song"
    theirs = {one["label"]: one["score"] for one in classify([text], top_k=None)[0]}
    chosen = [name for name in TASK.labels if theirs[name] > 0.5]
    for given in (teacher, data / "out"):
        (answer,) = api.label(given, [text])
        assert answer.label == ",".join(chosen)
        odds = [p if name in chosen else 1 - p for name, p in theirs.items()]
        assert answer.probability == pytest.approx(np.prod(odds), abs=1e-4)


def test_a_model_of_one_label_a_row_is_no_model_of_several_and_the_other_way_round(data, teacher):
    one = Task(name="Themes", labels=TASK.labels, metric="accuracy", text_columns=("text",))
    with pytest.raises(RositaError, match="gives several labels at once .* multi_label false"):
        api.load(data / "ft", one)
    path = data / "ft" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "problem_type": None}))
    with pytest.raises(RositaError, match="gives one label a row .* multi_label true"):
        api.load(data / "ft", TASK, accept_changed=True)
    path.write_text(json.dumps(config))


def test_a_label_that_is_none_of_the_tasks_is_named(data, tmp_path, teacher):
    (tmp_path / "dev.tsv").write_text("text\tthemes\nthe dog\tpets, musik\n")
    with pytest.raises(RositaError, match="line 2: label 'musik' is not one of .*'music'"):
        api.evaluate(teacher, tmp_path)
