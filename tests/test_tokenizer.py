"""The tokenizer of a folder against transformers' AutoTokenizer of the same folder."""

import json
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS, vocabulary, write_cola
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

from rosita.data.encode import encode_file
from rosita.errors import RositaError
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer, save_tokenizer
from rosita.training.embedding import used_tokens

PAGE = """\
Müsste schön|Ça va? Ångström, naïve café|ÀÉÎÕÜ àéîõü|I\u0307stanbul ıİ ß ẞ Ǆ
e\u0301 vs \u00e9; \u1e9b\u0323|中文字符和English混排。|日本語のテキスト、カタカナ ｶﾀｶﾅ|한국어 문장
\U00020000\U0002a6d6 rare ideographs|emoji 😀 👩\u200d👧 🇩🇪 ☎\ufe0f|zero\u200bwidth\u200djoin\ufeff
control\x00\x07\x1b\x7f\x85 characters|tabs\tand\r\u2028lines|and\u00a0no-break\u3000wide
עברית שלום|العَرَبِيَّة نص|Ｆｕｌｌ　ｗｉｄｔｈ １２３！|ﬁne ﬂow ½ ² ①|русский ЁЖИК ёжик|Ελληνικά ΣΊΣΥΦΟΣ
हिन्दी देवनागरी|ไทย ข้อความ|don't stop--now... (really)?!||   |[MASK] and [SEP] in a text, [mask] too
[E1]the dog[/E1] and [e1] [E1][E1]|[E1]ß É|ÀB àb AB|\ue000\U0010ffff private|\ud7ff\ufffd
The DOG ran, Slowly.|×÷±§¶|aaaaaaaaaaaaaaaaaaaaaaaaaaaa
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
aaaa""".replace("\n", "|").split("|")
ADDED = ["[E1]", "[/E1]", "ÀB"]
CASES = {  # name -> tokenizer_config.json
    "uncased": {},
    "cased": {"do_lower_case": False},
    "german": {"do_lower_case": True, "strip_accents": False},
    "stripped": {"do_lower_case": False, "strip_accents": True},
    "chinese": {"do_lower_case": False, "tokenize_chinese_chars": False},
}


def odd_vocabulary() -> list[str]:
    """Pieces for half of the page's characters, in every case and form, alone and continued."""
    words = {
        *"".join(PAGE),
        *ADDED[2],
        "müsste",
        "schön",
        "musste",
        "Müsste",
        "中文",
        "##文",
        "Dog",
    }
    words = {
        unicodedata.normalize(form, cased)
        for word in words
        for form in ("NFC", "NFD")
        for cased in (word, word.lower(), word.upper())
    }
    words = {word for word in words if word.strip() and (len(word) > 1 or ord(word) % 5)}
    marked = {f"##{word}" for word in words if not word.startswith("##")}
    return list(dict.fromkeys([*vocabulary(), *sorted(words | marked)]))


def wordpiece(folder: Path, added: list[str] = (), **config) -> Path:
    """A folder with vocab.txt and the files beside it, as transformers 4 had it."""
    folder.mkdir()
    words = odd_vocabulary()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    write(folder / "config.json", {"model_type": "bert"})
    write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **config})
    if added:
        numbers = {token: len(words) + number for number, token in enumerate(added)}
        write(folder / "added_tokens.json", numbers)
        special = {"additional_special_tokens": [token for token in added if "[" in token]}
        write(folder / "special_tokens_map.json", special)
    return folder


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def check_page(folder: Path, oracle_folder: Path | None = None) -> None:
    """Every id and token type is the oracle's, of single texts and of pairs."""
    oracle, ours = AutoTokenizer.from_pretrained(oracle_folder or folder), read_tokenizer(folder)
    built = ours.build()
    backwards = PAGE[::-1]
    check(oracle(PAGE), built.encode_batch(PAGE))
    check(oracle(PAGE, backwards), built.encode_batch([*zip(PAGE, backwards, strict=True)]))
    for kind in ("unk", "pad", "cls", "sep", "mask"):
        assert ours.token(kind) == getattr(oracle, f"{kind}_token")
    assert ours.pad_id == oracle.pad_token_id


def check(expected: dict, encodings: list) -> None:
    assert [encoding.ids for encoding in encodings] == expected["input_ids"]
    if "token_type_ids" in expected:
        assert [encoding.type_ids for encoding in encodings] == expected["token_type_ids"]
    else:
        assert not any(sum(encoding.type_ids) for encoding in encodings)


