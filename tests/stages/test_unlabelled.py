"""Distilling from texts without labels: only the teacher says what they are."""

import json

import pytest
from conftest import make_bert, sentences

from rosita import api
from rosita.errors import RositaError
from rosita.tasks import Task

TASK = Task(name="Mood", labels=("sad", "glad"), metric="accuracy", text_columns=("text",),
            label_column="mood", train_file="train.jsonl", dev_files=("dev.csv",),
            train_labelled=False, max_seq_length=32)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mood")
    lines = [json.dumps({"text": text}) for text in sentences(12)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    rows = [f"{text},{TASK.labels[i % 2]}" for i, text in enumerate(sentences(8, seed=1))]
    (folder / "dev.csv").write_text("\n".join(["text,mood", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def teacher(data):
    return api.load(make_bert(data / "bert"), TASK, new_classifier=True)


def test_a_student_learns_a_teachers_logits_from_texts_alone(data, teacher):
    def agreement(student):
        texts = sentences(12)
        given = (api.label(one, texts) for one in (teacher, student))
        return max(abs(a.probability - b.probability) for a, b in zip(*given, strict=True))

    start = api.load(data / "bert", TASK, new_classifier=True, seed=7)
    student = api.distil(teacher, start, data, pred_distill=True, num_train_epochs=60,
                         learning_rate=1e-3, eval_step=60, dropout=0)  # fmt: skip
    assert agreement(student) < 0.5 * agreement(start)


def test_what_needs_labels_is_refused(data, teacher):
    with pytest.raises(RositaError, match="label_weight needs labels, and Mood has none in train"):
        api.distil(teacher, teacher, data, pred_distill=True, label_weight=0.5)
    for stage in (api.fine_tune, api.score):
        with pytest.raises(RositaError, match="has no labels in train .* KD/train.py"):
            stage(teacher, data)
