"""Where the losses and scores of a run are drawn while it runs: TensorBoard, and other trackers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rosita.config import TENSORBOARD


class Curves:
    """The open trackers of a run; the main process has them."""

    def __init__(
        self,
        names: list[str],
        folder: Path,
        accelerator: Accelerator,
        step: int,
        settings: dict[str, Any],
    ) -> None:
        """`step`: the one that the run goes on from; later points in `folder` are dropped."""
        self.accelerator = accelerator
        self.writer = None
        if TENSORBOARD in names and not find_spec(TENSORBOARD):
            print("no curves in logging/: tensorboard is not installed (pip install tensorboard)")
        elif TENSORBOARD in names and not _is_utf8(folder):
            print("no curves in logging/: tensorboard takes no such path")
        elif TENSORBOARD in names:
            from torch.utils.tensorboard import SummaryWriter  # heavy import

            # not accelerate's, which cannot take back the steps that a resumed run makes again
            self.writer = SummaryWriter(str(folder), purge_step=step + 1)
        self.others = [name for name in names if name != TENSORBOARD]
        if self.others:
            accelerator.log_with = list(self.others)
            accelerator.init_trackers("rosita", config=settings)

    def add(self, entry: dict[str, Any], rate: float) -> None:
        """The numbers of an entry of the history, and the learning rate, at its step."""
        values = {name: value for name, value in entry.items() if isinstance(value, float)}
        values["learning_rate"] = rate
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, entry["step"])
        if self.others:
            self.accelerator.log(values, step=entry["step"])

    def flush(self) -> None:
        """Have all that was added on disk."""
        if self.writer:
            self.writer.flush()

    def close(self) -> None:
        """The run is over."""
        if self.writer:
            self.writer.close()
        if self.others:
            for tracker in self.accelerator.trackers:  # end_training would end the processes' group
                tracker.finish()


def _is_utf8(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False
