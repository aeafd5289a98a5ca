"""Augmentation: candidates, sampling, and a file that comes out the same however it was made."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

import data_augmentation
from rosita.augmentation import file as augmented_file
from rosita.augmentation import masked_lm
from rosita.augmentation.candidates import (
    CandidateFinder,
    Sampling,
    augmented_rows,
    sample_copies,
)
from rosita.augmentation.glove import Glove, load_glove
from rosita.augmentation.masked_lm import AnswerCache, Frame, MaskedLM, Query, masked_pair
from rosita.augmentation.sentences import Splitter
from rosita.augmentation.sources import glove_hash, has_masked_lm_head
from rosita.augmentation.words import STOP_WORDS, Eligible
from rosita.cli import character_class
from rosita.data.tsv import Row
from rosita.errors import RositaError
from rosita.files import hold, write_json
from rosita.provenance import file_hashes
from rosita.tokenizer import read_tokenizer

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se")
WORDS = [first + second for first in SYLLABLES for second in SYLLABLES]  # each is one piece
LONG_WORDS = [word + "zo" for word in WORDS[:40]]  # each is a word and ##zo
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = SPECIAL + ["the", "was", ",", ".", '"'] + WORDS + ["##zo", "##ba", "##ce", "##di"]
MAX_POSITIONS = 40


def make_model(folder: Path, head: bool = True) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=MAX_POSITIONS, initializer_range=0.3,
    )  # fmt: skip
    (BertForMaskedLM if head else BertModel)(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return folder


def make_glove(path: Path, words: list[str]) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
    lines = [
        f"{word} {' '.join(map(repr, row.tolist()))}"
        for word, row in zip(words, vectors, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vectors


def random_sentences(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    known = [*WORDS, *LONG_WORDS, "The", "was", ",", '"']
    return [
        " ".join(rng.choice(known, size=rng.integers(3, 9))).capitalize() + "."
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("bert_pt"))


@pytest.fixture
def home(tmp_path, model) -> Path:
    """A folder with a CoLA of 23 rows and GloVe vectors of all its words."""
    make_glove(tmp_path / "glove.txt", WORDS + LONG_WORDS)
    (tmp_path / "CoLA").mkdir()
    rows = [f"src\t{number % 2}\t\t{text}" for number, text in enumerate(random_sentences(23))]
    (tmp_path / "CoLA" / "train.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def run(home: Path, model: Path, *extra: str, task: str = "CoLA") -> bytes:
    data_augmentation.main(
        ["--pretrained_bert_model", str(model), "--glove_embs", str(home / "glove.txt"),
         "--glue_dir", str(home), "--task_name", task, *extra]
    )  # fmt: skip
    return (home / task / "train_aug.tsv").read_bytes()


def load(model: Path, batch_tokens: int = 300) -> tuple[Splitter, MaskedLM]:
    files = read_tokenizer(model)
    return Splitter(files), masked_lm.load_masked_lm(model, files, batch_tokens)


def plain_top_words(model: Path, tokens: list[str], place: int, count: int) -> set[str]:
    """The oracle: one sentence at a time, all logits, words looked up in the vocabulary file."""
    bert = BertForMaskedLM.from_pretrained(model).eval()
    pieces = []
    for word in tokens:
        pieces += [word] if word in VOCABULARY else [word[:-2], "##zo"]
    place = len([p for word in tokens[:place] for p in (word, "##zo")[: 1 + (word in LONG_WORDS)]])
    masked = pieces[:place] + ["[MASK]"] + pieces[place + 1 :]
    sequence = ["[CLS]", *masked, "[SEP]", *pieces, "[SEP]"]
    segments = [0] * (len(pieces) + 2) + [1] * (len(pieces) + 1)
    with torch.no_grad():
        logits = bert(
            input_ids=torch.tensor([[VOCABULARY.index(piece) for piece in sequence]]),
            token_type_ids=torch.tensor([segments]),
        ).logits[0, 1 + place]
    return {VOCABULARY[i] for i in logits.topk(count).indices if VOCABULARY[i][:2] != "##"}


# --- which words ---------------------------------------------------------------------------


def test_only_words_of_letters_that_are_no_stop_words_are_eligible():
    tokens = ["the", "friends", "won", "'", "t", "buy", "3d", "x-y", "café", "Analysis", "letters"]
    assert [tokens[i] for i in Eligible().indices(tokens)] == ["friends", "buy", "letters"]


def test_the_stop_words_are_the_173_published_ones():
    words = sorted(STOP_WORDS)
    assert len(words) == 173
    assert words[:3] == ["'re", "'s", "a"] and words[-1] == "yourselves"
    digest = hashlib.sha256(" ".join(words).encode()).hexdigest()
    assert digest == "7e1cfaae24e18bb173daeeec33d27d365967b3b08d532bd8841826aae3d43f31"
    question = "who knows which or what when where why how every us upon".split()
    assert [question[i] for i in Eligible().indices(question)] == [w for w in question if w != "or"]


def test_tokens_are_those_of_berts_basic_tokenizer(model):
    [sentence] = Splitter(read_tokenizer(model)).split(["He said: 'Ündo[SEP]Bacezo'  won't!"])
    expected = "he said : ' undo [ sep ] bacezo ' won ' t !".split()
    assert list(sentence.tokens) == expected
    # all words but stop words; bacezo is not in the vocabulary as one piece, [UNK] is one
    assert [expected[i] for i in sentence.eligible] == ["said", "undo", "sep", "bacezo"]


def test_a_tokenizer_that_truncates_is_read_without_its_truncation(tmp_path, model):
    tokenizer = read_tokenizer(model).build()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    [sentence] = Splitter(read_tokenizer(tmp_path)).split([" ".join(WORDS[:30])])
    assert len(sentence.pieces) == 30


@pytest.mark.parametrize(
    "letters, expected",
    [
        ("a-z", ["wand", "see"]),
        ("a-zäöüß", ["größe", "wand", "see"]),
        ("A-Za-zäöü", ["wand", "see", "Haus"]),
        (r"\u4e00-\u9fff", ["天", "气"]),
        ("letters", ["größe", "wand", "see", "Haus", "天", "气", "дом"]),
    ],
)
def test_eligible_words_consist_of_the_class_that_is_given(letters, expected):
    tokens = ["größe", "wand", "see", "Haus", "天", "气", "дом", "3d", "!", "a_b", "die", "Die"]
    eligible = Eligible(letters, frozenset({"die"}))
    assert [tokens[i] for i in eligible.indices(tokens)] == expected


@pytest.mark.parametrize("letters", ["z-a", "[a-z]", "^a-z", "a-z]+|[b", "\\", r"\p{L}"])
def test_a_wrong_class_is_one_line_that_shows_right_ones(home, model, letters):
    with pytest.raises(RositaError) as error:
        run(home, model, f"--eligible={letters}")
    assert f"--eligible {letters!r} is no class of characters" in str(error.value)
    assert r"write a-z, a-zäöüß, \u4e00-\u9fff" in str(error.value)
    assert not list((home / "CoLA").glob("*aug*"))


def test_no_class_at_all_is_refused_by_a_flag_and_by_who_reads_it(home, model):
    with pytest.raises(RositaError, match="^--eligible: an empty value: give it one"):
        run(home, model, "--eligible=")
    with pytest.raises(ValueError, match="is no class of characters .*write a-z"):
        character_class("")


# --- masked LM ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_batched_candidates_equal_those_of_a_plain_loop_at_batch_1(model, batch_tokens):
    splitter, lm = load(model, batch_tokens)
    texts = [text for text in random_sentences(12, seed=1) if len(text.split()) < 9]
    found = CandidateFinder(splitter, Glove(["x"], np.ones((1, 2))), 7, lm).find(texts)
    asked = 0
    for tokens, candidates in found.values():
        for index, words in candidates.items():
            if tokens[index] in LONG_WORDS:
                assert words == [tokens[index]]  # no neighbours: the word itself
                continue
            assert set(words) == plain_top_words(model, list(tokens), index, 7)
            asked += 1
    assert asked > 30


def test_near_ties_do_not_depend_on_the_batch(model, monkeypatch):
    """With every query a near tie, all are read alone: the answers of batches of one."""
    splitter, lm = load(model)
    sentences = splitter.split(random_sentences(10, seed=2))
    queries = [Query(s.pieces, place) for s in sentences for place in s.places.values()]
    batched = lm.top_pieces(queries, 7)
    alone = np.concatenate([lm.top_pieces([query], 7) for query in queries])
    monkeypatch.setattr(masked_lm, "_NEAR_TIE", 1e9)
    np.testing.assert_array_equal(lm.top_pieces(queries, 7), alone)
    np.testing.assert_array_equal(batched, alone)


@pytest.mark.parametrize("length", [1, 17, 18, 19, 60, 401])
def test_a_long_sentence_is_read_through_a_window_around_the_masked_word(length):
    frame = Frame((101,), (102,), (102,), second_type=1, mask=103, pad=0)
    pieces = [1000 + index for index in range(length)]
    for place in {0, length // 3, length - 1}:
        ids, masked, second = masked_pair(Query(pieces, place), frame, MAX_POSITIONS)
        assert len(ids) <= MAX_POSITIONS
        assert len(ids) == min(2 * length + 3, MAX_POSITIONS - 1)
        first_half, second_half = ids[1 : second - 1], ids[second:-1]
        assert ids[0] == 101 and ids[second - 1] == ids[-1] == 102 and ids[masked] == 103
        assert second_half[masked - 1] == 1000 + place  # the hidden piece itself, in the other half
        assert first_half == [*second_half[: masked - 1], 103, *second_half[masked:]]
        assert second_half == list(range(second_half[0], second_half[0] + len(second_half)))


def test_a_sentence_beyond_the_positions_is_augmented(home, model):
    text = " ".join(np.random.default_rng(3).choice(WORDS, size=200))
    (home / "CoLA" / "train.tsv").write_text(f"s\t1\t\t{text}\n")
    lines = run(home, model, "--N", "3").decode().splitlines()
    assert len(lines) == 4
    assert all(len(line.split("\t")[3].split()) == 200 for line in lines)


def test_weights_with_gamma_and_beta_names_give_the_same_candidates(tmp_path, model):
    old = tmp_path / "old"
    shutil.copytree(model, old)
    weights = load_file(old / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): weight
        for name, weight in weights.items()
    }
    assert renamed.keys() != weights.keys()
    (old / "model.safetensors").unlink()
    torch.save(renamed, old / "pytorch_model.bin")
    queries = [Query([10, 11, 12, 13], place) for place in range(4)]
    np.testing.assert_array_equal(
        load(old)[1].top_pieces(queries, 5), load(model)[1].top_pieces(queries, 5)
    )


def test_a_missing_weight_of_the_masked_lm_is_named(tmp_path, model):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.bias"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RositaError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        load(broken)


def test_a_config_that_is_no_object_is_one_line(tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "config.json").write_text("[]")
    with pytest.raises(RositaError, match="config.json must hold one JSON object"):
        has_masked_lm_head(folder)


def test_weights_that_carry_code_do_not_run_it(tmp_path, model):
    class Exploit:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploited",))

    folder = tmp_path / "hostile"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"cls.predictions.bias": Exploit()}, folder / "pytorch_model.bin")
    with pytest.raises(RositaError, match="cannot be read"):
        has_masked_lm_head(folder)
    assert not (tmp_path / "exploited").exists()


def test_a_truncated_safetensors_file_is_one_line(tmp_path, model):
    folder = tmp_path / "truncated"
    shutil.copytree(model, folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(RositaError, match=r"cannot read .*model\.safetensors"):
        has_masked_lm_head(folder)


def test_the_second_run_over_the_same_sentences_reads_the_cache(home, model, monkeypatch):
    first = run(home, model)
    asked = []
    monkeypatch.setattr(MaskedLM, "_read", lambda *a: asked.append(a))
    assert run(home, model, "--overwrite") == first
    assert not asked
    with pytest.raises(TypeError):  # another M is another question
        run(home, model, "--overwrite", "--M", "3")
    assert asked


def test_a_damaged_cache_is_made_again_with_one_line(tmp_path, capsys):
    path = tmp_path / "cache.sqlite3"
    AnswerCache(path).put([(b"key", np.arange(6))])
    whole = path.read_bytes()
    for harmed in (b"not a database, but long enough to be read" * 100, whole[:5000]):
        path.write_bytes(harmed)
        cache = AnswerCache(path)
        assert cache.get(b"key") is None
        assert capsys.readouterr().out.count("is damaged") == 1
        cache.put([(b"key", np.arange(6))])
        assert AnswerCache(path).get(b"key").tolist() == [0, 1, 2, 3, 4, 5]


def test_an_answer_with_a_flipped_bit_is_never_given(tmp_path, capsys):
    path = tmp_path / "cache.sqlite3"
    AnswerCache(path).put([(b"key", np.arange(6))])
    whole = path.read_bytes()
    begin = whole.index(np.arange(6, dtype=np.int32).tobytes())
    for place in range(begin - 3, begin + 28):  # the row: its key, its ids, its checksum
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        cache = AnswerCache(path)
        assert cache.get(b"key") is None, place
        cache.put([(b"key", np.arange(6))])
        assert cache.get(b"key").tolist() == [0, 1, 2, 3, 4, 5]


def test_answers_of_a_model_whose_config_was_edited_are_asked_for_again(home, tmp_path, model):
    mine = shutil.copytree(model, tmp_path / "mine")
    run(home, mine)
    text = (mine / "config.json").read_text()
    (mine / "config.json").write_text(text.replace('"gelu"', '"relu"'))
    with pytest.raises(RositaError, match=r"from other settings or files \(config\)"):
        run(home, mine)
    edited = run(home, mine, "--overwrite")
    shutil.rmtree(home / "CoLA" / "cache")
    assert run(home, mine, "--overwrite") == edited
    (mine / "config.json").unlink()
    with pytest.raises(RositaError, match="has no config.json"):
        run(home, mine, "--overwrite")


# --- GloVe ----------------------------------------------------------------------------------


def brute_force_neighbours(words, vectors, word, count):
    exact = vectors.astype(np.float64)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    cosines = unit @ unit[words.index(word)]
    order = sorted(range(len(words)), key=lambda index: -cosines[index])
    return [words[index] for index in order if words[index] != word][:count]


def test_neighbours_equal_brute_force_in_float64():
    words = [f"w{number}" for number in range(700)]
    vectors = np.random.default_rng(1).normal(size=(700, 12)).astype(np.float32)
    vectors *= np.random.default_rng(2).uniform(0.1, 9, size=(700, 1)).astype(np.float32)
    found = Glove(words, vectors).neighbours(words[::2], 15)
    for word in words[::2]:
        assert found[word] == brute_force_neighbours(words, vectors, word, 15)


def test_neighbours_of_equal_vectors_do_not_depend_on_the_block():
    vectors = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
    words = [f"w{number}" for number in range(400)]
    glove = np.tile(vectors, (10, 1))  # every vector ten times
    together = Glove(words, glove).neighbours(words, 4)
    alone = {word: Glove(words, glove).neighbours([word], 4)[word] for word in words}
    assert together == alone


def test_a_word_beyond_the_first_words_has_no_neighbours(tmp_path):
    make_glove(tmp_path / "g.txt", WORDS)
    glove = load_glove(tmp_path / "g.txt", first_words=50)
    found = glove.neighbours([WORDS[49], WORDS[50]], 100)
    assert found[WORDS[50]] == []
    assert set(found[WORDS[49]]) == set(WORDS[:49])


def test_text_and_npy_with_parquet_give_the_same_neighbours(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    vectors = make_glove(tmp_path / "g.txt", WORDS)
    package = tmp_path / "package" / "data"
    package.mkdir(parents=True)
    np.save(package / "emb.npy", vectors)
    parquet.write_table(pyarrow.table({"index": WORDS}), package / "index.parquet")
    expected = load_glove(tmp_path / "g.txt").neighbours(WORDS, 5)
    for path in (package.parent, package, package / "emb.npy", package / "index.parquet"):
        assert load_glove(path).neighbours(WORDS, 5) == expected
    assert glove_hash(package) != glove_hash(tmp_path / "g.txt")


def test_text_files_of_word2vec_and_fasttext_give_the_vectors_of_glove(tmp_path):
    """Theirs begin with a line of counts; word2vec ends lines with a blank, fastText may."""
    make_glove(tmp_path / "glove.txt", WORDS)
    lines = (tmp_path / "glove.txt").read_text().splitlines()
    expected = load_glove(tmp_path / "glove.txt")
    for ending in (" \n", "\n", " \r\n"):
        text = "".join(f"{line}{ending}" for line in (f"{len(WORDS)} 8", *lines))
        (tmp_path / "cc.vec").write_text(text, newline="")
        found = load_glove(tmp_path / "cc.vec")
        assert found.words == expected.words
        np.testing.assert_array_equal(found.vectors, expected.vectors)
    (tmp_path / "cc.vec").write_text("2 3\na 1 2 3 \nb 1 2 \n")
    with pytest.raises(RositaError, match="line 3 is not a word and 3 numbers"):
        load_glove(tmp_path / "cc.vec")


@pytest.mark.parametrize("counts", ["", "2 3\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path, counts):
    text = f"{counts}the 1 2 3\n\ufefftwo 4 5 6\n"
    (tmp_path / "g.txt").write_text(text, encoding="utf-8-sig")
    found = load_glove(tmp_path / "g.txt")
    assert found.words == ["the", "\ufefftwo"] and found.vectors.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("name", ["glove.6B.50d", "glove.42B.300d.txt", "cc.de.300.vec"])
def test_only_a_file_that_is_called_glove_is_advised_to_be_downloaded(tmp_path, name):
    for content in (None, "one line of text\n"):
        if content:
            (tmp_path / name).write_text(content)
        with pytest.raises(RositaError) as error:
            load_glove(tmp_path / name)
        assert ("download_glove.py" in str(error.value)) == ("glove" in name)
        assert ("text file of GloVe, word2vec or fastText" in str(error.value)) != ("glove" in name)


def test_of_a_file_that_counts_its_words_the_first_ones_are_read(tmp_path):
    (tmp_path / "cc.vec").write_text("3 2\na 1 2\nb 3 4\nc 5 6\n")
    assert load_glove(tmp_path / "cc.vec", first_words=2).words == ["a", "b"]
    assert load_glove(tmp_path / "cc.vec", first_words=3).words == ["a", "b", "c"]


def test_words_with_spaces_are_read_whole(tmp_path):
    (tmp_path / "g.txt").write_text("a 1 2 3\n. . . 4 5 6\nb 7 8 9\n")
    assert load_glove(tmp_path / "g.txt").words == ["a", ". . .", "b"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a 1 2 3\nb 1 2\n", "line 2 is not a word and 3 numbers"),
        ("a 1 2 3\nb 1 x 3\n", "line 2 is not a word and 3 numbers"),
        ("a 1 2 3\nb 1", "line 2 is not a word and 3 numbers"),  # cut off
        ("a 1 2 3\nb", "line 2 is not a word and 3 numbers"),
        (f"2 {'9' * 5000}\na 1 2 3\n", "line 1 is not a word and its numbers"),
        ("3 2\na 1 2\nb 1 2\n", "has 2 words, but its first line counts 3: is it cut off"),
        ("1 2\na 1 2\nb 1 2\n", "has 2 words, but its first line counts 1: is it cut off"),
        ("a 1 nan 3\n", "NaN"),
        ("", "line 1"),
    ],
)
def test_a_bad_glove_file_is_one_line(tmp_path, content, message):
    (tmp_path / "g.txt").write_text(content)
    with pytest.raises(RositaError, match=message):
        load_glove(tmp_path / "g.txt")


def test_a_missing_glove_file_says_how_to_get_it(home, model):
    (home / "glove.txt").unlink()
    with pytest.raises(RositaError, match=r"download_glove\.py"):
        run(home, model)


# --- sampling -------------------------------------------------------------------------------


def test_words_are_replaced_with_probability_p_by_candidates_equally_likely():
    tokens, candidates = ["a", "b", "c"], {0: ["x", "y", "z", "w"], 2: ["u"]}
    counts = Counter()
    for seed in range(8000):
        rng = np.random.default_rng(seed)
        [new] = sample_copies("A b c", tokens, candidates, 1, 0.4, rng)
        counts.update(enumerate(new.split()))
    assert counts[1, "b"] == 8000
    assert counts[0, "a"] == pytest.approx(8000 * 0.6, abs=250)
    assert counts[2, "u"] == pytest.approx(8000 * 0.4, abs=250)
    for word in "xyzw":
        assert counts[0, word] == pytest.approx(8000 * 0.1, abs=160)


def test_copies_are_new_different_and_at_most_n():
    tokens, candidates = ["a", "b"], {1: ["b", "x", "y"]}

    def copies(original, candidates, count, probability, seed=0):
        rng = np.random.default_rng(seed)
        return sample_copies(original, tokens, candidates, count, probability, rng)

    for seed in range(50):
        new = copies("a b", candidates, 30, 0.5, seed)
        assert len(set(new)) == len(new) and set(new) <= {"a x", "a y"}
    assert copies("a b", candidates, 30, 0.0) == []
    assert copies("a b", {}, 30, 1.0) == []
    wide = {0: [f"w{n}" for n in range(9999)]}
    assert len(copies("a b", wide, 7, 1.0)) == 7


def test_a_sentence_drawn_unchanged_is_a_copy_where_its_text_differs_from_the_original():
    tokens = ["a", "b", "."]
    for original, candidates, probability, expected in (
        ("A b.", {1: ["x"]}, 0.0, {"a b ."}),
        ("A b.", {}, 1.0, {"a b ."}),  # nothing in it may be replaced
        ("A b.", {1: ["b"]}, 1.0, {"a b ."}),  # a word replaced by itself
        ("A b.", {1: ["x"]}, 0.5, {"a b .", "a x ."}),
        ("a b .", {1: ["x"]}, 0.5, {"a x ."}),  # it stands there already
    ):
        rng = np.random.default_rng(0)
        new = sample_copies(original, tokens, candidates, 30, probability, rng)
        assert set(new) == expected and len(new) == len(expected), original


def published_copies(original, tokens, candidates, replaced, chosen):
    """The published script's loop, its draws given: whether each word is replaced, and by which."""
    sentences = [original]
    for replaced_now, chosen_now in zip(replaced, chosen, strict=True):
        new = list(tokens)
        for column, index in enumerate(candidates):
            if replaced_now[column]:
                new[index] = candidates[index][chosen_now[column]]
        if " ".join(new) not in sentences:
            sentences.append(" ".join(new))
    return sentences[1:]


