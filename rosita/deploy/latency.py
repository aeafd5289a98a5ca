"""How fast a model answers, how much memory it takes, how large it is on disk; on the CPU."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rosita.data.batches import Encoded, batches_by_length, in_file_order
from rosita.deploy.formats import weights_file
from rosita.deploy.onnx import export_onnx, quantize_onnx
from rosita.deploy.session import OnnxModel
from rosita.errors import RositaError
from rosita.progress import Bar
from rosita.tasks import find_task

if TYPE_CHECKING:  # heavy: an exported model is timed without transformers
    from rosita.model import RositaForSequenceClassification

Inputs = dict[str, Tensor]
Answer = Callable[[Inputs], np.ndarray]  # a batch -> its logits (rows, num_labels)

MOST_THREADS = 1024  # far more end the process: the system has no room for them
BURST = 3  # timed calls in a row, after an untimed one
PAUSE = 0.02  # seconds until the waiting threads of another runtime have let go of the cores
LEAST = 6  # timed calls, whatever the time budget
EVAL_TOKENS = 4096  # as Deploy/export.py: int8 rounds by batch, so that its scores depend on this

# it ends as rosita.cli.run_script does, without a search for garbage
_CHILD = (
    "import gc, sys; from rosita.deploy.latency import print_peak; print_peak(*sys.argv[1:]);"
    " gc.freeze()"
)


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
    from rosita.checkpoint import weight_files

    return sum(path.stat().st_size for path in weight_files(folder))


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


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Within the block torch (and `onnx_answer`) takes so many cores; None leaves it as it is."""
    if (count or 0) > MOST_THREADS:
        raise RositaError(f"--threads {count} is more than {MOST_THREADS}")
    earlier = torch.get_num_threads()
    torch.set_num_threads(count or earlier)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(earlier)


def machine() -> dict[str, str | int | None]:
    """What a latency depends on besides the model: processor, threads, versions."""
    name = _told("/proc/cpuinfo").get("model name") or platform.processor() or platform.machine()
    found: dict[str, str | int | None] = {
        "cpu": name,
        "instructions": instructions(),
        "threads": torch.get_num_threads(),
    }
    for package in ("torch", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


# Sets that int8 products run on, the best first; those with "vnni" add them up without saturation.
INT8_SETS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "i8mm", "asimddp")


def instructions() -> str:
    """The best instruction set for int8 that this processor has, as Linux calls it."""
    info = _told("/proc/cpuinfo")
    has = (info.get("flags") or info.get("Features") or "").split()
    return next((name for name in INT8_SETS if name in has), platform.machine())


def _told(path: str) -> dict[str, str]:
    """What Linux tells in a file of /proc, by name; {} elsewhere."""
    if not Path(path).exists():
        return {}
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}


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
    model = OnnxModel(path, torch.get_num_threads())
    return lambda inputs: model.logits(**inputs)


def open_answer(folder: Path, form: str, task_name: str, label_names: str | None = None) -> Answer:
    """A folder's model in one format: pytorch, onnx or int8; whether it changed is not asked."""
    if form == "pytorch":
        from rosita.checkpoint import load_model

        model = load_model(
            folder, find_task(task_name), label_names=label_names, accept_changed=True
        )
        return torch_answer(model)
    return onnx_answer(weights_file(folder, form))


def write_onnx(model: RositaForSequenceClassification, folder: Path, forms: list[str]) -> None:
    """Export a model to those of `forms` that are ONNX, by the names of Deploy/export.py."""
    if "onnx" in forms or "int8" in forms:
        export_onnx(model, weights_file(folder, "onnx"))
    if "int8" in forms:
        quantize_onnx(weights_file(folder, "onnx"), weights_file(folder, "int8"))


def dev_logits(answer: Answer, dev: Encoded, name: str) -> np.ndarray:
    """Logits (rows, num_labels) of dev, in its order."""
    order = list(batches_by_length(dev, EVAL_TOKENS))
    bar = Bar(order, desc=f"dev {name}", delay=1)
    logits = in_file_order(order, [answer(dev.batch(rows).inputs) for rows in bar])
    if not np.isfinite(logits).all():
        raise RositaError(f"{name} gives NaN or infinite logits on {dev.path}")
    return logits


def peak_memory(
    folder: Path,
    form: str,
    task_name: str,
    vocab_size: int,
    batch_shape: tuple[int, int],
    label_names: str | None = None,
) -> int | None:
    """Bytes that opening a model and answering one batch take, in a process of its own.

    `batch_shape`: rows and tokens, with ids below `vocab_size`. The most resident memory of that
    process above what it held after its imports; None where the system does not tell it (Linux
    does).
    """
    command = [
        sys.executable,
        "-c",
        _CHILD,
        folder,
        form,
        task_name,
        label_names or "",
        vocab_size,
        *batch_shape,
        torch.get_num_threads(),
    ]
    package = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=package)
    if done.returncode:
        reason = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise RositaError(f"{folder} as {form}: {reason}")
    printed = done.stdout.split()[-1]
    return None if printed == "None" else int(printed)


def print_peak(folder: str, form: str, task_name: str, label_names: str, *sizes: str) -> None:
    """Print the peak for `peak_memory`; sizes: vocabulary, rows, tokens, threads."""
    vocab_size, batch_size, length, threads = map(int, sizes)
    if form == "pytorch":  # an import is not the model's memory
        import rosita.checkpoint  # noqa: F401
    else:
        import onnxruntime  # noqa: F401
    torch.set_num_threads(threads)
    before = _status("VmRSS")
    if before is None:
        print(None)
        return
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    answer = open_answer(Path(folder), form, task_name, label_names or None)
    batch = random_batch(vocab_size, batch_size, length)
    for _ in range(2):
        answer(batch)
    peak = _status("VmHWM")
    print(None if peak is None else peak - before)


def _status(name: str) -> int | None:
    size = _told("/proc/self/status").get(name)
    return int(size.split()[0]) * 1024 if size else None
