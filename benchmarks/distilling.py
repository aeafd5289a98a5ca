"""The distillation step: ours, the plain way, and transformers' Trainer, in turn."""

from __future__ import annotations

import time
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import baseline
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from common import (
    BASE_STUDENT,
    BERT_BASE,
    MAX_LENGTH,
    MINILM,
    MINILM_STUDENT,
    TASK,
    Result,
    auto_dtype,
    bert_tokenizer,
    cola,
    linear_flops,
    matmul_rate,
    random_model,
    rates,
    synchronize,
    tokenizer,
)
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from rosita.config import KDSettings, hsk_amount
from rosita.data.batches import Batch, Encoded, Sampler
from rosita.data.encode import encode_file
from rosita.distillation.knowledge import Knowledge, layer_map
from rosita.distillation.losses import DistillationLoss, LossSum
from rosita.distillation.teacher import Teacher
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.runtime import freeze, start_accelerator
from rosita.training.cpu import fast_on_cpu
from rosita.training.embedding import used_tokens
from rosita.training.loop import Training
from rosita.training.plan import Plan

BATCH, WARM = 32, 4
ALL_STATES = Knowledge()


class Clock(DistillationLoss):
    """The distillation loss; notes when each step begins, and its rows."""

    def __init__(self, teacher: Teacher, pred_distill: bool, repr_distill: bool, last: int) -> None:
        super().__init__(teacher, pred_distill, repr_distill)
        self.last = last  # number of the last step, from 0: where the clock ends
        self.begun: list[tuple[float, int]] = []

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, LossSum]:
        if len(self.begun) in (WARM, self.last):
            synchronize()
        self.begun.append((time.perf_counter(), len(batch.rows)))
        return super().losses(model, batch)

    def rows_and_seconds(self) -> tuple[int, float]:
        """Rows and seconds between the first step after the warm-up and the last."""
        steps = self.begun[WARM:]
        return sum(rows for _, rows in steps[:-1]), steps[-1][0] - steps[0][0]


def ours(
    teacher,
    student,
    data: Encoded,
    steps: int,
    folder: Path,
    repr_distill: bool,
    seed: int,
    cached: list[int] | None = None,
    batch: int = BATCH,
    knowledge: Knowledge = ALL_STATES,
    **more: Any,
) -> tuple[int, float]:
    """Rows and seconds of our loop over `steps` steps; `cached`: states kept beside the logits.

    `knowledge`: what is followed of the states. `more`: other settings than those of the lines on
    a CPU.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # Trainer has set one
    given: dict[str, Any] = {
        "max_seq_length": MAX_LENGTH,
        "max_steps": steps + WARM + 1,
        "num_train_epochs": 10**6,
        "no_cuda": True,
        **more,
    }
    settings = KDSettings(
        teacher_model="-",
        student_model="-",
        output_dir=str(folder),
        pred_distill=True,
        repr_distill=repr_distill,
        **given,
    )
    accelerator = start_accelerator(settings)
    guide = Teacher(freeze(fast_on_cpu(deepcopy(teacher)), accelerator), knowledge)
    if cached is not None:
        guide.remember([data], "0" * 32, accelerator, cached)
    loss = Clock(guide, True, repr_distill, steps + WARM)
    Training(
        student,
        loss,
        Sampler([data], batch, seed),
        Plan(settings, micro_batch_size=batch),
        accelerator,
        folder,
        used=used_tokens([data], student.config.vocab_size),
    ).run()
    return loss.rows_and_seconds()


class DistillingTrainer(Trainer):
    """What a user would write today: Trainer, its padding collator, a distillation loss."""

    def __init__(self, teacher: nn.Module, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.teacher = teacher

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs.pop("labels", None)
        with torch.no_grad():
            taught = self.teacher(**inputs, output_hidden_states=True)
        learnt = model(**inputs, output_hidden_states=True)
        target = F.softmax(taught.logits, dim=-1)
        loss = -(target * F.log_softmax(learnt.logits, dim=-1)).mean()
        mapping = layer_map(len(taught.hidden_states) - 1, len(learnt.hidden_states) - 1)
        for number, index in mapping.items():
            loss = loss + F.mse_loss(learnt.hidden_states[number], taught.hidden_states[index])
        return (loss, learnt) if return_outputs else loss


class StepTimes(TrainerCallback):
    def __init__(self, last: int) -> None:
        self.begun: list[float] = []
        self.last = last

    def on_step_begin(self, *_, **__) -> None:
        if len(self.begun) in (WARM, self.last):
            synchronize()
        self.begun.append(time.perf_counter())


def with_trainer(
    teacher,
    student,
    data: Encoded,
    steps: int,
    folder: Path,
    batch: int = BATCH,
    collator: Any = None,
    **more: Any,
) -> tuple[int, float]:
    """Rows and seconds of transformers' Trainer over `steps` steps; `more`: other arguments."""
    rows = [
        {"input_ids": data.ids[data.offsets[i] : data.offsets[i + 1]].tolist(), "labels": 0}
        for i in range(min(len(data), (steps + WARM + 2) * batch))
    ]
    times = StepTimes(steps + WARM)
    DistillingTrainer(
        teacher,
        model=student,
        args=TrainingArguments(
            str(folder / "trainer"),
            per_device_train_batch_size=batch,
            max_steps=steps + WARM + 1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            **{"use_cpu": True, **more},
        ),
        train_dataset=rows,
        data_collator=collator or DataCollatorWithPadding(bert_tokenizer()),
        callbacks=[times],
    ).train()
    begun = times.begun[WARM:]
    return batch * (len(begun) - 1), begun[-1] - begun[0]