def test_copies_are_those_of_the_published_loop_over_the_same_draws():
    tokens, candidates = (
        "the old dog sees , it".split(),
        {1: ["new", "old"], 2: ["cat"], 3: ["saw"]},
    )
    unchanged = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        replaced = rng.random((9, 3)) < 0.4
        chosen = rng.integers([2, 1, 1], size=(9, 3))
        expected = published_copies("The old dog sees, it", tokens, candidates, replaced, chosen)
        rng = np.random.default_rng(seed)
        found = sample_copies("The old dog sees, it", tokens, candidates, 9, 0.4, rng)
        assert found == expected
        unchanged += " ".join(tokens) in found
    assert 20 < unchanged <= 40


def test_the_copies_of_a_pair_stand_beside_the_other_original_sentence():
    row = Row(1, ["0", "Aa b", "Cc d", "1"], ("Aa b", "Cc d"), "1")
    sentences = [(("aa", "b"), {0: ["x", "y"]}), (("cc", "d"), {1: ["u", "v"]})]
    rng = np.random.default_rng(0)
    rows = augmented_rows(row, [1, 2], sentences, Sampling(30, 0.5, 0), rng)
    assert rows[0] == ["0", "Aa b", "Cc d", "1"]
    assert sorted(rows[1:]) == sorted(
        [["0", f"{new} b", "Cc d", "1"] for new in ("x", "y", "aa")]
        + [["0", "Aa b", f"cc {new}", "1"] for new in ("u", "v", "d")]
    )


