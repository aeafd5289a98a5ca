"""The experiments of RESULTS.md: one line of a table each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chains import (
    SHAPE,
    TEACHER_SEED,
    copies,
    fresh,
    no_kd,
    recipe,
    recipe_unaugmented,
    recipe_with_pairs_of,
    scored_teacher,
    scratch,
    setting1,
    setting2,
    setting3,
    setting4,
    teacher,
    teacher_of_seed,
    two_phases,
)
from rosita.pruning.shape import Shape
from stage_lab import StageLab

TABLES = {
    "goal": "towards the goal, at 6.4 to 6.5x fewer parameters",
    "settings": "the paper's settings",
    "baselines": "against what one would pick instead, at the same size",
    "augmentation": "augmentation",
    "pruning": "frequency of pruning and learning-rate schedule (Setting 3)",
    "recipe": "one change at a time",
    "knowledge": "fewer hidden states, as the authors' next paper has them (Setting 1)",
    "vocabulary": "the word pieces of some texts alone, after training (Setting 1)",
    "transfer": "sentence pairs of other tasks besides, answered by the teacher",
    "published1": "training as published, one key at a time (Setting 1)",
    "published4": "training as published, one key at a time (Setting 4)",
    "teacher": "how to tune the teacher",
}
# the line of another table that a table's lines are to be compared with
REFERENCES = {
    "goal": ("teacher", "bert_ft"),
    "baselines": ("settings", "setting1"),
    "augmentation": ("settings", "setting1"),
    "pruning": ("settings", "setting3"),
    "recipe": ("settings", "setting1"),
    "knowledge": ("settings", "setting1"),
    "vocabulary": ("settings", "setting1"),
    "transfer": ("goal", "recipe"),
}
# a comparison of settings -> those whose mean is above, or is not, that of the others
COMPARED = {
    "KD: 1 over none": (("setting1",), ("no_kd",)),
    "ROSITA: 4 over 1": (("setting4",), ("setting1",)),
    "iterative: 3, 4 over 1, 2": (("setting3", "setting4"), ("setting1", "setting2")),
    "a stage more: 2 over 1": (("setting2",), ("setting1",)),
    "depth iterative too: 4 over 3": (("setting4",), ("setting3",)),
}
# what the published KD scripts do, and the configs of minilm/ do otherwise
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": ("as the configs of minilm/ have it", {}),
    "uncorrected": ("Adam without bias correction", {"bias_correction": False}),
    "clip_tensor": ("gradients clipped tensor by tensor", {"clip": "tensor"}),
    "all_positions": ("hidden states' mean over all positions", {"repr_mean": "positions"}),
}


Chain = Callable[[StageLab], Path]


@dataclass(frozen=True)
class Experiment:
    """One line of a table: `data` names the training set, full or 20k (20,000 rows)."""

    table: str
    name: str
    says: str
    chain: Chain
    data: str = "20k"
    tasks: tuple[str, ...] = ("SST-2",)
    seeds: tuple[int, ...] = field(default=(1, 2, 3))


def changed(table: str, name: str, says: str, seeds=(1,), tasks=("SST-2",), **flags) -> Experiment:
    """Setting 1 with other settings."""
    chain = partial(setting1, name=name, **flags)
    return Experiment(table, name, says, chain, tasks=tasks, seeds=seeds)


def knows(name: str, says: str, **flags) -> Experiment:
    """Setting 1 from a part of the teacher's hidden states, on a large task and a small one."""
    return changed("knowledge", name, says, (1, 2, 3), ("SST-2", "MRPC"), **flags)


def transfer(task: str, others: tuple[str, ...]) -> list[Experiment]:
    """The recipe with augmentation and without, on a task's own pairs, and on others' besides."""
    besides = f"the pairs of {' and '.join(others)} besides, as many steps"
    plain, augmented = (
        partial(recipe_with_pairs_of, others, augmented=how) for how in (False, True)
    )
    line = partial(Experiment, "transfer", data="full", tasks=(task,))
    return [
        line("unaugmented", "the recipe unaugmented: its own pairs as they are",
             recipe_unaugmented, seeds=(1,)),
        line("others_pairs", f"unaugmented, {besides}", plain),
        line("others_pairs_augmented", f"the recipe, {besides}", augmented),
    ]  # fmt: skip


