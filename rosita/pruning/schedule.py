"""Iterative pruning: which shape is reached at which step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rosita.errors import RositaError
from rosita.pruning.shape import Shape, check_target

if TYPE_CHECKING:
    from rosita.model import RositaConfig


@dataclass(frozen=True)
class PruningSchedule:
    """Iterative pruning: which shape is reached at which step (counted from 1).

    Depth goes down one layer at a time; width one head at a time, with FFN size and embedding
    rank linear over the same number of prunings, cut to int. Pruning k comes just before the
    forward of step k * period.
    """

    start: Shape
    target: Shape
    embedding_size: int
    depth_or_width: str
    period: int
    save_ladder: bool = False  # keep the model of every shape on the way
    keep_optimizer: bool = False  # a pruning leaves the moments of surviving weights
    recompute_svd: bool = False  # each cut of the embedding factorizes it anew

    @classmethod
    def plan(
        cls,
        config: RositaConfig,
        target: Shape,
        depth_or_width: str,
        prunings_done_after: float,
        total_steps: int,
    ) -> PruningSchedule:
        """The schedule for a student of `config`, all prunings done after that many of all steps.

        Raises `RositaError` if nothing is left to prune, if the steps do not suffice, or if the run
        ends (max_steps) before its last pruning.
        """
        start = Shape.of(config)
        check_target(config, target)
        draft = cls(start, target, config.embedding_size, depth_or_width, 1)
        if depth_or_width == "depth" and target != replace(start, keep_layers=target.keep_layers):
            raise RositaError(
                f"depth_or_width depth cuts layers only: from {start} to {target} changes more"
            )
        if depth_or_width == "width" and target.keep_layers != start.keep_layers:
            raise RositaError(
                f"depth_or_width width keeps the layers: the student has {start.keep_layers},"
                f" keep_layers is {target.keep_layers}"
            )
        if not draft.count:
            what = "layers" if depth_or_width == "depth" else "heads"
            raise RositaError(f"the student {start} has no {what} more than the target {target}")
        period = int(prunings_done_after / draft.count)
        least = 1 if depth_or_width == "depth" else 2  # width needs scores from a step before
        if period < least:
            raise RositaError(
                f"prun_period_proportion leaves {prunings_done_after:.1f} steps for {draft.count}"
                f" prunings, {least} each at least; raise it, or num_train_epochs"
            )
        if total_steps < draft.count * period:
            raise RositaError(
                f"max_steps {total_steps} ends the run before its last pruning, which is due at"
                f" step {draft.count * period}; raise it, or leave it out"
            )
        return replace(draft, period=period)

    @property
    def count(self) -> int:
        """Number of prunings."""
        if self.depth_or_width == "depth":
            return self.start.keep_layers - self.target.keep_layers
        return self.start.keep_heads - self.target.keep_heads

    def shape(self, number: int) -> Shape:
        """The shape after pruning `number` (0: the start)."""
        if number == 0:
            return self.start
        if self.depth_or_width == "depth":
            return replace(self.start, keep_layers=self.start.keep_layers - number)
        rank = self.target.emb_hidden_dim
        if rank != -1:
            first = self.start.emb_hidden_dim
            rank = self._between(self.embedding_size if first == -1 else first, rank, number)
        return Shape(
            self.start.keep_heads - number,
            self.start.keep_layers,
            self._between(self.start.ffn_hidden_dim, self.target.ffn_hidden_dim, number),
            rank,
        )

    def due(self, step: int) -> Shape | None:
        """The shape to prune to just before the forward of `step`, or None."""
        number, rest = divmod(step, self.period)
        return self.shape(number) if rest == 0 and 1 <= number <= self.count else None

    def _between(self, first: int, last: int, number: int) -> int:
        return (first * (self.count - number) + last * number) // self.count
