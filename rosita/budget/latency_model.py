"""How long a shape takes: some are timed, a linear model is fitted to them."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rosita.budget.costs import rows_of
from rosita.budget.search import candidates, spread
from rosita.deploy.formats import weights_file
from rosita.deploy.latency import (
    Inputs,
    interleaved_seconds,
    machine,
    onnx_answer,
    random_batch,
    torch_answer,
    write_onnx,
)
from rosita.files import read_sealed, write_sealed
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.progress import Bar
from rosita.pruning.shape import Shape, shaped_config


def features(config: RositaConfig, rows: np.ndarray, length: int) -> np.ndarray:
    """What the time of a batch is made of (n, 6), for one batch size and length.

    A constant, the layers, the multiply-accumulates of attention (its projections and products
    are proportional at one length) and of the FFN, whether the embedding has two factors, and
    those of the second; all for one sentence, in millions. (The projection of a narrow embedding
    is part of the constant.)
    """
    heads, layers, ffn, rank = rows.T
    hidden = config.hidden_size
    width = heads * config.head_dim
    attention = layers * (4 * length * hidden * width + 2 * length**2 * width)
    factor = np.where(rank == -1, 0, length * rank * config.embedding_size)
    columns = (
        np.ones(len(rows)),
        layers,
        attention / 1e6,
        layers * (2 * length * hidden * ffn) / 1e6,
        rank != -1,
        factor / 1e6,
    )
    return np.stack(columns, axis=1).astype(float)


def fit_latency(features: np.ndarray, milliseconds: np.ndarray) -> np.ndarray:
    """Non-negative coefficients (k,) that minimize the squared relative errors."""
    from scipy.optimize import nnls  # heavy import, only needed here

    scale = np.maximum(np.abs(features).max(axis=0), 1e-12)
    found, _ = nnls(features / scale / milliseconds[:, None], np.ones(len(features)))
    return found / scale


CALIBRATED, HELD_OUT = 12, 4  # shapes that a latency model is fitted to and tested on


VOCABULARY = 2048  # of models built only to be timed: a lookup takes as long in a larger table


def shape_latencies(
    config: RositaConfig, shapes: list[Shape], batch: Inputs, form: str, budget: float = 3.0
) -> dict[str, float]:
    """Milliseconds of a batch for each shape, by its name: random weights, in turn.

    The lower quartile of the runs: other processes only ever add to a time. The word ids of
    `batch` must lie below `VOCABULARY`.
    """
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as root:
        for shape in Bar(shapes, desc="build", delay=1):
            shaped = shaped_config(config, shape)
            shaped.vocab_size = min(config.vocab_size, VOCABULARY)
            shaped.pad_token_id = 0  # which the smaller vocabulary has
            model = RositaForSequenceClassification(shaped)
            if form == "pytorch":
                answer = torch_answer(model)
            else:
                folder = Path(root, str(shape))
                write_onnx(model, folder, [form])
                answer = onnx_answer(weights_file(folder, form))
            calls[str(shape)] = partial(answer, batch)
        print(f"timing {len(calls)} shapes in turn ...", file=sys.stderr)
        seconds = interleaved_seconds(calls, budget=budget)
    return {name: 1000 * float(np.percentile(times, 25)) for name, times in seconds.items()}


class LatencyModel:
    """Milliseconds of a batch for any shape of a model, on this machine.

    `CALIBRATED` shapes are timed and a linear model is fitted to them; `HELD_OUT` others, timed in
    the same turns and never fitted, show its error. All times are kept in a file of `folder`,
    whose name is the hash of what they depend on; `measure` adds more to it.
    """

    def __init__(
        self, folder: Path, config: RositaConfig, batch_size: int, length: int, form: str
    ) -> None:
        self.config, self.length, self.form = config, length, form
        self.batch = random_batch(min(config.vocab_size, VOCABULARY), batch_size, length)
        self.key = {
            **machine(),
            "model": str(Shape.of(config)),
            "hidden_size": config.hidden_size,
            "embedding_size": config.embedding_size,
            "head_dim": config.head_dim,
            "hidden_act": config.hidden_act,
            "batch": batch_size,
            "length": length,
            "format": form,
        }
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"latency-{digest[:12]}.json"
        if (stored := read_sealed(self.path)) is None and self.path.exists():
            print(f"{self.path} is damaged, or of an older version: the times are measured again")
        self.times = stored or {"key": self.key, "fitted": {}, "held_out": {}, "measured": {}}

    def calibrate(self, again: bool = False) -> None:
        """Time the shapes to fit and those held out, unless the file has them."""
        if self.times["fitted"] and not again:
            return
        shapes = spread(candidates(self.config), CALIBRATED + HELD_OUT)
        found = shape_latencies(self.config, shapes, self.batch, self.form)
        fitted = list(found)[: len(found) - min(HELD_OUT, len(found) // 4)]
        self.times["fitted"] = {name: found.pop(name) for name in fitted}
        self.times |= {"held_out": found, "measured": {}}
        write_sealed(self.path, self.times)

    def measure(self, shapes: list[Shape]) -> None:
        """Time those of the shapes that have not been."""
        new = [shape for shape in shapes if str(shape) not in self.known()]
        if new:
            self.times["measured"] |= shape_latencies(self.config, new, self.batch, self.form)
            write_sealed(self.path, self.times)

    def known(self) -> dict[str, float]:
        """Milliseconds of every shape that was timed."""
        return self.times["fitted"] | self.times["held_out"] | self.times["measured"]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Milliseconds (n,) of shapes (n, 4) by the fitted model alone."""
        fitted = rows_of([Shape.parse(name) for name in self.times["fitted"]])
        times = np.array(list(self.times["fitted"].values()))
        weights = fit_latency(features(self.config, fitted, self.length), times)
        return features(self.config, rows, self.length) @ weights

    def held_out(self) -> list[dict[str, Any]]:
        """Prediction against measurement for the shapes that were never fitted."""
        names = list(self.times["held_out"])
        predicted = self.predict(rows_of([Shape.parse(name) for name in names]))
        return [
            {
                "shape": name,
                "predicted_ms": float(guess),
                "measured_ms": (ms := self.known()[name]),
                "error": float(guess / ms - 1),
            }
            for name, guess in zip(names, predicted, strict=True)
        ]
