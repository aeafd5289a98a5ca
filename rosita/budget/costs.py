"""What a shape costs, without building it: parameters, bytes, multiply-accumulates.

Shapes are rows of an integer array (n, 4): keep_heads, keep_layers, ffn_hidden_dim,
emb_hidden_dim, as the fields of `Shape`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rosita.model import RositaConfig
from rosita.pruning.shape import Shape

Numbers = int | np.ndarray  # the same for all shapes, or of each (n,)

_POWERS_OF_TEN = 10 ** np.arange(1, 18, dtype=np.int64)


def rows_of(shapes: list[Shape]) -> np.ndarray:
    """Shapes as rows (n, 4)."""
    fields = [
        (shape.keep_heads, shape.keep_layers, shape.ffn_hidden_dim, shape.emb_hidden_dim)
        for shape in shapes
    ]
    return np.array(fields, dtype=np.int64).reshape(-1, 4)


def shape_of(row: np.ndarray) -> Shape:
    """The shape that a row (4,) describes."""
    return Shape(*map(int, row))


def parameters(config: RositaConfig, rows: np.ndarray) -> np.ndarray:
    """Number of parameters of each shape (n,), as `rosita.pruning.shape.parameter_count`."""
    found = np.zeros(len(rows), dtype=np.int64)
    for group, weights in _weights(config, rows):
        found[group] = sum(_numbers(shape) for shape in weights.values())
    return found


def file_bytes(config: RositaConfig, rows: np.ndarray) -> np.ndarray:
    """Size of each shape's model.safetensors (n,): 8 bytes, the header, fp32 weights."""
    found = np.zeros(len(rows), dtype=np.int64)
    for group, weights in _weights(config, rows):
        end: Numbers = 0
        header: Numbers = 0
        for name, shape in sorted(weights.items()):
            begin, end = end, end + 4 * _numbers(shape)
            fixed = len(f'"{name}":{{"dtype":"F32","shape":[],"data_offsets":[,]}},')
            commas = len(shape) - 1
            numbers = sum(map(_digits, (*shape, begin, end)))
            header = header + fixed + commas + numbers
        metadata = f'"format":"pt","weights_hash":"{"-" * 64}"'
        header = header - 1 + len('{"__metadata__":{},}') + len(metadata)
        found[group] = 8 + -(-header // 8) * 8 + end  # the header is filled up with spaces
    return found


def macs(config: RositaConfig, length: int) -> int:
    """Multiply-accumulates of one sentence of `length` tokens through the model of `config`."""
    return int(shape_macs(config, rows_of([Shape.of(config)]), length)[0])


def shape_macs(config: RositaConfig, rows: np.ndarray, length: int) -> np.ndarray:
    """Multiply-accumulates of one sentence of `length` tokens, for each shape (n,).

    All matrix products: linear layers, query x key and attention x value, the second factor of
    the embedding and its projection, pooler and classifier. Embedding lookups, LayerNorm, GELU and
    softmax are none.
    """
    heads, layers, ffn, rank = rows.T
    hidden, narrow = config.hidden_size, config.embedding_size
    width = heads * config.head_dim
    layer = 4 * length * hidden * width + 2 * length**2 * width + 2 * length * hidden * ffn
    factor = np.where(rank == -1, 0, length * rank * narrow)
    projection = 0 if narrow == hidden else length * narrow * hidden
    return layers * layer + factor + projection + hidden**2 + hidden * config.num_labels


def _weights(
    config: RositaConfig, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, dict[str, tuple[Numbers, ...]]]]:
    """(mask of the rows, weights by name) for all rows with the same names; sizes may be arrays."""
    for layers in np.unique(rows[:, 1]):
        for dense in (True, False):
            group = (rows[:, 1] == layers) & ((rows[:, 3] == -1) == dense)
            if group.any():
                heads, _, ffn, rank = rows[group].T
                named = _named_weights(config, int(layers), heads, ffn, None if dense else rank)
                yield group, named


def _named_weights(
    config: RositaConfig, layers: int, heads: np.ndarray, ffn: np.ndarray, rank: np.ndarray | None
) -> dict[str, tuple[Numbers, ...]]:
    hidden, width = config.hidden_size, heads * config.head_dim
    narrow = config.embedding_size
    found: dict[str, tuple[Numbers, ...]] = {}

    def linear(name: str, outputs: Numbers, inputs: Numbers) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, size: int = hidden) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (size,)

    at = "bert.embeddings."
    if rank is None:
        found[f"{at}word_embeddings.weight"] = (config.vocab_size, narrow)
    else:
        found[f"{at}word_embeddings1.weight"] = (config.vocab_size, rank)
        found[f"{at}word_embeddings2.weight"] = (narrow, rank)
    found[f"{at}position_embeddings.weight"] = (config.max_position_embeddings, narrow)
    if config.type_vocab_size:
        found[f"{at}token_type_embeddings.weight"] = (config.type_vocab_size, narrow)
    norm(f"{at}LayerNorm", narrow)
    if narrow != hidden:
        linear("bert.embeddings_project", hidden, narrow)
    for layer in range(layers):
        at = f"bert.encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            linear(f"{at}attention.self.{name}", width, hidden)
        linear(f"{at}attention.output.dense", hidden, width)
        norm(f"{at}attention.output.LayerNorm")
        linear(f"{at}intermediate.dense", ffn, hidden)
        linear(f"{at}output.dense", hidden, ffn)
        norm(f"{at}output.LayerNorm")
    linear("bert.pooler.dense", hidden, hidden)
    linear("classifier", config.num_labels, hidden)
    return found


def _numbers(shape: tuple[Numbers, ...]) -> Numbers:
    return shape[0] if len(shape) == 1 else shape[0] * shape[1]


def _digits(value: Numbers) -> Numbers:
    return 1 + np.searchsorted(_POWERS_OF_TEN, value, side="right")
