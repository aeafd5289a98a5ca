"""The tokenizer of a model folder, as the folder stores it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from rosita.errors import RositaError, first_line
from rosita.files import atomic_write, check_kind, read_object, read_text, write_json

KINDS = ("unk", "pad", "cls", "sep", "mask")
# What a special token is called where the folder does not say: by BERT, by RoBERTa.
_USUAL = {"unk": ("[UNK]", "<unk>"), "pad": ("[PAD]", "<pad>"), "cls": ("[CLS]", "<s>"),
          "sep": ("[SEP]", "</s>"), "mask": ("[MASK]", "<mask>")}  # fmt: skip
# Classes whose vocab.txt, or vocab.json and merges.txt, are read as that of the first one.
_READERS = {
    "vocab.txt": ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"),
    "vocab.json": ("RobertaTokenizer",),
}
# Key of tokenizer_config.json -> a text, and what the normalizer makes of it if the key is true.
_RULES = {
    "do_lower_case": ("A", "a"),
    "strip_accents": ("é", "e"),
    "tokenize_chinese_chars": ("中", " 中 "),
}
# Texts that tokenizers of one vocabulary may read otherwise: case, accents, CJK, spaces, marks.
_ODD_TEXTS = ("A", "É", "é", "中文", "a  b ", "a\tb", "don't", "ﬁ½", "a\u200bb", "\x07a", "")


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as a model folder stores it."""

    json: str  # text of tokenizer.json: it decides
    config: dict[str, Any]  # what tokenizer_config.json says beside it
    special: dict[str, str]  # unk, pad, cls, sep, mask -> the text of that token
    vocab: str | None  # text of vocab.txt, for readers that know no other; WordPiece only

    def build(self, max_tokens: int | None = None) -> Tokenizer:
        """A new Rust tokenizer, which does not pad, and truncates to `max_tokens` if given: of a
        pair, the longer text loses its end first."""
        tokenizer = _built(self.json)
        if max_tokens is not None:
            tokenizer.enable_truncation(max_tokens, strategy="longest_first")
        return tokenizer

    def unpadded(self) -> TokenizerFiles:
        """The same for readers that pad as tokenizer.json says: not to a fixed length."""
        values = json.loads(self.json)
        if not values.get("padding"):
            return self
        text = json.dumps(values | {"padding": None}, ensure_ascii=False, indent=2)
        return replace(self, json=text)

    def token(self, kind: str) -> str | None:
        """The text of the special token `kind`: unk, pad, cls, sep or mask; None if it has none."""
        return self.special.get(kind)

    @cached_property
    def pieces(self) -> dict[str, int]:
        """Every piece and added token, and its id."""
        return self.build().get_vocab()

    @property
    def pad_id(self) -> int:
        """The id that fills a batch up."""
        return self.pieces[self.special["pad"]]

    def difference(self, other: TokenizerFiles) -> str | None:
        """The first thing that the two read otherwise, for people; None if there is none."""
        for piece, number in sorted(self.pieces.items(), key=lambda item: item[1]):
            if other.pieces.get(piece) != number:
                return (
                    f"{piece!r} is id {number} of the one, {other.pieces.get(piece)} of the other"
                )
        if more := other.pieces.keys() - self.pieces.keys():
            first = min(more, key=other.pieces.__getitem__)
            return f"{first!r} is id {other.pieces[first]} of the other alone"
        one, two = self.build(), other.build()
        for text in _ODD_TEXTS:
            if (a := one.encode(text).tokens) != (b := two.encode(text).tokens):
                return f"{text!r} is {' '.join(a)} to the one, {' '.join(b)} to the other"
        return None

    @cached_property
    def lower_cases(self) -> bool:
        """Whether it reads capitals as small letters."""
        return "A" not in _normalized(self.build(), "A")