@pytest.mark.parametrize("added", [[], ADDED], ids=["plain", "added"])
@pytest.mark.parametrize("case", CASES)
def test_every_id_and_type_on_a_page_of_odd_unicode_is_that_of_autotokenizer(tmp_path, case, added):
    folder = wordpiece(tmp_path / "slow", added, **CASES[case])
    check_page(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "five")
    assert not (tmp_path / "five" / "vocab.txt").exists()
    check_page(tmp_path / "five")
    check_page(tmp_path / "five", folder)

    save_tokenizer(tmp_path / "ours", read_tokenizer(folder), 64)
    check_page(tmp_path / "ours", folder)
    write(tmp_path / "ours" / "config.json", {"model_type": "rosita"})
    theirs, built = AutoTokenizer.from_pretrained(tmp_path / "ours"), read_tokenizer(folder).build()
    assert [theirs(text)["input_ids"] for text in PAGE] == [built.encode(t).ids for t in PAGE]


@pytest.mark.parametrize(
    "config, added, text, tokens",
    [
        ({"strip_accents": False}, [], "müsste schön", "müsste schön"),
        ({}, [], "müsste schön", "musste s ##c ##h ##o ##n"),
        ({"do_lower_case": False}, [], "Müsste", "Müsste"),
        ({}, ["[E1]"], "the[E1]dog", "the [E1] dog"),
        ({"tokenize_chinese_chars": False}, [], "中文", "中文"),
    ],
)
def test_what_the_folder_says_of_accents_case_chinese_and_added_tokens_is_heeded(
    tmp_path, config, added, text, tokens
):
    folder = wordpiece(tmp_path / "slow", added, **config)
    tokenizer = read_tokenizer(folder)
    by_id = {number: piece for piece, number in tokenizer.pieces.items()}
    found = [by_id[number] for number in tokenizer.build().encode(text).ids]
    assert found == ["[CLS]", *tokens.split(), "[SEP]"]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A RoBERTa tokenizer of a few merges, as transformers 5 saves it."""
    folder = tmp_path_factory.mktemp("roberta")
    alphabet = sorted(ByteLevel.alphabet())
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "d"), ("o", "g"), ("Ġd", "og")]
    words = [*special[:4], *alphabet, *map("".join, merges), "<mask>"]
    tokenizer = RobertaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=merges)
    tokenizer.save_pretrained(folder)
    write(folder / "config.json", {"model_type": "roberta"})
    return folder


def unigram(folder: Path) -> Path:
    """An XLM-R tokenizer of some words, as transformers 5 saves it."""
    pieces = [(word, 0.0) for word in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(f"▁{word}", -2.0) for word in WORDS] + [("▁", -3.0)]
    letters = sorted(set("".join(PAGE)) - {" "})
    pieces += [(letter, -4.0 - number / 100) for number, letter in enumerate(letters)]
    tokenizer = XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])
    tokenizer.save_pretrained(folder)
    write(folder / "config.json", {"model_type": "xlm-roberta"})
    return folder


def test_bpe_and_unigram_come_through_with_their_special_tokens_padding_and_types(
    roberta, tmp_path
):
    for folder in (roberta, unigram(tmp_path / "xlm-r")):
        check_page(folder)
        found = read_tokenizer(folder)
        assert found.special == {"unk": "<unk>", "pad": "<pad>", "cls": "<s>", "sep": "</s>",
                                 "mask": "<mask>"}  # fmt: skip
        assert (found.pad_id, found.vocab, found.lower_cases) == (1, None, False)
        save_tokenizer(tmp_path / f"saved-{folder.name}", found, 64)
        saved = tmp_path / f"saved-{folder.name}"
        assert sorted(path.name for path in saved.iterdir()) == [
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        write(saved / "config.json", {"model_type": "rosita"})
        check_page(saved, folder)
        check_page(folder, saved)


def test_vocab_json_and_merges_are_read_as_transformers_reads_them(roberta, tmp_path):
    model = read(roberta / "tokenizer.json")["model"]
    write(tmp_path / "vocab.json", model["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    write(tmp_path / "config.json", {"model_type": "roberta"})
    check_page(tmp_path)
    check_page(tmp_path, roberta)


def test_tokenizer_json_is_saved_as_it_was_read_and_other_readers_are_told_what_it_does(tmp_path):
    """Its own settings of padding included; a tokenizer_config.json of another case gives way."""
    folder = wordpiece(tmp_path / "slow", do_lower_case=False, strip_accents=False)
    five = tmp_path / "five"
    AutoTokenizer.from_pretrained(folder).save_pretrained(five)
    text = json.dumps(read(five / "tokenizer.json") | {
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}}, indent=1)  # fmt: skip
    (five / "tokenizer.json").write_text(text)
    write(five / "tokenizer_config.json", {"do_lower_case": True, "mine": 1})

    save_tokenizer(tmp_path / "ours", read_tokenizer(five), 64)

    assert (tmp_path / "ours" / "tokenizer.json").read_text() == text
    config = read(tmp_path / "ours" / "tokenizer_config.json")
    assert (config["do_lower_case"], config["mine"], config["model_max_length"]) == (False, 1, 64)
    assert (tmp_path / "ours" / "vocab.txt").read_text() == (folder / "vocab.txt").read_text()
    expected = AutoTokenizer.from_pretrained(folder)("Müsste schön")["input_ids"]
    assert read_tokenizer(five).build().encode("Müsste schön").ids == expected
    write(tmp_path / "ours" / "config.json", {"model_type": "rosita"})
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs("Müsste schön", padding=False)["input_ids"] == expected


def test_a_normalizer_that_is_not_berts_is_handed_on_whole(tmp_path):
    """transformers' BertTokenizer would put its own in its place."""
    five = tmp_path / "five"
    AutoTokenizer.from_pretrained(wordpiece(tmp_path / "slow")).save_pretrained(five)
    spec = read(five / "tokenizer.json")
    replace = {"type": "Replace", "pattern": {"String": "cat"}, "content": "dog"}
    spec["normalizer"] = {"type": "Sequence", "normalizers": [replace, spec["normalizer"]]}
    write(five / "tokenizer.json", spec)
    save_tokenizer(tmp_path / "ours", read_tokenizer(five), 64)
    write(tmp_path / "ours" / "config.json", {"model_type": "rosita"})
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs.tokenize("the Cat cat") == ["the", "cat", "dog"]
    assert theirs("a cat")["input_ids"] == read_tokenizer(five).build().encode("a cat").ids


