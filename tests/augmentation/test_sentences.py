"""Words and pieces of WordPiece, byte-level BPE and Unigram, against transformers' tokenizers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.normalizers import NFKC, BertNormalizer
from tokenizers.pre_tokenizers import (
    BertPreTokenizer,
    ByteLevel,
    Metaspace,
    Sequence,
    Whitespace,
    WhitespaceSplit,
)
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rosita.augmentation.candidates import CandidateFinder
from rosita.augmentation.glove import Glove
from rosita.augmentation.masked_lm import Frame, Query, masked_pair
from rosita.augmentation.sentences import Splitter, tokenizer_hash
from rosita.augmentation.words import Eligible
from rosita.errors import RositaError
from rosita.tokenizer import read_tokenizer

TEXTS = (
    "the dog sees a cat, and the cat sees it.",
    "She said: 'never!' (the café was closed) and the dog ran away...",
    "the old house by the river - who would not see it?",
    "Müller's größte Katze: 3 cats, 2.5 dogs & 1 bird; 今天 天气 好",
)
FAMILIES = ("bert", "roberta", "xlm-roberta")
NAMES = {"bert": ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"),
         "roberta": ("<unk>", "<pad>", "<s>", "</s>", "<mask>")}  # fmt: skip


def trained(family: str, special: list[str]) -> Tokenizer:
    """A small tokenizer that is built as those of the family are."""
    unk, _, cls, sep, _ = special
    ends = [(cls, special.index(cls)), (sep, special.index(sep))]
    if family == "bert":
        tokenizer = Tokenizer(WordPiece(unk_token=unk))
        tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
        trainer = WordPieceTrainer(vocab_size=220, special_tokens=special, show_progress=False)
        pair = f"{cls} $A {sep} $B:1 {sep}:1"
    elif family == "roberta":
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
        trainer = BpeTrainer(
            vocab_size=420,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=ByteLevel.alphabet(),
        )
    else:
        tokenizer = Tokenizer(Unigram())
        tokenizer.normalizer = NFKC()
        tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Metaspace()])
        trainer = UnigramTrainer(
            vocab_size=150, special_tokens=special, unk_token=unk, show_progress=False
        )
        pair = f"{cls} $A {sep} {sep} $B {sep}"
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.decoder = decoders.ByteLevel() if family == "roberta" else decoders.Metaspace()
    if family == "roberta":
        tokenizer.post_processor = RobertaProcessing(ends[1], ends[0])
    else:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{cls} $A {sep}", pair=pair, special_tokens=ends
        )
    return tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder per family, its tokenizer saved by transformers."""
    made = {}
    for family in FAMILIES:
        names = NAMES["bert" if family == "bert" else "roberta"]
        made[family] = tmp_path_factory.mktemp(family)
        keys = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
        PreTrainedTokenizerFast(
            tokenizer_object=trained(family, list(names)), **dict(zip(keys, names, strict=True))
        ).save_pretrained(made[family])
    return made


class Opened:
    """A folder's tokenizer, ours and transformers'."""

    def __init__(self, folder: Path) -> None:
        self.files = read_tokenizer(folder)
        self.splitter = Splitter(self.files, Eligible("letters", frozenset()))
        self.theirs = AutoTokenizer.from_pretrained(folder)

    def ids(self, *texts: str, **more) -> list[int]:
        return self.theirs(*texts, **more)["input_ids"]


@pytest.fixture(params=FAMILIES)
def opened(request, folders) -> Opened:
    return Opened(folders[request.param])


def test_words_are_parted_by_blanks_and_punctuation_whatever_the_tokenizer(folders):
    for family in ("roberta", "xlm-roberta"):
        for text, found in zip(TEXTS, Opened(folders[family]).splitter.split(TEXTS), strict=True):
            assert list(found.tokens) == re.findall(r"\w+|[^\w\s]", text), family