# --- the file -------------------------------------------------------------------------------


def test_a_file_of_earlier_rules_is_neither_gone_on_with_nor_taken_for_finished(home, model):
    run(home, model)
    path = home / "CoLA" / "train_aug.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: record[key] for key in record if key != "rules"}))
    with pytest.raises(RositaError, match=r"rules None, now 2.*--overwrite"):
        run(home, model)


ODD_TEXTS = (
    "He said: 'Ündo[SEP]Bacezo'  won't, bace!", "[MASK] difo ##zo [PAD] 今天 gula", "the was of",
    "Ba\u0301ce \u00a0 di\u00adfo \u200b kale\u3000MINO ﬁ İ K ſ", "pura",
    "(bace)difo/gula\\kale|mino 3d x-y",
)  # fmt: skip


def test_rows_of_rules_2_are_those_that_were_written_when_they_began(home, tmp_path):
    """By GloVe alone: no rounding is in it. The hash is that of commit 5c4adba."""
    rows = "".join(f"s\t1\t\t{text}\n" for text in ODD_TEXTS)
    (home / "CoLA" / "train.tsv").write_text(rows, encoding="utf-8")
    written = run(home, make_model(tmp_path / "headless", head=False), "--N", "6")
    digest = hashlib.sha256(written).hexdigest()
    assert (
        digest == "758f8e42e57313c8b48e3b312c4a18d3f0417b769f00d8162026992d6645ed4d"
        and data_augmentation.RULES == 2
    )