def set_line(folder: Path, number: int, piece: str) -> None:
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    lines[number] = piece
    (folder / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")


def change_text(folder: Path, old: str, new: str) -> None:
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert text.count(old) == 1, re.findall(r'"dog": ?[0-9]+', text)
    (folder / "tokenizer.json").write_text(text.replace(old, new), encoding="utf-8")


def rename_a_mark(folder: Path) -> None:
    """What is put before a text has a name that nothing explains; tokenizers panics, in Rust."""
    tokenizer = read(folder / "tokenizer.json")
    tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"] = "[CLX]"
    write(folder / "tokenizer.json", tokenizer)


def change_json(folder: Path, **values: object) -> None:
    write(folder / "tokenizer.json", read(folder / "tokenizer.json") | values)


def share_an_id(folder: Path, piece: str, other: str) -> None:
    tokenizer = read(folder / "tokenizer.json")
    vocab = tokenizer["model"]["vocab"]
    write(
        folder / "tokenizer.json",
        tokenizer | {"model": tokenizer["model"] | {"vocab": vocab | {piece: vocab[other]}}},
    )


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda f: set_line(f, 70, "odd"),
         "vocab.txt and tokenizer.json disagree: id 70 is 'odd' in vocab.txt, '"),
        (lambda f: set_line(f, 8, "##c"), "vocab.txt has '##c' twice, in lines 9 and 34"),
        (lambda f: write(f / "added_tokens.json", {"[E2]": 7}),
         "added_tokens.json and tokenizer.json disagree: id 7 is '[E2]' in added_tokens.json, 'c'"),
        (lambda f: write(f / "tokenizer_config.json", {"added_tokens_decoder": {
            "99999": {"content": "[E9]"}}}),
         "id 99999 is '[E9]' in tokenizer_config.json, nothing in tokenizer.json"),
        (lambda f: change_json(f, post_processor=None), "puts no special tokens around a text"),
        (rename_a_mark, "does not work: no entry found for key"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json is no tokenizer"),
        (lambda f: change_text(f, '"##c":', '"dog":'), "tokenizer.json has 'dog' twice"),
        (lambda f: share_an_id(f, "dog", "cat"), "tokenizer.json has the id"),
        (lambda f: write(f / "added_tokens.json", {"[E2]": "7"}), "of '[E2]' must be a number"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "must hold one JSON object"),
        (lambda f: [(f / name).unlink() for name in ("tokenizer.json", "vocab.txt")],
         "has no tokenizer.json and no vocab.txt"),
        (lambda f: ((f / "tokenizer.json").unlink(), set_line(f, 2, "[cls]")),
         "vocab.txt has no [CLS]: not a BERT vocabulary"),
        (lambda f: ((f / "tokenizer.json").unlink(), write(
            f / "tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"})),
         "vocab.txt of a BertJapaneseTokenizer cannot be read without"),
        (lambda f: (f / "vocab.txt").write_bytes(b"\xff"), "vocab.txt is not UTF-8"),
    ],
)  # fmt: skip
def test_a_folder_whose_tokenizer_cannot_be_told_is_refused_with_the_first_fault(
    five, tmp_path, harm, words
):
    folder = shutil.copytree(five, tmp_path / "folder")
    harm(folder)
    with pytest.raises(RositaError) as error:
        read_tokenizer(folder)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """What transformers 5 saves of an uncased tokenizer with added tokens, and vocab.txt."""
    root = tmp_path_factory.mktemp("five")
    folder = wordpiece(root / "slow", ADDED)
    AutoTokenizer.from_pretrained(folder).save_pretrained(root / "five")
    shutil.copy(folder / "vocab.txt", root / "five")
    return root / "five"


