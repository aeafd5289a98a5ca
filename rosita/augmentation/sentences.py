"""Sentences as the augmentation sees them: words, and the pieces that a tokenizer makes of them.

The words are BERT's basic tokens, parted by blanks and punctuation, whatever the tokenizer. A
WordPiece tokenizer says besides in which case they are read, whether with accents, and whether
every Chinese character is a word; with another they stand as in the text.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tokenizers import Encoding, Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import Unigram, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer

from rosita.augmentation.words import Eligible
from rosita.errors import RositaError
from rosita.tokenizer import KINDS, TokenizerFiles

# How a piece says that a word begins with it, and how its text is read: Unigram, byte-level BPE.
_READ = {
    "▁": lambda piece: piece.replace("▁", " "),
    "Ġ": lambda piece: ByteLevel().decode([piece]),
}


@dataclass(frozen=True)
class Sentence:
    """A sentence split for augmentation.

    `tokens` are its words, `pieces` the ids of all their pieces in order, `eligible` the indices
    of the tokens that may be replaced; `places` gives, for those of them that are one piece, the
    position of that piece in `pieces`.
    """

    tokens: tuple[str, ...]
    pieces: tuple[int, ...]
    eligible: tuple[int, ...]
    places: dict[int, int]


class Splitter:
    """Splits texts by the tokenizer of a model folder; `eligible` says which words may change."""

    def __init__(self, files: TokenizerFiles, eligible: Eligible | None = None) -> None:
        self.eligible = eligible or Eligible()
        self.tokenizer = files.build()
        self._words = _word_tokenizer(self.tokenizer, {files.token(kind) for kind in KINDS})
        added = self._words.get_added_tokens_decoder()
        self._added = {number: token.content.strip() for number, token in added.items()}

    def split(self, texts: Sequence[str]) -> list[Sentence]:
        """Words and pieces of each text."""
        words = [self._read(found) for found in self._words.encode_batch(texts)]
        # A blank before the first word too: all are read as they stand within a sentence.
        lines = [" " + " ".join(tokens) for tokens in words]
        encodings = self.tokenizer.encode_batch(lines, add_special_tokens=False)
        return [
            self._sentence(tokens, encoding.ids, encoding.offsets)
            for tokens, encoding in zip(words, encodings, strict=True)
        ]

    def _read(self, found: Encoding) -> list[str]:
        """The words of a text; an added token as the tokenizer has it, in whichever case it was."""
        return [
            self._added.get(number, word)
            for word, number in zip(found.tokens, found.ids, strict=True)
        ]

    def _sentence(
        self, tokens: list[str], pieces: list[int], offsets: list[tuple[int, int]]
    ) -> Sentence:
        """`offsets`: where each piece stands among the tokens, a blank before each of them."""
        begins = list(accumulate((len(token) + 1 for token in tokens), initial=0))
        eligible = self.eligible.indices(tokens)
        places: dict[int, list[int]] = {index: [] for index in eligible}
        for position, (_, end) in enumerate(offsets):
            # by its last character: the first may be the blank, which is the token's or is not
            owner = bisect_right(begins, max(end - 1, 0)) - 1
            if owner in places:
                places[owner].append(position)
        single = {index: found[0] for index, found in places.items() if len(found) == 1}
        return Sentence(tuple(tokens), tuple(pieces), eligible, single)

    def whole_words(self) -> dict[int, str]:
        """The pieces that are a word by their mark, without it: id -> word.

        Raises `RositaError` if no piece of the vocabulary has a mark that is known.
        """
        model, vocabulary = self.tokenizer.model, self.tokenizer.get_vocab().items()
        if isinstance(model, WordPiece):
            inner = model.continuing_subword_prefix
            return {number: piece for piece, number in vocabulary if not piece.startswith(inner)}
        mark = max(_READ, key=lambda mark: sum(piece.startswith(mark) for piece, _ in vocabulary))
        read = _READ[mark]
        texts = {number: read(piece) for piece, number in vocabulary if piece.startswith(mark)}
        if not texts:
            raise RositaError(
                f"no piece of the {type(model).__name__} tokenizer begins with"
                f" {' or '.join(_READ)}: which of the masked LM's answers are words cannot be told"
            )
        return {
            number: text.strip()
            for number, text in texts.items()
            if len(text.split()) == 1
            and "\ufffd" not in text  # or a blank, two words, half a letter
        }


def tokenizer_hash(files: TokenizerFiles) -> str:
    """SHA-256 of what decides the pieces; of WordPiece, the vocabulary and the normalisation."""
    tokenizer = files.build()
    content = tokenizer.to_str()
    if isinstance(tokenizer.model, WordPiece):
        rules = tokenizer.normalizer.__getstate__().decode() if tokenizer.normalizer else ""
        content = json.dumps([sorted(tokenizer.get_vocab().items()), rules])
    return hashlib.sha256(content.encode()).hexdigest()


def _word_tokenizer(tokenizer: Tokenizer, special: set[str | None]) -> Tokenizer:
    """A tokenizer whose pieces are the words; an added token is one too, unless it is `special`."""
    # Unigram gives back, in one piece, all that its vocabulary lacks.
    words = Tokenizer(Unigram([("<unk>", 0.0)], unk_id=0))
    words.pre_tokenizer = BertPreTokenizer()
    if isinstance(tokenizer.model, WordPiece) and tokenizer.normalizer:
        words.normalizer = tokenizer.normalizer
    added = tokenizer.get_added_tokens_decoder().values()
    words.add_tokens(
        [token for token in added if token.content not in special and token.content.strip()]
    )
    return words