def test_each_original_row_comes_first_and_its_copies_differ_in_candidates_only(home, model):
    lines = run(home, model, "--N", "6", "--M", "4").decode().splitlines()
    originals = (home / "CoLA" / "train.tsv").read_text().splitlines()
    splitter, lm = load(model)
    finder = CandidateFinder(splitter, load_glove(home / "glove.txt"), 4, lm)
    starts = [lines.index(original) for original in originals]
    assert starts == sorted(starts) and starts[0] == 0
    unchanged = 0
    for original, start, end in zip(originals, starts, [*starts[1:], len(lines)], strict=True):
        *fields, text = original.split("\t")
        tokens, candidates = finder.find([text])[text]
        copies = [line.split("\t") for line in lines[start + 1 : end]]
        assert 0 < len(copies) <= 6
        for *copied, new in copies:
            assert copied == fields
            changed = [i for i, word in enumerate(new.split()) if word != tokens[i]]
            assert all(new.split()[i] in candidates[i] for i in changed)
            unchanged += not changed
    assert 0 < unchanged <= len(originals)


def test_quotes_and_the_header_stay_as_they_are(home, model):
    (home / "SST-2").mkdir()
    (home / "SST-2" / "train.tsv").write_bytes(
        b'\xef\xbb\xbfsentence\tlabel\r\n"bace difo\t1\r\nkale " mino " pura\t0\r\n\r\n'
    )
    lines = run(home, model, task="SST-2").split(b"\n")
    assert lines[:2] == [b"sentence\tlabel", b'"bace difo\t1'] and lines[-1] == b""
    assert all(
        re.fullmatch(rb'(" \w+ \w+|\w+ " \w+ " \w+)\t[01]', line)
        for line in lines[2:-1]
        if line != b'kale " mino " pura\t0'
    )
    assert len(lines) > 20 and b"\r" not in b"".join(lines)
    assert lines.count(b"sentence\tlabel") == 1


