"""The experiments of RESULTS.md: what each one runs, from the fine-tuned teacher to its student.

A chain is a function of a `Lab`; it calls the stage scripts through it and returns the folder of
its final model. Stages that several chains share (the teacher, bert_student) run once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

SHAPE = "a2_l4_f256_e64"  # 3.5 M of 22.7 M parameters: 6.5x smaller
TEACHER_SEED = 1  # one bert_ft and one bert_student for all: seeds vary what follows
TABLES = {
    "goal": "as good as it gets at 6.5x fewer parameters",
    "settings": "the paper's settings",
    "augmentation": "augmentation",
    "recipe": "Setting 1, one change at a time",
}


class Lab(Protocol):
    """Runs a stage for one task and seed, unless it has run; returns the model's folder."""

    seed: int

    def fine_tune(self, name: str, source: Path, seed: int | None = None, **flags) -> Path: ...
    def score(self, model: Path, teacher: Path | None = None) -> None: ...
    def prune(self, name: str, model: Path, shape: str) -> Path: ...
    def distil(
        self, name: str, config: str, teacher: Path, student: Path, seed: int | None = None, **flags
    ) -> Path: ...
    @property
    def base(self) -> Path: ...


Chain = Callable[[Lab], Path]


@dataclass(frozen=True)
class Experiment:
    """One line of a table: `data` names the training set, full or 20k (20,000 rows)."""

    table: str
    name: str
    says: str
    chain: Chain
    data: str = "20k"
    tasks: tuple[str, ...] = ("SST-2", "CoLA")
    seeds: tuple[int, ...] = field(default=(1, 2, 3))


def teacher(lab: Lab) -> Path:
    """bert_ft: the base, tuned on the labels."""
    return lab.fine_tune("bert_ft", lab.base, TEACHER_SEED)


def scored_teacher(lab: Lab) -> Path:
    folder = teacher(lab)
    lab.score(folder)
    return folder


def no_kd(lab: Lab) -> Path:
    pruned = lab.prune("one_step", scored_teacher(lab), SHAPE)
    return lab.fine_tune("no_kd", pruned, is_prun=True, learning_rate=3e-4, num_train_epochs=6)


def setting1(lab: Lab, name: str = "setting1", **flags) -> Path:
    pruned = lab.prune("one_step", scored_teacher(lab), SHAPE)
    return lab.distil(name, "setting1", teacher(lab), pruned, **flags)


def bert_student(lab: Lab) -> Path:
    return lab.distil("bert_student", "bert-student", teacher(lab), lab.base, seed=TEACHER_SEED)


def setting2(lab: Lab) -> Path:
    student = bert_student(lab)
    lab.score(student, teacher(lab))
    pruned = lab.prune("student_one_step", student, SHAPE)
    return lab.distil("setting2", "setting2", student, pruned)


def setting3(lab: Lab) -> Path:
    student = bert_student(lab)
    cut = lab.prune("student_4_layers", student, "a12_l4_f1536_e-1")
    return lab.distil("setting3", "setting3", student, cut)


def setting4(lab: Lab) -> Path:
    student = bert_student(lab)
    shallow = lab.distil("bert_4layer", "bert-8layer", student, student)
    return lab.distil("setting4", "setting4", shallow, shallow)


def changed(table: str, name: str, says: str, seeds=(1,), **flags) -> Experiment:
    """Setting 1 with other settings."""
    return Experiment(table, name, says, lambda lab: setting1(lab, name, **flags), seeds=seeds)


def fresh(lab: Lab, epochs: int, how: str = "alternate") -> Path:
    return setting1(
        lab, f"setting1_{how}_{epochs}", num_train_epochs=epochs, fresh_augmentation=how
    )


EXPERIMENTS = [
    Experiment("goal", "fresh_12", "Setting 1, 12 epochs, every second one with fresh replacements",
               lambda lab: fresh(lab, 12), data="full", seeds=(1,)),
    Experiment("settings", "no_kd", "pruned, trained on the labels, no KD", no_kd),
    Experiment("settings", "setting1", "Setting 1: one step, one-stage KD", setting1),
    Experiment("settings", "setting2", "Setting 2: one step, two-stage KD", setting2),
    Experiment("settings", "setting3", "Setting 3: width iteratively, two-stage KD", setting3),
    Experiment("settings", "setting4", "Setting 4, ROSITA: depth, then width, three-stage KD",
               setting4),
    changed("augmentation", "none_12", "no augmentation, 12 epochs", num_train_epochs=12),
    Experiment("augmentation", "alternate_12", "GloVe, fresh in every second epoch, 12 epochs",
               lambda lab: fresh(lab, 12)),
    Experiment("augmentation", "always_12", "GloVe, fresh in every epoch, 12 epochs",
               lambda lab: fresh(lab, 12, "always")),
    changed("recipe", "rate_1e-4", "peak rate 1e-4 (3e-4)", learning_rate=1e-4),
    changed("recipe", "rate_6e-4", "peak rate 6e-4", learning_rate=6e-4),
    changed("recipe", "rate_1e-3", "peak rate 1e-3", learning_rate=1e-3),
    changed("recipe", "batch_16", "batches of 16 (32)", train_batch_size=16),
    changed("recipe", "batch_64", "batches of 64", train_batch_size=64),
    changed("recipe", "temperature_2", "temperature 2 (1)", temperature=2),
    changed("recipe", "logits_only", "prediction loss only", repr_distill=False),
    changed("recipe", "epochs_24", "24 epochs (6)", num_train_epochs=24),
]  # fmt: skip
