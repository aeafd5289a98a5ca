"""Augmentation, factorization, pruning, tokens, memory: ours against the plain way."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import (
    BERT_BASE,
    MAX_LENGTH,
    MINILM,
    MINILM_STUDENT,
    REPOSITORY,
    TASK,
    Result,
    auto_dtype,
    bert_tokenizer,
    cola,
    costs,
    matmul_rate,
    peak_bytes,
    random_model,
    rates,
    resident_bytes,
    seconds_of,
    tokenizer,
)
from transformers import BertConfig, BertForMaskedLM

from rosita.augmentation.masked_lm import Frame, MaskedLM, Query
from rosita.augmentation.sentences import Splitter
from rosita.config import KDSettings
from rosita.data.batches import Sampler
from rosita.data.encode import encode_file
from rosita.distillation.losses import DistillationLoss
from rosita.distillation.teacher import Teacher
from rosita.pruning.cut import factorize, prune
from rosita.pruning.shape import Shape
from rosita.runtime import start_accelerator
from rosita.training.embedding import Vocabulary, used_tokens
from rosita.training.loop import Training
from rosita.training.optimizer import build_optimizer
from rosita.training.plan import Plan

M = 15


def augmentation(quick: bool, folder: Path) -> list[Result]:
    """Candidates of the masked LM, BERT-base's shape: one place at a time against batches."""
    files = tokenizer()
    splitter, frame = Splitter(files), Frame.of(files)
    texts = [row[3] for row in _rows(cola(folder))]
    texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    torch.manual_seed(0)
    bert = BertForMaskedLM(BertConfig()).eval()
    pieces = [files.pieces[files.special[kind]] for kind in ("cls", "sep", "mask")]
    few = splitter.split(texts[: 6 if quick else 24])
    many = splitter.split(texts[: 60 if quick else 256])  # the first are the few
    _one_place_at_a_time(bert, few[:1], pieces)
    plain_answers: list[np.ndarray] = []
    plain = seconds_of(lambda: plain_answers.extend(_one_place_at_a_time(bert, few, pieces)))
    weights = sum(w.numel() for w in bert.bert.encoder.parameters() if w.dim() == 2)
    tokens = sum((2 * len(s.pieces) + 3) * len(s.places) for s in many)
    found = []
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "bf16" and auto_dtype() != dtype:
            continue
        masked_lm = MaskedLM(bert, frame, 2048, name)
        masked_lm.top_pieces(_queries(few[:1]), M)
        answers: list[np.ndarray] = []
        ours = seconds_of(partial(_ask, masked_lm, many, answers))
        same = np.mean(
            [
                len(np.intersect1d(one, two)) / M
                for one, two in zip(plain_answers, answers, strict=False)
            ]
        )
        limit = matmul_rate(dtype) / (2 * weights * tokens / len(many))
        note = f"{100 * same:.1f} % of the candidates are the baseline's; no cache"
        line = "augmentation" if name == "fp32" else f"augmentation_{name}"
        found.append(rates(line, len(many) / ours, len(few) / plain, limit, note))
    return found


def _ask(masked_lm: MaskedLM, sentences: list, answers: list[np.ndarray]) -> None:
    answers.extend(masked_lm.top_pieces(_queries(sentences), M))


def _queries(sentences: list) -> list[Query]:
    return [Query(s.pieces, place) for s in sentences for place in s.places.values()]


def _one_place_at_a_time(
    bert: BertForMaskedLM, sentences: list, pieces: list[int]
) -> list[np.ndarray]:
    """Batch 1, gradients on, the output layer at every place: the reference's way."""
    cls, sep, mask = pieces
    found = []
    for query in _queries(sentences):
        hidden = list(query.pieces)
        hidden[query.place] = mask
        ids = torch.tensor([[cls, *hidden, sep, *query.pieces, sep]])
        types = torch.tensor([[0] * (len(hidden) + 2) + [1] * (len(hidden) + 1)])
        logits = bert(input_ids=ids, token_type_ids=types).logits
        found.append(logits[0, 1 + query.place].topk(M).indices.numpy())
    return found


