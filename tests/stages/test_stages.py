"""Every stage script on every GLUE task, each next stage opening what the last one wrote."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import string
import zipfile
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from conftest import error_line, make_bert, run_script, sentences, stage, write_cola

from rosita import api
from rosita.augmentation.file import write_subsets
from rosita.checkpoint import load_model, save_model
from rosita.data.encode import encode_file
from rosita.deploy.labelling import Labeller
from rosita.errors import RositaError
from rosita.evaluation import predict
from rosita.files import read_json, sha256_file
from rosita.pruning.shape import Shape
from rosita.stages.identity import check_augmented, train_file_names
from rosita.tasks import GLUE, Task
from rosita.tokenizer import read_tokenizer
from rosita.training import loop
from rosita.training.state import save_state

SHAPE = "a2_l2_f20_e8"
PUBLISHED_METRICS = {  # the keys of the published eval_results.txt
    "matthews": ["mcc"],
    "accuracy": ["acc"],
    "accuracy_and_f1": ["acc", "f1", "acc_and_f1"],
    "pearson_and_spearman": ["pearson", "spearmanr", "corr"],
}


fine_tune, prune = stage("Pruning/run_glue.py"), stage("Pruning/pruning_one_step.py")
distil, evaluate = stage("KD/train.py"), stage("KD/test.py")


def write_task(folder: Path, task: Task, rows: int = 24) -> None:
    """The files in GLUE's layout: as many columns as the table reads, labels in turn."""
    folder.mkdir(parents=True)
    kinds = [(task.train_file, True), *((name, True) for name in task.dev_files)]
    kinds += [(name, False) for name in task.test_files]
    for seed, (name, labelled) in enumerate(kinds):
        columns = task.text_columns_of(Path(name))
        label = task.label_column if labelled else max(columns)
        width = max(*columns, label, 0) + (2 if labelled and label == -1 else 1)
        lines = []
        if task.header or not labelled:
            lines.append("\t".join(f"column{number}" for number in range(width)))
        for number, text in enumerate(sentences(rows, seed)):
            fields = ["x"] * width
            for column in columns:
                fields[column] = " ".join(reversed(text.split())) if column % 2 else text
            if labelled:
                labels = task.labels or [f"{value:.2f}" for value in np.linspace(0, 5, 7)]
                fields[label] = labels[number % len(labels)]
            lines.append("\t".join(fields))
        (folder / name).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", sorted(GLUE))
def test_all_stages_of_a_setting_work_on_every_glue_task(tmp_path, name, capsys):
    task = GLUE[name]
    data, models = tmp_path / "data" / name, tmp_path / "models"
    write_task(data, task)
    bert = make_bert(models / "bert_pt")
    common = ("--task_name", name.lower(), "--data_dir", data, "--max_seq_length", 32)
    fp32 = ("--precision", "fp32")  # in bf16 a near-tie of the 24 rows may turn

    tuned = models / "bert_ft" / name
    fine_tune(*common, "--model_name_or_path", bert, "--do_train", "--num_train_epochs", 1,
              "--output_dir", tuned, "--learning_rate", "1e-3", "--do_eval", *fp32)  # fmt: skip
    fine_tune(*common, *fp32, "--model_name_or_path", tuned, "--compute_taylor", "True")
    prune("-model_path", models / "bert_ft", "-output_dir", models / "cut", "-task", name,
          "-keep_heads", 2, "-num_layers", 2, "-ffn_hidden_dim", 20,
          "-emb_hidden_dim", 8)  # fmt: skip
    shutil.copy(data / "train.tsv", data / "train_aug.tsv")
    distil(*common, "--teacher_model", tuned, "--student_model", models / "cut" / name / SHAPE,
           "--pred_distill", "--repr_distill", "--aug_train", "--num_train_epochs", 2, *fp32,
           "--output_dir", models / "kd" / name)  # fmt: skip
    evaluate(*common, "--student_model", models / "kd" / name, "--do_eval", "--do_predict",
         "--submission_dir", models / "submission")  # fmt: skip

    run = json.loads((models / "kd" / name / "run.json").read_text())
    assert run["finished"] and run["shape"] == SHAPE and run["task"] == name
    for suffix, file in task.split_names("test").items():
        path = models / "kd" / name / f"test_results_{name.lower()}{suffix}.txt"
        lines = path.read_text().splitlines()
        assert lines[0] == "index\tprediction" and len(lines) == 25, file
        for number, line in enumerate(lines[1:]):
            index, value = line.split("\t")
            assert int(index) == number
            assert value in task.labels if task.labels else 0 <= float(value) <= 5
    names = {"rows", "eval_loss", *PUBLISHED_METRICS[task.metric]}
    for suffix in task.split_names("dev"):
        for folder, stem in ((models / "kd" / name, "eval_results"),
                             (tuned, f"eval_results_{name.lower()}")):  # fmt: skip
            results = json.loads((folder / f"{stem}{suffix}.json").read_text())
            assert set(results) >= {"metric", "score", *names}
            lines = (folder / f"{stem}{suffix}.txt").read_text().splitlines()
            written = dict(line.split(" = ") for line in lines)
            assert all(float(written[key]) == results[key] for key in names)
    # the dev score in run.json is that of the weights in the folder
    model = load_model(models / "kd" / name, task).eval()
    dev = encode_file(data / task.dev_files[0], task, read_tokenizer(bert), 32)
    logits = predict(model, dev, 1)
    if task.labels and task.metric != "matthews":
        accuracy = (logits.argmax(1) == dev.labels).mean()
        assert run["dev_score"] == pytest.approx(accuracy)
    loss = torch.nn.functional.mse_loss if task.is_regression else torch.nn.functional.cross_entropy
    outputs = torch.from_numpy(logits).double().squeeze(1)
    expected = loss(outputs, torch.tensor(np.array(dev.labels))).item()
    results = json.loads((models / "kd" / name / "eval_results.json").read_text())
    assert results["eval_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rate, learns", [("1e-3", True), ("1e-30", False)])
def test_a_regression_that_first_answers_every_row_alike_is_trained_on(
    tmp_path, capsys, rate, learns
):
    task = GLUE["STS-B"]
    data = tmp_path / "data"
    write_task(data, task)
    start = load_model(make_bert(tmp_path / "bert"), task, new_classifier=True)
    torch.nn.init.zeros_(start.classifier.weight), torch.nn.init.ones_(start.classifier.bias)
    save_model(tmp_path / "flat", start, read_tokenizer(tmp_path / "bert"), task)
    # the warm-up's first step has the rate 0
    flags = ("--task_name", "sts-b", "--data_dir", data, "--model_name_or_path", tmp_path / "flat",
             "--max_seq_length", 32, "--learning_rate", rate, "--warmup_steps", 2)  # fmt: skip
    fine_tune(*flags, "--do_train", "--num_train_epochs", 3, "--output_dir", tmp_path / "tuned",
              "--evaluate_during_training", "--logging_steps", 1)  # fmt: skip
    run = json.loads((tmp_path / "tuned" / "run.json").read_text())
    first, *others = [entry for entry in run["history"] if "score" in entry]
    assert run["finished"] and (first["score"], first["collapsed"]) == (-1.0, True)
    assert "all predictions are the same" in capsys.readouterr().out
    if learns:
        assert "collapsed" not in run["best"] and run["dev_score"] > -1
        return
    assert others and all(entry["collapsed"] for entry in others) and run["best"]["collapsed"]
    with pytest.raises(RositaError, match="all predictions are the same"):
        fine_tune(*flags[:4], "--model_name_or_path", tmp_path / "tuned", "--do_eval",
                  "--max_seq_length", 32)  # fmt: skip


