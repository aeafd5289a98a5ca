"""What the augmentation reads, found and hashed without opening it: so without heavy imports."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rosita.backbones import backbone_of
from rosita.errors import RositaError
from rosita.files import check_readable, read_object, read_torch, reading

_HASHED_BYTES = 1 << 20


def check_tokenizer(folder: str | Path) -> None:
    """Raise `RositaError` if a model folder has no tokenizer."""
    files = ("tokenizer.json", "vocab.txt", "vocab.json")
    if not any((Path(folder) / name).is_file() for name in files):
        raise RositaError(
            f"{folder} has no tokenizer.json and no vocab.txt; put a pretrained BERT there with"
            " `python download_bert.py`"
        )


def weight_files(folder: str | Path) -> list[Path]:
    """The weight files of a BERT folder, safetensors first; `RositaError` if there are none."""
    folder = Path(folder)
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise RositaError(
        f"{folder} has no model.safetensors or pytorch_model.bin;"
        " put a pretrained BERT there with `python download_bert.py`"
    )


def weights_hash(folder: str | Path, files: dict[str, str]) -> str:
    """SHA-256 over the SHA-256, which `files` holds by name, of each weight file of a folder."""
    hashes = "".join(files[file.name] for file in weight_files(folder))
    return hashlib.sha256(hashes.encode()).hexdigest()


def has_masked_lm_head(folder: str | Path) -> bool:
    """Whether the weights of a BERT folder include a masked-LM head; only names are looked at."""
    head = _head(folder)
    names = (name for file in weight_files(folder) for name in _names(file))
    return head is not None and any(name.startswith(head) for name in names)


def without_head(folder: str | Path) -> str:
    """That a folder has no masked-LM head, and by which weights one would be known."""
    head = _head(folder)
    known = f" (no weight {head}*)" if head else ""
    hint = ": of an ELECTRA the generator has one" if head == "generator_predictions." else ""
    return f"{folder} has no masked-LM head{known}{hint}"


def _head(folder: str | Path) -> str | None:
    """How the names of a masked-LM head begin, for the folder's kind of model."""
    path = Path(folder) / "config.json"
    return backbone_of(read_object(path) if path.exists() else {}, folder).masked_lm


def _names(file: Path) -> list[str]:
    check_readable(file)
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "np") as weights:
                return list(weights.keys())
        return list(read_torch(file))
    except (SafetensorError, OSError) as error:
        raise RositaError(f"cannot read {file}: {error}; download it again") from None


def glove_files(path: str | Path) -> tuple[Path, ...]:
    """The text file, or the matrix and the words, that `path` (a file or a folder) stands for."""
    path = Path(path)
    if not path.exists():
        raise RositaError(f"--glove_embs {path} does not exist{advice(path)}")
    if path.is_file() and path.suffix not in (".npy", ".parquet"):
        return (path,)
    folder = path if path.is_dir() else path.parent
    matrices, indexes = sorted(folder.rglob("*.npy")), sorted(folder.rglob("*.parquet"))
    if len(matrices) == 1 and len(indexes) == 1:
        return matrices[0], indexes[0]
    texts = sorted(folder.glob("*.txt"))
    if not matrices and not indexes and len(texts) == 1:
        return (texts[0],)
    raise RositaError(
        f"{folder} must hold one .npy and one .parquet file, or one .txt file; it has"
        f" {len(matrices)}, {len(indexes)} and {len(texts)}{advice(folder)}"
    )


def advice(path: str | Path) -> str:
    """What to type for vectors that are not there or damaged, as far as `path` looks like GloVe."""
    if "glove" in Path(path).resolve().name.lower():
        return "; get GloVe's with `python download_glove.py`"
    return "; name a text file of GloVe, word2vec or fastText: a word and its numbers a line"


def glove_hash(path: str | Path) -> str:
    """SHA-256 over the size and the first megabyte of each file: the whole would take minutes."""
    digest = hashlib.sha256()
    for file in glove_files(path):
        digest.update(str(file.stat().st_size).encode())
        with reading(file), open(file, "rb") as content:
            digest.update(content.read(_HASHED_BYTES))
    return digest.hexdigest()