def test_rows_too_short_of_qqp_are_left_out_and_counted(home, model, capsys):
    (home / "QQP").mkdir()
    (home / "QQP" / "train.tsv").write_text(
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "0\t1\t2\tbace difo\tkale mino\t1\n1\t2\t3\tbace\n2\t3\t4\tpura\tpunozo\t0\n"
    )
    lines = run(home, model, task="QQP").decode().splitlines()
    assert "2 rows (1 short rows skipped)" in capsys.readouterr().out
    for fields in (line.split("\t") for line in lines[1:]):
        pair = {"0": ("bace difo", "kale mino"), "2": ("pura", "punozo")}[fields[0]]
        assert len(fields) == 6 and (fields[3] == pair[0] or fields[4] == pair[1])
    assert len(lines) > 10


def test_n_is_the_tasks_unless_given(home, model):
    (home / "CoLA" / "train.tsv").write_text(f"s\t1\t\t{' '.join(WORDS[:8])}\n")
    assert run(home, model).count(b"\n") == 1 + 30
    assert run(home, model, "--overwrite", "--N", "4").count(b"\n") == 1 + 4
    record = json.loads((home / "CoLA" / "train_aug.json").read_text())
    assert (record["N"], record["M"], record["p"], record["rows_out"]) == (4, 15, 0.4, 5)
    assert record["finished"] and record["stage"] == "data_augmentation" and record["rows_in"] == 1


