"""What the student is trained on: labels, or the teacher's logits and hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rosita.data.batches import Batch
from rosita.distillation.teacher import Teacher


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


def sigmoid_prediction_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`prediction_loss` where a row may have several labels: each one's soft cross-entropy.

    Logits (rows, labels), summed over rows, mean over labels.
    """
    target = torch.sigmoid(teacher.float() / temperature)
    logits = student.float() / temperature
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1).sum()


class LabelLoss:
    """Cross-entropy with the gold label, or the squared error of a regression."""

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, LossSum]:
        logits = model(**batch.inputs).logits.float()
        return {"label": LossSum(label_loss(logits, batch.labels), "rows")}


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss against gold labels, summed over rows; float labels (rows,) are a regression, (rows,
    labels) several labels at once: the mean of each one's."""
    if labels.dim() == 2:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1).sum()
    if labels.is_floating_point():
        return F.mse_loss(logits.squeeze(-1), labels, reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum")


class DistillationLoss:
    """ROSITA's distillation losses: prediction, representation, or their weighted sum.

    The representation loss is the squared error of the followed states, summed over them, mean over
    `positions` per row (the published code: over max_seq_length) or over real tokens (None); where
    the teacher's `Knowledge` chooses some tokens of a row, over their number or (`row_means`) over
    those that are there. On a regression task
    the prediction loss is the squared error against the teacher's number, or with `learn_labels`
    against the gold label. With a `label_weight` the loss against the gold label is added, as in
    Hinton et al. 2015.
    """

    def __init__(
        self,
        teacher: Teacher,
        pred_distill: bool,
        repr_distill: bool,
        temperature: float = 1.0,
        *,
        repr_weight: float = 1.0,
        label_weight: float = 0.0,
        positions: int | None = None,
        learn_labels: bool = False,
    ) -> None:
        self.teacher = teacher
        self.pred_distill = pred_distill
        self.repr_distill = repr_distill
        self.temperature = temperature
        self.repr_weight = repr_weight
        self.label_weight = label_weight
        self.positions = positions
        self.learn_labels = learn_labels

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, LossSum]:
        student = model(**batch.inputs, output_hidden_states=self.repr_distill)
        several = batch.labels.dim() == 2  # labels of a row
        regression = batch.labels.is_floating_point() and not several
        follows_logits = self.pred_distill and not (regression and self.learn_labels)
        mapping = {}
        if self.repr_distill:
            mapping = self.teacher.mapping(len(student.hidden_states) - 1)
        if follows_logits or mapping:
            said = self.teacher.say(batch, states=mapping.values())
        found = {}
        if self.repr_distill:
            total = torch.zeros((), device=batch.labels.device)
            for number, followed in mapping.items():
                ours, theirs = student.hidden_states[number], said.states[followed]
                total = total + self.teacher.knowledge.squared_error(ours, theirs)
            found["representation"] = self._mean_over_places(self.repr_weight * total)
        if self.pred_distill:
            if several:
                total = sigmoid_prediction_loss(student.logits, said.logits, self.temperature)
            elif not regression:
                total = prediction_loss(student.logits, said.logits, self.temperature)
            else:
                target = batch.labels if self.learn_labels else said.logits.squeeze(-1).float()
                total = label_loss(student.logits.float(), target)
            found["prediction"] = LossSum(total, "rows")
        if self.label_weight:
            total = label_loss(student.logits.float(), batch.labels)
            found["label"] = LossSum(self.label_weight * total, "rows")
        return found

    def _mean_over_places(self, total: Tensor) -> LossSum:
        """A sum over the followed tokens of all rows, as the mean that the settings ask for."""
        knowledge = self.teacher.knowledge
        if knowledge.row_means:
            return LossSum(total, "rows")
        if places := knowledge.amount.tokens or self.positions:
            return LossSum(total / places, "rows")
        return LossSum(total, "tokens")
