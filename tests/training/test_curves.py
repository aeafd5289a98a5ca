"""Curves go to the trackers that the settings name, at the steps that the history has."""

import sys
from types import SimpleNamespace

import accelerate.accelerator
import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rosita.config import KDSettings
from rosita.training.curves import Curves


class Remembers(GeneralTracker):
    """A tracker of other people's, as accelerate drives it."""

    name, requires_logging_directory, main_process_only, made = "wandb", False, True, []

    def __init__(self, run_name, **_):
        super().__init__()
        self.config, self.logged, self.finished = None, [], False
        Remembers.made.append(self)

    tracker = None

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **_):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(accelerate.accelerator.LOGGER_TYPE_TO_CLASS, "wandb", Remembers)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(__spec__=True))
    Remembers.made.clear()
    return Remembers


def test_tensorboard_and_another_tracker_get_the_same_numbers(tmp_path, wandb):
    curves = Curves(["tensorboard", "wandb"], tmp_path, Accelerator(cpu=True), 0, {"seed": 42})
    curves.add({"kind": "loss", "step": 20, "loss_label": 0.5}, 1e-3)
    curves.add({"kind": "dev", "step": 40, "score": 0.75, "metric": "accuracy"}, 5e-4)
    curves.close()
    (tracker,) = wandb.made
    assert tracker.finished and tracker.config == {"seed": 42}
    assert tracker.logged == [
        (20, {"loss_label": 0.5, "learning_rate": 1e-3}),
        (40, {"score": 0.75, "learning_rate": 5e-4}),
    ]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {
        (name, point.step): pytest.approx(point.value)
        for name in events.Tags()["scalars"]
        for point in events.Scalars(name)
    } == {
        ("loss_label", 20): 0.5,
        ("learning_rate", 20): 1e-3,
        ("score", 40): 0.75,
        ("learning_rate", 40): 5e-4,
    }


@pytest.mark.parametrize(
    "given, trackers", [("tensorboard", ["tensorboard"]), ("none", []),
                        ("wandb, tensorboard", ["wandb", "tensorboard"])],
)  # fmt: skip
def test_report_to_takes_a_list_or_none(wandb, given, trackers):
    settings = KDSettings(
        teacher_model="t", student_model="s", output_dir="o", pred_distill=True, report_to=given
    )
    assert settings.trackers == trackers


@pytest.mark.parametrize(
    "given, message", [("wandb", "wandb is not installed: pip install wandb"),
                       ("weights", "'weights' is not one of tensorboard, wandb, mlflow")],
)  # fmt: skip
def test_a_tracker_that_is_unknown_or_missing_is_an_error_at_the_start(monkeypatch, given, message):
    monkeypatch.setattr("rosita.config.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        KDSettings(
            teacher_model="t", student_model="s", output_dir="o", pred_distill=True, report_to=given
        )
