"""The stages that lead to the model of an experiment, from the fine-tuned teacher to its student.

A chain is a function of a `StageLab`; it calls the stages through it and returns the folder
of its final model. Stages that several chains share (the teacher, bert_student) run once.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rosita.data.tsv import TsvFile
from rosita.files import read_json
from rosita.pruning.shape import Shape
from rosita.tasks import find_task
from stage_lab import CONFIGS, GLOVE, LARGE, StageLab

SHAPE = "a2_l4_f256_e64"  # 3.5 M of 22.7 M parameters: 6.5x smaller
TEACHER_SEED = 1  # one bert_ft and one bert_student for all: seeds vary what follows


def teacher(lab: StageLab) -> Path:
    """bert_ft: the base, tuned on the labels."""
    return lab.fine_tune("bert_ft", lab.base, TEACHER_SEED)


def teacher_of_seed(lab: StageLab) -> Path:
    """The same from another seed: how far teachers differ; no student learns from it."""
    return lab.fine_tune("bert_ft", lab.base)


def scored_teacher(lab: StageLab) -> Path:
    folder = teacher(lab)
    lab.score(folder)
    return folder


def no_kd(lab: StageLab) -> Path:
    return on_labels(lab, "no_kd", lab.prune("one_step", scored_teacher(lab), SHAPE))


def on_labels(lab: StageLab, name: str, student: Path) -> Path:
    """Trained on the labels, as long and at the same rate as by KD."""
    return lab.fine_tune(name, student, learning_rate=3e-4, num_train_epochs=epochs_of_kd(lab))


def epochs_of_kd(lab: StageLab) -> int:
    """Of the stage that makes the student, as KD/configurations/minilm/ has it."""
    return 6 if lab.task in LARGE else 20


def setting1(lab: StageLab, name: str = "setting1", shape: str = SHAPE, **flags) -> Path:
    pruned = lab.prune("one_step", scored_teacher(lab), shape)
    flags = {**asdict(Shape.parse(shape)), **flags}
    return lab.distil(name, "setting1", teacher(lab), pruned, **flags)


def bert_student(lab: StageLab) -> Path:
    return lab.distil("bert_student", "bert-student", teacher(lab), lab.base, seed=TEACHER_SEED)


def setting2(lab: StageLab) -> Path:
    student = bert_student(lab)
    lab.score(student, teacher(lab))
    pruned = lab.prune("student_one_step", student, SHAPE)
    return lab.distil("setting2", "setting2", student, pruned)


def setting3(lab: StageLab, name: str = "setting3", **flags) -> Path:
    student = bert_student(lab)
    cut = lab.prune("student_4_layers", student, "a12_l4_f1536_e-1")
    return lab.distil(name, "setting3", student, cut, **flags)


def setting4(lab: StageLab, name: str = "setting4", **flags) -> Path:
    """`flags` are for both stages that prune; the first one learns no hidden states."""
    student = bert_student(lab)
    first = {key: value for key, value in flags.items() if not key.startswith("repr_")}
    depth = f"bert_4layer_{name}" if first else "bert_4layer"
    shallow = lab.distil(depth, "bert-8layer", student, student, **first)
    return lab.distil(name, "setting4", shallow, shallow, **flags)


def recipe(lab: StageLab, name: str = "recipe", **flags) -> Path:
    """As KD/configurations/minilm/config_recipe.json has it, shape and all."""
    config = config_of_recipe(lab.task)
    shape = Shape(**{part.name: config[part.name] for part in fields(Shape)})
    pruned = lab.prune("one_step", scored_teacher(lab), str(shape))
    return lab.distil(name, "recipe", teacher(lab), pruned, glove_embs=GLOVE, **flags)


def config_of_recipe(task: str) -> dict[str, Any]:
    sections = read_json(CONFIGS / "config_recipe.json")
    return sections["default"] | sections[task.lower()]


def recipe_unaugmented(lab: StageLab, name: str = "recipe_unaugmented", **flags) -> Path:
    return recipe(lab, name, fresh_augmentation="never", aug_edits=0.0, **flags)


def recipe_with_pairs_of(others: tuple[str, ...], lab: StageLab, augmented: bool) -> Path:
    """On the pairs of other tasks besides, in as many steps as on its own alone."""
    data = lab.with_pairs_of(others)
    share = rows_of(lab.data_dir, lab.task) / rows_of(data, lab.task)
    epochs = config_of_recipe(lab.task)["num_train_epochs"] * share
    chain, how = (recipe, "_augmented") if augmented else (recipe_unaugmented, "")
    name = f"recipe_with_{'_'.join(others)}{how}"
    return chain(lab, name, num_train_epochs=epochs, data_dir=data)


def rows_of(folder: Path, task_name: str) -> int:
    return sum(1 for _ in TsvFile(folder / "train.tsv", find_task(task_name)).rows())


def two_phases(lab: StageLab, name: str = "two_phases", **states) -> Path:
    """Hidden states first, logits then, half of the epochs each, as TinyBERT learns; ROSITA's
    losses are summed. `states`: flags of the first phase."""
    pruned = lab.prune("one_step", scored_teacher(lab), SHAPE)
    epochs = epochs_of_kd(lab) // 2
    first = {"num_train_epochs": epochs, "pred_distill": False, **states}
    followed = lab.distil(f"{name}_states", "setting1", teacher(lab), pruned, **first)
    return lab.distil(
        name, "setting1", teacher(lab), followed, num_train_epochs=epochs, repr_distill=False
    )


def scratch(lab: StageLab) -> Path:
    cut = lab.prune("cut_scratch", scored_teacher(lab), SHAPE, from_scratch=True, seed=lab.seed)
    return on_labels(lab, "scratch", cut)


def copies(lab: StageLab, count: int) -> Path:
    """As many steps as 12 epochs without augmentation."""
    name, epochs = f"copies_{count}", 12 / (1 + count)
    return setting1(lab, name, num_train_epochs=epochs, data_dir=lab.augment(count), aug_train=True)


def fresh(lab: StageLab, epochs: int, how: str = "alternate") -> Path:
    name = f"setting1_{how}_{epochs}"
    return setting1(lab, name, num_train_epochs=epochs, fresh_augmentation=how)