def plain(teacher, student, data: Encoded, steps: int):
    """Rows and seconds of the reference's way over `steps` steps."""
    run = baseline.distillation_steps(
        teacher, student, baseline.padded_batches(data, BATCH, MAX_LENGTH)
    )
    next(run)
    start = time.perf_counter()
    return sum(islice(run, steps)), time.perf_counter() - start


def compare(
    name: str, config: RositaConfig, shape: str, steps: int, rounds: int, folder: Path
) -> list[Result]:
    """Representation + prediction distillation: the plain way and Trainer against ours."""
    data = encoded(folder)
    teacher = random_model(config).eval().requires_grad_(False)
    plain_teacher = baseline.written_out(random_model(config)).eval().requires_grad_(False)
    bert = (
        BertForSequenceClassification(BertConfig(**sizes_of(config))).eval().requires_grad_(False)
    )
    ceiling = matmul_rate(auto_dtype())
    sums = {"ours": [0, 0.0], "plain": [0, 0.0], "trainer": [0, 0.0]}
    for number in range(rounds):
        for who, found in (
            (
                "plain",
                plain(
                    plain_teacher,
                    baseline.written_out(random_model(config, shape)),
                    data,
                    max(2, steps // 5),
                ),
            ),
            ("ours", ours(teacher, random_model(config, shape), data, steps, folder, True, number)),
            ("trainer", with_trainer(bert, random_model(config, shape), data, steps // 2, folder)),
        ):
            sums[who] = [total + new for total, new in zip(sums[who], found, strict=True)]
    ceiling = max(ceiling, matmul_rate(auto_dtype()))
    per_token = linear_flops(teacher) + 3 * linear_flops(random_model(config, shape))
    limit = ceiling / (per_token * data.lengths().mean())
    speed = {who: rows / seconds for who, (rows, seconds) in sums.items()}
    note = f"limit {limit:.0f}/s: {ceiling / 1e9:.0f} GFLOP/s in {str(auto_dtype())[6:]}"
    return [
        rates(name, speed["ours"], speed["plain"], limit, note),
        rates(f"{name}_trainer", speed["ours"], speed["trainer"], limit, note),
    ]


def sizes_of(config: RositaConfig) -> dict[str, Any]:
    """The sizes of a BERT by the names of transformers' BertConfig."""
    names = "hidden_size num_hidden_layers num_attention_heads intermediate_size vocab_size"
    return {name: getattr(config, name) for name in names.split()}


def encoded(folder: Path) -> Encoded:
    """CoLA's training sentences as token ids."""
    return encode_file(cola(folder), TASK, tokenizer(), MAX_LENGTH, cache_dir=folder / "cache")


def kd_bert_base(quick: bool, folder: Path) -> list[Result]:
    return compare(
        "kd_bert_base", BERT_BASE, BASE_STUDENT, *((10, 2) if quick else (40, 3)), folder
    )


def kd_minilm(quick: bool, folder: Path) -> list[Result]:
    steps, rounds = (40, 2) if quick else (200, 3)
    return compare("kd_minilm", MINILM, MINILM_STUDENT, steps, rounds, folder)


def kd_cached_logits(quick: bool, folder: Path) -> list[Result]:
    """Prediction-only distillation, from the second epoch on: with the cache against without."""
    rows, steps, rounds = (320, 5, 1) if quick else (1600, 14, 5)
    return [
        against_cached(
            name, BERT_BASE, f"a12_l{layers}_f3072_e-1", False, rows, steps, rounds, folder
        )
        for name, layers in (("kd_cached_logits", 12), ("kd_cached_logits_8layer", 8))
    ]


def kd_cached_states(quick: bool, folder: Path) -> list[Result]:
    """Setting 1 with both losses, from the second epoch on: with teacher_cache_gb against 0."""
    return with_cached_states("kd_cached_states", ALL_STATES, quick, folder)


def kd_fewer_states(quick: bool, folder: Path) -> list[Result]:
    """Setting 1 with `hsk 1l_10t_0.1h` of fixed units, cached: against all states, not cached."""
    some = Knowledge(
        hsk_amount("1l_10t_0.1h"),
        length="attention_no_sep",
        width="uniform_mask",
        sep_id=tokenizer().pieces["[SEP]"],
        row_means=True,
    )
    return with_cached_states("kd_fewer_states", some, quick, folder)


def with_cached_states(name: str, knowledge: Knowledge, quick: bool, folder: Path) -> list[Result]:
    """MiniLM's line and BERT-base's of what is followed of the states, cached."""
    small, base = ((1600, 30, 2), (320, 6, 1)) if quick else ((6400, 150, 5), (1600, 30, 3))
    lines = (
        (name, MINILM, MINILM_STUDENT, small),
        (f"{name}_bert_base", BERT_BASE, BASE_STUDENT, base),
    )
    return [
        against_cached(line, config, shape, True, *sizes, folder, knowledge)
        for line, config, shape, sizes in lines
    ]


def against_cached(
    name: str,
    config: RositaConfig,
    shape: str,
    states: bool,
    rows: int,
    steps: int,
    rounds: int,
    folder: Path,
    knowledge: Knowledge = ALL_STATES,
) -> Result:
    """Rows per second of the same steps, what is followed of the teacher cached against the
    teacher run, all of its states followed."""
    small = _first_rows(encoded(folder), rows)
    teacher: RositaForSequenceClassification = random_model(config).eval()
    note = "without the pass that fills the cache"
    sums = {"cached": [0, 0.0], "not": [0, 0.0]}
    for number in range(rounds):
        for who, what in (("cached", knowledge), ("not", ALL_STATES)):
            student = random_model(config, shape)
            followed = None
            if who == "cached":
                followed = followed_states(config, student, what) if states else []
            new = ours(teacher, student, small, steps, folder, states, number, followed,
                       knowledge=what)  # fmt: skip
            sums[who] = [a + b for a, b in zip(sums[who], new, strict=True)]
    speed = {who: rows / seconds for who, (rows, seconds) in sums.items()}
    per_token = 3 * linear_flops(random_model(config, shape))
    limit = matmul_rate(auto_dtype()) / (per_token * small.lengths().mean())
    if knowledge != ALL_STATES:
        sizes = (kept_bytes(teacher, student, small, which) for which in (knowledge, ALL_STATES))
        note += "; it takes {:.2g} MB, all states {:.3g} MB".format(*(s / 1e6 for s in sizes))
    return rates(name, speed["cached"], speed["not"], limit, note)


def kept_bytes(
    teacher: RositaForSequenceClassification,
    student: RositaForSequenceClassification,
    data: Encoded,
    knowledge: Knowledge,
) -> int:
    """Room that what is followed of the teacher's states takes on disk."""
    guide = Teacher(teacher, knowledge)
    return guide.states_bytes([data], followed_states(teacher.config, student, knowledge))


def followed_states(
    teacher: RositaConfig,
    student: RositaForSequenceClassification,
    knowledge: Knowledge = ALL_STATES,
) -> list[int]:
    """Numbers of the teacher's hidden states that the student learns."""
    layers = teacher.num_hidden_layers, student.config.num_hidden_layers
    return list(knowledge.mapping(*layers).values())


def _first_rows(data: Encoded, rows: int) -> Encoded:
    rows = min(rows, len(data))
    folder = data.cache.parent / f"first-{rows}"
    folder.mkdir(exist_ok=True)
    return Encoded(
        data.path,
        data.ids[: data.offsets[rows]],
        data.offsets[: rows + 1],
        data.first[:rows],
        data.labels[:rows],
        data.sha256,
        folder,
    )
