"""What the student is trained on: labels, or the teacher's logits and hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from rosita.data import Batch, Encoded
from rosita.evaluation import predict
from rosita.files import atomic_write


@dataclass
class LossSum:
    """A loss summed over a batch, and what its mean divides by: "rows" or "tokens".

    The training loop divides by the count of the global batch (all micro-batches and processes),
    so that splitting a batch changes nothing.
    """

    total: Tensor
    unit: str


class Objective(Protocol):
    """Anything that turns a model and a batch into named losses."""

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, LossSum]: ...


def prediction_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy of logits (rows, classes), summed over rows, mean over classes.

    -softmax(teacher / T) * log_softmax(student / T), as in ROSITA and TinyBERT.
    """
    target = F.softmax(teacher.float() / temperature, dim=-1)
    log_probability = F.log_softmax(student.float() / temperature, dim=-1)
    return -(target * log_probability).mean(dim=-1).sum()


def layer_map(teacher_layers: int, student_layers: int) -> list[int]:
    """Teacher state that each student state follows (0 = embedding output): floor(i * T / S)."""
    return [i * teacher_layers // student_layers for i in range(student_layers + 1)]


def representation_loss(
    student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], mask: Tensor
) -> Tensor:
    """Sum over mapped states (batch, length, hidden) of the squared error at real tokens.

    Mean over the hidden size, summed over tokens; `mask` (batch, length) is 1 at real tokens.
    """
    mapping = layer_map(len(teacher) - 1, len(student) - 1)
    weight = mask.unsqueeze(-1)
    total = torch.zeros((), device=mask.device)
    for state, index in zip(student, mapping, strict=True):
        error = (state.float() - teacher[index].float()) * weight
        total = total + error.square().sum() / state.shape[-1]
    return total


class LabelLoss:
    """Cross-entropy with the gold label, or the squared error of a regression."""

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, LossSum]:
        logits = model(**batch.inputs).logits.float()
        return {"label": LossSum(label_loss(logits, batch.labels), "rows")}


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss against gold labels, summed over rows; float labels are a regression."""
    if labels.is_floating_point():
        return F.mse_loss(logits.squeeze(-1), labels, reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum")


class DistillationLoss:
    """ROSITA's distillation losses: prediction, representation, or their sum.

    The teacher is in evaluation mode; it may be None where all its logits are cached. On a
    regression task the prediction loss is the squared error against the gold label.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        pred_distill: bool,
        repr_distill: bool,
        temperature: float = 1.0,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False) if teacher else None
        self.pred_distill = pred_distill
        self.repr_distill = repr_distill
        self.temperature = temperature

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, LossSum]:
        student = model(**batch.inputs, output_hidden_states=self.repr_distill)
        regression = batch.labels.is_floating_point()
        teacher, teacher_logits = None, batch.teacher_logits
        if self.repr_distill or (teacher_logits is None and not regression):
            with torch.no_grad():
                teacher = self.teacher(**batch.inputs, output_hidden_states=self.repr_distill)
            teacher_logits = teacher.logits
        found = {}
        if self.repr_distill:
            mask = batch.inputs["attention_mask"]
            total = representation_loss(student.hidden_states, teacher.hidden_states, mask)
            found["representation"] = LossSum(total, "tokens")
        if self.pred_distill and regression:
            total = label_loss(student.logits.float(), batch.labels)
            found["prediction"] = LossSum(total, "rows")
        elif self.pred_distill:
            total = prediction_loss(student.logits, teacher_logits, self.temperature)
            found["prediction"] = LossSum(total, "rows")
        return found


def cache_teacher_logits(
    teacher: nn.Module, teacher_hash: str, files: list[Encoded], accelerator: Accelerator
) -> None:
    """Run the teacher once over all rows; batches of `files` carry its logits from then on.

    The logits are kept beside the token ids, whose folder is named by the hash of data, tokenizer
    and length, under the hash of the teacher's weights and the precision it runs in: they are read
    again only for the same. Each of many processes runs its share of the rows.
    """
    precision = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
    name = f"logits-{teacher_hash[:32]}-{precision[accelerator.mixed_precision]}"
    for file in files:
        path = file.cache / f"{name}.npy"
        missing = not path.exists()
        accelerator.wait_for_everyone()  # they must all have looked before one can write
        if missing:
            with accelerator.autocast():
                _write_logits(teacher, file, path, accelerator)
        file.teacher_logits = np.load(path, mmap_mode="r")


def _write_logits(teacher: nn.Module, file: Encoded, path: Path, accelerator: Accelerator) -> None:
    count = accelerator.num_processes
    parts = [path.with_name(f"{path.stem}-{number}-of-{count}.npy") for number in range(count)]
    bounds = [len(file) * number // count for number in range(count + 1)]
    mine = accelerator.process_index
    if bounds[mine] < bounds[mine + 1]:
        part = file.part(bounds[mine], bounds[mine + 1])
        with atomic_write(parts[mine], "wb") as target:
            np.save(target, predict(teacher, part, batch_size=32, progress="teacher"))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        logits = [np.load(part) for part in parts if part.exists()]
        with atomic_write(path, "wb") as target:
            np.save(target, np.concatenate(logits))
        for part in parts:
            part.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