@contextmanager
def _library(wrong: str) -> Iterator[None]:
    """What the tokenizers library says within the block, as a line.

    It raises bare `Exception`, and for a panic of its Rust one that is not even that.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise RositaError(f"{wrong}: {first_line(error)}") from None


def read_tokenizer(folder: str | Path) -> TokenizerFiles:
    """The tokenizer of a model folder: its tokenizer.json, else its vocabulary files.

    Raises `RositaError` if there is none, or if the files beside tokenizer.json disagree with it.
    """
    folder = Path(folder)
    config = _read_object(folder / "tokenizer_config.json")
    named = config | (
        {} if "added_tokens_decoder" in config else _read_object(folder / "special_tokens_map.json")
    )
    path = folder / "tokenizer.json"
    text = _checked_json(path) if path.exists() else _converted(folder, config, named)
    with _library(f"{path} is no tokenizer"):
        tokenizer = _built(text)
    _check_files(folder, config, tokenizer)
    special = _special_tokens(folder, named, tokenizer)
    return TokenizerFiles(text, config, special, _vocab_text(folder, tokenizer))


def save_tokenizer(folder: Path, tokenizer: TokenizerFiles, positions: int) -> None:
    """Write tokenizer.json as it was read, and what other readers look for beside it.

    `positions`: the most tokens that the model takes.
    """
    path, vocab = folder / "tokenizer.json", folder / "vocab.txt"
    check_kind(path)
    if path.exists() and path.read_bytes() == tokenizer.json.encode():
        return
    write_json(folder / "tokenizer_config.json", _saved_config(tokenizer, positions))
    for name in ("special_tokens_map.json", "added_tokens.json"):  # of another tokenizer
        (folder / name).unlink(missing_ok=True)
    if tokenizer.vocab is None:
        vocab.unlink(missing_ok=True)
    else:
        with atomic_write(vocab) as file:
            file.write(tokenizer.vocab)
    with atomic_write(path) as file:
        file.write(tokenizer.json)


def _saved_config(tokenizer: TokenizerFiles, positions: int) -> dict[str, Any]:
    """tokenizer_config.json as it was read, and what it lacks; where tokenizer.json says otherwise,
    as that says. transformers' BertTokenizer goes by this file; its class for all others, by
    tokenizer.json."""
    built = tokenizer.build()
    made = {f"{kind}_token": tokenizer.token(kind) for kind in KINDS}
    absent = {name: None for name, text in made.items() if text is None}  # or it would be added
    config = {**made, **tokenizer.config, **absent}
    stated = config.get("model_max_length")
    config["model_max_length"] = min(
        positions, stated if isinstance(stated, (int, float)) else positions
    )
    if _is_berts(built):
        return config | {"tokenizer_class": "BertTokenizer"} | _rules(built)
    return config | {"tokenizer_class": "PreTrainedTokenizerFast"}


def _is_berts(tokenizer: Tokenizer) -> bool:
    """Whether transformers' BertTokenizer, which makes its own of the vocabulary, is the same."""
    model, normalizer = tokenizer.model, tokenizer.normalizer
    return (
        isinstance(model, WordPiece)
        and model.continuing_subword_prefix == "##"
        and isinstance(normalizer, BertNormalizer)
        and normalizer.clean_text
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
    )


def _rules(tokenizer: Tokenizer) -> dict[str, bool]:
    """What the normalizer does, under the names of tokenizer_config.json."""
    return {name: _normalized(tokenizer, text) == made for name, (text, made) in _RULES.items()}