def fewer_pieces(task: str, of: str, says: str) -> Experiment:
    """A finished student of Setting 1 with the word pieces of some data alone."""

    def chain(lab: StageLab) -> Path:
        return lab.keep_pieces(f"setting1_pieces_{of}", setting1(lab), of)

    return Experiment("vocabulary", f"pieces_{of}", says, chain, tasks=(task,))


def iterative(table: str, name: str, says: str, **flags) -> Experiment:
    """Setting 3 with other settings."""
    return Experiment(table, name, says, lambda lab: setting3(lab, name, **flags), seeds=(1,))


def cut_otherwise(table: str, name: str, says: str, shape: str = SHAPE, seeds=(1,), **flags):
    """Setting 1 from another cut of the teacher."""

    def chain(lab: StageLab) -> Path:
        cut = lab.prune(f"cut_{name}", scored_teacher(lab), shape, seed=lab.seed, **flags)
        return lab.distil(name, "setting1", teacher(lab), cut, **asdict(Shape.parse(shape)))

    return Experiment(table, name, says, chain, seeds=seeds)


def at_its_best(task: str, name: str, says: str, shape: str = SHAPE, seeds=(1,), **flags):
    """Setting 1 on all rows, at a higher rate and with more of the representation loss."""
    flags = {"learning_rate": 6e-4, "repr_weight": 10, "num_train_epochs": 30, **flags}

    def chain(lab: StageLab) -> Path:
        return setting1(lab, f"setting1_{name}", shape, **flags)

    return Experiment("goal", name, says, chain, data="full", tasks=(task,), seeds=seeds)


def scored_otherwise(name: str, says: str, **flags) -> Experiment:
    """Setting 1 from a cut of the teacher by other Taylor scores."""

    def chain(lab: StageLab) -> Path:
        source = lab.twin(f"bert_ft_{name}", teacher(lab))
        lab.score(source, **flags)
        cut = lab.prune(f"cut_{name}", source, SHAPE)
        return lab.distil(name, "setting1", teacher(lab), cut)

    return Experiment("recipe", name, says, chain, seeds=(1,))


def as_published(chain: Callable[..., Path], number: int) -> list[Experiment]:
    """A setting as minilm/ has it, with each of the published choices, and with all of them."""
    changes = PUBLISHED | {
        "published": (
            "all three",
            {k: v for _, flags in PUBLISHED.values() for k, v in flags.items()},
        )
    }
    return [
        Experiment(
            f"published{number}",
            f"setting{number}_{name}",
            says,
            partial(chain, name=f"setting{number}_{name}", **flags),
        )
        for name, (says, flags) in changes.items()
    ]


def tuned(task: str, name: str, says: str, **flags) -> Experiment:
    """The teacher tuned otherwise; `bert_ft` is the best held out, or level with it."""

    def chain(lab: StageLab) -> Path:
        return lab.fine_tune(f"teacher_{name}", lab.base, TEACHER_SEED, **flags)

    return Experiment("teacher", name, says, chain, data="full", tasks=(task,), seeds=(1,))


# students are tuned on the first two alone: does the recipe travel to the others?
FIVE = ("SST-2", "CoLA", "MRPC", "STS-B", "RTE")