def test_token_types_that_are_not_0_then_1_are_refused(five, tmp_path):
    folder = shutil.copytree(five, tmp_path / "folder")
    spec = read(folder / "tokenizer.json")
    spec["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 0
    write(folder / "tokenizer.json", spec)
    with pytest.raises(RositaError, match=r"gives a pair the token types \[0, 0, 0, 1, 0\]"):
        read_tokenizer(folder)


def test_a_vocabulary_without_mask_gets_none_here_and_in_what_is_saved(tmp_path):
    folder = wordpiece(tmp_path / "slow")
    text = (folder / "vocab.txt").read_text(encoding="utf-8").replace("[MASK]", "[unused]")
    (folder / "vocab.txt").write_text(text, encoding="utf-8")
    found = read_tokenizer(folder)
    assert found.token("mask") is None
    assert len(found.pieces) == len(odd_vocabulary())
    save_tokenizer(tmp_path / "ours", found, 64)
    write(tmp_path / "ours" / "config.json", {"model_type": "rosita"})
    assert len(AutoTokenizer.from_pretrained(tmp_path / "ours")) == len(odd_vocabulary())


def test_the_first_difference_of_two_tokenizers_is_told(five, tmp_path):
    one = read_tokenizer(five)
    assert one.difference(read_tokenizer(shutil.copytree(five, tmp_path / "same"))) is None
    cased = read_tokenizer(wordpiece(tmp_path / "cased", ADDED, do_lower_case=False))
    assert (
        one.difference(cased) == "'A' is [CLS] a [SEP] to the one, [CLS] [UNK] [SEP] to the other"
    )
    fewer = read_tokenizer(wordpiece(tmp_path / "fewer"))
    assert one.difference(fewer).startswith("'[E1]' is id")
    assert fewer.difference(one).startswith("'[E1]' is id")


def test_batches_are_padded_with_the_tokenizers_own_id_and_its_row_is_trained(roberta, tmp_path):
    tokenizer = read_tokenizer(roberta)
    oracle = AutoTokenizer.from_pretrained(roberta)
    path = write_cola(tmp_path / "CoLA") / "train.tsv"
    file = encode_file(path, GLUE["CoLA"], tokenizer, 12)
    texts = [line.split("\t")[3] for line in path.read_text().splitlines()]
    expected = oracle(texts, truncation=True, max_length=12, padding=True, return_tensors="np")
    inputs = file.batch(np.arange(len(file))).inputs
    assert np.array_equal(inputs["input_ids"], expected["input_ids"])
    assert np.array_equal(inputs["attention_mask"], expected["attention_mask"])
    assert not inputs["token_type_ids"].any()
    assert 1 not in file.ids and 1 in used_tokens([file], len(tokenizer.pieces))


def test_cached_ids_are_those_of_the_very_tokenizer(tmp_path):
    """Folders that differ in one rule or one added token alone have caches of their own."""
    path = write_cola(tmp_path / "CoLA") / "dev.tsv"
    folders = {
        "one": wordpiece(tmp_path / "one"),
        "accents": wordpiece(tmp_path / "accents", strip_accents=False),
        "chinese": wordpiece(tmp_path / "chinese", tokenize_chinese_chars=False),
        "cased": wordpiece(tmp_path / "cased", do_lower_case=False),
        "added": wordpiece(tmp_path / "added", ["[E1]"]),
        "again": wordpiece(tmp_path / "again"),
    }
    caches = {
        name: encode_file(path, GLUE["CoLA"], read_tokenizer(folder), 32).cache
        for name, folder in folders.items()
    }
    assert caches["again"] == caches["one"] and len(set(caches.values())) == 5
    BertTokenizer.from_pretrained(folders["one"]).save_pretrained(tmp_path / "five")
    five = encode_file(path, GLUE["CoLA"], read_tokenizer(tmp_path / "five"), 32)
    assert five.cache == caches["one"]  # the same tokenizer, saved otherwise
