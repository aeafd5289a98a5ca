"""Answering one sentence: BERT-base in PyTorch, ROSITA in PyTorch, ONNX and int8 ONNX, in turn."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from common import BASE_STUDENT, BERT_BASE, Result, costs, random_model, seconds_of

from rosita.deploy.onnx import export_onnx, quantize_onnx
from rosita.deploy.session import OnnxModel

LENGTH = 128


def serving(quick: bool, folder: Path) -> list[Result]:
    """Median milliseconds at batch 1, 128 tokens, two threads; megabytes on disk."""
    base, small = random_model(BERT_BASE).eval(), random_model(BERT_BASE, BASE_STUDENT).eval()
    export_onnx(small, folder / "model.onnx")
    quantize_onnx(folder / "model.onnx", folder / "int8.onnx")
    fp32, int8 = OnnxModel(folder / "model.onnx"), OnnxModel(folder / "int8.onnx")
    ids = torch.randint(1000, 30000, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ways = {
        "base": lambda: base(**given),
        "small": lambda: small(**given),
        "fp32": lambda: fp32.logits(**given),
        "int8": lambda: int8.logits(**given),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(2 if quick else 6):
            for name, answer in ways.items():
                time.sleep(0.2)  # the waiting threads of the other runtime have let go of the cores
                times[name] += [seconds_of(answer) for _ in range(13)][3:]
    ms = {name: 1000 * statistics.median(found) for name, found in times.items()}
    note = f"ROSITA in PyTorch {ms['small']:.1f} ms, in fp32 ONNX {ms['fp32']:.1f} ms"
    base_bytes = sum(w.numel() * w.element_size() for w in base.parameters())
    size = (folder / "int8.onnx").stat().st_size
    return [
        costs("serving", "ms", ms["int8"], ms["base"], note),
        costs("serving_size", "MB", size / 1e6, base_bytes / 1e6, "BERT-base: its fp32 weights"),
    ]
