"""TinyBERT's data augmentation: which words may change, into what, and the draws.

A word of one piece takes what a masked language model puts in its place, a word of several pieces
its GloVe neighbours; then some words of the sentence are replaced at random, N times over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import BertTokenizer

from rosita.augmentation.glove import Glove
from rosita.augmentation.masked_lm import AnswerCache, MaskedLM, Query
from rosita.data.tsv import Row

# TinyBERT's list, as its script has it: a token is compared as it stands, so those with an
# apostrophe never match BERT's basic tokens; which, what, who, when, where, why and how may change.
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

_LETTERS = re.compile(r"[a-z]+")

Candidates = dict[int, list[str]]  # index of a token -> what may stand in its place


@dataclass(frozen=True)
class Sentence:
    """A sentence split for augmentation.

    `tokens` are BERT's basic tokens, `pieces` the ids of all word pieces in order, `eligible` the
    indices of the tokens that may be replaced; `places` gives, for those of them that are one
    piece, the position of that piece in `pieces`.
    """

    tokens: tuple[str, ...]
    pieces: tuple[int, ...]
    eligible: tuple[int, ...]
    places: dict[int, int]


@dataclass(frozen=True)
class Sampling:
    """How sentences are drawn: copies N per sentence, each word replaced with probability p.

    `edits`: probability that a sentence drawn for an epoch is edited besides (`edited`).
    """

    copies: int
    probability: float
    seed: int
    edits: float = 0.0


def eligible_tokens(tokens: Sequence[str]) -> tuple[int, ...]:
    """Indices of the tokens that may be replaced: all letters a-z, and no stop words."""
    return tuple(
        index
        for index, token in enumerate(tokens)
        if _LETTERS.fullmatch(token) and token not in STOP_WORDS
    )


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


def split_sentences(texts: Sequence[str], tokenizer: BertTokenizer) -> list[Sentence]:
    """Basic tokens and word pieces of each text, in the case that the tokenizer reads.

    `tokenizer` must neither truncate nor pad (`load_tokenizer`).
    """
    backend = tokenizer.backend_tokenizer
    token_lists = []
    for text in texts:
        normal = backend.normalizer.normalize_str(text)
        token_lists.append([token for token, _ in backend.pre_tokenizer.pre_tokenize_str(normal)])
    encodings = backend.encode_batch(token_lists, is_pretokenized=True, add_special_tokens=False)
    return [
        _sentence(tokens, encoding.ids, encoding.word_ids)
        for tokens, encoding in zip(token_lists, encodings, strict=True)
    ]


def _sentence(tokens: list[str], pieces: list[int], owners: list[int]) -> Sentence:
    """`owners` names the token that each piece is of."""
    places: dict[int, list[int]] = {index: [] for index in eligible_tokens(tokens)}
    for position, owner in enumerate(owners):
        if owner in places:
            places[owner].append(position)
    single = {index: found[0] for index, found in places.items() if len(found) == 1}
    return Sentence(tuple(tokens), tuple(pieces), tuple(places), single)


class CandidateFinder:
    """The candidates of every eligible word of many sentences, asked for together.

    Without a masked LM every eligible word takes GloVe neighbours. `cache_key` stands for all
    but the sentence that decides the masked LM's answers (weights, vocabulary).
    """

    def __init__(
        self,
        tokenizer: BertTokenizer,
        glove: Glove,
        count: int,
        masked_lm: MaskedLM | None = None,
        cache: AnswerCache | None = None,
        cache_key: str = "",
    ) -> None:
        self.tokenizer = tokenizer
        self.glove = glove
        self.count = count
        self.masked_lm = masked_lm
        self.cache = cache
        stop_words = sorted(STOP_WORDS)  # they decide which places of a sentence are asked for
        self._key_start = json.dumps([cache_key, count, stop_words]).encode()
        vocabulary = tokenizer.get_vocab()
        self._words = {
            piece: word for word, piece in vocabulary.items() if not word.startswith("##")
        }

    def find(self, texts: Sequence[str]) -> dict[str, tuple[tuple[str, ...], Candidates]]:
        """Tokens and candidates of each different text."""
        different = list(dict.fromkeys(texts))
        sentences = dict(zip(different, split_sentences(different, self.tokenizer), strict=True))
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
