"""The training set with words changed anew in every other epoch, or in each: no augmented file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from rosita.augmentation.candidates import CandidateFinder, Sampling, edited, sample_copies
from rosita.data.batches import Encoded
from rosita.data.encode import CHUNK_ROWS, token_columns
from rosita.data.records import RecordFile, check_content
from rosita.data.tsv import Row, TsvFile
from rosita.progress import Bar


@dataclass
class FreshRows:
    """Draws the rows of `source` anew for an epoch: labels and order stay, some words change.

    `plain` holds the rows as they are. Each eligible word is replaced with `sampling.probability`
    by one of its candidates, then the sentence edited with `sampling.edits`; of a pair one
    sentence, drawn, takes the changes. A draw depends on the seed, the epoch and the row's number
    alone. With `alternate` the even epochs (the first is 0) are plain.
    """

    source: TsvFile | RecordFile
    plain: Encoded
    tokenizer: Tokenizer  # set to the length of `plain`
    finder: CandidateFinder
    sampling: Sampling
    alternate: bool

    def files(self, epoch: int) -> list[Encoded]:
        """What the epoch trains on, as `data.Sampler` takes it."""
        if self.alternate and epoch % 2 == 0:
            return [self.plain]
        parts: dict[str, list[np.ndarray]] = {"ids": [], "lengths": [], "first": []}
        number = 0
        with Bar(total=len(self.plain), desc="replace words", unit="row", delay=1) as bar:
            for chunk in self._chunks():
                texts = self._drawn(chunk, epoch, number)
                for name, values in token_columns(self.tokenizer.encode_batch_fast(texts)).items():
                    parts[name].append(values)
                number += len(chunk)
                bar.update(len(chunk))
        check_content(self.source.path, self.plain.sha256)
        ids, lengths, first = (np.concatenate(part) for part in parts.values())
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return [replace(self.plain, ids=ids, offsets=offsets, first=first)]

    def used_tokens(self, vocab_size: int) -> Tensor:
        """Ids of the tokens that any draw can bring in, ascending."""
        words: dict[str, None] = {}
        for chunk in self._chunks():
            found = self.finder.find([text for row in chunk for text in row.texts])
            for tokens, candidates in found.values():
                words.update(dict.fromkeys(tokens))
                for choices in candidates.values():
                    words.update(dict.fromkeys(choices))
        used = np.zeros(vocab_size, dtype=bool)
        # byte-level BPE has other pieces for a word that follows a space
        for encoding in self.tokenizer.encode_batch_fast([*words, *(f" {word}" for word in words)]):
            used[encoding.ids] = True
        return torch.from_numpy(np.flatnonzero(used))

    def _chunks(self) -> Iterator[list[Row]]:
        rows = self.source.rows()
        while chunk := list(islice(rows, CHUNK_ROWS)):
            yield chunk

    def _drawn(self, chunk: list[Row], epoch: int, first: int) -> list[str | tuple[str, ...]]:
        found = self.finder.find([text for row in chunk for text in row.texts])
        drawn = []
        for number, row in enumerate(chunk, start=first):
            rng = np.random.default_rng([self.sampling.seed, epoch, number])
            side = int(rng.integers(len(row.texts)))
            tokens, candidates = found[row.texts[side]]
            texts = list(row.texts)
            # what is drawn unchanged stays as it stands, and so encodes to the ids of `plain`
            unchanged, probability = " ".join(tokens), self.sampling.probability
            if new := sample_copies(unchanged, tokens, candidates, 1, probability, rng):
                texts[side] = new[0]
                tokens = tuple(new[0].split(" "))
            if rng.random() < self.sampling.edits:
                texts[side] = " ".join(edited(tokens, candidates, rng))
            drawn.append(tuple(texts) if len(texts) == 2 else texts[0])
        return drawn
