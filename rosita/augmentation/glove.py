"""Word vectors, such as GloVe's: read from text or npy + parquet; nearest neighbours by cosine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from rosita.augmentation.sources import advice, glove_files
from rosita.errors import RositaError
from rosita.files import check_readable, reading

FIRST_WORDS = 100_000  # the file is ordered by frequency; what comes later is mostly noise
_BLOCK = 128  # words whose similarities to all others are computed in one matrix product
_MARGIN = 8  # extra neighbours found in float32, so that float64 decides who is among the nearest


class Glove:
    """Word vectors and their neighbours; answers are kept per word.

    `vectors` has shape (words, dimensions); rows need not be normalised.
    """

    def __init__(self, words: list[str], vectors: np.ndarray) -> None:
        self.words = words
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.norms = np.maximum(np.linalg.norm(self.vectors.astype(np.float64), axis=1), 1e-12)
        self.index: dict[str, int] = {}
        for position, word in enumerate(words):
            self.index.setdefault(word, position)
        self._known: dict[tuple[str, int], list[str]] = {}

    def neighbours(self, words: Iterable[str], count: int) -> dict[str, list[str]]:
        """The `count` nearest words of each word by cosine, itself excluded; [] if it is unknown.

        An answer does not depend on the words asked for beside it.
        """
        asked = dict.fromkeys(words)
        new = [word for word in asked if word in self.index and (word, count) not in self._known]
        for start in range(0, len(new), _BLOCK):
            block = new[start : start + _BLOCK]
            for word, near in zip(block, self._nearest(block, count), strict=True):
                self._known[word, count] = near
        return {word: self._known.get((word, count), []) for word in asked}

    def _nearest(self, block: list[str], count: int) -> Iterator[list[str]]:
        rows = [self.index[word] for word in block]
        cosines = self.vectors[rows] @ self.vectors.T  # (block, words)
        cosines /= self.norms.astype(np.float32)  # the asked word's own norm changes no order
        wanted = min(count + _MARGIN, len(self.words))
        found = torch.from_numpy(cosines).topk(wanted, dim=1).indices.numpy()
        for word, row, near in zip(block, rows, found, strict=True):
            near = np.sort(near)
            near = near[[self.words[other] != word for other in near]]
            # float32 sums differ with the block's size; float64, one word at a time, does not.
            exact = self.vectors[near].astype(np.float64) @ self.vectors[row].astype(np.float64)
            order = np.argsort(-exact / self.norms[near], kind="stable")[:count]
            yield [self.words[other] for other in near[order]]


def load_glove(path: str | Path, first_words: int = FIRST_WORDS) -> Glove:
    """Read the first words of a text file, or of a folder with one .npy and one .parquet file.

    Text: a word and its numbers per line; before them, as in word2vec's and fastText's files, there
    may be a line with the counts of both. Parquet: the words in a column `index`, in the order of
    the matrix's rows. Raises `RositaError` for a missing file or one of another kind.
    """
    files = glove_files(path)
    if len(files) == 1:
        words, vectors = _read_text(files[0], first_words)
    else:
        matrix, index = files
        words, vectors = _read_matrix(matrix, index, first_words)
    if not np.isfinite(vectors).all():
        raise RositaError(f"{path} holds NaN or infinite numbers{advice(path)}")
    return Glove(words, vectors)


def _read_text(path: Path, first_words: int) -> tuple[list[str], np.ndarray]:
    words: list[str] = []
    with reading(path), open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        first = file.readline(100_000).rstrip().split(" ")
        counted = len(first) == 2 and all(re.fullmatch(r"\d{1,12}", number) for number in first)
        dimensions = int(first[1]) if counted else len(first) - 1
        if not 2 <= dimensions <= 4096:
            raise RositaError(f"{path} line 1 is not a word and its numbers{advice(path)}")
        if not counted:
            file.seek(0)
        vectors = np.empty((first_words, dimensions), dtype=np.float32)
        for number, line in enumerate(islice(file, first_words)):
            # From the right: some words of the larger GloVe files contain spaces.
            word, *numbers = line.rstrip().rsplit(" ", dimensions)
            try:
                # One number alone, of a line cut off, numpy would write into all places of the row.
                vectors[number] = np.array(numbers, dtype=np.float32).reshape(dimensions)
            except ValueError:
                fault = f"line {number + 1 + counted} is not a word and {dimensions} numbers"
                raise RositaError(f"{path} {fault}{advice(path)}") from None
            words.append(word)
    if counted and len(words) != min(int(first[0]), first_words):
        raise RositaError(
            f"{path} has {len(words):,} words, but its first line counts {int(first[0]):,}: is it"
            f" cut off? If not, correct that line{advice(path)}"
        )
    return words, vectors[: len(words)]


def _read_matrix(matrix: Path, index: Path, first_words: int) -> tuple[list[str], np.ndarray]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise RositaError(f"{index} needs pyarrow; install it with pip install pyarrow") from None
    check_readable(matrix)
    check_readable(index)
    try:
        column = pyarrow.parquet.read_table(index, columns=["index"]).column("index")
        vectors = np.load(matrix, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, EOFError, pyarrow.ArrowException) as error:
        raise RositaError(f"cannot read {matrix} with {index}: {error}{advice(matrix)}") from None
    if vectors.ndim != 2 or len(vectors) != len(column):
        raise RositaError(
            f"{matrix} has shape {vectors.shape}, but {index} has {len(column)} words"
            f"{advice(matrix)}"
        )
    return column.slice(0, first_words).to_pylist(), vectors[:first_words]
