"""How fast a model answers, how much memory it takes, how large it is on disk; on the CPU."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rosita.checkpoint import REFERENCE_WEIGHTS, load_model
from rosita.data import Encoded, batches_by_length
from rosita.errors import RositaError
from rosita.export import FILES, INT8_FILE, ONNX_FILE, OnnxModel, export_onnx, quantize_onnx
from rosita.files import read_json, write_json
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.planning import candidates, features, fit_latency, rows_of, spread
from rosita.pruning import Shape, shaped_config
from rosita.tasks import find_task

Inputs = dict[str, Tensor]
Answer = Callable[[Inputs], np.ndarray]  # a batch -> its logits (rows, num_labels)

BURST = 3  # timed calls in a row, after an untimed one
PAUSE = 0.02  # seconds until the waiting threads of another runtime have let go of the cores
LEAST = 6  # timed calls, whatever the time budget
CALIBRATED, HELD_OUT = 12, 4  # shapes that a latency model is fitted to and tested on
VOCABULARY = 2048  # of models built only to be timed: a lookup takes as long in a larger table
EVAL_TOKENS = 4096  # as KD/export.py: int8 rounds by batch, so that its scores depend on this

_CHILD = "import sys; from rosita.serving import print_peak; print_peak(*sys.argv[1:])"


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
    files = list(folder.glob("*.safetensors")) or list(folder.glob(REFERENCE_WEIGHTS))
    return sum(path.stat().st_size for path in files)


def interleaved_seconds(
    calls: dict[str, Callable[[], object]], repetitions: int = 30, budget: float = 3.0
) -> dict[str, list[float]]:
    """Seconds of `repetitions` runs of each call, the calls in turn so that noise hits all alike.

    Every round has an order of its own: noise that comes and goes would else favour some. A turn
    is a pause, a run that only warms up, and `BURST` timed ones. It ends early, after `LEAST` timed
    runs of each, once `budget` seconds per call are spent.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget * len(calls)
    random = np.random.default_rng(0)
    for done in range(0, repetitions, BURST):
        if done >= LEAST and time.perf_counter() > end:
            break
        for name in random.permutation(list(calls)):
            call = calls[name]
            time.sleep(PAUSE)
            call()
            for _ in range(min(BURST, repetitions - done)):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def positive(text: str) -> int:
    """A whole number from 1 on, from a command line."""
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Within the block torch (and `OnnxModel`) takes so many cores; None leaves it as it is."""
    earlier = torch.get_num_threads()
    torch.set_num_threads(count or earlier)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(earlier)


def machine() -> dict[str, str | int | None]:
    """What a latency depends on besides the model: processor, threads, versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        name = {key.strip(): value.strip() for key, value in fields}.get("model name", name)
    found: dict[str, str | int | None] = {"cpu": name, "threads": torch.get_num_threads()}
    for package in ("torch", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def dev_batch(dev: Encoded, batch_size: int, length: int) -> Inputs:
    """A batch of exactly `length` tokens per row: rows of dev, cut or repeated to it."""
    rows = np.linspace(0, len(dev) - 1, batch_size).astype(int)
    ids, types = [], []
    for row in rows:
        inputs = dev.batch(np.array([row])).inputs
        ids.append(np.resize(inputs["input_ids"].numpy(), length))
        types.append(np.resize(inputs["token_type_ids"].numpy(), length))
    return _inputs(torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(types)))


def random_batch(vocab_size: int, batch_size: int, length: int) -> Inputs:
    """A batch of random token ids, (batch_size, length), without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (batch_size, length), generator=generator)
    return _inputs(ids, torch.zeros_like(ids))


def _inputs(ids: Tensor, types: Tensor) -> Inputs:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}


def torch_answer(model: RositaForSequenceClassification) -> Answer:
    """The model as a function from a batch to its logits."""

    @torch.inference_mode()
    def answer(inputs: Inputs) -> np.ndarray:
        return model(**inputs).logits.numpy()

    model.eval()
    return answer


def onnx_answer(path: Path) -> Answer:
    """An exported model as a function from a batch to its logits."""
    model = OnnxModel(path)
    return lambda inputs: model.logits(**inputs)


def open_answer(folder: Path, form: str, task_name: str) -> Answer:
    """A folder's model in one format: pytorch, onnx or int8."""
    if form == "pytorch":
        return torch_answer(load_model(folder, find_task(task_name)))
    return onnx_answer(folder / FILES[form])


def write_onnx(model: RositaForSequenceClassification, folder: Path, forms: list[str]) -> None:
    """Export a model to those of `forms` that are ONNX, by the names of KD/export.py."""
    if "onnx" in forms or "int8" in forms:
        export_onnx(model, folder / ONNX_FILE)
    if "int8" in forms:
        quantize_onnx(folder / ONNX_FILE, folder / INT8_FILE)


