"""Models from elsewhere go through all stages: as transformers 5 saves them, cased, with added
tokens and readable labels; a teacher of another width."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_bert, sentences, stage, vocabulary
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    Trainer,
    TrainingArguments,
)

from rosita import api
from rosita.checkpoint import TaskModel
from rosita.data.encode import encode_file
from rosita.errors import RositaError
from rosita.evaluation import predict as logits_of
from rosita.files import read_json
from rosita.tasks import GLUE

SST2 = GLUE["SST-2"]
NAMES = ["negative", "positive"]
fine_tune, prune = stage("Pruning/run_glue.py"), stage("Pruning/pruning_one_step.py")
distil, evaluate = stage("KD/train.py"), stage("KD/test.py")
export, predict = stage("Deploy/export.py"), stage("Deploy/predict.py")


@pytest.fixture
def data(tmp_path) -> Path:
    """SST-2 with capitals and an added token in its rows."""
    folder = tmp_path / "data" / "SST-2"
    folder.mkdir(parents=True)
    rows = [f"[E1] {text.capitalize()}" for text in sentences(40)]
    for name, part in (("train", rows[:24]), ("dev", rows[24:])):
        lines = [f"{text}\t{int(len(text) > 30)}\n" for text in part]
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    return folder


@pytest.fixture
def teacher(tmp_path) -> Path:
    """A cased classifier in bf16 and in shards, saved by transformers 5: no vocab.txt."""
    folder = tmp_path / "models" / "bert_ft" / "SST-2"
    (tmp_path / "vocab.txt").write_text("\n".join([*vocabulary(), "The", "A"]) + "\n")
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False)
    tokenizer.add_tokens(["[E1]"])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64, id2label=dict(enumerate(NAMES)),
        label2id={name: number for number, name in enumerate(NAMES)}, initializer_range=0.2,
    )  # fmt: skip
    model = BertForSequenceClassification(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="20KB")
    tokenizer.save_pretrained(folder)
    assert not (folder / "vocab.txt").exists() and not (folder / "model.safetensors").exists()
    return folder


def answers(folder: Path, capsys, tmp_path: Path) -> list[str]:
    """The labels that Deploy/predict.py gives two texts."""
    (tmp_path / "in.txt").write_text("[E1] The dog ran\n[E1] She never sings happy songs\n")
    capsys.readouterr()
    predict("--model", folder, "--input", tmp_path / "in.txt")
    return [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]


def test_a_model_that_transformers_5_saved_goes_through_every_stage_and_back(
    teacher, data, tmp_path, capsys
):
    models = teacher.parents[1]
    task = ("--task_name", "sst-2", "--data_dir", data, "--max_seq_length", 32, "--do_lower_case")
    names = ("--label_names", ",".join(NAMES))
    with pytest.raises(RositaError, match="--label_names negative,positive"):
        fine_tune(*task, "--model_name_or_path", teacher, "--compute_taylor", "True")
    fine_tune(*task, *names, "--model_name_or_path", teacher, "--compute_taylor", "True")
    prune("-model_path", models / "bert_ft", "-task", "SST-2", "-output_dir", models / "cut",
          *names, "-keep_heads", 2, "-num_layers", 2, "-ffn_hidden_dim", 20,
          "-emb_hidden_dim", 8)  # fmt: skip
    student = models / "setting1"
    distil(*task, *names, "--teacher_model", teacher, "--student_model",
           models / "cut" / "SST-2" / "a2_l2_f20_e8", "--output_dir", student, "--pred_distill",
           "--repr_distill", "--num_train_epochs", 1)  # fmt: skip
    assert "a cased model, and it stays so: --do_lower_case" in capsys.readouterr().err

    evaluate(*task, "--student_model", student, "--do_eval")
    evaluate(*task, *names, "--student_model", teacher, "--do_eval")
    export("--model", student, "--output_dir", models / "export", "--data_dir", data,
           "--formats", "hf", "--max_drop", 1)  # fmt: skip
    assert read_json(models / "export" / "export.json")["labels"] == NAMES
    assert "Labels: negative, positive." in (models / "export" / "README.md").read_text()
    for folder in (teacher, student, models / "export"):
        assert set(answers(folder, capsys, tmp_path)) <= set(NAMES)
        ids = AutoTokenizer.from_pretrained(folder)("[E1] The Dog")["input_ids"]
        assert (
            TaskModel.open(folder, SST2, label_names=",".join(NAMES))
            .tokenizer.build()
            .encode("[E1] The Dog")
            .ids
            == ids
        )

    again = trained_by_transformers(models / "export", tmp_path)
    before, after = (TaskModel.open(folder, SST2) for folder in (models / "export", again))
    assert (after.shape, after.labels) == (before.shape, NAMES)
    assert after.tokenizer.difference(before.tokenizer) is None
    oracle = AutoModelForSequenceClassification.from_pretrained(again).eval()
    ids = torch.arange(5, 25).view(2, 10)
    torch.testing.assert_close(after.model.eval()(ids).logits, oracle(ids).logits)
    assert not torch.equal(after.model(ids).logits, before.model.eval()(ids).logits)


def trained_by_transformers(export: Path, tmp_path: Path) -> Path:
    """Two steps of transformers' Trainer from an export, saved by save_model."""
    model = AutoModelForSequenceClassification.from_pretrained(export, trust_remote_code=True)
    settings = TrainingArguments(
        str(tmp_path / "trainer"), max_steps=2, learning_rate=1e-3, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, per_device_train_batch_size=2,
    )  # fmt: skip
    rows = [{"input_ids": [2, 7 + number, 9, 3], "labels": number % 2} for number in range(8)]
    tokenizer = AutoTokenizer.from_pretrained(export)
    trainer = Trainer(model, settings, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "again"))
    return tmp_path / "again"