def test_chunks_and_batches_do_not_change_a_byte(home, model):
    whole = run(home, model)
    for chunk, tokens in (("1", "50"), ("7", "9999"), ("23", "1")):
        shutil.rmtree(home / "CoLA" / "cache")
        extra = ("--overwrite", "--chunk_rows", chunk, "--batch_tokens", tokens)
        assert run(home, model, *extra) == whole


def test_the_seed_decides(home, model):
    first = run(home, model)
    assert run(home, model, "--overwrite", "--seed", "1") != first
    assert run(home, model, "--overwrite", "--seed", "42") == first


class Cut(BaseException):
    """Stands for a kill: nothing but the finally blocks runs."""


@pytest.mark.parametrize("where", ["write_json", "Bar.update", "os.fsync", "os.replace", "unlink"])
def test_a_run_cut_off_anywhere_ends_with_the_same_bytes(home, model, monkeypatch, where):
    whole = run(home, model)
    folder = home / "CoLA"
    for survived in range(40):
        for file in folder.glob("*train_aug*"):  # the hidden ones too
            file.unlink()
        with monkeypatch.context() as patch:
            cut_after(patch, where, survived)
            try:
                run(home, model, "--chunk_rows", "5")
                break  # no call was left to be cut
            except Cut:
                pass
        assert run(home, model, "--chunk_rows", "5") == whole
        assert {file.name for file in folder.iterdir()} == {
            "train.tsv",
            "train_aug.tsv",
            "train_aug.json",
            "cache",
        }
    assert 0 < survived < 39


@pytest.mark.parametrize("harmed", [".train_aug.tsv.partial", ".train_aug.progress.json"])
def test_damage_to_what_a_killed_run_left_is_told_and_begun_again(
    home, model, monkeypatch, capsys, harmed
):
    whole = run(home, model)
    for file in (home / "CoLA").glob("*train_aug*"):
        file.unlink()
    with monkeypatch.context() as patch:
        cut_after(patch, "Bar.update", 2)
        with pytest.raises(Cut):
            run(home, model, "--chunk_rows", "5")
    path = home / "CoLA" / harmed
    content = path.read_bytes()
    path.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    capsys.readouterr()
    assert run(home, model, "--chunk_rows", "5") == whole
    assert capsys.readouterr().out.count("it is made from the beginning") == 1


