"""The pieces of a vocabulary that some texts use; tokenizer and embedding cut to them.

In a small student the word embedding is most of what is left: 56 % of MiniLM's a2_l4_f256_e64.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from rosita.errors import RositaError
from rosita.model import RositaForSequenceClassification, build_model
from rosita.tokenizer import TokenizerFiles

TEXTS = 1000  # tokenized at once


def used_pieces(tokenizer: TokenizerFiles, texts: Iterable[str]) -> list[int]:
    """Ids, ascending, that must stay for `texts` to be read as before, and any other without a gap.

    Those are the pieces of the texts, the added tokens, every piece of one character, and those
    with a character that has no piece of its own: where there are such, a text with that character
    may still be read otherwise than before. Raises `RositaError` for a tokenizer that is no
    WordPiece: the merges of others build upon each other.
    """
    values = _wordpiece(tokenizer)
    prefix = values["model"]["continuing_subword_prefix"]
    built = tokenizer.build()
    kept = {added["id"] for added in values["added_tokens"]}
    kept |= {tokenizer.pieces[text] for text in tokenizer.special.values()}
    kept |= {int(number) for number in tokenizer.config.get("added_tokens_decoder") or ()}
    kept &= set(tokenizer.pieces.values())
    rest = iter(texts)
    while chunk := list(islice(rest, TEXTS)):
        for encoding in built.encode_batch_fast(chunk, add_special_tokens=False):
            kept.update(encoding.ids)
    for piece, number in tokenizer.pieces.items():
        if any(spelt == piece or spelt not in tokenizer.pieces for spelt in _spelt(piece, prefix)):
            kept.add(number)
    return sorted(kept)


def _spelt(piece: str, prefix: str) -> Iterator[str]:
    """The pieces of one character that a piece could be written with."""
    inside = piece.startswith(prefix) and piece != prefix
    for place, character in enumerate(piece.removeprefix(prefix) if inside else piece):
        yield prefix + character if inside or place else character


def _wordpiece(tokenizer: TokenizerFiles) -> dict[str, Any]:
    """The values of tokenizer.json."""
    values = json.loads(tokenizer.json)
    kind = values["model"].get("type")
    if kind != "WordPiece":
        raise RositaError(
            f"-vocabulary cuts a WordPiece vocabulary, as BERT has; this one is {kind}"
        )
    return values


def cut_tokenizer(tokenizer: TokenizerFiles, kept: list[int]) -> TokenizerFiles:
    """The tokenizer with the pieces of the ids `kept` alone, numbered anew in their order."""
    new = {old: number for number, old in enumerate(kept)}
    by_id = {number: piece for piece, number in tokenizer.pieces.items()}
    values = json.loads(tokenizer.json)
    words = values["model"]["vocab"]  # without the added tokens that are no pieces of words
    words = {by_id[old]: number for old, number in new.items() if by_id[old] in words}
    values["model"]["vocab"] = words
    for added in values["added_tokens"]:
        added["id"] = new[added["id"]]
    if values.get("padding"):
        values["padding"]["pad_id"] = new[tokenizer.pad_id]
    _renumber(values.get("post_processor"), new.__getitem__)
    config = dict(tokenizer.config)
    if decoder := config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {
            str(new[int(old)]): at for old, at in decoder.items() if int(old) in new
        }
    vocab = None
    if tokenizer.vocab is not None and list(words.values()) == list(range(len(words))):
        vocab = "".join(f"{piece}\n" for piece in words)  # a line's number is its piece's id
    return replace(
        tokenizer, json=json.dumps(values, ensure_ascii=False, indent=2), config=config, vocab=vocab
    )


def _renumber(processor: dict[str, Any] | None, new: Callable[[int], int]) -> None:
    """Have a post-processor put the special tokens by their new ids, in place."""
    kind = processor and processor["type"]
    if processor is None or kind == "ByteLevel":
        return
    if kind == "Sequence":
        for part in processor["processors"]:
            _renumber(part, new)
    elif kind == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [new(old) for old in token["ids"]]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for name in ("sep", "cls"):
            processor[name][1] = new(processor[name][1])
    else:
        raise RositaError(f"-vocabulary does not know the tokenizer's post-processor {kind}")


@torch.no_grad()
def cut_words(
    model: RositaForSequenceClassification, kept: list[int], pad_id: int
) -> RositaForSequenceClassification:
    """A new model with the embedding rows `kept` alone, in their order; `pad_id`: the new one."""
    state = model.state_dict()
    (name,) = state.keys() & {
        f"bert.embeddings.{words}.weight" for words in ("word_embeddings", "word_embeddings1")
    }
    state[name] = state[name][torch.tensor(kept, device=state[name].device)]
    config = copy.deepcopy(model.config)
    config.vocab_size, config.pad_token_id = len(kept), pad_id
    return build_model(config, state, training=model.training)
