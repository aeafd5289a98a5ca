"""TinyBERT's data augmentation: which words may change, into what, and the draws.

A word of one piece takes what a masked language model puts in its place, a word of several pieces
its GloVe neighbours; then some words of the sentence are replaced at random, N times over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rosita.augmentation.glove import Glove
from rosita.augmentation.masked_lm import AnswerCache, MaskedLM, Query
from rosita.augmentation.sentences import Sentence, Splitter
from rosita.augmentation.words import LETTERS
from rosita.data.tsv import Row

Candidates = dict[int, list[str]]  # index of a token -> what may stand in its place
Found = tuple[tuple[str, ...], Candidates]  # the tokens of a text, and their candidates


@dataclass(frozen=True)
class Sampling:
    """How sentences are drawn: copies N per sentence, each word replaced with probability p.

    `edits`: probability that a sentence drawn for an epoch is edited besides (`edited`).
    """

    copies: int
    probability: float
    seed: int
    edits: float = 0.0


def sample_copies(
    original: str,
    tokens: Sequence[str],
    candidates: Mapping[int, Sequence[str]],
    copies: int,
    probability: float,
    rng: np.random.Generator,
) -> list[str]:
    """Draw `copies` times; the new sentences, different from each other and from the `original`.

    Each token with candidates is replaced with `probability` by one of them, all equally likely
    (the word itself may be among them). A draw that changes no token is a sentence too, as in the
    published script: lower case, blanks around punctuation, it differs from most originals. Fewer
    than `copies` come back where draws repeat.
    """
    indices = list(candidates)
    choices = [candidates[index] for index in indices]
    replaced = rng.random((copies, len(indices))) < probability
    chosen = rng.integers([len(words) for words in choices], size=(copies, len(indices)))
    seen = {original: None}  # a dict, for its order
    for replaced_row, chosen_row in zip(replaced.tolist(), chosen.tolist(), strict=True):
        sentence = list(tokens)
        for column, index in enumerate(indices):
            if replaced_row[column]:
                sentence[index] = choices[column][chosen_row[column]]
        seen[" ".join(sentence)] = None
    return list(seen)[1:]


def edited(
    tokens: Sequence[str], candidates: Mapping[int, Sequence[str]], rng: np.random.Generator
) -> list[str]:
    """The words after one edit, or as likely two: one deleted, inserted, moved, or two exchanged.

    After EDA (Wei and Zou 2019), which inserts a synonym; here it is one of all `candidates`
    (without any, two words are exchanged in its place). One word alone stays. The sentence may end
    up ungrammatical, and its label wrong: the teacher says what it is.
    """
    words = list(tokens)
    pool = [word for choices in candidates.values() for word in choices]
    for _ in range(int(rng.integers(1, 3))):
        if len(words) < 2:
            break
        one, other = rng.choice(len(words), 2, replace=False).tolist()
        match rng.choice(["delete", "insert", "move", "exchange"]):
            case "delete":
                del words[one]
            case "insert" if pool:
                words.insert(one, pool[int(rng.integers(len(pool)))])
            case "move":
                words.insert(other, words.pop(one))
            case _:
                words[one], words[other] = words[other], words[one]
    return words


def augmented_rows(
    row: Row,
    columns: Sequence[int],
    sentences: Sequence[tuple[Sequence[str], Candidates]],
    sampling: Sampling,
    rng: np.random.Generator,
) -> list[list[str]]:
    """The row as it is, then one row per new sentence; of a pair, the other sentence is kept.

    `columns` are the fields that hold the row's texts, `sentences` their tokens and candidates.
    """
    rows = [row.fields]
    copies, probability = sampling.copies, sampling.probability
    for column, text, (tokens, candidates) in zip(columns, row.texts, sentences, strict=True):
        for new in sample_copies(text, tokens, candidates, copies, probability, rng):
            fields = row.fields.copy()
            fields[column] = new
            rows.append(fields)
    return rows


class CandidateFinder:
    """The candidates of every eligible word of many sentences, asked for together.

    Without a masked LM every eligible word takes GloVe neighbours. `cache_key` stands for all
    but the sentence that decides the masked LM's answers (weights, vocabulary).
    """

    def __init__(
        self,
        splitter: Splitter,
        glove: Glove,
        count: int,
        masked_lm: MaskedLM | None = None,
        cache: AnswerCache | None = None,
        cache_key: str = "",
    ) -> None:
        self.splitter = splitter
        self.glove = glove
        self.count = count
        self.masked_lm = masked_lm
        self.cache = cache
        eligible = splitter.eligible  # it decides which places of a sentence are asked for
        letters = [] if eligible.letters == LETTERS else [eligible.letters]
        asked = [cache_key, count, sorted(eligible.stop_words), *letters]
        self._key_start = json.dumps(asked).encode()
        self._words = splitter.whole_words() if masked_lm else {}

    def find(self, texts: Sequence[str]) -> dict[str, Found]:
        """Tokens and candidates of each different text."""
        different = list(dict.fromkeys(texts))
        sentences = dict(zip(different, self.splitter.split(different), strict=True))
        answers = self._ask_masked_lm(list(sentences.values()))
        wanted = [
            sentence.tokens[index]
            for sentence in sentences.values()
            for index in sentence.eligible
            if self._takes_neighbours(sentence, index)
        ]
        neighbours = self.glove.neighbours(wanted, self.count)
        return {
            text: (sentence.tokens, self._candidates(sentence, answers, neighbours))
            for text, sentence in sentences.items()
        }

    def missing(self, rows: Sequence[Row], flags: str = "--") -> str | None:
        """Why no word of `rows` can change, and what to type, in one line; None if some can.

        `flags`: how the two flags of the words that may change begin.
        """
        found = self.find([text for row in rows for text in row.texts]).values()
        if not any(candidates for _, candidates in found):
            return (
                f"no word in the first {len(rows)} rows may be replaced: none consists of"
                f" {self.splitter.eligible.letters} and is no stop word; for another language give"
                f" {flags}eligible, such as a-zäöüß, \\u4e00-\\u9fff or letters, and its"
                f" {flags}stop_words"
            )
        if all(
            words == [tokens[index]]
            for tokens, candidates in found
            for index, words in candidates.items()
        ):
            return (
                f"nothing can replace a word in the first {len(rows)} rows: the vectors know none"
                " of them; give --glove_embs of their language (GloVe, word2vec or fastText)"
            )
        return None

    def _takes_neighbours(self, sentence: Sentence, index: int) -> bool:
        return self.masked_lm is None or index not in sentence.places

    def _candidates(
        self,
        sentence: Sentence,
        answers: dict[tuple[str, ...], np.ndarray],
        neighbours: dict[str, list[str]],
    ) -> Candidates:
        top_pieces = dict(zip(sentence.places, answers.get(sentence.tokens, ()), strict=False))
        found: Candidates = {}
        for index in sentence.eligible:
            word = sentence.tokens[index]
            if index in top_pieces:
                pieces = top_pieces[index].tolist()
                words = [self._words[piece] for piece in pieces if piece in self._words]
            else:
                words = neighbours[word]
            found[index] = words or [word]
        return found

    def _ask_masked_lm(self, sentences: list[Sentence]) -> dict[tuple[str, ...], np.ndarray]:
        """Ids of the top pieces per sentence, (its places, M); from the cache where they are."""
        if self.masked_lm is None:
            return {}
        answers, new = {}, {}
        for sentence in sentences:
            if not sentence.places:
                continue
            known = self.cache.get(self._key(sentence)) if self.cache else None
            if known is None:
                new[sentence.tokens] = sentence
            else:
                answers[sentence.tokens] = known.reshape(len(sentence.places), -1)

        queries = [Query(s.pieces, place) for s in new.values() for place in s.places.values()]
        ids = iter(self.masked_lm.top_pieces(queries, self.count))
        fresh = {tokens: np.stack([next(ids) for _ in s.places]) for tokens, s in new.items()}
        if self.cache and fresh:
            self.cache.put((self._key(new[tokens]), found) for tokens, found in fresh.items())
        return answers | fresh

    def _key(self, sentence: Sentence) -> bytes:
        return hashlib.sha256(self._key_start + "\n".join(sentence.tokens).encode()).digest()


def augment_rows(
    first: int,
    rows: Sequence[Row],
    columns: Sequence[int],
    finder: CandidateFinder,
    sampling: Sampling,
) -> list[list[str]]:
    """The fields of all rows that `rows`, of which the first is number `first`, grow into.

    Each row's draws depend on the seed and its number alone: they are the same however the rows
    are divided among calls or processes.
    """
    found = finder.find([text for row in rows for text in row.texts])
    grown = []
    for number, row in enumerate(rows, start=first):
        rng = np.random.default_rng([sampling.seed, number])
        sentences = [found[text] for text in row.texts]
        grown += augmented_rows(row, columns, sentences, sampling, rng)
    return grown