def cut_after(patch, where: str, survived: int) -> None:
    """Let `where` be called so many times, then raise in its stead."""
    owner, name = {
        "write_json": (augmented_file, "write_json"),
        "Bar.update": (augmented_file.Bar, "update"),
        "os.fsync": (augmented_file.os, "fsync"),
        "os.replace": (augmented_file.os, "replace"),
        "unlink": (augmented_file.Path, "unlink"),
    }[where]
    original, calls = getattr(owner, name), []

    def cut(*args, **kwargs):
        if any("sqlite" in str(arg) for arg in args):
            return original(*args, **kwargs)
        calls.append(args)
        if len(calls) > survived:
            raise Cut
        return original(*args, **kwargs)

    patch.setattr(owner, name, cut)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(home, model, monkeypatch):
    whole = run(home, model)
    for file in (home / "CoLA").glob("train_aug*"):
        file.unlink()
    original, calls = augmented_file.os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(augmented_file.os, "fsync", full)
        with pytest.raises(RositaError, match="No space left on device"):
            run(home, model, "--chunk_rows", "5")
    assert run(home, model, "--chunk_rows", "5") == whole


def test_finished_means_nothing_to_do_and_other_settings_are_refused(home, model, capsys):
    run(home, model)
    stamp = (home / "CoLA" / "train_aug.tsv").stat().st_mtime_ns
    run(home, model)
    assert "is finished, nothing to do" in capsys.readouterr().out
    with pytest.raises(RositaError, match=r"p 0.4, now 0.3.*--overwrite"):
        run(home, model, "--p", "0.3")
    assert (home / "CoLA" / "train_aug.tsv").stat().st_mtime_ns == stamp
    with open(home / "CoLA" / "train.tsv", "a", encoding="utf-8") as file:
        file.write("s\t1\t\tbace\n")
    with pytest.raises(RositaError, match="train_sha256"):
        run(home, model)


def test_no_file_of_the_model_is_hashed_twice(home, tmp_path, model, monkeypatch):
    folder = shutil.copytree(model, tmp_path / "bert_pt")
    write_json(folder / "run.json", {"files": file_hashes(folder)})
    hashed = []
    digest = hashlib.file_digest

    def counted(file, kind):
        hashed.append(Path(file.name))
        return digest(file, kind)

    monkeypatch.setattr("hashlib.file_digest", counted)
    run(home, folder)
    names = [path.name for path in hashed if path.parent == folder]
    assert sorted(names) == sorted(set(names)) and "model.safetensors" in names


def test_words_that_may_change_belong_to_what_a_file_is_made_from(home, model):
    stop_words = home / "stop.txt"
    stop_words.write_text("bace difo\nMINO\n")
    published = run(home, model)
    record = json.loads((home / "CoLA" / "train_aug.json").read_text())
    assert record["eligible"] is None and record["stop_words"] is None
    with pytest.raises(RositaError, match=r"eligible None, now a-zä.*--overwrite"):
        run(home, model, "--eligible", "a-zä")
    with pytest.raises(RositaError, match="stop_words"):
        run(home, model, "--stop_words", str(stop_words))
    assert run(home, model, "--eligible", "a-z", "--overwrite") == published

    rows = run(home, model, "--eligible", "a-m", "--stop_words", str(stop_words), "--overwrite")
    assert rows != published
    lines = [line.split("\t")[3] for line in rows.decode().splitlines()]
    originals = [
        line.split("\t")[3] for line in (home / "CoLA" / "train.tsv").read_text().split("\n")[:-1]
    ]
    for line in lines:
        if line in originals:
            before = re.findall(r"\w+|[^\w\s]", line.lower())
            continue
        for old, new in zip(before, line.split(" "), strict=True):
            fixed = set(old) - set("abcdefghijklm") or old in ("bace", "difo", "mino")
            assert old == new or not fixed, (old, new)


def test_rows_in_which_no_word_can_change_warn_and_say_what_to_type(home, model, tmp_path, capsys):
    def warnings(*extra: str) -> list[str]:
        run(home, model, *extra, "--overwrite")
        return [line for line in capsys.readouterr().out.splitlines() if "warning" in line]

    rows = "".join(f"s\t{i % 2}\t\tдом {i} река !\n" for i in range(40))
    (home / "CoLA" / "train.tsv").write_text(rows)
    [line] = warnings()
    assert line.startswith("warning: no word in the first 40 rows may be replaced")
    assert "consists of a-z" in line and "--eligible" in line and "--stop_words" in line
    # with the class of its letters there is nothing left to warn of: [UNK] is one piece
    assert warnings("--eligible", "letters") == []
    headless = make_model(tmp_path / "headless", head=False)
    run(home, headless, "--eligible", "letters", "--overwrite")
    out = capsys.readouterr().out
    assert "warning: nothing can replace a word in the first 40 rows" in out
    assert "--glove_embs of their language" in out