def _rows(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def svd(quick: bool, folder: Path) -> list[Result]:
    """Factorizing the embedding to rank 128: thin against full, seconds and peak memory."""
    torch.manual_seed(0)
    words = 6000 if quick else 30522
    table = torch.randn(words, 768)
    before = peak_bytes()
    ours = seconds_of(lambda: factorize(table, 128))
    our_memory = peak_bytes() - before
    full = subprocess.run(
        [sys.executable, __file__, "full_svd", str(words)],
        capture_output=True,
        text=True,
        check=True,
    )
    plain, plain_memory = map(float, full.stdout.split())
    note = f"{words} x 768 -> 128"
    return [
        costs("svd", "s", ours, plain, note),
        costs("svd_peak_memory", "GB", max(our_memory, 4e6) / 1e9, plain_memory / 1e9, note),
    ]


def full_svd(words: int) -> None:
    """In a process of its own, for its peak memory: the reference's full SVD."""
    torch.manual_seed(0)
    table = torch.randn(words, 768)
    before = peak_bytes()
    seconds = seconds_of(lambda: torch.linalg.svd(table, full_matrices=True))
    print(seconds, peak_bytes() - before)


def pruning_event(quick: bool, folder: Path) -> list[Result]:
    """One width pruning of a BERT-base student in training: in memory against by processes."""
    model = random_model(BERT_BASE, "a12_l8_f3072_e-1")
    target = Shape.parse("a11_l8_f2816_e704")
    scores = {
        name.removeprefix("bert."): weight.detach().abs()
        for name, weight in model.state_dict().items()
    }
    used = torch.arange(8000)
    settings = KDSettings(teacher_model="-", student_model="-", output_dir="-", pred_distill=True)

    def in_memory() -> None:
        smaller = prune(model, target, scores)
        Vocabulary(used).shrink(smaller)
        build_optimizer(smaller, settings)

    def by_processes() -> None:
        torch.save({"model": model.state_dict(), "scores": scores}, folder / "event.pt")
        for job in ("prune_process", "read_process"):
            subprocess.run([sys.executable, __file__, job, str(folder), str(target)], check=True)

    in_memory()
    ours = min(seconds_of(in_memory) for _ in range(3))
    plain = seconds_of(by_processes)
    return [
        costs(
            "pruning_event",
            "s",
            ours,
            plain,
            "both with the thin SVD: the full one is the line svd",
        )
    ]


def prune_process(folder: str, target: str) -> None:
    state = torch.load(Path(folder) / "event.pt", weights_only=True)
    model = random_model(BERT_BASE, "a12_l8_f3072_e-1")
    model.load_state_dict(state["model"])
    torch.save(
        prune(model, Shape.parse(target), state["scores"]).state_dict(), Path(folder) / "pruned.pt"
    )


def read_process(folder: str, target: str) -> None:
    model = random_model(BERT_BASE, target)
    model.load_state_dict(torch.load(Path(folder) / "pruned.pt", weights_only=True))


def tokenize(quick: bool, folder: Path) -> list[Result]:
    """Rows of a TSV file to token ids on disk, against one at a time and the tokenizer alone."""
    source = _grown(cola(folder), folder, 20_000 if quick else 100_000)
    texts = [row[3] for row in _rows(source)]
    words = bert_tokenizer()
    few = texts[:2000]
    plain = len(few) / seconds_of(
        lambda: [
            words(text, padding="max_length", truncation=True, max_length=MAX_LENGTH)
            for text in few
        ]
    )
    files = tokenizer()
    built = files.build()
    built.enable_truncation(MAX_LENGTH)
    built.encode_batch_fast(texts[:1000])
    best, floor = 0.0, 0.0
    for number in range(3):
        floor = max(floor, len(texts) / seconds_of(lambda: built.encode_batch_fast(texts)))
        cache = folder / f"tokens-{number}"
        encode = lambda at=cache: encode_file(source, TASK, files, MAX_LENGTH, cache_dir=at)  # noqa: E731
        best = max(best, len(texts) / seconds_of(encode))
    again = seconds_of(encode)
    note = f"limit: the tokenizer alone, all rows in one call; again, from the cache: {again:.2f} s"
    return [rates("tokenize", best, plain, floor, note, unit="rows/s")]


def _grown(source: Path, folder: Path, rows: int) -> Path:
    """The rows of a file over and over, with a number so that no two are equal."""
    lines = source.read_text(encoding="utf-8").splitlines()
    path = folder / f"rows-{rows}.tsv"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(f"{lines[number % len(lines)]} {number}\n")
    return path


def train_4m_rows(quick: bool, folder: Path) -> list[Result]:
    """Memory above the models to train on 4 million rows, against all rows in Python lists."""
    rows = 200_000 if quick else 4_000_000
    data = encode_file(
        _grown(cola(folder), folder, rows),
        TASK,
        tokenizer(),
        MAX_LENGTH,
        cache_dir=folder / "cache",
    )
    seconds, memory = in_child("train_rows", folder, rows)
    _, models = in_child("train_rows", folder, 1000)
    lists, _ = in_child("rows_in_lists", folder, 50_000)
    note = f"{rows:,} rows, {len(data.ids):,} tokens; 10 steps in {seconds:.0f} s; lists: measured"
    return [
        costs(
            "train_4m_rows",
            "GB",
            max(memory - models, 1e6) / 1e9,
            lists * rows / 1e9,
            note + " on 50,000 rows, times rows",
        )
    ]


def in_child(job: str, folder: Path, rows: int) -> tuple[float, float]:
    """Run a job of this file in a process of its own; the two numbers that it prints."""
    done = subprocess.run(
        [sys.executable, __file__, job, str(folder), str(rows)],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.split()[-2:]
    return float(first), float(second)


def train_rows(folder: str, rows: str) -> None:
    """Ten steps over a file of so many rows; prints seconds and the peak memory."""
    at = Path(folder)
    source = at / f"rows-{rows}.tsv"
    if not source.exists():
        _grown(cola(at), at, int(rows))
    start = time.perf_counter()
    data = encode_file(source, TASK, tokenizer(), MAX_LENGTH, cache_dir=at / "cache")
    settings = KDSettings(
        teacher_model="-",
        student_model="-",
        output_dir=str(at / "4m"),
        pred_distill=True,
        repr_distill=True,
        max_steps=10,
        no_cuda=True,
    )
    teacher, student = random_model(MINILM), random_model(MINILM, MINILM_STUDENT)
    loss = DistillationLoss(Teacher(teacher), True, True)
    accelerator = start_accelerator(settings)
    Training(
        student,
        loss,
        Sampler([data], 32, 0),
        Plan(settings),
        accelerator,
        at / "4m",
        used=used_tokens([data], MINILM.vocab_size),
    ).run()
    print(time.perf_counter() - start, peak_bytes())


def rows_in_lists(folder: str, rows: str) -> None:
    """Bytes per row of the reference's features: three padded Python lists a row."""
    texts = [row[3] for row in _rows(cola(Path(folder)))]
    words = tokenizer().build()
    words.enable_truncation(MAX_LENGTH)
    words.enable_padding(length=MAX_LENGTH)
    before, features = resident_bytes(), []
    for number in range(int(rows)):
        encoding = words.encode(texts[number % len(texts)])
        features.append(
            (list(encoding.ids), list(encoding.attention_mask), list(encoding.type_ids))
        )
    print((resident_bytes() - before) / len(features), 0)


def scaling(quick: bool, folder: Path) -> list[dict[str, float]]:
    """Seconds and memory to encode n rows and draw one epoch of batches, n = 1e3 ... 1e6."""
    points = []
    for rows in (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000):
        _grown(cola(folder), folder, rows)
        seconds, memory = in_child("one_epoch", folder, rows)
        points.append({"rows": rows, "seconds": seconds, "peak_gb": memory / 1e9})
    return points


def one_epoch(folder: str, rows: str) -> None:
    """Encode a file and draw all batches of an epoch; prints seconds and the peak memory."""
    at = Path(folder)
    start = time.perf_counter()
    data = encode_file(
        at / f"rows-{rows}.tsv", TASK, tokenizer(), MAX_LENGTH, cache_dir=at / "scaling"
    )
    for file, batch in Sampler([data], 32, 0).epoch(0):
        file.batch(batch)
    print(time.perf_counter() - start, peak_bytes())


if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    jobs: dict[str, Callable[..., None]] = {
        "full_svd": lambda words: full_svd(int(words)),
        "prune_process": prune_process,
        "read_process": read_process,
        "train_rows": train_rows,
        "rows_in_lists": rows_in_lists,
        "one_epoch": one_epoch,
    }
    sys.path.insert(0, str(REPOSITORY))
    jobs[job](*arguments)
