"""Which words may be replaced: those that consist of some letters and are no stop words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rosita.cli import character_class
from rosita.files import read_text

# TinyBERT's list, as its script has it: those with an apostrophe never match BERT's basic tokens;
# which, what, who, when, where, why and how may change.
STOP_WORDS = frozenset(
    """
    a about above after again against ain all am an and any are aren aren't as at be because been
    before being below between both but by can couldn couldn't d did didn didn't do does doesn
    doesn't doing don don't down during each few for from further had hadn hadn't has hasn hasn't
    have haven haven't having he her here hers herself him himself his i if in into is isn isn't
    it it's its itself just ll m ma me mightn mightn't more most mustn mustn't my myself needn
    needn't no nor not now o of off on once only or other our ours ourselves out over own re s
    same shan shan't she she's should should've shouldn shouldn't so some such t than that that'll
    the their theirs them themselves then there these they this those through to too under until
    up ve very was wasn wasn't we were weren weren't while will with won won't wouldn wouldn't y
    you you'd you'll you're you've your yours yourself yourselves 're 's
    """.split()
)
LETTERS = "a-z"  # TinyBERT's too


@dataclass(frozen=True)
class Eligible:
    """Words all of `letters`, a class of characters (`character_class`), and no stop words.

    Stop words are lower-case, and meant in any case.
    """

    letters: str = LETTERS
    stop_words: frozenset[str] = STOP_WORDS

    def indices(self, tokens: Sequence[str]) -> tuple[int, ...]:
        """Indices of the tokens that may be replaced."""
        return tuple(
            index
            for index, token in enumerate(tokens)
            if self._word.fullmatch(token) and token.lower() not in self.stop_words
        )

    @cached_property
    def _word(self) -> re.Pattern[str]:
        return character_class(self.letters)

    def identity(self) -> dict[str, str | None]:
        """What a record says of it: None for what is as published."""
        listed = hashlib.sha256("\n".join(sorted(self.stop_words)).encode()).hexdigest()
        return {
            "eligible": None if self.letters == LETTERS else self.letters,
            "stop_words": None if self.stop_words == STOP_WORDS else listed,
        }

    @classmethod
    def given(cls, letters: str, stop_words: str | None) -> Eligible:
        """By the settings of a command: `stop_words` is a UTF-8 file of words, parted by blanks or
        lines, None for the published ones. Raises `RositaError` for a file that cannot be read."""
        if stop_words is None:
            return cls(letters)
        return cls(letters, frozenset(read_text(stop_words, "utf-8-sig").lower().split()))
