"""A model folder in PyTorch, for labelling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rosita.checkpoint import load_model
from rosita.tasks import Task


class TorchModel:
    """A model folder in PyTorch, on a GPU if there is one."""

    def __init__(self, folder: Path, task: Task, accept_changed: bool = False) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(folder, task, accept_changed=accept_changed)
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def logits(self, **inputs: np.ndarray) -> np.ndarray:
        """Logits, float32 (batch, num_labels), of int64 inputs (batch, length)."""
        given = {name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()}
        return self.model(**given).logits.float().cpu().numpy()
