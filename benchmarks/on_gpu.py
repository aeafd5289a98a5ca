"""The cases of gpu.py."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import baseline
import distilling
import numpy as np
import torch
from common import BERT_BASE, Result, linear_flops, matmul_rate, random_model
from common import rates as rates_of
from common import synchronize as wait
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from rosita.augmentation.masked_lm import Frame, MaskedLM, Query
from rosita.config import KDSettings
from rosita.data.batches import Encoded
from rosita.distillation.losses import LabelLoss
from rosita.distillation.teacher import Teacher
from rosita.evaluation import predict
from rosita.model import RositaConfig
from rosita.pruning.cut import prune
from rosita.pruning.importance import MATRICES, TaylorImportance
from rosita.pruning.shape import Shape
from rosita.runtime import auto_takes_bf16, freeze, start_accelerator
from rosita.training.optimizer import build_optimizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN_TOKENS = {"cola": (11.3, 0.35, 64), "mnli": (39.0, 0.45, 128)}  # mean, spread (log), longest
GOALS = {  # ratio that a line is to reach
    "kd": 8.0,
    "kd_trainer": 3.0,
    "kd_cached_logits": 1.3,
    "taylor": 4.0,
    "evaluation": 4.0,
    "teacher_cache": 4.0,
}
SENTENCES_A_SECOND, EVENT_SECONDS, OF_THE_CARD = 1000, 0.5, 0.5


@dataclass
class Size:
    """How much is run: `config` and the student's `shape`; rows of the files; steps of ours."""

    config: RositaConfig
    shape: str
    cut_from: str  # and what one pruning event makes of it
    cut_to: str
    rows: int
    steps: int
    batches: tuple[int, ...]
    sentences: int


BASE = Size(BERT_BASE, "a2_l8_f512_e128", "a12_l8_f3072_e-1", "a11_l8_f2816_e704", 20_000, 100,
            (32, 256), 512)  # fmt: skip
TINY = Size(
    RositaConfig(hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48),
    "a2_l2_f16_e8", "a4_l3_f48_e-1", "a3_l3_f40_e16", 160, 6, (8,), 4,
)  # fmt: skip