EXPERIMENTS = [
    Experiment("teacher", "bert_ft", "the teacher as taken", teacher_of_seed, data="full",
               tasks=FIVE),
    tuned("SST-2", "5e-5", "peak rate 5e-5, no warm-up", learning_rate=5e-5, warmup_steps=0),
    tuned("SST-2", "2e-5_2_epochs", "peak rate 2e-5, 2 epochs", learning_rate=2e-5,
          num_train_epochs=2),
    tuned("CoLA", "3e-5", "peak rate 3e-5", learning_rate=3e-5),
    tuned("CoLA", "1e-4", "peak rate 1e-4", learning_rate=1e-4),
    tuned("CoLA", "5e-5_batch_16", "batches of 16, 6 epochs", num_train_epochs=6,
          per_gpu_train_batch_size=16, logging_steps=236),
    tuned("CoLA", "1e-4_batch_16", "peak rate 1e-4, batches of 16, 6 epochs, warm-up",
          learning_rate=1e-4, num_train_epochs=6, per_gpu_train_batch_size=16, logging_steps=236,
          warmup_steps=200),
    Experiment("teacher", "anew", "bert_ft made anew in fp32", teacher, data="full",
               tasks=("CoLA", "SST-2"), seeds=(1,)),
    tuned("CoLA", "5e-5_20_epochs", "20 epochs", num_train_epochs=20),
    tuned("CoLA", "1e-4_renewed_1", "peak rate 1e-4, pooler and top layer drawn anew",
          learning_rate=1e-4, renewed_layers=1),
    tuned("CoLA", "1e-4_layer_decay", "peak rate 1e-4, each layer at 0.8 of that of the one above",
          learning_rate=1e-4, layer_decay=0.8),
    *(line for task in ("MRPC", "STS-B") for line in (
        tuned(task, "5e-5", "peak rate 5e-5", learning_rate=5e-5),
        tuned(task, "2e-4", "peak rate 2e-4", learning_rate=2e-4),
        tuned(task, "1e-4_10_epochs", "10 epochs", num_train_epochs=10),
    )),
    tuned("RTE", "1e-4_10_epochs", "peak rate 1e-4, 10 epochs", learning_rate=1e-4,
          num_train_epochs=10),
    tuned("RTE", "5e-5_10_epochs", "10 epochs, warm-up", num_train_epochs=10, warmup_steps=69),
    tuned("RTE", "3e-5_10_epochs", "peak rate 3e-5, 10 epochs, warm-up", learning_rate=3e-5,
          num_train_epochs=10, warmup_steps=69),
    tuned("RTE", "1e-4_layer_decay", "peak rate 1e-4, each layer at 0.8 of that of the one above",
          learning_rate=1e-4, layer_decay=0.8),
    at_its_best("SST-2", "fresh_20_no_dropout", "Setting 1, 20 epochs, every second one with"
                " fresh replacements, rate 6e-4, ten times the representation loss, no dropout",
                num_train_epochs=20, fresh_augmentation="alternate", dropout=0, seeds=(1, 2, 3)),
    at_its_best("CoLA", "fresh_60", "Setting 1, 60 epochs, every second one with fresh"
                " replacements, rate 6e-4, ten times the representation loss",
                num_train_epochs=60, fresh_augmentation="alternate"),
    at_its_best("CoLA", "fresh_60_no_dropout", "fresh_60 without dropout", num_train_epochs=60,
                fresh_augmentation="alternate", dropout=0),
    at_its_best("CoLA", "always_30_no_dropout", "30 epochs, each one with fresh replacements, no"
                " dropout", fresh_augmentation="always", dropout=0),
    at_its_best("CoLA", "plain_30_no_dropout", "30 epochs, no augmentation, no dropout",
                dropout=0),
    at_its_best("CoLA", "plain_30_labels", "plain_30_no_dropout with gold labels besides, weight"
                " 0.5", label_weight=0.5, dropout=0),
    at_its_best("CoLA", "plain_30_repr_100", "plain_30_no_dropout, a hundred times the"
                " representation loss", repr_weight=100, dropout=0),
    at_its_best("CoLA", "plain_30_deep", "plain_30_no_dropout, deep and narrow: a1_l6_f192_e64",
                "a1_l6_f192_e64", dropout=0),
    at_its_best("CoLA", "plain_30_large_layers", "plain_30_no_dropout, more of the layers:"
                " a4_l4_f512_e26", "a4_l4_f512_e26", dropout=0),
    at_its_best("CoLA", "always_30_edits", "30 epochs, each one with fresh replacements, half of"
                " the rows edited besides, no dropout",
                fresh_augmentation="always", aug_edits=0.5, dropout=0),
    at_its_best("CoLA", "always_30_edits_large_layers", "always_30_edits with more of the layers:"
                " a4_l4_f512_e26", "a4_l4_f512_e26", fresh_augmentation="always", aug_edits=0.5,
                dropout=0),
    Experiment("goal", "recipe", "the one recipe, config_recipe.json: Setting 1 to a4_l4_f512_e26,"
               " 60 epochs (SST-2: 20), each one with fresh replacements, half of the rows edited"
               " besides, rate 6e-4, ten times the representation loss, no dropout", recipe,
               data="full", tasks=FIVE),
    Experiment("settings", "no_kd", "pruned, trained on the labels, no KD", no_kd, tasks=FIVE),
    Experiment("settings", "setting1", "Setting 1: one step, one-stage KD", setting1, tasks=FIVE),
    Experiment("settings", "setting2", "Setting 2: one step, two-stage KD", setting2, tasks=FIVE),
    Experiment("settings", "setting3", "Setting 3: width iteratively, two-stage KD", setting3,
               tasks=FIVE),
    Experiment("settings", "setting4", "Setting 4, ROSITA: depth, then width, three-stage KD",
               setting4, tasks=FIVE),
    changed("augmentation", "none_12", "no augmentation, 12 epochs", num_train_epochs=12),
    Experiment("augmentation", "copies_1", "GloVe, N = 1, 6 epochs",
               lambda lab: copies(lab, 1), seeds=(1,)),
    Experiment("augmentation", "copies_3", "GloVe, N = 3, 3 epochs",
               lambda lab: copies(lab, 3), seeds=(1,)),
    Experiment("augmentation", "copies_10", "GloVe, N = 10, 12/11 epochs",
               lambda lab: copies(lab, 10), seeds=(1,)),
    Experiment("augmentation", "alternate_12", "GloVe, fresh in every second epoch, 12 epochs",
               lambda lab: fresh(lab, 12), seeds=(1,)),
    Experiment("augmentation", "always_12", "GloVe, fresh in every epoch, 12 epochs",
               lambda lab: fresh(lab, 12, "always"), seeds=(1,)),
    cut_otherwise("baselines", "magnitude", "magnitude in place of Taylor scores",
                  importance="magnitude"),
    cut_otherwise("baselines", "random", "random heads and units", importance="random",
                  seeds=(1, 2, 3)),
    Experiment("baselines", "scratch", "random weights, on the labels", scratch, seeds=(1,)),
    cut_otherwise("baselines", "scratch_kd", "random weights, KD", from_scratch=True),
    cut_otherwise("baselines", "one_layer", "one whole layer, embedding of rank 44",
                  "a12_l1_f1536_e44"),
    cut_otherwise("baselines", "two_layers", "two whole layers, whole embedding (not this size)",
                  "a12_l2_f1536_e-1"),
    cut_otherwise("baselines", "deep", "deep and narrow: a1_l6_f192_e64", "a1_l6_f192_e64"),
    cut_otherwise("baselines", "wide", "shallow and wide: a4_l2_f512_e64", "a4_l2_f512_e64"),
    cut_otherwise("baselines", "large_layers", "more of the layers: a4_l4_f512_e26",
                  "a4_l4_f512_e26"),
    cut_otherwise("baselines", "large_embedding", "more of the embedding: a2_l2_f256_e83",
                  "a2_l2_f256_e83"),
    iterative("pruning", "period_0.05", "pruned within 5 % of the steps (20 %)",
              prun_period_proportion=0.05),
    iterative("pruning", "period_0.5", "within 50 %", prun_period_proportion=0.5),
    iterative("pruning", "period_0.8", "within 80 %", prun_period_proportion=0.8),
    iterative("pruning", "constant", "constant rate (linear decay)", lr_schedule="none"),
    iterative("pruning", "cosine", "cosine decay", lr_schedule="warmup_cosine"),
    iterative("pruning", "decay_after", "constant while pruning, then linear decay",
              lr_schedule="decay_after_pruning"),
    changed("recipe", "rate_1e-4", "peak rate 1e-4 (3e-4)", learning_rate=1e-4),
    changed("recipe", "rate_6e-4", "peak rate 6e-4", learning_rate=6e-4),
    changed("recipe", "rate_1e-3", "peak rate 1e-3", learning_rate=1e-3),
    changed("recipe", "batch_16", "batches of 16 (32)", train_batch_size=16),
    changed("recipe", "batch_64", "batches of 64", train_batch_size=64),
    changed("recipe", "epochs_24", "24 epochs (6)", num_train_epochs=24),
    changed("recipe", "temperature_2", "temperature 2 (1)", temperature=2),
    changed("recipe", "logits_only", "prediction loss only", repr_distill=False),
    changed("recipe", "repr_0.1", "a tenth of the representation loss", repr_weight=0.1),
    changed("recipe", "repr_10", "ten times the representation loss", repr_weight=10),
    changed("recipe", "repr_30", "thirty times the representation loss", repr_weight=30),
    changed("recipe", "dropout_0", "no dropout (0.1)", dropout=0),
    changed("recipe", "repr_10_dropout_0", "ten times, and no dropout", repr_weight=10, dropout=0),
    changed("recipe", "repr_10_rate_1e-3", "ten times, and peak rate 1e-3", repr_weight=10,
            learning_rate=1e-3),
    changed("recipe", "labels", "gold labels besides, weight 0.5", label_weight=0.5),
    changed("recipe", "map_last", "following the teacher's last layers", layer_map="last"),
    changed("recipe", "map_ends", "following its embedding and last layer only",
            layer_map="ends"),
    Experiment("recipe", "two_phases", "3 epochs of hidden states, then 3 of logits", two_phases,
               seeds=(1,)),
    scored_otherwise("by_unit", "scores summed over a unit before the absolute value",
                     score_by="unit"),
    scored_otherwise("passes_3", "scores of three passes", num_train_epochs=3),
    cut_otherwise("recipe", "layers_by_score", "layers by importance", keep_layers_by="score"),
    iterative("recipe", "keep_optimizer", "Setting 3, moments kept through prunings",
              keep_optimizer=True),
    iterative("recipe", "recompute_svd", "Setting 3, singular vectors anew at each cut",
              recompute_svd=True),
    knows("no_states", "logits alone", repr_distill=False),
    knows("last_state", "1l: the last state alone", hsk="1l"),
    knows("last_state_top4", "1l, which follows the teacher's fourth layer", hsk="1l",
          layer_map="t_top4"),
    knows("ten_tokens", "10t: ten tokens of a row, by attention", hsk="10t"),
    knows("tenth_of_units", "0.1h: the tenth of largest values", hsk="0.1h"),
    knows("all_three", "1l_10t_0.1h", hsk="1l_10t_0.1h"),
    knows("all_three_top4", "1l_10t_0.1h, which follows the teacher's fourth layer",
          hsk="1l_10t_0.1h", layer_map="t_top4"),
    knows("all_three_fixed", "1l_10t_0.1h of fixed units", hsk="1l_10t_0.1h",
          hsk_width="uniform_mask"),
    knows("all_three_left_out", "1l_10t_0.1h of fixed units, the others left out of the loss",
          hsk="1l_10t_0.1h", hsk_width="uniform_mask", hsk_masked="left_out"),
    Experiment("knowledge", "all_three_two_phases", "1l_10t_0.1h first, then logits, half of the"
               " epochs each", partial(two_phases, name="all_three_two_phases", hsk="1l_10t_0.1h"),
               tasks=("SST-2", "MRPC")),
    Experiment("knowledge", "all_states", "all five: Setting 1 of the same teacher", setting1),
    fewer_pieces("SST-2", "SST-2", "the pieces of the 20,000 training rows"),
    fewer_pieces("SST-2", "MRPC", "another domain's: of MRPC's sentences from news"),
    fewer_pieces("MRPC", "MRPC", "the pieces of the training rows"),
    fewer_pieces("MRPC", "SST-2", "another domain's: of SST-2's film reviews"),
    *transfer("MRPC", ("RTE", "STS-B")),
    *transfer("RTE", ("MRPC", "STS-B")),
    *as_published(setting1, 1),
    *as_published(setting4, 4),
]  # fmt: skip