def test_dev_labels_that_are_all_the_same_stay_an_error(tmp_path):
    write_task(tmp_path / "data", GLUE["STS-B"], rows=1)
    make_bert(tmp_path / "bert")
    with pytest.raises(RositaError, match="all labels are the same"):
        fine_tune("--task_name", "sts-b", "--data_dir", tmp_path / "data", "--model_name_or_path",
                  tmp_path / "bert", "--do_train", "--max_steps", 1, "--output_dir",
                  tmp_path / "tuned", "--max_seq_length", 32)  # fmt: skip


def test_the_submission_zip_holds_every_file_that_the_glue_server_wants(tmp_path):
    from rosita.stages.test import collect_submission

    wanted = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI",
              "AX"]  # fmt: skip
    for name in wanted:
        result = tmp_path / f"{name}.txt"
        result.write_text("index\tprediction\n0\t1\n")
        collect_submission(tmp_path / "sub", {f"{name}.tsv": result})
    with zipfile.ZipFile(tmp_path / "sub" / "submission.zip") as box:
        assert sorted(box.namelist()) == sorted(f"{name}.tsv" for name in wanted)


def test_mnli_also_predicts_the_diagnostic_set_that_a_submission_needs(tmp_path):
    data = tmp_path / "data" / "MNLI"
    write_task(data, GLUE["MNLI"])
    diagnostic = tmp_path / "data" / "diagnostic"
    diagnostic.mkdir()
    (diagnostic / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\ta dog\ta cat\n")
    bert = make_bert(tmp_path / "bert")
    fine_tune("--task_name", "mnli", "--data_dir", data, "--model_name_or_path", bert,
              "--do_train", "--max_steps", 1, "--output_dir", tmp_path / "ft",
              "--max_seq_length", 32)  # fmt: skip
    evaluate("--task_name", "mnli", "--data_dir", data, "--student_model", tmp_path / "ft",
         "--do_predict", "--max_seq_length", 32)  # fmt: skip
    lines = (tmp_path / "ft" / "test_results_ax.txt").read_text().splitlines()
    assert len(lines) == 2 and lines[1].split("\t")[1] in GLUE["MNLI"].labels


def shape_flags(**cut: int) -> list[object]:
    """The pruner's flags for the tiny BERT, of which only `cut` is cut."""
    shape = {"keep_heads": 4, "num_layers": 3, "ffn_hidden_dim": 48, "emb_hidden_dim": -1} | cut
    return [part for name, value in shape.items() for part in (f"-{name}", value)]


class Chain:
    """A tuned and scored teacher on a tiny CoLA, and the flags that every call needs."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.data = write_cola(folder / "data" / "CoLA")
        self.bert = make_bert(self.models / "bert_pt")
        self.common = ("--task_name", "CoLA", "--data_dir", self.data)
        self.tuned = self.models / "bert_ft" / "CoLA"
        self.fine_tune()

    def fine_tune(self, *more: object) -> None:
        fine_tune(*self.common, "--model_name_or_path", self.bert, "--do_train",
                  "--num_train_epochs", 1, "--output_dir", self.tuned, *more)  # fmt: skip

    def score(self, *more: object) -> None:
        fine_tune(*self.common, "--model_name_or_path", self.tuned, "--compute_taylor", *more)

    def prune(self, heads: int = 2, **paths: Path) -> None:
        prune("-model_path", paths.get("source", self.models / "bert_ft"), "-task", "CoLA",
              "-output_dir", self.models / "cut", *shape_flags(keep_heads=heads))  # fmt: skip

    def distil(self, *more: object) -> None:
        distil(*self.common, "--teacher_model", self.tuned, "--student_model", self.tuned,
               "--pred_distill", "--num_train_epochs", 1, "--output_dir", self.models / "kd",
               *more)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def chain(shared, tmp_path) -> Chain:
    """A copy that a test may harm."""
    shutil.copytree(shared.models.parent, tmp_path / "chain")
    copy = object.__new__(Chain)
    root = tmp_path / "chain"
    copy.models, copy.data = root / "models", root / "data" / "CoLA"
    copy.bert, copy.tuned = copy.models / "bert_pt", copy.models / "bert_ft" / "CoLA"
    copy.common = ("--task_name", "CoLA", "--data_dir", copy.data)
    return copy


def test_a_finished_stage_starts_nothing_and_another_run_is_not_overwritten(chain, capsys):
    weights = (chain.tuned / "model.safetensors").read_bytes()
    chain.fine_tune()
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(RositaError, match="learning_rate: 2e-05 there, 0.001 now"):
        chain.fine_tune("--learning_rate", "1e-3")
    assert (chain.tuned / "model.safetensors").read_bytes() == weights
    chain.fine_tune("--learning_rate", "1e-3", "--overwrite_output_dir")
    assert (chain.tuned / "model.safetensors").read_bytes() != weights


def test_changed_data_are_another_run(chain):
    with open(chain.data / "train.tsv", "a", encoding="utf-8") as file:
        file.write("x\t1\t\tthe small dog ran\n")
    with pytest.raises(RositaError, match="data.train"):
        chain.fine_tune()


def cut_off(folder: Path) -> None:
    """Have a finished run look as if it had been killed."""
    run = read_json(folder / "run.json") | {"finished": False}
    (folder / "run.json").write_text(json.dumps(run))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("file, old, new, named", [
    ("config.json", '"hidden_act": "gelu"', '"hidden_act": "relu"', "configs.model"),
    ("vocab.txt", "dog\ncat\n", "cat\ndog\n", "tokenizers.model"),
])  # fmt: skip
def test_a_run_is_not_gone_on_with_from_a_model_edited_since(chain, file, old, new, named):
    cut_off(chain.tuned)
    edit(chain.bert / file, old, new)
    with pytest.raises(RositaError, match=f"holds another run .{named}: "):
        chain.fine_tune()


def test_columns_of_the_users_task_edited_since_are_another_run(chain):
    words = {"name": "mine", "labels": ["0", "1"], "metric": "accuracy", "label_column": 1,
             "text_columns": [3], "header": False, "max_seq_length": 32}  # fmt: skip
    path = chain.models / "mine.json"
    flags = ("--data_dir", chain.data, "--model_name_or_path", chain.bert, "--do_train",
             "--max_steps", 1, "--output_dir", chain.models / "mine")  # fmt: skip
    path.write_text(json.dumps(words))
    fine_tune("--task_name", path, *flags)
    path.write_text(json.dumps(words | {"text_columns": [0]}))
    with pytest.raises(RositaError, match="rows.text_columns"):
        fine_tune("--task_name", path, *flags)


def test_a_run_json_of_before_these_hashes_is_finished_and_a_parent_as_ever(chain, capsys):
    run = read_json(chain.tuned / "run.json")
    run["identity"] = {
        key: value
        for key, value in run["identity"].items()
        if key in ("stage", "task", "labels", "processes", "settings", "parents", "data")
    }
    (chain.tuned / "run.json").write_text(json.dumps(run))
    capsys.readouterr()
    chain.fine_tune()
    assert "finished already" in capsys.readouterr().out
    chain.distil()
    assert read_json(chain.models / "kd" / "run.json")["finished"]


def test_a_run_of_before_a_setting_was_there_is_this_run_at_its_default(chain, capsys):
    path = chain.tuned / "run.json"
    run = read_json(path)
    del run["identity"]["settings"]["clip"]
    path.write_text(json.dumps(run))
    capsys.readouterr()
    chain.fine_tune()
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(RositaError, match="settings.clip: absent there, tensor now"):
        chain.fine_tune("--clip", "tensor")


def test_pruning_wants_the_scores_of_this_very_model(chain):
    with pytest.raises(RositaError, match="no taylor_score/taylor.pkl; create it with"):
        chain.prune()
    chain.score()
    chain.prune()
    chain.fine_tune("--learning_rate", "1e-3", "--overwrite_output_dir")
    chain.score()  # overwriting the model took the old scores away
    old = chain.models / "old"
    shutil.copytree(chain.tuned, old / "CoLA")
    with torch.no_grad():
        model = load_model(old / "CoLA", GLUE["CoLA"])
        model.classifier.bias += 1
        save_model(old / "CoLA", model, read_tokenizer(old / "CoLA"), GLUE["CoLA"])
    with pytest.raises(RositaError, match="model.safetensors has changed since .*--accept_chan"):
        chain.prune(heads=1, source=old)
    with pytest.raises(RositaError, match="scores of other weights"):
        prune("-model_path", old, "-task", "CoLA", "-output_dir", chain.models / "cut",
              *shape_flags(keep_heads=1), "--accept_changed")  # fmt: skip


def test_layers_are_dropped_without_scores(chain):
    prune("-model_path", chain.models / "bert_ft", "-task", "CoLA", "-output_dir",
          chain.models / "cut", *shape_flags(num_layers=2))  # fmt: skip
    assert (chain.models / "cut" / "CoLA" / "a4_l2_f48_e-1" / "model.safetensors").exists()


def test_a_shape_flag_left_out_of_the_pruner_has_the_published_value(tmp_path, capsys):
    wide = make_bert(tmp_path / "pt", hidden_size=132, num_hidden_layers=9, num_attention_heads=3,
                     intermediate_size=520)  # fmt: skip
    data = write_cola(tmp_path / "data" / "CoLA")
    tuned = tmp_path / "bert_ft" / "CoLA"
    common = ("--task_name", "CoLA", "--data_dir", data, "--max_steps", 1)
    fine_tune(*common, "--model_name_or_path", wide, "--do_train", "--output_dir", tuned)
    fine_tune(*common, "--model_name_or_path", tuned, "--compute_taylor", "True")
    flags = ("-model_path", tmp_path / "bert_ft", "-task", "CoLA", "-output_dir", tmp_path / "cut")
    prune(*flags)
    prune(*flags, "-emb_hidden_dim", -1, "-keep_heads", 3)
    made = {path.name for path in (tmp_path / "cut" / "CoLA").iterdir()}
    assert made == {"a2_l8_f512_e128", "a3_l8_f512_e-1"}
    folder = tmp_path / "cut" / "CoLA" / "a2_l8_f512_e128"
    assert str(Shape.of(load_model(folder, GLUE["CoLA"]).config)) == "a2_l8_f512_e128"
    with pytest.raises(SystemExit):
        prune("--help")
    text = " ".join(capsys.readouterr().out.split())
    for words in ("heads per layer to keep (default: 2)", "first layers to keep (default: 8)",
                  "FFN units per layer to keep (default: 512)",
                  "rank of the embedding, -1: not factorized (default: 128)"):  # fmt: skip
        assert words in text


def test_a_published_size_that_the_model_has_not_is_said_to_stand_for_a_flag_left_out(chain):
    flags = ("-model_path", chain.models / "bert_ft", "-task", "CoLA", "-output_dir",
             chain.models / "cut", "-keep_heads", 2, "-emb_hidden_dim", 8)  # fmt: skip
    with pytest.raises(RositaError) as caught:
        prune(*flags)
    assert str(caught.value) == (
        "cannot cut a2_l8_f512_e8 out of a4_l3_f48_e-1: keep_layers 8 must lie in 1..3;"
        " ffn_hidden_dim 512 must lie in 1..48"
        " (left out, so as published: -num_layers 8 -ffn_hidden_dim 512)"
    )


def test_baselines_need_no_taylor_scores_and_keep_what_they_say(chain):
    def cut(name: str, *flags: object):
        prune("-model_path", chain.models / "bert_ft", "-task", "CoLA", "-output_dir",
              chain.models / name, *shape_flags(keep_heads=2), *flags)  # fmt: skip
        folder = chain.models / name / "CoLA" / "a2_l3_f48_e-1"
        return folder, load_model(folder, GLUE["CoLA"]).state_dict()

    out = "bert.encoder.layer.0.attention.output.dense.weight"
    whole = load_model(chain.tuned, GLUE["CoLA"]).state_dict()
    columns = whole[out].view(32, 4, 8)
    largest = columns.abs().sum(dim=(0, 2)).argsort()[-2:].sort().values
    _, found = cut("magnitude", "-importance", "magnitude")
    torch.testing.assert_close(found[out].view(32, 2, 8), columns[:, largest])

    heads = set()
    for seed in range(8):
        folder, _ = cut(f"random{seed}", "-importance", "random", "-seed", seed)
        heads.add(tuple(read_json(folder / "run.json")["history"][0]["layers"][0]["heads"]))
    assert len(heads) > 1

    _, found = cut("scratch", "-from_scratch")
    name = "bert.embeddings.word_embeddings.weight"
    assert found[name].std() == pytest.approx(0.02, rel=0.1)  # BERT's initializer_range
    assert not torch.equal(found[name], whole[name])


def test_a_model_to_prune_is_named_by_the_folder_of_its_task_or_by_its_own(chain):
    def cut(source: Path, name: str) -> bytes:
        prune("-model_path", source, "-task", "CoLA", *shape_flags(num_layers=2),
              "-output_dir", chain.models / name)  # fmt: skip
        return (chain.models / name / "CoLA" / "a4_l2_f48_e-1" / "model.safetensors").read_bytes()

    assert cut(chain.tuned.parent, "published") == cut(chain.tuned, "direct")
    (chain.tuned / "CoLA").mkdir()  # as published: TASK within, where it is there
    with pytest.raises(RositaError, match="CoLA/CoLA "):
        cut(chain.tuned, "within")
    assert not (chain.models / "within").exists()


def test_the_layers_that_score_most_are_kept_if_asked(chain):
    chain.score()
    path = chain.tuned / "taylor_score" / "taylor.pkl"
    scores = torch.load(path)
    for name in scores:
        scores[name] *= 1 if ".layer.0." in name else 100
    torch.save(scores, path)
    prune("-model_path", chain.models / "bert_ft", "-task", "CoLA", *shape_flags(num_layers=2),
          "-output_dir", chain.models / "cut", "-keep_layers_by", "score",
          "--accept_changed")  # fmt: skip
    found = load_model(chain.models / "cut" / "CoLA" / "a4_l2_f48_e-1", GLUE["CoLA"]).state_dict()
    whole = load_model(chain.tuned, GLUE["CoLA"]).state_dict()
    for new, old in ((0, 1), (1, 2)):
        name = "bert.encoder.layer.{}.output.dense.weight"
        torch.testing.assert_close(found[name.format(new)], whole[name.format(old)])


def test_an_untuned_teacher_a_pruned_one_and_one_of_another_task_are_refused(chain):
    with pytest.raises(RositaError, match="no classifier: it is not tuned on CoLA"):
        chain.distil("--teacher_model", chain.bert)
    chain.score()
    chain.prune()
    with pytest.raises(RositaError, match="not trained since"):
        chain.distil("--teacher_model", chain.models / "cut" / "CoLA" / "a2_l3_f48_e-1")
    with pytest.raises(RositaError, match="made for CoLA, not for SST-2"):
        distil("--task_name", "sst-2", "--teacher_model", chain.tuned, "--student_model",
               chain.tuned, "--pred_distill", "--output_dir", chain.models / "x",
               "--data_dir", chain.data)  # fmt: skip


def one_step_config(chain, student: str) -> Path:
    """A config like Setting 1's for the pruned shape of `Chain.prune`, naming `student`."""
    section = {"teacher_model": str(chain.tuned), "student_model": str(chain.models / student),
               "output_dir": str(chain.models / "setting1"), "data_dir": str(chain.data),
               "keep_heads": 2, "keep_layers": 3, "ffn_hidden_dim": 48, "emb_hidden_dim": -1,
               "pred_distill": True, "num_train_epochs": 1}  # fmt: skip
    path = chain.models / "config.json"
    path.write_text(json.dumps({"default": section}))
    return path


def test_a_config_that_names_a_student_trained_since_it_was_pruned_is_refused(chain, capsys):
    chain.score()
    chain.prune()
    cut = "cut/CoLA/a2_l3_f48_e-1"
    on_labels = chain.models / "one_step_prun"
    fine_tune(*chain.common, "--model_name_or_path", chain.models / cut, "--do_train",
              "--is_prun", "True", "--max_steps", 2, "--output_dir", on_labels)  # fmt: skip
    config = one_step_config(chain, "one_step_prun")
    with pytest.raises(RositaError) as caught:
        distil("--task_name", "CoLA", "--config_dir", config)
    assert str(caught.value) == (
        f"{config}: the student {os.path.relpath(on_labels)} was trained since it was pruned"
        " (stage fine_tune); this setting starts from the output of pruning_one_step.py,"
        " models/prun_bert or models/prun_bert_student: make student_model that, or type"
        " --student_model to train this one further"
    )
    assert not (chain.models / "setting1").exists()

    distil("--task_name", "CoLA", "--config_dir", one_step_config(chain, cut))
    printed = capsys.readouterr().out
    assert "best dev" in printed and "was trained" not in printed
    with pytest.raises(RositaError, match=r"trained since it was pruned \(stage distil\)"):
        distil("--task_name", "CoLA", "--config_dir", one_step_config(chain, "setting1"),
               "--output_dir", chain.models / "x")  # fmt: skip


def test_a_trained_student_that_the_command_line_names_is_announced_and_trained(chain, capsys):
    chain.score()
    chain.prune()
    config = one_step_config(chain, "cut/CoLA/a2_l3_f48_e-1")
    distil("--task_name", "CoLA", "--config_dir", config)
    student = chain.models / "setting1"
    capsys.readouterr()
    distil("--task_name", "CoLA", "--config_dir", config, "--student_model", student,
           "--output_dir", chain.models / "further")  # fmt: skip
    printed = capsys.readouterr().out
    assert (
        f"{student} was trained since it was pruned (stage distil); this run trains it further\n"
    ) in printed
    assert read_json(chain.models / "further" / "run.json")["finished"]


def test_do_eval_of_the_kd_script_scores_the_student_beside_it_and_trains_nothing(chain, capsys):
    before = {path.name: path.read_bytes() for path in chain.tuned.glob("*.*")}
    distil(*chain.common, "--student_model", chain.tuned, "--do_eval")
    results = read_json(chain.tuned / "eval_results.json")
    run = read_json(chain.tuned / "run.json")
    assert results["score"] == pytest.approx(run["dev_score"], abs=1e-6)
    assert "matthews = " in (chain.tuned / "eval_results.txt").read_text()
    after = {path.name: path.read_bytes() for path in chain.tuned.glob("*.*")}
    assert {name: after[name] for name in before} == before
    assert f"{chain.tuned} is scored on dev, nothing is trained\n" in capsys.readouterr().out


def test_do_eval_with_a_config_writes_to_a_typed_output_dir_alone(chain):
    config = one_step_config(chain, "bert_ft/CoLA")
    distil("--task_name", "CoLA", "--config_dir", config, "--do_eval", "True")
    assert not (chain.models / "setting1").exists()  # it is where training puts its student
    (chain.tuned / "eval_results.json").unlink()
    distil("--task_name", "CoLA", "--config_dir", config, "--do_eval",
           "--output_dir", chain.models / "scores")  # fmt: skip
    made = {path.name for path in (chain.models / "scores").iterdir()}
    assert made == {"eval_results.json", "eval_results.txt"}
    assert not (chain.tuned / "eval_results.json").exists()


def test_do_eval_refuses_what_it_would_ignore(chain):
    flags = (*chain.common, "--student_model", chain.tuned, "--do_eval")
    with pytest.raises(RositaError, match="no more: leave --compute_taylor out"):
        distil(*flags, "--compute_taylor")
    with pytest.raises(RositaError, match="no more: leave --dry_run out"):
        distil(*flags, "--dry_run")
    with pytest.raises(RositaError, match="--student_model is needed"):
        distil(*chain.common, "--do_eval")
    with pytest.raises(RositaError, match="--do_eval: invalid choice: 'Yes'"):
        distil(*flags, "yes")


def test_a_test_file_with_a_row_too_short_is_given_no_predictions_of_other_rows(tmp_path):
    bert, rows = make_bert(tmp_path / "bert"), ["0\tthe dog\ta cat", "1\tthe dog", "2\ta song\tshe"]
    model = api.load(bert, "QQP", new_classifier=True).save(tmp_path / "qqp").path
    predict = ("--task_name", "QQP", "--student_model", model, "--data_dir", tmp_path,
               "--do_predict", "--max_seq_length", 16)  # fmt: skip
    head = "id\tquestion1\tquestion2"
    (tmp_path / "test.tsv").write_text("\n".join([head, *rows]) + "\n")
    with pytest.raises(RositaError, match="test.tsv has 1 rows too short to be predicted"):
        evaluate(*predict)
    assert not (tmp_path / "qqp" / "test_results_qqp.txt").exists()
    rows[1] += "\ta bird"
    (tmp_path / "test.tsv").write_text("\n".join([head, *rows]) + "\n")
    evaluate(*predict)
    answers = api.label(model, [tuple(row.split("\t")[1:]) for row in rows], max_seq_length=16)
    expected = [f"{number}\t{answer.label}" for number, answer in enumerate(answers)]
    written = (tmp_path / "qqp" / "test_results_qqp.txt").read_text().splitlines()
    assert written == ["index\tprediction", *expected]


def test_a_checkpoint_is_scored_at_the_length_and_on_the_task_that_its_run_trained(chain, tmp_path):
    tuned = tmp_path / "tuned"
    fine_tune(*chain.common, "--model_name_or_path", chain.bert, "--do_train", "--max_steps", 2,
              "--save_steps", 2, "--max_seq_length", 5, "--output_dir", tuned)  # fmt: skip
    scored = []
    for model in (tuned, tuned / "checkpoint-2"):  # of the last step: the same weights
        task = ("--task_name", "CoLA", "--data_dir", chain.data, "--do_eval")
        fine_tune(*task, "--model_name_or_path", model, "--output_dir", tmp_path / "scores")
        scored.append(read_json(tmp_path / "scores" / "eval_results_cola.json"))
    assert scored[0] == scored[1]
    whole = ("--max_seq_length", 16, "--output_dir", tmp_path / "whole")
    fine_tune(*task, "--model_name_or_path", model, *whole)
    assert read_json(tmp_path / "whole" / "eval_results_cola.json") != scored[0]
    with pytest.raises(RositaError, match="was made for CoLA, not for SST-2"):
        api.load(model, "SST-2")


def test_a_teacher_of_another_width_is_refused_with_both_sizes(chain):
    wide = make_bert(chain.models / "wide_pt", hidden_size=40)
    fine_tune(*chain.common, "--model_name_or_path", wide, "--do_train", "--max_steps", 1,
              "--output_dir", chain.models / "wide")  # fmt: skip
    with pytest.raises(RositaError, match="hidden_size 40.*has 32"):
        chain.distil("--teacher_model", chain.models / "wide", "--repr_distill")


def test_a_model_of_a_run_that_was_cut_off_is_not_a_parent(chain):
    run = json.loads((chain.tuned / "run.json").read_text()) | {"finished": False}
    (chain.tuned / "run.json").write_text(json.dumps(run))
    with pytest.raises(RositaError, match="was cut off; run its command again"):
        chain.distil()


def test_starting_afresh_removes_what_an_export_had_there_and_no_file_of_a_users(chain):
    (chain.tuned / "onnx").mkdir()
    (chain.tuned / "onnx" / "model.onnx").write_text("the model before")
    (chain.tuned / "README.md").write_text("a note")
    chain.fine_tune("--overwrite_output_dir")
    assert (chain.tuned / "README.md").exists() and (chain.tuned / "onnx").exists()
    (chain.tuned / "export.json").write_text('{"files": {"config.json": "of before"}}')
    chain.fine_tune("--overwrite_output_dir")
    left = {path.name for path in chain.tuned.iterdir()}
    assert left.isdisjoint({"README.md", "onnx", "export.json"}) and "run.json" in left


def test_a_model_of_another_task_or_of_a_run_that_was_cut_off_is_not_tested(chain):
    other = ("--task_name", "sst-2", "--data_dir", chain.data, "--do_eval", "--do_predict")
    before = sorted(chain.tuned.iterdir())
    for test in (
        lambda: evaluate(*other, "--student_model", chain.tuned, "--submission_dir", chain.models),
        lambda: fine_tune(*other, "--model_name_or_path", chain.tuned),
        lambda: api.load(chain.tuned, "SST-2"),
    ):
        with pytest.raises(RositaError, match="was made for CoLA, not for SST-2"):
            test()
    (chain.tuned / "run.json").rename(chain.tuned / "export.json")  # of an export the record
    with pytest.raises(RositaError, match="was made for CoLA, not for SST-2"):
        evaluate(*other, "--student_model", chain.tuned)
    (chain.tuned / "export.json").rename(chain.tuned / "run.json")
    assert sorted(chain.tuned.iterdir()) == before

    asked = (*other[:-1], "--accept_changed", "--student_model", chain.tuned)
    (chain.data / "dev.tsv").write_text("sentence\tlabel\nthe dog ran\t1\na cat sings\t0\n")
    evaluate(*asked, "--output_dir", chain.models / "elsewhere")
    assert read_json(chain.models / "elsewhere" / "eval_results.json")["rows"] == 2

    run = json.loads((chain.tuned / "run.json").read_text()) | {"finished": False}
    (chain.tuned / "run.json").write_text(json.dumps(run))
    for read in (
        lambda: evaluate(*chain.common, "--student_model", chain.tuned, "--do_eval"),
        lambda: api.load(chain.tuned, "CoLA"),
        lambda: Labeller(chain.tuned),
    ):
        with pytest.raises(RositaError, match="was cut off; run its command again"):
            read()


def test_dev_is_scored_at_the_length_that_the_model_was_trained_at(chain, capsys):
    short = chain.models / "short"
    chain.fine_tune("--max_seq_length", 4, "--output_dir", short, "--overwrite_output_dir")
    by_hand = api.load(short, "CoLA")
    found = {}
    for length in (4, 64):
        dev = encode_file(chain.data / "dev.tsv", GLUE["CoLA"], by_hand.tokenizer, length)
        labels = torch.from_numpy(np.array(dev.labels))
        logits = torch.from_numpy(predict(by_hand.model.eval(), dev, 8))
        found[length] = torch.nn.functional.cross_entropy(logits, labels).item()
    assert abs(found[4] - found[64]) > 1e-6
    for score, name in (
        (lambda: evaluate(*chain.common, "--student_model", short, "--do_eval"), "eval_results"),
        (lambda: fine_tune(*chain.common, "--model_name_or_path", short, "--do_eval"),
         "eval_results_cola"),
        (lambda: distil(*chain.common, "--student_model", short, "--do_eval"), "eval_results"),
    ):  # fmt: skip
        score()
        loss = read_json(short / f"{name}.json")["eval_loss"]
        assert loss == pytest.approx(found[4], abs=1e-6)
        (short / f"{name}.json").unlink()
    evaluate(*chain.common, "--student_model", short, "--do_eval", "--max_seq_length", 64)
    assert read_json(short / "eval_results.json")["eval_loss"] == pytest.approx(found[64], abs=1e-6)


def test_a_folder_edited_since_it_was_made_is_refused_by_every_stage_unless_asked(chain):
    edit(chain.tuned / "config.json", '"hidden_act": "gelu"', '"hidden_act": "relu"')
    line = f"{chain.tuned}/config.json has changed since .*type --accept_changed"
    for run in (chain.distil, chain.score):
        with pytest.raises(RositaError, match=line):
            run()
    with pytest.raises(RositaError, match=line):
        evaluate(*chain.common, "--student_model", chain.tuned, "--do_eval")
    with pytest.raises(RositaError, match=line):
        prune("-model_path", chain.models / "bert_ft", "-task", "CoLA", "-output_dir",
              chain.models / "cut", *shape_flags(num_layers=2))  # fmt: skip
    evaluate(*chain.common, "--student_model", chain.tuned, "--do_eval", "--accept_changed")
    chain.distil("--accept_changed")
    (chain.models / "kd" / "tokenizer.json").unlink()
    with pytest.raises(RositaError, match="kd/tokenizer.json is gone since .* was made"):
        evaluate(*chain.common, "--student_model", chain.models / "kd", "--do_eval")


def test_a_best_model_edited_while_its_run_was_cut_off_is_made_again(chain, monkeypatch, capsys):
    flags = ("--num_train_epochs", 2, "--eval_step", 1, "--save_state_steps", 1)
    chain.distil(*flags)
    expected = (chain.models / "kd" / "model.safetensors").read_bytes()
    cut, states = chain.models / "cut_off", []

    def stop(training):
        save_state(training)
        states.append(training)
        if len(states) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", stop)
        with pytest.raises(KeyboardInterrupt):
            chain.distil(*flags, "--output_dir", cut)
    edit(cut / "config.json", '"hidden_act": "gelu"', '"hidden_act": "relu"')
    capsys.readouterr()
    chain.distil(*flags, "--output_dir", cut)
    assert "its best model so far was changed; the run begins again" in capsys.readouterr().out
    assert (cut / "model.safetensors").read_bytes() == expected
    assert '"gelu"' in (cut / "config.json").read_text()


def test_is_prun_must_agree_with_the_model(chain):
    chain.score()
    chain.prune()
    cut = chain.models / "cut" / "CoLA" / "a2_l3_f48_e-1"
    flags = (*chain.common, "--model_name_or_path", cut, "--do_train", "--max_steps", 2,
             "--output_dir", chain.models / "one_step_prun")  # fmt: skip
    with pytest.raises(RositaError, match="add --is_prun True"):
        fine_tune(*flags)
    fine_tune(*flags, "--is_prun", "True")
    run = json.loads((chain.models / "one_step_prun" / "run.json").read_text())
    assert run["shape"] == "a2_l3_f48_e-1"


def test_missing_augmented_data_and_subsets_name_the_command_that_makes_them(chain):
    with pytest.raises(RositaError, match="data_augmentation.py --task_name CoLA"):
        chain.distil("--aug_train")
    (chain.data / "train_aug.tsv").write_text((chain.data / "train.tsv").read_text())
    (chain.data / "train_aug.json").write_text('{"task": "SST-2"}')
    with pytest.raises(RositaError, match="made for SST-2"):
        chain.distil("--aug_train")


def test_augmented_rows_are_those_of_their_record_and_of_the_train_file_there_is(chain):
    path, train = chain.data / "train_aug.tsv", chain.data / "train.tsv"
    rows = train.read_text()
    path.write_text(rows * 2)
    record = {"task": "CoLA", "train_sha256": sha256_file(train), "sha256": sha256_file(path)}
    (chain.data / "train_aug.json").write_text(json.dumps(record))
    chain.distil("--aug_train")
    path.write_text((rows * 2).replace("dog", "cat", 1))
    with pytest.raises(RositaError, match="train_aug.tsv is not the file that its record desc"):
        chain.distil("--aug_train", "--overwrite_output_dir")
    path.write_text(rows * 2)
    train.write_text(rows.replace("dog", "cat", 1))
    with pytest.raises(RositaError, match="was made from another train.tsv .*--overwrite"):
        chain.distil("--aug_train", "--overwrite_output_dir")


def test_subsets_are_those_of_their_record(chain):
    path = chain.data / "train_aug.tsv"
    path.write_text((chain.data / "train.tsv").read_text())
    write_subsets(path, 15, has_header=False)
    pieces = [chain.data / f"train_aug{number}.tsv" for number in range(3)]
    hashes = {piece.name: sha256_file(piece) for piece in pieces}
    check_augmented(chain.data, GLUE["CoLA"], hashes)
    for wrong in (hashes | {pieces[1].name: "0"}, dict(list(hashes.items())[:2])):
        with pytest.raises(RositaError, match="is not the file that its record describes"):
            check_augmented(chain.data, GLUE["CoLA"], wrong)


def test_more_tokens_than_positions_are_refused(chain):
    with pytest.raises(RositaError, match="max_seq_length 65.*64 positions"):
        chain.fine_tune("--max_seq_length", 65, "--overwrite_output_dir")


def test_kd_scores_are_divided_by_the_steps_and_bound_to_the_student(chain):
    out = chain.models / "student" / "CoLA" / "taylor_score"
    chain.distil("--compute_taylor", "--output_dir", out, "--overwrite_output_dir")
    run = json.loads((out / "run.json").read_text())
    assert run["steps"] == 2 and run["stage"] == "taylor"
    scores = torch.load(out / "taylor.pkl", weights_only=True)
    assert set(scores) == {
        f"encoder.layer.{layer}.{name}.weight"
        for layer in range(3)
        for name in ("attention.self.query", "attention.self.key", "attention.self.value",
                     "attention.output.dense", "intermediate.dense", "output.dense")
    }  # fmt: skip


def test_subsets_train_as_one_file_does_in_rows_and_result_shape(chain):
    rows = (chain.data / "train.tsv").read_text().splitlines(keepends=True)
    (chain.data / "train_aug0.tsv").write_text("".join(rows[:25]))
    (chain.data / "train_aug1.tsv").write_text("".join(rows[25:]))
    done = run_script("KD/train_with_subset.py", *chain.common, "--teacher_model", chain.tuned,
                      "--student_model", chain.tuned, "--pred_distill", "--num_train_epochs", 1,
                      "--output_dir", chain.models / "sub")  # fmt: skip
    assert "40 rows to train on (train_aug0.tsv, train_aug1.tsv)" in done.stdout
    assert json.loads((chain.models / "sub" / "run.json").read_text())["steps"] == 2


def test_fresh_rows_are_not_drawn_from_subsets(chain):
    (chain.data / "train_aug0.tsv").write_text((chain.data / "train.tsv").read_text())
    done = run_script("KD/train_with_subset.py", *chain.common, "--teacher_model", chain.tuned,
                      "--student_model", chain.tuned, "--pred_distill", "--output_dir",
                      chain.models / "sub", "--fresh_augmentation", "always", "--glove_embs", "g",
                      ok=False)  # fmt: skip
    assert "fresh_augmentation draws from train.tsv, not from the subsets" in error_line(done)


def test_a_gap_in_the_numbers_of_the_subsets_is_told(chain):
    for number in (0, 2):
        (chain.data / f"train_aug{number}.tsv").write_text("x")
    with pytest.raises(RositaError, match="has train_aug2.tsv and no train_aug1.tsv"):
        train_file_names(chain.data, GLUE["CoLA"], aug_train=False, subsets=True)


def test_a_pruning_within_the_warm_up_which_would_hold_the_rate_down_is_refused(chain):
    flags = ("--num_train_epochs", 6, "--depth_or_width", "depth", "--keep_heads", 4,
             "--keep_layers", 2, "--ffn_hidden_dim", 48, "--emb_hidden_dim", -1,
             "--prun_period_proportion", 0.1, "--train_batch_size", 8)  # fmt: skip
    with pytest.raises(RositaError, match="comes within the warm-up .* warmup_proportion 0"):
        chain.distil(*flags, "--warmup_proportion", 0.2)
    chain.distil(*flags, "--warmup_proportion", 0)


@pytest.mark.parametrize("flag", ["--do_train", "--do_eval", "--do_predict"])
def test_scoring_refuses_what_it_would_leave_out(chain, flag):
    with pytest.raises(RositaError, match=f"scores the weights, no more: leave {flag} out"):
        chain.score(flag)


@pytest.mark.parametrize("flag", ["--keep_optimizer", "--recompute_svd"])
def test_switches_of_iterative_pruning_are_refused_without_it(chain, flag):
    with pytest.raises(RositaError, match=f"{flag[2:]} is for iterative pruning"):
        chain.distil(flag)


def test_a_cached_teacher_teaches_a_student_that_loses_layers_as_a_running_one_does(chain, capsys):
    flags = ("--repr_distill", "--num_train_epochs", 6, "--depth_or_width", "depth",
             "--prun_period_proportion", 0.9, "--keep_heads", 4, "--keep_layers", 1,
             "--ffn_hidden_dim", 48, "--emb_hidden_dim", -1, "--precision", "fp32")  # fmt: skip
    losses = {}
    for name, size in (("live", 0), ("cached", 1), ("too_large", 1e-9)):
        output = chain.models / name
        chain.distil(*flags, "--teacher_cache_gb", size, "--output_dir", output)
        run = read_json(output / "run.json")
        losses[name] = [
            entry["loss_representation"]
            for entry in run["history"]
            if "loss_representation" in entry
        ]
        assert ("teacher_states_bytes" in run) == (name == "cached")
    assert losses["live"]
    assert losses["cached"] == pytest.approx(losses["live"], rel=5e-3)
    assert losses["too_large"] == losses["live"]
    printed = capsys.readouterr().out
    assert "the teacher runs in every step: its hidden states take" in printed
    assert "GB, more than the 1e-09 of teacher_cache_gb" in printed
    assert "the teacher runs once over all rows: its hidden states take" in printed
    kept = [path.name for path in (chain.data / "cache").rglob("states-*.npy")]
    # three layers, then two, then one: each of the teacher's states is followed by some shape
    assert len(kept) == 1 and kept[0].startswith("states-0_1_2_3-")


@pytest.mark.parametrize(
    "epochs, fresh, twice",
    [(2, False, True), (1, False, False), (2, True, False), (3, True, True)],
)
def test_states_are_kept_without_being_asked_for_where_rows_are_seen_twice(
    chain, capsys, epochs, fresh, twice
):
    glove = chain.models / "glove.txt"
    words = {word for text in sentences(40, seed=0) for word in text.split()}
    glove.write_text("".join(f"{word} {len(word)} 1\n" for word in sorted(words)))
    again = ("--fresh_augmentation", "alternate", "--glove_embs", glove) if fresh else ()
    chain.distil("--repr_distill", "--num_train_epochs", epochs, "--no_cuda", *again,
                 "--output_dir", chain.models / "unasked")  # fmt: skip
    said = "once over all rows: its hidden states" if twice else "in every step: no row is seen"
    assert f"the teacher runs {said}" in capsys.readouterr().out
    assert bool(list((chain.data / "cache").rglob("states-*.npy"))) == twice


def test_where_states_alone_are_learnt_the_last_step_is_kept_and_patience_does_not_count(
    chain, capsys
):
    flags = ("--pred_distill", False, "--repr_distill", "--num_train_epochs", 3, "--patience", 0.1,
             "--learning_rate", 1e-3)  # fmt: skip
    made = []
    for name, eval_step in (("often", 1), ("once", 1000)):
        folder = chain.models / name
        chain.distil(*flags, "--eval_step", eval_step, "--output_dir", folder)
        assert "the last step is kept" in capsys.readouterr().out
        run = read_json(folder / "run.json")
        assert run["best"]["step"] == run["steps"] == 3 * math.ceil(40 / 32)
        made.append((folder / "model.safetensors").read_bytes())
    assert made[0] == made[1]
    scores = [
        entry["score"]
        for entry in read_json(chain.models / "often" / "run.json")["history"]
        if entry["kind"] == "dev"
    ]
    assert len(scores) == run["steps"] and max(scores[:-1]) >= scores[-1]  # would have been kept
    # a loss that reaches the classifier makes the dev score count
    chain.distil(*flags, "--label_weight", 1, "--eval_step", 1, "--output_dir", chain.models / "l")
    assert "the last step is kept" not in capsys.readouterr().out


def test_a_full_disk_ends_no_run_that_did_not_ask_for_states(chain, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    flags = ("--repr_distill", "--num_train_epochs", 2, "--no_cuda", "--output_dir")
    chain.distil(*flags, chain.models / "unasked")
    printed = capsys.readouterr().out
    assert "No space left on device: the teacher runs in every step instead" in printed
    with pytest.raises(RositaError, match="no room for .*; make room, or set teacher_cache_gb"):
        chain.distil(*flags, chain.models / "asked", "--teacher_cache_gb", 1)
    chain.distil(*flags, chain.models / "asked", "--teacher_cache_gb", 0)  # the advice goes on


def test_a_run_is_the_same_whatever_is_kept_of_the_teacher_in_records_of_before_too(chain, capsys):
    flags = ("--repr_distill", "--num_train_epochs", 2, "--output_dir", chain.models / "kd")
    chain.distil(*flags)
    path = chain.models / "kd" / "run.json"
    record = read_json(path)
    assert "teacher_cache_gb" not in record["identity"]["settings"]
    record["identity"]["settings"]["teacher_cache_gb"] = 4.0
    path.write_text(json.dumps(record))
    capsys.readouterr()
    chain.distil(*flags, "--teacher_cache_gb", 0)
    assert "finished already" in capsys.readouterr().out


def test_every_rung_of_a_ladder_is_a_model_folder_with_the_score_it_says(chain):
    with pytest.raises(RositaError, match="save_ladder is for iterative pruning"):
        chain.distil("--save_ladder")
    fp32 = ("--precision", "fp32")  # in bf16 a near-tie of the 20 rows may turn
    chain.distil("--save_ladder", "--num_train_epochs", 6, "--depth_or_width", "width",
                 "--prun_period_proportion", 0.9, "--keep_heads", 2, "--keep_layers", 3,
                 "--ffn_hidden_dim", 20, "--emb_hidden_dim", 8, *fp32)  # fmt: skip
    rungs = sorted((chain.models / "kd" / "ladder").iterdir())
    assert [rung.name for rung in rungs] == ["a3_l3_f34_e20", "a4_l3_f48_e-1"]
    for rung in rungs:
        run = json.loads((rung / "run.json").read_text())
        assert run["stage"] == "ladder" and run["finished"] and run["shape"] == rung.name
        evaluate(*chain.common, "--student_model", rung, "--do_eval")
        results = json.loads((rung / "eval_results.json").read_text())
        assert results["score"] == pytest.approx(run["dev_score"], abs=1e-6)
    chain.distil("--save_ladder", "--num_train_epochs", 1, "--overwrite_output_dir",
                 "--warmup_proportion", 0, "--depth_or_width", "depth",
                 "--prun_period_proportion", 0.9, "--keep_heads", 4, "--keep_layers", 2,
                 "--ffn_hidden_dim", 48, "--emb_hidden_dim", -1, *fp32)  # fmt: skip
    assert [rung.name for rung in (chain.models / "kd" / "ladder").iterdir()] == ["a4_l3_f48_e-1"]


def test_one_step_pruning_records_what_it_kept_and_how_important_all_were(chain):
    chain.score()
    chain.prune()
    (folder,) = (chain.models / "cut" / "CoLA").iterdir()
    (entry,) = json.loads((folder / "run.json").read_text())["history"]
    scores = torch.load(chain.tuned / "taylor_score" / "taylor.pkl")
    for number, layer in enumerate(entry["layers"]):
        columns = scores[f"encoder.layer.{number}.attention.output.dense.weight"].sum(0)
        heads = columns.view(4, -1).sum(1)
        assert layer["head_scores"] == pytest.approx(heads.tolist(), rel=1e-3)
        assert layer["heads"] == sorted(heads.topk(2).indices.tolist())


def test_a_mistake_is_one_line_with_exit_code_2(chain):
    done = run_script("KD/train.py", *chain.common, "--teacher_model", "nowhere",
                      "--student_model", chain.tuned, "--pred_distill", "--output_dir",
                      chain.models / "x", ok=False)  # fmt: skip
    assert "the model folder nowhere does not exist" in error_line(done)
    assert not (chain.models / "x").exists()
    done = run_script("KD/train.py", "--task_name", "colla", ok=False)
    assert "did you mean 'CoLA'" in error_line(done)


def test_a_part_of_the_hidden_states_is_learnt_from_memory_and_decides_the_run(chain):
    flags = ["--repr_distill", "--hsk", "1l_4t_0.5h", "--hsk_width", "uniform_mask",
             "--layer_map", "t_top2", "--teacher_cache_gb", 1]  # fmt: skip
    chain.distil(*flags)
    kept = "states-2-4t_attention_no_sep_0.5h_uniform_mask-*.npy"
    (states,) = (np.load(path) for path in (chain.data / "cache").glob(f"*/{kept}"))
    (places,) = (np.load(path) for path in (chain.data / "cache").glob("*/places-*.npy"))
    run = read_json(chain.models / "kd" / "run.json")
    assert run["teacher_states_bytes"] == states.nbytes + places.nbytes
    rows = len((chain.data / "train.tsv").read_text().splitlines())
    hidden = json.loads((chain.tuned / "config.json").read_text())["hidden_size"]
    assert states.shape[1:] == (1, hidden // 2) and len(states) <= 4 * rows
    with pytest.raises(RositaError, match="hsk: 1l_4t_0.5h there, 1l_4t_0.4h now"):
        chain.distil(*flags[:2], "1l_4t_0.4h", *flags[3:])


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--hsk", "1l"), "hsk is for the hidden states: set repr_distill"),
        (("--repr_distill", "--hsk", "ten"), "hsk 'ten': must be of the form 1l_10t_0.1h"),
        (("--repr_distill", "--hsk_length", "attention"), "hsk_length is for a part of the tokens"),
        (("--repr_distill", "--hsk", "9l"), "hsk 9l follows 9 states, a student of 3 layers has 4"),
        (
            ("--repr_distill", "--layer_map", "t_top5"),
            "^teacher .*: layer_map t_top5: the teacher has 3 layers only$",
        ),
        (("--repr_distill", "--layer_map", "top"), "must be uniform, last, ends, or t_top8"),
    ],
)
def test_a_part_of_the_states_that_is_not_there_is_refused(shared, flags, words):
    with pytest.raises(RositaError, match=words):
        shared.distil(*flags, "--output_dir", shared.models / "no")
    assert not (shared.models / "no").exists()


def test_a_teacher_with_the_pieces_of_train_alone_teaches_a_student_with_the_same(
    tmp_path, monkeypatch, capsys
):
    letters = [prefix + letter for letter in string.ascii_lowercase for prefix in ("", "##")]
    words = [*conftest.vocabulary(), "museum", "castle"]
    words += [piece for piece in letters if piece not in words]
    monkeypatch.setattr(conftest, "vocabulary", lambda: words)
    chain = Chain(tmp_path)
    train = chain.data / "train.tsv"
    train.write_text(train.read_text().replace("src\t", "museum\t"))  # a column that is no text
    whole = ("-keep_heads", 4, "-num_layers", 3, "-ffn_hidden_dim", 48, "-emb_hidden_dim", -1)
    of_train = ("-vocabulary", "train", "-data_dir", chain.data)

    def cut(source, output, *more, texts=of_train):
        prune("-model_path", source, "-output_dir", output, "-task", "CoLA", *texts, *more)

    cut(chain.tuned.parent, chain.models / "words", *whole)
    assert "vocabulary: " in capsys.readouterr().out
    teacher = chain.models / "words" / "CoLA" / "a4_l3_f48_e-1"
    before, after = (load_model(path, GLUE["CoLA"]).eval() for path in (chain.tuned, teacher))
    assert after.config.vocab_size < before.config.vocab_size
    assert read_json(teacher / "run.json")["vocabulary"] == after.config.vocab_size
    logits = []
    for path, model in ((chain.tuned, before), (teacher, after)):
        rows = encode_file(chain.data / "train.tsv", GLUE["CoLA"], read_tokenizer(path), 64)
        logits.append(predict(model, rows, 32))
    np.testing.assert_array_equal(*logits)

    cut(chain.tuned.parent, chain.models / "words", *whole)
    assert "finished already" in capsys.readouterr().out
    (chain.models / "texts.txt").write_text("the dog\n")
    with pytest.raises(RositaError, match="holds another run .*vocabulary"):
        cut(chain.tuned.parent, chain.models / "words", *whole,
            texts=("-vocabulary", chain.models / "texts.txt"))  # fmt: skip

    prune("-model_path", teacher, "-task", "CoLA", "-output_dir", chain.models / "small",
          "-num_layers", 2, *whole[:2], *whole[4:])  # fmt: skip
    student = chain.models / "small" / "CoLA" / "a4_l2_f48_e-1"
    with pytest.raises(RositaError, match="was pruned and not trained since"):
        chain.distil("--teacher_model", student, "--student_model", student)
    chain.distil("--teacher_model", teacher, "--student_model", student)
    run = read_json(chain.models / "kd" / "run.json")
    assert run["finished"]
    # neither a cut that was cut once more in its own shape, nor random weights are a teacher
    prune("-model_path", student, "-task", "CoLA", "-output_dir", chain.models / "twice",
          "-num_layers", 2, *whole[:2], *whole[4:])  # fmt: skip
    prune("-model_path", teacher, "-task", "CoLA", "-output_dir", chain.models / "random",
          *whole, "-from_scratch")  # fmt: skip
    for name in ("twice", "random"):
        (untrained,) = (chain.models / name / "CoLA").iterdir()
        with pytest.raises(RositaError, match="was pruned and not trained since"):
            chain.distil("--teacher_model", untrained, "--student_model", student,
                         "--output_dir", chain.models / "other")  # fmt: skip
    # the same file, read as lines, holds other texts
    with pytest.raises(RositaError, match="holds another run .*vocabulary"):
        cut(chain.tuned.parent, chain.models / "words", *whole,
            texts=("-vocabulary", chain.data / "train.tsv"))  # fmt: skip
    with pytest.raises(RositaError, match="read texts otherwise"):
        chain.distil("--student_model", student, "--output_dir", chain.models / "other")
    with pytest.raises(RositaError, match="nowhere.txt does not exist"):
        cut(chain.tuned.parent, chain.models / "x", *whole, texts=("-vocabulary", "nowhere.txt"))
    with pytest.raises(RositaError, match="^-data_dir is for -vocabulary train"):
        cut(chain.tuned.parent, chain.models / "x", *whole, texts=of_train[2:])
    # new rows have pieces that the teacher lost
    rows = train.read_text().replace("dog", "castle")
    train.write_text(rows)
    with pytest.raises(RositaError, match="has the word pieces of other texts than train.tsv"):
        chain.distil("--teacher_model", teacher, "--student_model", student,
                     "--output_dir", chain.models / "other")  # fmt: skip