def test_a_finished_run_is_not_that_of_its_labels_in_another_order(teacher, data, tmp_path, capsys):
    command = ("--task_name", "sst-2", "--data_dir", data, "--max_seq_length", 32, "--do_train",
               "--model_name_or_path", teacher, "--output_dir", tmp_path / "tuned", "--max_steps",
               2, "--label_names")  # fmt: skip
    fine_tune(*command, ",".join(NAMES))
    fine_tune(*command, ",".join(NAMES))
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(RositaError, match="holds another run"):
        fine_tune(*command, ",".join(reversed(NAMES)))


@pytest.fixture
def pair(tmp_path) -> dict[str, TaskModel]:
    """A teacher of another width and depth than the student, with the same tokenizer."""
    sizes = {"teacher": {"hidden_size": 48, "num_hidden_layers": 2}, "student": {}}
    return {
        role: api.load(make_bert(tmp_path / role, **more), SST2, new_classifier=True)
        for role, more in sizes.items()
    }


def test_a_teacher_of_another_width_teaches_its_logits_from_the_cache(pair, data, tmp_path):
    settings = {"num_train_epochs": 1, "max_seq_length": 32, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(RositaError) as error:
        api.distil(
            pair["teacher"], pair["student"], data, pred_distill=True, repr_distill=True, **settings
        )
    assert "has hidden_size 48, student" in str(error.value)
    assert "its logits alone: --pred_distill True --repr_distill False" in str(error.value)

    with pytest.raises(RositaError, match="layer_map last needs a teacher of as many layers"):
        api.distil(api.load(make_bert(tmp_path / "flat", num_hidden_layers=2), SST2,
                            new_classifier=True), pair["student"], data, repr_distill=True,
                   layer_map="last", **settings)  # fmt: skip

    student = api.distil(pair["teacher"], pair["student"], data, pred_distill=True, **settings)

    assert student.shape == pair["student"].shape
    [kept] = (tmp_path / "cache").glob("*/logits-*.npy")
    assert not list((tmp_path / "cache").glob("*/states-*.npy"))
    train = encode_file(data / "train.tsv", SST2, pair["teacher"].tokenizer, 32)
    expected = logits_of(pair["teacher"].model, train, 8)
    np.testing.assert_allclose(np.load(kept), expected, atol=0.05)  # it may run in bf16


def test_a_temperature_is_refused_where_there_are_no_logits_of_labels(tmp_path):
    bert = make_bert(tmp_path / "bert")
    two = [api.load(bert, "STS-B", new_classifier=True) for _ in range(2)]
    with pytest.raises(RositaError, match="STS-B is a regression; leave it out"):
        api.distil(*two, tmp_path, pred_distill=True, temperature=2.0, max_seq_length=32)


def test_a_teacher_that_reads_texts_otherwise_or_shorter_ones_is_refused(pair, data, tmp_path):
    folder = tmp_path / "cased"
    pair["teacher"].save(folder)
    spec = read_json(folder / "tokenizer.json")
    spec["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(RositaError, match=r"read texts otherwise: 'A' is .* to the one, "):
        api.distil(api.load(folder, SST2), pair["student"], data, pred_distill=True)
    short = make_bert(tmp_path / "short", max_position_embeddings=16)
    with pytest.raises(RositaError, match="the model has 16 positions"):
        api.distil(api.load(short, SST2, new_classifier=True), pair["student"], data,
                   pred_distill=True, max_seq_length=32)  # fmt: skip