def test_an_augmented_file_edited_since_is_neither_finished_nor_overwritten(home, model):
    path = home / "CoLA" / "train_aug.tsv"
    run(home, model)
    path.write_bytes(path.read_bytes().swapcase())
    with pytest.raises(RositaError, match=r"not the file that train_aug.json describes.*--overw"):
        run(home, model)
    (home / "CoLA" / "train_aug.json").write_text("{")
    with pytest.raises(RositaError, match="train_aug.json is not JSON"):
        run(home, model)
    (home / "CoLA" / "train_aug.json").write_text("[]")
    with pytest.raises(RositaError, match="train_aug.json must hold one JSON object"):
        run(home, model)
    assert run(home, model, "--overwrite") != path.read_bytes().swapcase()


def test_a_file_of_unknown_origin_is_not_overwritten(home, model):
    (home / "CoLA" / "train_aug.tsv").write_text("mine\n")
    with pytest.raises(RositaError, match="--overwrite"):
        run(home, model)
    assert (home / "CoLA" / "train_aug.tsv").read_text() == "mine\n"
    assert run(home, model, "--overwrite") != b"mine\n"


def test_a_second_run_into_the_same_folder_says_who_holds_it(home, model):
    with (
        hold(home / "CoLA" / "cache" / "augmentation.lock", "CoLA is being augmented by"),
        pytest.raises(RositaError, match=r"CoLA is being augmented by process \d+"),
    ):
        run(home, model)


def test_a_model_without_masked_lm_head_says_so_and_every_word_takes_neighbours(
    home, tmp_path, capsys
):
    headless = make_model(tmp_path / "headless", head=False)
    text = "Bace was difozo, gulezo"
    (home / "CoLA" / "train.tsv").write_text(f"s\t1\t\t{text}\n")
    lines = run(home, headless, "--M", "3", "--p", "0.5").decode().splitlines()
    out = capsys.readouterr().out.splitlines()
    assert sum("no masked-LM head" in line for line in out) == 1
    record = json.loads((home / "CoLA" / "train_aug.json").read_text())
    assert record["model"] == "none (no masked-LM head)"
    words = WORDS + LONG_WORDS
    vectors = np.loadtxt(home / "glove.txt", usecols=range(1, 9), dtype=np.float32)
    assert len(lines) > 5
    for line in lines[1:]:
        first, *rest = line.split("\t")[3].split()
        assert first in ["bace", *brute_force_neighbours(words, vectors, "bace", 3)]
        assert rest[:1] + rest[2:] == ["was", ",", "gulezo"]  # gulezo is no word of GloVe
    with pytest.raises(RositaError, match="cls.predictions"):
        run(home, headless, "--require_mlm", "--overwrite")


def test_subsets_one_after_another_are_the_whole(home, model):
    (home / "SST-2").mkdir()
    rows = [f"{text}\t1" for text in random_sentences(9)]
    (home / "SST-2" / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    for task, size, header in (("CoLA", 100, 0), ("SST-2", 17, 1), ("SST-2", 10**6, 1)):
        whole = run(home, model, "--subset_rows", str(size), task=task)
        number = len(list((home / task).glob("train_aug?*.tsv")))
        pieces = [(home / task / f"train_aug{i}.tsv").read_bytes() for i in range(number)]
        assert b"".join(pieces) == whole
        record = json.loads((home / task / "train_aug_subsets.json").read_text())
        sha256 = [hashlib.sha256(content).hexdigest() for content in (whole, *pieces)]
        assert [record["of"], *record["files"].values()] == sha256
        counts = [piece.count(b"\n") for piece in pieces]
        assert counts[0] == min(size + header, whole.count(b"\n"))
        assert all(count == size for count in counts[1:-1]) and 0 < counts[-1] <= size + header


def test_a_new_augmentation_takes_the_old_subsets_away(home, model):
    run(home, model, "--subset_rows", "50")
    assert (home / "CoLA" / "train_aug3.tsv").exists()
    run(home, model, "--overwrite", "--seed", "7")
    assert not list((home / "CoLA").glob("train_aug[0-9]*.tsv"))


@pytest.mark.parametrize(
    "extra, message",
    [
        (("--p", "1.5"), "--p 1.5"),
        (("--N", "0"), "--N 0"),
        (("--M", "-1"), "--M -1"),
        (("--seed", "-1"), "--seed -1"),
        (("--subset_rows", "0"), "--subset_rows 0"),
        (("--pretrained_bert_model", "no/such"), r"no/such .*download_bert\.py"),
        (("--task_name", "Coal"), "CoLA"),
        (("--stop_words", "no/such.txt"), "no/such.txt does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(home, model, extra, message):
    with pytest.raises(RositaError, match=message):
        run(home, model, *extra)
    assert not list((home / "CoLA").glob("*aug*"))


def test_bf16_candidates_are_those_of_fp32_within_its_rounding(model):
    splitter, exact = load(model)
    rounded = masked_lm.load_masked_lm(model, read_tokenizer(model), 300, "bf16")
    sentences = splitter.split(random_sentences(9))
    queries = [masked_lm.Query(s.pieces, place) for s in sentences for place in s.places.values()]
    logits, _ = exact._read(queries, len(VOCABULARY))
    scale = logits[:, 0] - logits[:, -1]  # range of each query's logits
    for index, found in enumerate(rounded.top_pieces(queries, 5)):
        values, ids = exact._read([queries[index]], len(VOCABULARY))
        value = dict(zip(ids[0].tolist(), values[0].tolist(), strict=True))
        assert min(value[piece] for piece in found.tolist()) >= values[0][4] - 0.03 * scale[index]