def test_pieces_are_those_of_the_sentence_and_places_those_of_words_of_one_piece(opened):
    one_piece = 0
    for sentence in opened.splitter.split(TEXTS):
        pieces = opened.ids(" " + " ".join(sentence.tokens), add_special_tokens=False)
        assert list(sentence.pieces) == pieces
        words = [opened.ids(f" {word}", add_special_tokens=False) for word in sentence.tokens]
        assert sum(words, []) == pieces  # so a word's pieces are those of the word alone
        begins = np.cumsum([0, *map(len, words)])
        assert sentence.places == {
            index: begins[index] for index in sentence.eligible if len(words[index]) == 1
        }
        one_piece += len(sentence.places)
    assert one_piece > 7


def test_a_masked_pair_is_the_pair_of_the_tokenizer_with_one_piece_hidden(opened):
    frame = Frame.of(opened.files)
    for text, sentence in zip(TEXTS, opened.splitter.split(TEXTS), strict=True):
        line = " " + " ".join(sentence.tokens)
        expected = opened.theirs(line, line, return_token_type_ids=True)
        for place in (0, len(sentence.pieces) - 1):
            ids, masked, second = masked_pair(Query(sentence.pieces, place), frame, 999)
            assert ids[masked] == opened.theirs.mask_token_id
            ids[masked] = sentence.pieces[place]
            assert ids == expected["input_ids"], text
            types = [frame.second_type * (at >= second) for at in range(len(ids))]
            assert types == expected["token_type_ids"]
    assert frame.pad == opened.theirs.pad_token_id


class SaysAll:
    """A masked LM that thinks every piece as likely."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces

    def top_pieces(self, queries: list[Query], count: int) -> np.ndarray:
        return np.tile(np.arange(self.pieces), (len(queries), 1))


def test_candidates_are_the_whole_words_among_the_answers_without_their_mark(opened):
    theirs, unknown = opened.theirs, "\ufffd"
    told = {piece: theirs.convert_ids_to_tokens(piece) for piece in range(len(theirs))}
    expected = {
        "[": {text for text in told.values() if text[:2] != "##"},
        "<": {theirs.decode([piece]).strip() for piece, text in told.items() if text[0] in "Ġ▁"},
    }[theirs.mask_token[0]]
    expected = {word for word in expected if word and unknown not in word}

    model = SaysAll(len(told))
    finder = CandidateFinder(opened.splitter, Glove(["x"], np.ones((1, 2))), 7, model)
    [(tokens, candidates)] = finder.find([TEXTS[0]]).values()

    words = candidates[tokens.index("cat")]
    assert set(words) == expected and len(words) == len(expected)
    assert "cat" in words and not any(word[0] in "Ġ▁" for word in words)


@pytest.mark.parametrize("added", ["[E1]", "New York"])
def test_an_added_token_is_one_word_and_one_piece_that_stays(opened, added, tmp_path):
    opened.theirs.add_tokens([added])
    opened.theirs.save_pretrained(tmp_path)
    splitter = Opened(tmp_path).splitter
    [sentence] = splitter.split([f"{added}the dog{added}, [SEP] <s> a cat {added}"])
    assert [token == added for token in sentence.tokens].count(True) == 3
    assert sentence.pieces.count(opened.theirs.convert_tokens_to_ids(added)) == 3
    # special tokens are text, as in the published rows
    assert not {"[SEP]", "<s>"} & set(sentence.tokens)
    assert not set(sentence.pieces) & set(opened.theirs.all_special_ids) - {
        opened.theirs.unk_token_id
    }


def test_a_tokenizer_whose_pieces_do_not_mark_words_is_refused_for_the_masked_lm(tmp_path):
    words = {word: number for number, word in enumerate((*NAMES["bert"], "dog"))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RositaError, match="no piece of the WordLevel tokenizer begins with ▁ or Ġ"):
        Splitter(read_tokenizer(tmp_path)).whole_words()


def test_the_hash_of_a_tokenizer_tells_apart_what_makes_other_pieces(folders, tmp_path):
    merges = read_tokenizer(folders["roberta"])
    fewer = merges.build()
    assert tokenizer_hash(merges) == tokenizer_hash(read_tokenizer(folders["roberta"]))
    fewer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    fewer.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_hash(read_tokenizer(tmp_path)) != tokenizer_hash(merges)
