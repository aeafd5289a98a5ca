"""A job by itself: what it claims, how it scores while it trains, what it writes on the way."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_bert, sentences, write_cola

from rosita.checkpoint import TaskModel, load_model
from rosita.config import FineTuneSettings
from rosita.distillation.losses import LabelLoss
from rosita.errors import RositaError
from rosita.evaluation import predict
from rosita.provenance import Run, file_hashes
from rosita.runtime import start_accelerator
from rosita.stages.inputs import load_data
from rosita.stages.job import Job
from rosita.stages.record import new_run
from rosita.tasks import GLUE, Task
from rosita.training.plan import Plan
from rosita.training.state import save_state

NUMBERS = Task(name="numbers", labels=None, metric="pearson_and_spearman", text_columns=(0,),
               label_column=1, header=False)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("job")
    make_bert(root / "bert", num_hidden_layers=2)
    write_cola(root / "CoLA")
    (root / "numbers").mkdir()
    for name in ("train", "dev"):
        lines = [f"{text}\t{len(text) / 10}\n" for text in sentences(8)]
        (root / "numbers" / f"{name}.tsv").write_text("".join(lines))
    return root


def job(root: Path, output: Path, task: Task = GLUE["CoLA"], **more: object) -> Job:
    """A fine-tuning of a random model, ready to begin."""
    settings = FineTuneSettings(
        model_name_or_path=str(root / "bert"), output_dir=str(output), max_steps=2, no_cuda=True,
        data_dir=str(root / task.name), max_seq_length=16, precision="fp32", **more,
    )  # fmt: skip
    accelerator = start_accelerator(settings)
    torch.manual_seed(0)
    start = TaskModel.open(root / "bert", task, new_classifier=True)
    data = load_data(settings, task, start.tokenizer, accelerator, start.model.config)
    run = new_run("fine_tune", settings, data, {"model": start}, output, accelerator)
    plan = Plan(settings, micro_batch_size=8)
    return Job(start, data, LabelLoss(), data.sampler(8, 1), plan, accelerator, run)


def test_losses_are_logged_every_logging_steps_each_the_mean_of_the_steps_since(root, tmp_path):
    curves = {}
    for every in (1, 2):
        made = job(root, tmp_path / str(every), logging_steps=every)
        made.plan.settings = made.plan.settings.model_copy(update={"max_steps": 5})
        assert made.begin()
        made.train(tmp_path / "log")
        history = record(tmp_path / str(every))["history"]
        losses = [entry for entry in history if entry["kind"] == "loss"]
        curves[every] = {entry["step"]: entry["loss_label"] for entry in losses}
    single, pairs = curves[1], curves[2]
    assert list(single) == [1, 2, 3, 4, 5] and len(set(single.values())) == 5
    means = [(single[1] + single[2]) / 2, (single[3] + single[4]) / 2, single[5]]
    assert pairs == pytest.approx(dict(zip((2, 4, 5), means, strict=True)))


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_job_claims_its_folder_goes_on_with_it_and_ends_once_it_is_finished(
    root, tmp_path, capsys
):
    assert job(root, tmp_path / "out").begin()
    assert record(tmp_path / "out")["finished"] is False
    again = job(root, tmp_path / "out")
    assert again.begin()  # the same run, cut off
    best = again.train(tmp_path / "log")
    written = record(tmp_path / "out")
    assert (written["finished"], written["best"], written["steps"]) == (True, best, 2)
    assert not job(root, tmp_path / "out").begin()
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(RositaError, match="holds another run .*learning_rate"):
        job(root, tmp_path / "out", learning_rate=1e-3).begin()


def test_a_state_outlives_a_setting_that_a_later_version_adds_unless_it_is_set(root, tmp_path):
    now = job(root, tmp_path / "out").run
    earlier = copy.deepcopy(now.identity)
    assert earlier["settings"].pop("layer_decay") == 1.0  # of a version that had none
    assert replace(now, identity=earlier).outcome_hash == now.outcome_hash
    others = [{"layer_decay": 0.5}, {"learning_rate": 1e-3}, {"per_gpu_train_batch_size": 16}]
    hashes = {job(root, tmp_path / "out", **changed).run.outcome_hash for changed in others}
    assert len(hashes | {now.outcome_hash}) == 4
    halves = {"per_gpu_train_batch_size": 16, "gradient_accumulation_steps": 2}  # the same rows
    assert job(root, tmp_path / "out", **halves).run.outcome_hash == now.outcome_hash


@pytest.mark.parametrize("is_noted", [True, False])  # by an earlier version it was not
def test_the_best_model_on_disk_goes_on_with_the_evaluation_that_was_noted_with_it(
    root, tmp_path, is_noted
):
    made = job(root, tmp_path / "out")
    assert made.begin()
    state = made._training(used=made.used)
    state.progress.step = 1
    save_state(state)
    evaluation = {"kind": "dev", "step": 2, "metric": "matthews", "score": 2.0, "shape": "later"}
    made.save(state.whole_model, evaluation=evaluation if is_noted else None)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}

    again = job(root, tmp_path / "out")
    assert again.begin()
    best = again.train(tmp_path / "log")
    kept = (tmp_path / "out" / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert kept == is_noted == (best == evaluation)  # no score is above 2


def test_starting_afresh_never_removes_the_model_that_the_run_starts_from(root, tmp_path):
    run = job(root, tmp_path / "out").run
    for place in (tmp_path / "out", tmp_path / "out" / "checkpoint-7"):
        shutil.copytree(root / "bert", place, dirs_exist_ok=True)
        files = {path: path.read_bytes() for path in place.glob("*.*")}
        parent = {"path": str(place), "files": file_hashes(place)}
        with pytest.raises(RositaError, match="would remove .*, the model that this run starts"):
            replace(run, details={"parents": {"model": parent}}).claim(overwrite=True)
        assert len(files) > 2 and all(path.read_bytes() == was for path, was in files.items())
    run.claim(overwrite=True)  # of another model
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["run.json"]
    assert (root / "bert" / "config.json").exists()


def test_a_dry_run_shows_the_plan_and_claims_nothing(root, tmp_path, capsys):
    assert not job(root, tmp_path / "out", dry_run=True).begin()
    shown = capsys.readouterr().out
    assert "2 of 8 rows" in shown and "nothing is written" in shown
    assert not (tmp_path / "out").exists()


def test_the_score_while_training_is_the_metric_of_the_models_own_answers(root, tmp_path):
    made = job(root, tmp_path / "out")
    model = made.start.model
    with torch.no_grad():  # both labels among the answers
        model.classifier.bias -= torch.from_numpy(predict(model, made.data.dev, 3).mean(axis=0))
    scores = made.evaluate(model)
    answers = predict(model, made.data.dev, 3).argmax(axis=1)
    expected = np.corrcoef(answers, made.data.dev.labels)[0, 1]  # Matthews, as a correlation
    assert scores.main == pytest.approx(expected)


def test_a_regression_that_answers_every_row_alike_gets_the_worst_score(root, tmp_path):
    made = job(root, tmp_path / "out", NUMBERS)
    assert not made.evaluate(made.start.model).collapsed
    torch.nn.init.zeros_(made.start.model.classifier.weight)
    scores = made.evaluate(made.start.model)
    assert scores.collapsed and scores.main == -1


def test_a_model_on_the_way_is_a_folder_and_with_its_score_a_record_of_its_own(root, tmp_path):
    made = job(root, tmp_path / "out")
    evaluation = {"metric": "matthews", "score": 0.25, "step": 7}
    made.save(made.start.model, "checkpoint-7")
    made.save(made.start.model, "ladder/a4_l2_f48_e-1", evaluation)
    rung = tmp_path / "out" / "ladder" / "a4_l2_f48_e-1"
    written = record(rung)
    assert written["stage"] == "ladder" and written["run"] == str(tmp_path / "out")
    assert (written["dev_score"], written["shape"]) == (0.25, "a4_l2_f48_e-1")
    assert not Run(rung, written["identity"]).is_finished(overwrite=True)
    assert not (tmp_path / "out" / "checkpoint-7" / "run.json").exists()
    for folder in (rung, tmp_path / "out" / "checkpoint-7"):
        weights = load_model(folder, GLUE["CoLA"]).state_dict()
        assert all(weights[name].equal(w) for name, w in made.start.model.state_dict().items())


def test_scoring_takes_the_embedding_rows_of_all_tokens_training_those_of_the_data(root, tmp_path):
    made = job(root, tmp_path / "out")
    ids = np.unique(
        np.concatenate([[0], *(file.ids for file in [*made.data.train, made.data.dev])])
    )
    assert made.used.tolist() == ids.tolist()
    made = job(root, tmp_path / "out")
    made.plan.update = False
    assert made.used is None
