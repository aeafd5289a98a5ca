"""The tables of docs/many-machines.md, and the assumptions that they rest on."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from scaling.simulator import (
    Job,
    Machine,
    bert,
    cache_leaves_memory,
    cache_pays_after,
    device_bytes,
    disk_bytes,
    epoch_seconds,
    fill_seconds,
    host_bytes,
    states_gain,
    step_seconds,
    student_of,
    tokenize_seconds,
)

from rosita.pruning.shape import parameter_count
from rosita.tables import markdown

# Assumed, none of it measured: bf16 peak of an A100 and a usual share of it; eager launches of
# PyTorch; NVLink inside a node, 200 Gb/s between nodes; a local NVMe disk.
A100 = Machine("A100 80 GB", 312e12, 0.35, 8e-6, 1e12)
STUDENTS = {"base": "a2_l8_f512_e128", "large": "a3_l16_f704_e192"}
ROWS, DEVICES, BATCHES = (10**6, 10**7, 10**8, 10**9), (1, 8, 64), (32, 256)
FEW_STEPS = 1000  # of an epoch; fewer are marked: too few updates to learn by


def job(name: str, rows: int = 10**8, devices: int = 1, batch: int = 32, **more: Any) -> Job:
    """Setting 1 with the teacher BERT-`name` and its student."""
    teacher = bert(name)
    return Job(teacher, student_of(teacher, STUDENTS[name]), rows, devices, batch, **more)


def cells() -> list[dict]:
    """Every combination of the tables: steps, hours, what a step is bound by, GB of memory."""
    found = []
    for name, rows, devices, batch in product(STUDENTS, ROWS, DEVICES, BATCHES):
        one = job(name, rows, devices, batch)
        step = step_seconds(one, A100)
        found.append(
            {
                "teacher": name,
                "rows": rows,
                "devices": devices,
                "batch": batch,
                "steps": one.steps,
                "epoch_hours": epoch_seconds(one, A100) / 3600,
                "bound_by": step.bound_by,
                "device_gb": device_bytes(one) / 1e9,
                "host_gb": host_bytes(one, A100) / 1e9,
            }
        )
    return found


def all_tables(check: dict | None) -> dict[str, str]:
    """Markdown tables by the names of their markers in the document."""
    found = {
        "assumptions": assumptions_table(),
        "hours": hours_table(),
        "step": step_table(),
        "memory": memory_table(),
        "space": space_table(),
        "cache": cache_table(),
    }
    if check:
        found["check"] = check_table(check["lines"])
    return found


def figure(value: float) -> str:
    """Two digits that count, without an exponent."""
    if value == 0 or math.isinf(value):
        return "never" if value else "0"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{round(value, digits):,.{digits}f}" if value < 100 else f"{float(f'{value:.2g}'):,.0f}"


def gpus(devices: int) -> str:
    return f"{devices} GPU{'s' if devices > 1 else ''}"


def rows_head() -> list[str]:
    return [f"{rows:.0e} rows".replace("e+0", "e") for rows in ROWS]


def assumptions_table() -> str:
    shown = {
        "bf16 peak, FLOP/s": A100.peak,
        "share of it that large batches reach": A100.utilization,
        "CPU time of one launched operation, s": A100.launch_seconds,
        "update (clipping, AdamW), bytes/s": A100.memory_rate,
        "links in a node of 8, bytes/s": A100.inside_rate,
        "link between nodes, bytes/s": A100.between_rate,
        "latency of a hop, s": A100.latency,
        "share of the backward pass that hides the exchange": A100.overlap,
        "disk of a node: bytes/s": A100.disk_rate,
        "its random reads of a page per s": A100.page_reads,
        "memory of a node, bytes": A100.host_bytes,
        "tokens of a row": job("base").tokens,
        "rows/s tokenized (measured: two CPU cores, `benchmarks/`)": A100.tokenize_rate,
    }
    lines = [[name, f"{value:g}"] for name, value in shown.items()]
    return markdown([["assumed", "value"], *lines], words=(0,))


def hours_table() -> str:
    head = ["hours of one epoch, batch 32 / 256 per GPU", *rows_head()]
    lines = []
    for name in STUDENTS:
        for devices in DEVICES:
            line = [f"BERT-{name}, {gpus(devices)}"]
            for rows in ROWS:
                pair = [job(name, rows, devices, batch) for batch in BATCHES]
                line.append(
                    " / ".join(
                        figure(epoch_seconds(one, A100) / 3600) + "*" * (one.steps < FEW_STEPS)
                        for one in pair
                    )
                )
            lines.append(line)
    lines.append(
        ["tokenizing, once"]
        + [figure(tokenize_seconds(job("base", rows), A100) / 3600) for rows in ROWS]
    )
    return markdown([head, *lines], words=(0,))


def step_table() -> str:
    head = ["ms of one step", "teacher", "student", "update", "launches", "exchange", "total",
            "bound by"]  # fmt: skip
    lines = []
    for name in STUDENTS:
        for devices, batch in ((1, 32), (64, 32), (1, 256), (64, 256), (64, 1024)):
            step = step_seconds(job(name, devices=devices, batch=batch), A100)
            times = (
                step.teacher,
                step.student,
                step.update,
                step.launch,
                step.exchange,
                step.total,
            )
            lines.append(
                [
                    f"BERT-{name}, {gpus(devices)}, batch {batch}",
                    *(figure(1000 * seconds) for seconds in times),
                    step.bound_by,
                ]
            )
    return markdown([head, *lines], words=(0,))


def memory_table() -> str:
    batches = (32, 256, 1024)
    head = ["GB", *(f"GPU memory, batch {batch}" for batch in batches), "gradients a step"]
    lines = []
    for name in STUDENTS:
        sizes = [device_bytes(job(name, batch=batch)) for batch in batches]
        sizes.append(4 * parameter_count(job(name).student))
        lines.append([f"BERT-{name}", *(figure(size / 1e9) for size in sizes)])
    return markdown([head, *lines], words=(0,))


def space_table() -> str:
    jobs = [job("base", rows) for rows in ROWS]
    lines = [
        ["disk: token ids, logits, model and state (base)"]
        + [figure(disk_bytes(one, True) / 1e9) for one in jobs]
    ]
    for devices in (1, 8):
        jobs = [job("base", rows, devices) for rows in ROWS]
        lines.append(
            [f"memory of a node of {gpus(devices)}: the order of the rows"]
            + [figure(host_bytes(one, A100) / 1e9) for one in jobs]
        )
    return markdown([["GB", *rows_head()], *lines], words=(0,))


def cache_table() -> str:
    head = ["teacher's logits cached", *map(gpus, DEVICES)]
    lines = []
    for name in STUDENTS:
        for batch in BATCHES:
            jobs = [job(name, devices=devices, batch=batch) for devices in DEVICES]
            lines.append(
                [f"BERT-{name}, batch {batch}: pays from the epoch"]
                + [figure(cache_pays_after(one, A100)) for one in jobs]
            )
        fill = [fill_seconds(job(name, 10**9, devices), A100) / 3600 for devices in DEVICES]
        lines.append([f"BERT-{name}: hours to fill it with 1e9 rows", *map(figure, fill)])
    jobs = [job("base", devices=devices) for devices in DEVICES]
    lines.append(
        ["rows from which it leaves a node's memory"]
        + [f"{cache_leaves_memory(one, A100):.1e}" for one in jobs]
    )
    beyond = [job("base", 10**11, devices, 256) for devices in DEVICES]
    lines.append(
        ["... pays from the epoch beyond (base, batch 256)"]
        + [figure(cache_pays_after(one, A100)) for one in beyond]
    )
    for name in STUDENTS:
        jobs = [job(name, devices=devices) for devices in DEVICES]
        lines.append(
            [f"hidden states, BERT-{name}: teacher's time over reading"]
            + [figure(states_gain(one, A100)) for one in jobs]
        )
    return markdown([head, *lines], words=(0,))


def check_table(lines: list[dict]) -> str:
    shown = []
    for line in lines:
        name = line["name"] + (" (calibrates)" if line["calibrates"] else "")
        times = [f"{figure(line[kind])} {line['unit']}" for kind in ("predicted", "measured")]
        error = 100 * (line["predicted"] / line["measured"] - 1)
        shown.append([name, *times, f"{error:+.0f} %"])
    return markdown([["run", "predicted", "measured", "error"], *shown], words=(0,))