def dev_logits(answer: Answer, dev: Encoded, name: str) -> np.ndarray:
    """Logits (rows, num_labels) of dev, in its order."""
    logits = None
    for rows in tqdm(list(batches_by_length(dev, EVAL_TOKENS)), desc=f"dev {name}", delay=1):
        found = answer(dev.batch(rows).inputs)
        if logits is None:
            logits = np.empty((len(dev), found.shape[1]), dtype=np.float32)
        logits[rows] = found
    if not np.isfinite(logits).all():
        raise RositaError(f"{name} gives NaN or infinite logits on {dev.path}")
    return logits


def shape_latencies(
    config: RositaConfig, shapes: list[Shape], batch: Inputs, form: str, budget: float = 3.0
) -> dict[str, float]:
    """Milliseconds of a batch for each shape, by its name: random weights, in turn.

    The lower quartile of the runs: other processes only ever add to a time. The word ids of
    `batch` must lie below `VOCABULARY`.
    """
    calls = {}
    with tempfile.TemporaryDirectory() as root:
        for shape in tqdm(shapes, desc="build", delay=1):
            shaped = shaped_config(config, shape)
            shaped.vocab_size = min(config.vocab_size, VOCABULARY)
            model = RositaForSequenceClassification(shaped)
            if form == "pytorch":
                answer = torch_answer(model)
            else:
                folder = Path(root, str(shape))
                write_onnx(model, folder, [form])
                answer = onnx_answer(folder / FILES[form])
            calls[str(shape)] = lambda answer=answer: answer(batch)
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
            **machine(), "model": str(Shape.of(config)), "hidden_size": config.hidden_size,
            "head_dim": config.head_dim, "hidden_act": config.hidden_act,
            "batch": batch_size, "length": length, "format": form,
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"latency-{digest[:12]}.json"
        stored = read_json(self.path) if self.path.exists() else None
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
        write_json(self.path, self.times)

    def measure(self, shapes: list[Shape]) -> None:
        """Time those of the shapes that have not been."""
        new = [shape for shape in shapes if str(shape) not in self.known()]
        if new:
            self.times["measured"] |= shape_latencies(self.config, new, self.batch, self.form)
            write_json(self.path, self.times)

    def known(self) -> dict[str, float]:
        """Milliseconds of every shape that was timed."""
        return self.times["fitted"] | self.times["held_out"] | self.times["measured"]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Milliseconds (n,) of shapes (n, 4) by the fitted model alone."""
        fitted = rows_of([Shape.parse(name) for name in self.times["fitted"]])
        times = np.array(list(self.times["fitted"].values()))
        weights = fit_latency(features(self.config, fitted, self.length), times)
        return features(self.config, rows, self.length) @ weights

    def held_out(self) -> list[dict[str, str | float]]:
        """Prediction against measurement for the shapes that were never fitted."""
        names = list(self.times["held_out"])
        predicted = self.predict(rows_of([Shape.parse(name) for name in names]))
        return [
            {"shape": name, "predicted_ms": float(guess), "measured_ms": (ms := self.known()[name]),
             "error": float(guess / ms - 1)}
            for name, guess in zip(names, predicted, strict=True)
        ]  # fmt: skip


def peak_memory(
    folder: Path, form: str, task_name: str, vocab_size: int, batch_shape: tuple[int, int]
) -> int | None:
    """Bytes that opening a model and answering one batch take, in a process of its own.

    `batch_shape`: rows and tokens, with ids below `vocab_size`. The most resident memory of that
    process above what it held after its imports; None where the system does not tell it (Linux
    does).
    """
    command = [sys.executable, "-c", _CHILD, folder, form, task_name, vocab_size, *batch_shape,
               torch.get_num_threads()]  # fmt: skip
    package = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=package)
    if done.returncode:
        reason = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise RositaError(f"{folder} as {form}: {reason}")
    printed = done.stdout.split()[-1]
    return None if printed == "None" else int(printed)


def print_peak(folder: str, form: str, task_name: str, *sizes: str) -> None:
    """Print the peak for `peak_memory`; sizes: vocabulary, rows, tokens, threads."""
    vocab_size, batch_size, length, threads = map(int, sizes)
    if form != "pytorch":
        import onnxruntime  # noqa: F401  an import is not the model's memory
    torch.set_num_threads(threads)
    before = _status("VmRSS")
    if before is None:
        print(None)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    answer = open_answer(Path(folder), form, task_name)
    batch = random_batch(vocab_size, batch_size, length)
    for _ in range(2):
        answer(batch)
    print(_status("VmHWM") - before)


def _status(name: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields[name].split()[0]) * 1024 if name in fields else None
