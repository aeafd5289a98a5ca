"""The tokenizer of a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from rosita.errors import RositaError
from rosita.files import atomic_write, read_json, write_json


@dataclass
class TokenizerFiles:
    """A WordPiece tokenizer as a model folder stores it: vocabulary and case."""

    vocab: str  # text of vocab.txt
    do_lower_case: bool

    def build(self) -> Tokenizer:
        """The Rust tokenizer: [CLS] A [SEP] (B [SEP]), BERT's normalization."""
        words = {word: index for index, word in enumerate(self.vocab.rstrip("\n").split("\n"))}
        missing = [word for word in ("[UNK]", "[CLS]", "[SEP]", "[PAD]") if word not in words]
        if missing:
            raise RositaError(f"vocab.txt has no {', '.join(missing)}: not a BERT vocabulary")
        tokenizer = Tokenizer(WordPiece(words, unk_token="[UNK]"))
        tokenizer.normalizer = BertNormalizer(lowercase=self.do_lower_case)
        tokenizer.pre_tokenizer = BertPreTokenizer()
        tokenizer.decoder = WordPieceDecoder()
        tokenizer.add_special_tokens(
            [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if word in words]
        )
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])],
        )
        return tokenizer


def read_tokenizer(folder: Path, do_lower_case: bool | None = None) -> TokenizerFiles:
    """The tokenizer of a model folder; `do_lower_case` overrides what the folder says."""
    vocab = folder / "vocab.txt"
    if not vocab.exists():
        raise RositaError(f"{folder} has no vocab.txt; copy that of the model it was made from")
    settings = folder / "tokenizer_config.json"
    stored = read_json(settings).get("do_lower_case", True) if settings.exists() else True
    lower = stored if do_lower_case is None else do_lower_case
    try:
        return TokenizerFiles(vocab.read_text(encoding="utf-8"), bool(lower))
    except UnicodeDecodeError as error:
        raise RositaError(f"{vocab} is not UTF-8 (byte {error.start})") from None


def save_tokenizer(folder: Path, tokenizer: TokenizerFiles, positions: int) -> None:
    vocab = folder / "vocab.txt"
    if vocab.exists() and vocab.read_text(encoding="utf-8") == tokenizer.vocab:
        return
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": tokenizer.do_lower_case,
            "model_max_length": positions,
            **{f"{name}_token": f"[{name.upper()}]" for name in ("unk sep pad cls mask").split()},
        },
    )
    with atomic_write(folder / "tokenizer.json") as file:
        file.write(tokenizer.build().to_str())
    with atomic_write(vocab) as file:
        file.write(tokenizer.vocab)