def _normalized(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text


def _checked_json(path: Path) -> str:
    """The text of tokenizer.json; `RositaError` that names the first piece or id it has twice.

    The tokenizers library takes the last of two, and says nothing.
    """
    text = read_text(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (twice := _first_twice(name for name, _ in pairs)) is not None:
            raise RositaError(f"{path} has {twice!r} twice; take one out")
        return dict(pairs)

    try:
        vocab = json.loads(text, object_pairs_hook=unique)["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: [piece, score], the id is the place
            unique([(piece, score) for piece, score in vocab])
        elif (twice := _first_twice(vocab.values())) is not None:
            raise RositaError(f"{path} has the id {twice} twice; take one piece out")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RositaError(f"{path} is no tokenizer: {first_line(error)}") from None
    return text


def _first_twice(values: Iterable[Hashable]) -> Hashable | None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _converted(folder: Path, config: dict[str, Any], named: dict[str, Any]) -> str:
    """tokenizer.json of a folder that has none, as transformers makes it of the vocabulary."""
    file = next((name for name in _READERS if (folder / name).exists()), None)
    if file is None:
        raise RositaError(
            f"{folder} has no tokenizer.json and no vocab.txt; copy those of the model it was"
            " made from, or save them there by transformers' AutoTokenizer"
        )
    stated = config.get("tokenizer_class") or _read_object(folder / "config.json").get(
        "tokenizer_class"
    )
    if stated and str(stated).removesuffix("Fast") not in _READERS[file]:
        raise RositaError(
            f"{folder} has no tokenizer.json, and {file} of a {stated} cannot be read without;"
            " save it there by transformers' AutoTokenizer"
        )
    more = {}
    if file == "vocab.txt":
        pieces = _vocab_lines(folder)
        names = {kind: _text(named.get(f"{kind}_token")) or _USUAL[kind][0] for kind in KINDS}
        more = {} if names.pop("mask") in pieces else {"mask_token": None}
        if missing := [name for name in names.values() if name not in pieces]:
            raise RositaError(f"{folder}/{file} has no {', '.join(missing)}: not a BERT vocabulary")
    else:
        check_kind(folder / file)
        check_kind(folder / "merges.txt")
    import transformers  # heavy: needed for such folders only

    reader = getattr(transformers, _READERS[file][0])
    with _library(f"cannot read the tokenizer of {folder}"):
        made = reader.from_pretrained(folder, local_files_only=True, **more).backend_tokenizer
    return made.to_str()


def _check_files(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Raise `RositaError` that names the first piece of which the folder's files disagree."""
    by_id = {number: piece for piece, number in tokenizer.get_vocab().items()}
    for file, piece, number in _stated_pieces(folder, config):
        held = by_id.get(number)
        if held is None or held.rstrip() != piece.rstrip():
            there = "nothing" if held is None else repr(held)
            raise RositaError(
                f"{folder}: {file} and tokenizer.json disagree: id {number} is {piece!r} in"
                f" {file}, {there} in tokenizer.json; remove the wrong one"
            )


def _stated_pieces(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """File, piece and id of all that the files beside tokenizer.json name."""
    if (folder / "vocab.txt").exists():
        for number, piece in enumerate(_vocab_lines(folder)):
            if piece:  # a blank one is in no text, and readers differ in what they make of it
                yield "vocab.txt", piece, number
    for piece, number in _read_object(folder / "added_tokens.json").items():
        if not isinstance(number, int):
            raise RositaError(f"{folder}/added_tokens.json: the id of {piece!r} must be a number")
        yield "added_tokens.json", piece, number
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(number.isdecimal() for number in decoder):
        raise RositaError(f"{folder}/tokenizer_config.json: added_tokens_decoder must have ids")
    for number, token in decoder.items():
        yield "tokenizer_config.json", _text(token) or "", int(number)


def _special_tokens(folder: Path, named: dict[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens by kind; cls and sep are those that every text is put between.

    Raises `RositaError` for a tokenizer that no model here can be asked by.
    """
    pieces = tokenizer.get_vocab()
    special = {}
    for kind in KINDS:
        texts = (_text(named.get(f"{kind}_token")), *_USUAL[kind])
        if text := next((text for text in texts if text in pieces), None):
            special[kind] = text
    advice = "save the tokenizer there again by transformers' AutoTokenizer"
    if missing := {"unk", "pad"} - special.keys():
        names = ", ".join(f"{kind}_token" for kind in sorted(missing))
        raise RositaError(f"the tokenizer of {folder} has no {names}; {advice}")
    with _library(f"the tokenizer of {folder} does not work"):
        around, types = tokenizer.encode("").tokens, tokenizer.encode("a", "a").type_ids
    if len(around) < 2:
        raise RositaError(
            f"the tokenizer of {folder} puts no special tokens around a text, as"
            f" {special.get('cls', '[CLS]')} and {special.get('sep', '[SEP]')}; {advice}"
        )
    if types != sorted(types) or types[-1] > 1:
        raise RositaError(
            f"the tokenizer of {folder} gives a pair the token types {types}; only 0 for the first"
            " text and 0 or 1 for the second can be used"
        )
    return special | {"cls": around[0], "sep": around[-1]}


def _vocab_text(folder: Path, tokenizer: Tokenizer) -> str | None:
    """vocab.txt as it stands, or made of a WordPiece vocabulary without gaps."""
    if not isinstance(tokenizer.model, WordPiece):
        return None
    if (folder / "vocab.txt").exists():
        return read_text(folder / "vocab.txt")
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    if sorted(pieces.values()) != list(range(len(pieces))):
        return None
    return "".join(f"{piece}\n" for piece in sorted(pieces, key=pieces.__getitem__))


def _vocab_lines(folder: Path) -> list[str]:
    """The pieces of vocab.txt by id; as the tokenizers library, without blanks at their ends."""
    text = read_text(folder / "vocab.txt")
    pieces = [line.rstrip() for line in text.rstrip("\r\n").split("\n")]
    seen: dict[str, int] = {}
    for number, piece in enumerate(pieces, start=1):
        if piece and seen.setdefault(piece, number) != number:
            raise RositaError(
                f"{folder}/vocab.txt has {piece!r} twice, in lines {seen[piece]} and {number};"
                " take one out, or the file, if there is a tokenizer.json"
            )
    return pieces


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or {} if there is no such file."""
    return read_object(path) if path.exists() else {}


def _text(token: object) -> str | None:
    """The text of a special token as the JSON files have it: the text, or an object with it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _built(text: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
