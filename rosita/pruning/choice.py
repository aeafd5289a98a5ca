"""What decides what a cut keeps: light, so that "finished already" is said at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Importance = Literal["taylor", "magnitude", "random"]  # what decides the heads and units that stay
LayersBy = Literal["position", "score"]  # the first layers stay, or those that score most


@dataclass(frozen=True)
class Choice:
    """What decides which heads, FFN units and layers stay.

    `from_scratch`: random weights in the shape of the model are cut, by random scores where
    Taylor's are asked for. `seed`: of these weights and scores.
    """

    importance: Importance = "taylor"
    keep_layers_by: LayersBy = "position"
    from_scratch: bool = False
    seed: int = 42

    @property
    def reads_taylor(self) -> bool:
        """Whether it goes by Taylor scores, so far as scores are needed."""
        return self.importance == "taylor" and not self.from_scratch
