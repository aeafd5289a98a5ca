"""An exported model in onnxruntime. Light: Deploy/requirements.txt lists all that it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rosita.errors import RositaError
from rosita.progress import Bar

if TYPE_CHECKING:
    from torch import Tensor


class OnnxModel:
    """An exported model, called as the PyTorch one: keyword inputs, logits back.

    `threads`: cores that one call may use; None: as many as `default_threads` says.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        require("onnxruntime")
        import onnxruntime

        if not path.is_file():
            raise RositaError(f"{path} does not exist; Deploy/export.py writes it")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or default_threads()
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a type of its own for every cause
            raise RositaError(f"{path} is not an ONNX model: {error}") from error

    def logits(self, **inputs: Tensor | np.ndarray) -> np.ndarray:
        """Logits, float32 (batch, num_labels), of int64 inputs (batch, length).

        No token types means all 0; a model without any ignores them.
        """
        given = {"token_type_ids": np.zeros_like(inputs["input_ids"]), **inputs}
        names = [taken.name for taken in self.session.get_inputs()]
        feed = {name: np.asarray(given[name], dtype=np.int64) for name in names}
        return self.session.run(["logits"], feed)[0]

    def answer(self, batches: list[dict[str, Tensor]]) -> list[np.ndarray]:
        """Logits (rows, num_labels) of each batch."""
        return [self.logits(**batch) for batch in Bar(batches, desc="check", delay=1)]


def default_threads() -> int:
    """Cores that a call takes: OMP_NUM_THREADS, as in torch, else all that this process may use.

    0 leaves it to onnxruntime, which takes one thread a physical core: where the process is
    confined to some cores (Linux tells), it would take too many.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdecimal():
        return int(asked)
    if not hasattr(os, "sched_getaffinity"):
        return 0
    allowed = len(os.sched_getaffinity(0))
    return 0 if allowed == os.cpu_count() else allowed


def require(package: str) -> None:
    """Raise `RositaError` that says what to install if a package of ONNX is not there."""
    try:
        __import__(package)
    except ImportError:
        raise RositaError(
            f"{package} is not installed, and ONNX needs it: pip install {package}"
        ) from None
