"""Short runs of the real loop on this machine, against what scaling/simulator.py says of them.

Three rates are calibrated: of the update (timed alone), of arithmetic and of launching (two batch
sizes of one teacher and student); the link by two sizes of an all-reduce. All else is predicted.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from scaling.simulator import (
    LAUNCHES_REST,
    LAUNCHES_STUDENT_LAYER,
    LAUNCHES_TEACHER_LAYER,
    UPDATE_BYTES,
    Job,
    Machine,
    bert,
    epoch_seconds,
    evaluation_seconds,
    exchange_seconds,
    forward_flops,
    step_seconds,
    student_of,
    training_flops,
)

from rosita.config import KDSettings
from rosita.data.batches import Batch, Encoded, Sampler
from rosita.distillation.losses import DistillationLoss, Objective
from rosita.distillation.teacher import Said, Teacher
from rosita.evaluation import predict
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.pruning.shape import parameter_count
from rosita.runtime import freeze, start_accelerator
from rosita.stages.preflight import Timed as Clock
from rosita.training.cpu import fast_on_cpu
from rosita.training.loop import Training
from rosita.training.optimizer import build_optimizer
from rosita.training.plan import Plan

MINILM = RositaConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
DEV_ROWS = 400
STEPS, WARM_STEPS = 24, 4
NEVER = 10**9


def run_check() -> dict:
    """Predicted and measured seconds of every run, with the rates that were calibrated."""
    update = measure_update(student_of(MINILM, "a12_l6_f1536_e-1"))
    small, large = (minilm(batch=batch) for batch in (16, 64))
    times = [measure_step(one) for one in (small, large)]
    machine = calibrate((small, large), times, update)
    lines = [
        line(
            f"step, MiniLM to a2_l4_f256_e64, batch {one.batch}, {one.tokens} tokens",
            step_seconds(one, machine).total,
            seconds,
            "ms",
            True,
        )
        for one, seconds in zip((small, large), times, strict=True)
    ]
    name = f"evaluation, a2_l4_f256_e64, {DEV_ROWS} rows of 16 tokens, fp32"
    predicted = evaluation_seconds(small, machine)
    lines.append(line(name, predicted, measure_evaluation(small), "ms"))
    base = Job(bert("base"), student_of(bert("base"), "a2_l8_f512_e128"), 1000, tokens=16)
    for name, one in (
        ("MiniLM to a2_l4_f256_e64, batch 32, 16 tokens", minilm(batch=32)),
        ("MiniLM to a2_l4_f256_e64, batch 128, 16 tokens", minilm(batch=128)),
        ("MiniLM to a2_l4_f256_e64, batch 32, 48 tokens", minilm(batch=32, tokens=48)),
        ("MiniLM to a12_l6_f1536_e-1, batch 32, 16 tokens", minilm("a12_l6_f1536_e-1", batch=32)),
        (
            "no teacher, a2_l4_f256_e64, batch 64, 16 tokens",
            minilm(batch=64, representation=False, cached=True),
        ),
        ("BERT-base to a2_l8_f512_e128, batch 32, 16 tokens", base),
    ):
        one = replace(one, eval_step=NEVER, dev_rows=DEV_ROWS)
        lines.append(
            line(f"step, {name}", step_seconds(one, machine).total, measure_step(one), "ms")
        )
    for rows in (1000, 4000):
        one = minilm(batch=32, rows=rows)
        lines.append(
            line(
                f"epoch, MiniLM to a2_l4_f256_e64, batch 32, {rows:,} rows",
                epoch_seconds(one, machine),
                measure_epoch(one),
                "s",
            )
        )
    rates = {
        "flops": machine.rate,
        "launch_seconds": machine.launch_seconds,
        "update_bytes_per_second": machine.memory_rate,
        "cores": os.cpu_count(),
    }
    return {"rates": rates, "lines": lines + exchange_lines()}


def line(name: str, predicted: float, measured: float, unit: str, calibrates: bool = False) -> dict:
    scale = 1000 if unit == "ms" else 1
    return {
        "name": name,
        "predicted": scale * predicted,
        "measured": scale * measured,
        "unit": unit,
        "calibrates": calibrates,
    }


def minilm(shape: str = "a2_l4_f256_e64", rows: int = 1000, **more: Any) -> Job:
    given: dict[str, Any] = {"tokens": 16, "eval_step": NEVER, "dev_rows": DEV_ROWS, **more}
    return Job(MINILM, student_of(MINILM, shape), rows, save_state_steps=NEVER, **given)


def calibrate(jobs: tuple[Job, Job], seconds: list[float], update: float) -> Machine:
    """Arithmetic and launching from the steps of two batch sizes: a line through two points."""
    machine = Machine("here", 1.0, 1.0, 0.0, update, asynchronous=False)
    flops = [
        one.batch
        * (forward_flops(one.teacher, one.tokens) + training_flops(one.student, one.tokens))
        for one in jobs
    ]
    rate = (flops[1] - flops[0]) / (seconds[1] - seconds[0])
    moved = parameter_count(jobs[0].student) * UPDATE_BYTES / update
    launches = (
        LAUNCHES_TEACHER_LAYER * jobs[0].teacher.num_hidden_layers
        + LAUNCHES_STUDENT_LAYER * jobs[0].student.num_hidden_layers
        + LAUNCHES_REST
    )
    launch = max(0.0, seconds[0] - flops[0] / rate - moved) / launches
    return replace(machine, peak=rate, launch_seconds=launch)


# ---------------------------------------------------------------------- runs


def settings(**more: object) -> KDSettings:
    return KDSettings(
        teacher_model="-",
        student_model="-",
        output_dir="-",
        pred_distill=True,
        save_state_steps=NEVER,
        no_cuda=True,
        **more,
    )


def random_rows(rows: int, tokens: int) -> Encoded:
    """Rows of random token ids, all of one length; speed does not depend on what they say."""
    ids = np.random.default_rng(0).integers(1000, 5000, rows * tokens).astype(np.uint16)
    offsets = np.arange(rows + 1, dtype=np.int64) * tokens
    lengths = np.full(rows, tokens, dtype=np.int32)
    return Encoded(Path("random"), ids, offsets, lengths, np.zeros(rows, np.int64), "", Path("."))


class Remembering(Teacher):
    """A teacher that answers at once, as one does from memory."""

    def __init__(self) -> None:
        pass

    def say(self, batch: Batch, states: Collection[int] = ()) -> Said:
        return Said(torch.zeros(len(batch.rows), 2), {})


def set_up(
    one: Job, **more: object
) -> tuple[RositaForSequenceClassification, Objective, Sampler, Plan, Accelerator]:
    """Model, objective, sampler, plan and accelerator of a job, random weights."""
    AcceleratorState._reset_state(reset_partial_state=True)
    given = settings(num_train_epochs=1, **more)
    accelerator = start_accelerator(given)
    data = random_rows(max(one.rows, STEPS * one.batch), one.tokens)
    teacher: Teacher
    if one.cached:
        teacher = Remembering()
    else:
        model = fast_on_cpu(RositaForSequenceClassification(one.teacher))
        teacher = Teacher(freeze(model, accelerator))
    objective = DistillationLoss(teacher, True, one.representation)
    sampler = Sampler([data], one.batch, 0)
    plan = Plan(given, micro_batch_size=one.batch)
    return RositaForSequenceClassification(one.student), objective, sampler, plan, accelerator


def measure_step(one: Job) -> float:
    """Median seconds of a step of the loop: other work on the machine hits some steps, not most."""
    model, objective, sampler, plan, accelerator = set_up(one, max_steps=STEPS)
    clock = Clock(objective)
    with tempfile.TemporaryDirectory() as folder:
        Training(model, clock, sampler, plan, accelerator, Path(folder)).run()
    return float(np.median(np.diff(clock.begun[WARM_STEPS:])))


def measure_evaluation(one: Job) -> float:
    """Median seconds of an evaluation of the student on `dev_rows` rows."""
    student, times = set_up(one)[0], []
    dev = random_rows(one.dev_rows, one.tokens)
    for _ in range(5):
        start = time.perf_counter()
        predict(student, dev, 32)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure_epoch(one: Job) -> float:
    """Seconds of the loop over all rows once, from start to end: what disturbs it counts."""
    with tempfile.TemporaryDirectory() as folder:
        model, objective, sampler, plan, accelerator = set_up(one)
        training = Training(model, objective, sampler, plan, accelerator, Path(folder))
        start = time.perf_counter()
        training.run()
        return time.perf_counter() - start


def measure_update(config: RositaConfig) -> float:
    """Bytes/s of clipping and AdamW on the parameters of a model."""
    model = RositaForSequenceClassification(config)
    optimizer = build_optimizer(model, settings())
    times = []
    for _ in range(6):
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        start = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.perf_counter() - start)
    return parameter_count(config) * UPDATE_BYTES / min(times)


# ---------------------------------------------------------------------- the exchange


def exchange_lines() -> list[dict]:
    """All-reduce between two processes on loopback: two sizes calibrate, two are predicted."""
    sizes = (2**20, 2**26)
    gradients = {
        f"the gradients of {shape}": 4 * parameter_count(student_of(teacher, shape))
        for teacher, shape in ((MINILM, "a2_l4_f256_e64"), (bert("base"), "a2_l8_f512_e128"))
    }
    measured = measure_exchange([*sizes, *gradients.values()])
    rate = (sizes[1] - sizes[0]) / (measured[1] - measured[0])
    latency = max(0.0, measured[0] - sizes[0] / rate) / 2
    machine = Machine("loopback", 1, 1, 0, 1, inside_rate=rate, latency=latency)
    names = {**{f"{size >> 20} MiB": size for size in sizes}, **gradients}
    return [
        line(
            f"all-reduce, 2 processes, {name}",
            exchange_seconds(size, 2, machine),
            seconds,
            "ms",
            size in sizes,
        )
        for (name, size), seconds in zip(names.items(), measured, strict=True)
    ]


def measure_exchange(sizes: list[int]) -> list[float]:
    """Median seconds of a gloo all-reduce of so many bytes between two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds"
        torch.multiprocessing.spawn(_reduce, (port, sizes, str(path)), nprocs=2)
        return [float(text) for text in path.read_text().split()]


def _reduce(rank: int, port: int, sizes: list[int], path: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    found = []
    for size in sizes:
        values, times = torch.zeros(size // 4), []
        for _ in range(9):
            torch.distributed.barrier()
            start = time.perf_counter()
            torch.distributed.all_reduce(values)
            times.append(time.perf_counter() - start)
        found.append(float(np.median(times[2:])))
    if rank == 0:
        Path(path).write_text(" ".join(map(str, found)), encoding="utf-8")
    torch.distributed.destroy_process_group()
