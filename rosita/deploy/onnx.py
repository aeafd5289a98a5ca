"""The compressed model for other runtimes: ONNX, and ONNX with int8 weights."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from rosita.data.batches import Encoded, batches_by_length, in_file_order
from rosita.deploy.formats import FORMATS, weights_file
from rosita.deploy.session import require
from rosita.errors import RositaError
from rosita.evaluation import predict, score
from rosita.files import atomic_write
from rosita.tasks import Task

if TYPE_CHECKING:  # heavy: an exported model runs without transformers
    from rosita.model import RositaForSequenceClassification

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class _Logits(nn.Module):
    """A model whose inputs go by position and whose output is the logits alone."""

    def __init__(self, model: RositaForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(INPUTS, inputs, strict=False))).logits


def export_onnx(
    model: RositaForSequenceClassification, path: Path, dynamo: bool | None = None
) -> None:
    """Write a model as ONNX, fp32; batch size and length stay free.

    Inputs are `INPUTS`, int64 (batch, length), without `token_type_ids` where the model knows one
    type or none; the output is `logits`, float32 (batch, num_labels). `dynamo`: by the exporter of
    torch.export; False: by that of TorchScript; None: by the latter as long as torch has it.
    """
    # The graph of torch.export runs 1.2 times slower: onnxruntime fuses less of it.
    dynamo = not hasattr(torch.onnx, "utils") if dynamo is None else dynamo
    for package in ("onnx", *["onnxscript"] * dynamo):
        require(package)
    names = INPUTS if model.config.type_vocab_size > 1 else INPUTS[:-1]
    # a tensor for each: given one twice, an exporter may take two inputs for the same
    given = tuple(torch.full((2, 9), int(name != "token_type_ids")) for name in names)
    how: dict[str, Any]
    if dynamo:
        free = {0: Dim("batch"), 1: Dim("length", max=model.config.max_tokens)}
        how = {"dynamic_shapes": (tuple(free for _ in names),), "external_data": False,
               "opset_version": 18, "verbose": False}  # fmt: skip
    else:
        axes = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
        how = {"dynamic_axes": axes, "opset_version": 17}
    training = model.training
    with tempfile.TemporaryDirectory(dir=_folder(path)) as folder, _quiet():
        target = Path(folder) / path.name
        torch.onnx.export(
            _Logits(model).eval(),
            given,
            str(target),
            input_names=list(names),
            output_names=["logits"],
            dynamo=dynamo,
            **how,
        )
        _publish(target, path)
    model.train(training)


def quantize_onnx(source: Path, path: Path) -> None:
    """Write the int8 version of an exported model.

    The weights of linear layers and embeddings are int8, linear layers with a scale per output
    channel; activations are quantized as they come (dynamic quantization). No data is needed.
    Those of linear layers take 7 of the 8 bits: processors without VNNI add products of two bytes
    in pairs, in 16 bits, where those of 8 bits saturate and change labels.
    """
    require("onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=_folder(path)) as folder, _quiet():
        target = Path(folder) / path.name
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        _publish(target, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing below an error is said: of deprecations, of advice that changes nothing here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class Exported(Protocol):
    """A model in another format."""

    def answer(self, batches: list[dict[str, Tensor]]) -> list[np.ndarray]: ...


def compare(
    task: Task,
    model: RositaForSequenceClassification,
    exported: dict[str, Exported],
    dev: Encoded,
    folder: Path,
) -> dict[str, Any]:
    """Score of `model` on dev, and for each format its score, drop, agreement and size.

    Agreement: the share of rows with the same predicted label; in regression, those whose numbers
    differ by less than 0.01. Sizes are of the weights' files in `folder`.
    """
    labels = np.asarray(dev.labels)
    expected = predict(model, dev, 32, progress="dev")
    found = score(task, expected, labels)
    order = list(batches_by_length(dev, 4096))
    batches = [dev.batch(rows).inputs for rows in order]
    formats = {}
    for name, other in exported.items():
        logits = in_file_order(order, other.answer(batches))
        if not np.isfinite(logits).all():
            raise RositaError(f"{name} gives NaN or infinite logits on {dev.path}")
        if task.is_regression:
            equal = np.abs(logits - expected)[:, 0] < 0.01
        elif task.multi_label:
            equal = ((logits > 0) == (expected > 0)).all(axis=1)
        else:
            equal = logits.argmax(axis=1) == expected.argmax(axis=1)
        theirs = score(task, logits, labels).main
        formats[name] = {
            "file": FORMATS[name].file,
            "bytes": weights_file(folder, name).stat().st_size,
            "score": theirs,
            "drop": found.main - theirs,
            "agreement": float(equal.mean()),
        }
    return {"metric": found.metric, "score": found.main, "formats": formats}


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _publish(made: Path, path: Path) -> None:
    with atomic_write(path, "wb") as file:
        file.write(made.read_bytes())
