"""How fast a model answers and how large it is on disk."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch

from rosita.data import Encoded
from rosita.model import RositaForSequenceClassification


@torch.inference_mode()
def interleaved_latency(
    models: dict[str, RositaForSequenceClassification], data: Encoded, sentences: int = 200
) -> dict[str, float]:
    """Median milliseconds per sentence at batch 1, models in turn so that noise hits all alike.

    The first 10 of the `sentences` rows of `data` only warm up.
    """
    rows = np.linspace(0, len(data) - 1, min(sentences, len(data))).astype(int)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for row in rows:
        batch = data.batch(np.array([row]))
        for name, model in models.items():
            start = time.perf_counter()
            model(**batch.inputs).logits.argmax().item()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(times[10:] or times) for name, times in seconds.items()}


def weights_bytes(folder: Path) -> int:
    """Size on disk of a model folder's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
