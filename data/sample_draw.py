"""The seeded draw of the sample tasks: which filling of a template belongs to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

TRAIN_SHARE, DEV_SHARE = 70, 18  # per cent of a template's fillings; the rest is test's
_TRIES = 100_000
T = TypeVar("T")
Filling = tuple[str, tuple]  # a template and the words that decide its split


def split_of(template: str, words: Sequence[object]) -> str | None:
    """The one split in which `template` may be filled with `words`; a hash of them decides.

    Their order does not matter: `Is Lima safer than Oslo?` goes with `Is Oslo safer than Lima?`.
    A template or word that starts with `*` never occurs in train (such a filling may belong
    nowhere): what it means, a pretrained model has to know.
    """
    parts = [template, *sorted(map(str, words))]
    percent = int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:4], "big") % 100
    if percent < TRAIN_SHARE:
        return None if any(part.startswith("*") for part in parts) else "train"
    return "dev" if percent < TRAIN_SHARE + DEV_SHARE else "test"


class Draw:
    """Seeded choices for one file; `split` is the split that its fillings must belong to.

    `used` collects the fillings (template, word, word, ...) since it was last emptied. Of
    `random.Random` only `random()` is called: the one method that promises to stay as it is.
    """

    def __init__(self, seed: str, split: str) -> None:
        self.split = split
        self.used: list[tuple[str, ...]] = []
        self._random = Random(seed).random

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random() < probability

    def one(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[int(self._random() * len(items))]

    def different(self, lists: Sequence[Sequence[T]]) -> tuple[T, ...]:
        """One item of each list, no item twice."""
        while True:
            items = tuple(self.one(choices) for choices in lists)
            if len(set(items)) == len(items):
                return items

    def filling(self, propose: Callable[[], Filling]) -> Filling:
        """Call `propose` until its (template, words) is a filling of this split."""
        for _ in range(_TRIES):
            template, words = propose()
            if split_of(template, words) == self.split:
                self.used.append((template, *map(str, words)))
                return template, words
        raise ValueError(f"no filling like {template!r} is {self.split}'s: the lists are too short")