def run(size: Size, card: dict[str, Any]) -> list[Result]:
    """All lines, one case after another."""
    lines: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="rosita-bench-") as folder:
        for case in (distillation, cached_logits, augmentation, passes, pruning_event):
            start = time.perf_counter()
            lines += case(size, Path(folder), card)
            print(f"{case.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return lines


def facts() -> dict[str, Any]:
    """The card, and what it reaches in a large matrix product."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or "CPU"
    size = 8192 if DEVICE == "cuda" else 256
    return {
        "name": name,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "fp32_tflops": matmul_rate(torch.float32, 1.0, DEVICE, size) / 1e12,
        "bf16_tflops": matmul_rate(torch.bfloat16, 1.0, DEVICE, size) / 1e12,
    }


def random_rows(kind: str, rows: int, vocabulary: int, folder: Path) -> Encoded:
    """Rows of random ids with lengths as in that task; the teacher's cache lies in `folder`."""
    mean, spread, longest = MEAN_TOKENS[kind]
    random = np.random.default_rng(0)
    drawn = random.lognormal(np.log(mean) - spread**2 / 2, spread, rows)
    lengths = np.clip(drawn.round(), 4, longest).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(1000, vocabulary, offsets[-1]).astype(np.uint16)
    labels = random.integers(0, 2, rows)
    cache = folder / kind
    cache.mkdir(exist_ok=True)
    return Encoded(Path(kind), ids, offsets, lengths.astype(np.int32), labels, "", cache)


def distillation(size: Size, folder: Path, card: dict[str, Any]) -> list[Result]:
    """A KD step with both losses: the plain way (fixed padding, fp32, the teacher in every step,
    clipping tensor by tensor), transformers' Trainer in bf16, and ours."""
    found = []
    for kind in MEAN_TOKENS:
        data = random_rows(kind, size.rows, size.config.vocab_size, folder)
        longest = MEAN_TOKENS[kind][2]
        for batch in size.batches:
            steps = max(2, size.steps * 32 // max(32, batch))
            ours = distilling.ours(
                random_model(size.config).eval(), random_model(size.config, size.shape), data,
                steps, folder / f"{kind}{batch}", True, 0, batch=batch, no_cuda=False,
                max_seq_length=longest,
            )  # fmt: skip
            plain = plain_steps(size, data, batch, longest, max(2, steps // 5))
            trainer = distilling.with_trainer(
                freeze_bert(size.config), random_model(size.config, size.shape), data, steps // 2,
                folder, batch, collate, use_cpu=DEVICE == "cpu",
                bf16=auto_takes_bf16(DEVICE == "cpu"),
            )  # fmt: skip
            speed = [rows / seconds for rows, seconds in (ours, plain, trainer)]
            teacher, student = random_model(size.config), random_model(size.config, size.shape)
            flops = (linear_flops(teacher) + 3 * linear_flops(student)) * data.lengths().mean()
            limit = card["bf16_tflops"] * 1e12 / flops
            name = f"kd_{kind}_{batch}"
            found += [
                rates_of(name, speed[0], speed[1], limit, "the plain way in fp32"),
                rates_of(f"{name}_trainer", speed[0], speed[2], limit, "Trainer in bf16"),
            ]
    return found


def plain_steps(
    size: Size, data: Encoded, batch: int, longest: int, steps: int
) -> tuple[int, float]:
    """Rows and seconds of the reference's way."""
    teacher = placed(baseline.written_out(random_model(size.config)).eval())
    student = placed(baseline.written_out(random_model(size.config, size.shape)))
    run = baseline.distillation_steps(
        teacher.requires_grad_(False),
        student,
        on_device(baseline.padded_batches(data, batch, longest)),
    )
    next(run)
    wait()
    start = time.perf_counter()
    rows = sum(islice(run, steps))
    wait()
    return rows, time.perf_counter() - start


def on_device(batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    for inputs in batches:
        yield {name: value.to(DEVICE) for name, value in inputs.items()}


def freeze_bert(config: RositaConfig) -> nn.Module:
    """transformers' own BERT of that size, without gradients."""
    bert = BertConfig(**distilling.sizes_of(config))
    model = BertForSequenceClassification(bert).eval().requires_grad_(False)
    return placed(model)


def placed(model: Any) -> Any:
    """The model on the device."""
    return model.to(DEVICE)


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Rows padded to the longest, as DataCollatorWithPadding does, without a tokenizer."""
    lengths = [len(row["input_ids"]) for row in rows]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : lengths[number]] = torch.tensor(row["input_ids"])
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def cached_logits(size: Size, folder: Path, card: dict[str, Any]) -> list[Result]:
    """Prediction-only distillation from cached logits, against the teacher in every step."""
    data = random_rows("cola", size.rows, size.config.vocab_size, folder)
    speed = []
    for name, kept in (("live", None), ("cached", [])):
        rows, seconds = distilling.ours(
            random_model(size.config).eval(), random_model(size.config, size.shape), data,
            size.steps, folder / name, False, 0, kept, no_cuda=False,
        )  # fmt: skip
        speed.append(rows / seconds)
    return [rates_of("kd_cached_logits", speed[1], speed[0], None, "the teacher in every step")]


def augmentation(size: Size, folder: Path, card: dict[str, Any]) -> list[Result]:
    """Candidates of a masked LM for every word of sentences of CoLA's length, against batch 1."""
    random = np.random.default_rng(0)
    sentences = [
        random.integers(1000, size.config.vocab_size, 9).tolist() for _ in range(size.sentences)
    ]
    bert = BertForMaskedLM(BertConfig(**distilling.sizes_of(size.config)))
    frame = Frame((101,), (102,), (102,), 1, 103, 0)
    seconds = []
    for tokens, some in ((64 * 1024, sentences), (1, sentences[: max(1, size.sentences // 64)])):
        masked_lm = MaskedLM(deepcopy(bert), frame, tokens, "bf16" if DEVICE == "cuda" else "fp32")
        queries = [Query(tuple(s), place) for s in some for place in range(len(s))]
        masked_lm.top_pieces(queries[:2], 15)
        seconds.append(timed(lambda: masked_lm.top_pieces(queries, 15)) / len(some))  # noqa: B023
    note = f"goal {SENTENCES_A_SECOND} source sentences/s; 9 words each; against batch 1"
    return [rates_of("augmentation", 1 / seconds[0], 1 / seconds[1], None, note)]


def passes(size: Size, folder: Path, card: dict[str, Any]) -> list[Result]:
    """Taylor scores, an evaluation and the teacher's cache, against row by row padded in fp32."""
    data = random_rows("mnli", size.rows // 4, size.config.vocab_size, folder)
    few = data.part(0, max(16, len(data) // 128 * 8))
    longest = MEAN_TOKENS["mnli"][2]
    settings = KDSettings(
        teacher_model="-", student_model="-", output_dir="-", pred_distill=True,
        no_cuda=DEVICE == "cpu",
    )  # fmt: skip
    distilling.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = start_accelerator(settings)
    plain = placed(random_model(size.config).eval())

    def forward(model: nn.Module, rows: Encoded, backward: bool) -> None:
        for inputs in on_device(islice(baseline.padded_batches(rows, 8, longest), len(rows) // 8)):
            with torch.set_grad_enabled(backward):
                logits = model(**inputs).logits
                if backward:
                    logits.sum().backward()
            logits.tolist()

    scored = placed(random_model(size.config))
    importance = TaylorImportance(scored, MATRICES, False)

    def taylor() -> None:
        order = np.argsort(data.lengths())
        for rows in np.array_split(order, max(1, len(order) // 64)):
            with accelerator.autocast():
                loss = LabelLoss().losses(scored, data.batch(rows).to(accelerator.device))
            (loss["label"].total / len(rows)).backward()
            importance.add(scored)
            scored.zero_grad()

    ours = freeze(random_model(size.config), accelerator)

    def evaluation() -> None:
        with torch.inference_mode(), accelerator.autocast():
            predict(ours, data, 32)

    def cache() -> None:
        Teacher(ours).remember([data], f"{time.time_ns():032d}", accelerator)

    found = []
    for name, work, backward in (
        ("taylor", taylor, True),
        ("evaluation", evaluation, False),
        ("teacher_cache", cache, False),
    ):
        slow = timed(lambda: forward(plain, few, backward)) / len(few)  # noqa: B023
        fast = timed(work) / len(data)
        found.append(rates_of(name, 1 / fast, 1 / slow, None, "batch 8, padded, fp32"))
    return found


def pruning_event(size: Size, folder: Path, card: dict[str, Any]) -> list[Result]:
    """One width pruning in training, on the device, against a round trip to the disk."""
    model = placed(random_model(size.config, size.cut_from))
    target = Shape.parse(size.cut_to)
    scores = {
        name.removeprefix("bert."): weight.detach().abs()
        for name, weight in model.state_dict().items()
    }
    settings = KDSettings(teacher_model="-", student_model="-", output_dir="-", pred_distill=True)

    def in_memory() -> None:
        build_optimizer(placed(prune(model, target, scores)), settings)

    def by_disk() -> None:
        torch.save({"model": model.state_dict(), "scores": scores}, folder / "event.pt")
        state = torch.load(folder / "event.pt", weights_only=True, map_location="cpu")
        again = random_model(size.config, size.cut_from)
        again.load_state_dict(state["model"])
        torch.save(prune(again, target, state["scores"]).state_dict(), folder / "cut.pt")
        cut = random_model(size.config, size.cut_to)
        cut.load_state_dict(torch.load(folder / "cut.pt", weights_only=True))
        build_optimizer(placed(cut), settings)

    in_memory()
    ours, plain = timed(in_memory), timed(by_disk)
    return [
        Result("pruning_event", "s", ours, plain, plain / ours, None, f"goal {EVENT_SECONDS} s")
    ]


def timed(work: Callable[[], object]) -> float:
    """Seconds until the device is done with a call."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def goal_of(line: Result) -> str:
    """Whether a line is at its goal, in words."""
    if line.name == "augmentation":
        return "met" if line.ours >= SENTENCES_A_SECOND else "missed"
    if line.name == "pruning_event":
        return "met" if line.ours <= EVENT_SECONDS else "missed"
    if line.name.startswith("kd_cached"):
        goal = GOALS["kd_cached_logits"]
    elif line.name.startswith("kd_"):
        trainer = line.name.endswith("_trainer")
        goal = GOALS["kd_trainer" if trainer else "kd"]
        share = line.fraction_of_limit or 0.0
        if "_256" in line.name and share < OF_THE_CARD:
            return f"{share:.0%} of the card, goal {OF_THE_CARD:.0%}"
    else:
        goal = GOALS[line.name]
    return f"{'met' if (line.ratio or 0.0) >= goal else 'missed'} ({goal:g}x)"


def table(lines: list[Result], goals: bool) -> str:
    """The lines as Markdown; tiny shapes have no goals."""
    rows = ["| name | unit | ours | baseline | ratio | of the card | goal | |",
            "|---|---|---:|---:|---:|---:|---|---|"]  # fmt: skip
    for one in lines:
        share = f"{one.fraction_of_limit:.0%}" if one.fraction_of_limit else ""
        rows.append(
            f"| {one.name} | {one.unit} | {one.ours:.4g} | {one.baseline:.4g} | {one.ratio:.1f}x"
            f" | {share} | {goal_of(one) if goals else ''} | {one.note} |"
        )
    return "\n".join(rows)
