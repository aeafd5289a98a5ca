"""Rows drawn anew for an epoch: what changes, what stays, and that a draw can be repeated."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_bert, run_script, sentences, write_cola
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from rosita.augmentation.candidates import CandidateFinder, Sampling, edited
from rosita.augmentation.fresh import FreshRows
from rosita.augmentation.glove import load_glove
from rosita.augmentation.sentences import Splitter
from rosita.config import KDSettings
from rosita.config_file import load_config
from rosita.data.batches import Sampler
from rosita.data.encode import encode_file
from rosita.data.tsv import TsvFile
from rosita.errors import RositaError
from rosita.stages.identity import run_identity
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer


def write_vectors(path, words):
    lines = [f"{w} {i % 7 + 1} {i % 5 + 1} {i % 3 + 1}\n" for i, w in enumerate(words)]
    path.write_text("".join(lines))
    return path


class World:
    def __init__(self, folder, task="CoLA", text=None):
        self.bert = make_bert(folder / "bert")
        words = [w for w in (self.bert / "vocab.txt").read_text().split() if w.isalpha()]
        self.glove = write_vectors(folder / "glove.txt", words)
        self.task = GLUE[task]
        self.path = write_cola(folder / "data" / "CoLA") / "train.tsv"
        if text:
            self.path.write_text(text)
        self.tokenizer = read_tokenizer(self.bert).build(32)
        self.plain = encode_file(self.path, self.task, read_tokenizer(self.bert), 32)

    def fresh(self, probability=0.4, alternate=True, seed=3, edits=0.0):
        finder = CandidateFinder(Splitter(read_tokenizer(self.bert)), load_glove(self.glove), 5)
        return FreshRows(TsvFile(self.path, self.task), self.plain, self.tokenizer, finder,
                         Sampling(1, probability, seed, edits), alternate)  # fmt: skip

    def texts(self, file):
        return [
            self.tokenizer.decode(file.ids[file.offsets[i] : file.offsets[i + 1]].tolist())
            for i in range(len(file))
        ]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_even_epochs_are_plain_and_odd_ones_new_with_the_labels_in_place(world):
    fresh = world.fresh()
    assert fresh.files(0) == [world.plain] and fresh.files(2) == [world.plain]
    (first,), (third,) = fresh.files(1), fresh.files(3)
    plain, one, three = (world.texts(file) for file in (world.plain, first, third))
    assert one != plain and one != three
    np.testing.assert_array_equal(first.labels, world.plain.labels)
    assert [len(text.split()) for text in one] == [len(text.split()) for text in plain]
    assert world.fresh(alternate=False).files(0)[0].ids.tolist() != world.plain.ids.tolist()


def test_a_draw_depends_on_seed_and_epoch_alone(world):
    first, again = world.fresh().files(5)[0], world.fresh().files(5)[0]
    np.testing.assert_array_equal(first.ids, again.ids)
    other = world.fresh(seed=4).files(5)[0]
    assert world.texts(first) != world.texts(other)


def test_without_probability_the_rows_encoded_anew_are_the_cached_ones(world):
    (drawn,) = world.fresh(probability=0.0, alternate=False).files(0)
    for name in ("ids", "offsets", "first", "labels"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(world.plain, name))


def test_every_word_replaced_is_one_of_its_candidates(world):
    fresh = world.fresh(probability=1.0)
    found = fresh.finder.find([text for row in fresh.source.rows() for text in row.texts])
    for row, new in zip(fresh.source.rows(), world.texts(fresh.files(1)[0]), strict=True):
        tokens, candidates = found[row.texts[0]]
        for index, (old, word) in enumerate(zip(tokens, new.split(), strict=True)):
            assert word in candidates.get(index, [old]), (old, word)


def test_edits_delete_insert_move_or_exchange_one_or_two_words():
    tokens, candidates = "a b c d e f".split(), {1: ["x"], 3: ["y", "z"]}
    lengths, kept_words, inserted = set(), 0, set()
    for seed in range(400):
        words = edited(tokens, candidates, np.random.default_rng(seed))
        lengths.add(len(words))
        kept_words += sorted(words) == tokens and words != tokens  # moved or exchanged
        inserted |= set(words) - set(tokens)
        assert len(set(tokens) - set(words)) <= 2 and len(set(words) - set(tokens)) <= 2
    assert lengths == {4, 5, 6, 7, 8} and inserted == {"x", "y", "z"}
    # half of the one-edit draws, a quarter of the two-edit ones, and a few that undo themselves
    assert 100 < kept_words < 200
    assert edited(["one"], {0: ["x"]}, np.random.default_rng(0)) == ["one"]
    assert tokens == "a b c d e f".split()


def test_edits_change_about_the_share_of_sentences_that_is_asked_for(world):
    rows = [("1\t1\t\tthe old dog sees the happy cat\n")] * 400
    world.path.write_text("".join(rows))
    world.plain = encode_file(world.path, world.task, read_tokenizer(world.bert), 32)
    fresh = world.fresh(probability=0.0, alternate=False, edits=0.25)
    plain, drawn = world.texts(world.plain), world.texts(fresh.files(0)[0])
    changed = sum(one != other for one, other in zip(plain, drawn, strict=True))
    # the binomial's 4 standard deviations, and the exchange of the two "the" that shows nothing
    assert 60 < changed < 135
    assert drawn == world.texts(fresh.files(0)[0]) != world.texts(fresh.files(1)[0])


def test_all_tokens_of_all_draws_are_among_the_used_ones(world):
    fresh = world.fresh(probability=1.0, edits=1.0)
    used = set(fresh.used_tokens(len(world.tokenizer.get_vocab())).tolist())
    for epoch in (1, 3, 5, 7):
        assert set(fresh.files(epoch)[0].ids.tolist()) <= used


def test_of_a_pair_one_sentence_changes(tmp_path):
    rows = ["\t".join(["1", "2", "3", "the old dog sees", "the happy cat sings", "0"])] * 30
    world = World(tmp_path, "QQP", "id\tqid1\tqid2\tq1\tq2\tlabel\n" + "\n".join(rows) + "\n")
    (drawn,) = world.fresh(probability=1.0).files(1)
    plain = world.plain
    changed = []
    for i in range(len(plain)):
        parts = []
        for file in (plain, drawn):
            begin, middle = file.offsets[i], file.offsets[i] + file.first[i]
            ids = file.ids[begin : file.offsets[i + 1]].tolist()
            parts.append((ids[: middle - begin], ids[middle - begin :]))
        changed.append(tuple(a != b for a, b in zip(*parts, strict=True)))
    assert set(changed) == {(True, False), (False, True)}


def test_the_sampler_takes_each_epoch_from_its_own_draw(world):
    fresh = world.fresh()
    sampler = Sampler([world.plain], 8, 0, fresh.files)
    odd = np.concatenate([file.ids for file in {id(f): f for f, _ in sampler.epoch(1)}.values()])
    np.testing.assert_array_equal(odd, fresh.files(1)[0].ids)
    rows = np.concatenate([rows for _, rows in sampler.epoch(1, 2)])
    assert len(rows) == len(world.plain) - 16


def settings(**more):
    required = {"teacher_model": "t", "student_model": "s", "output_dir": "o", "pred_distill": True}
    return load_config(KDSettings, GLUE["CoLA"], required | more)


def test_the_words_that_may_change_decide_a_run_where_they_are_not_the_published_ones(world):
    def data(**more):
        fresh = settings(fresh_augmentation="always", glove_embs=str(world.glove), **more)
        return run_identity("distil", fresh, world.task, {}, [], "", 1)["data"]

    stop_words = world.glove.with_name("stop.txt")
    published = data()
    assert published.keys() == {"train", "dev", "glove"} and data(aug_eligible="a-z") == published
    assert data(aug_eligible="letters") == published | {"eligible": "letters"}
    hashes = set()
    for text in ("der die das", "die\nDAS\nder\n", "der die"):
        stop_words.write_text(text)
        hashes.add(data(aug_stop_words=str(stop_words))["stop_words"])
    assert len(hashes) == 2  # the words count, not how they stand in the file


@pytest.mark.parametrize(
    "more, message",
    [
        ({"aug_eligible": "letters"}, "aug_eligible is for fresh_augmentation: set it to"),
        ({"aug_stop_words": "stop.txt"}, "aug_stop_words is for fresh_augmentation: set it to"),
        (
            {"glove_embs": "g", "aug_probability": 0.5, "aug_candidates": 3},
            "glove_embs, aug_candidates, aug_probability are for fresh_augmentation: set it to",
        ),
        (
            {"aug_eligible": "z-a", "fresh_augmentation": "always", "glove_embs": "g"},
            r"aug_eligible 'z-a' is no class of characters \(bad character range",
        ),
    ],
)
def test_words_that_may_change_are_refused_where_they_mean_nothing(more, message):
    with pytest.raises(RositaError, match=message):
        settings(**more)


def test_train_py_distils_on_fresh_rows_and_records_the_vectors(world, tmp_path):
    tuned = tmp_path / "tuned"
    common = ("--task_name", "CoLA", "--data_dir", world.path.parent, "--max_seq_length", 32)
    run_script("Pruning/run_glue.py", *common, "--model_name_or_path", world.bert, "--do_train",
               "--output_dir", tuned, "--num_train_epochs", 1)  # fmt: skip
    flags = (*common, "--teacher_model", tuned, "--student_model", tuned, "--pred_distill",
             "--num_train_epochs", 3, "--output_dir", tmp_path / "kd",
             "--fresh_augmentation", "alternate")  # fmt: skip
    done = run_script("KD/train.py", *flags, ok=False)
    assert done.returncode == 2 and "fresh_augmentation needs glove_embs" in done.stderr
    done = run_script("KD/train.py", *flags, "--glove_embs", world.glove, "--aug_train", ok=False)
    assert "leave aug_train out" in done.stderr
    never = [*flags[:-1], "never", "--aug_edits", 0.5]
    done = run_script("KD/train.py", *never, ok=False)
    assert done.returncode == 2 and "aug_edits is for fresh_augmentation" in done.stderr
    run_script("KD/train.py", *flags, "--glove_embs", world.glove, "--aug_edits", 0.5)
    run = json.loads((tmp_path / "kd" / "run.json").read_text())
    assert run["finished"] and len(run["identity"]["data"]["glove"]) == 64


def test_no_draw_has_a_piece_that_is_not_among_the_used_ones_where_a_space_is_part_of_a_piece(
    world,
):
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = (world.bert / "vocab.txt").read_text().split()
    byte_level.train_from_iterator(
        [*sentences(50), *words, *(f" {word}" for word in words)],
        trainers.BpeTrainer(vocab_size=800, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    fresh = world.fresh(probability=1.0, alternate=False, edits=0.5)
    fresh.tokenizer = byte_level
    drawn = set(fresh.files(1)[0].ids.tolist())
    used = set(fresh.used_tokens(byte_level.get_vocab_size()).tolist())
    pieces = {byte_level.id_to_token(number) for number in drawn}
    assert any(piece.startswith("Ġ") for piece in pieces)  # as it writes the space
    assert drawn <= used
