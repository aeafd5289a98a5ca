"""Train only the embedding rows that the data can touch; put all rows together again at the end.

A gradient of the word embedding is zero in every row whose token does not occur. AdamW leaves such
a row alone but for weight decay, which multiplies it by (1 - rate * decay) a step. So the rows of
absent tokens need no gradient, no moments and no step: one factor, applied at the end, is enough.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rosita.data.batches import Encoded
from rosita.model import RositaForSequenceClassification, build_model


def used_tokens(files: list[Encoded], vocab_size: int) -> Tensor:
    """Ids that occur in any of the files, and the padding, ascending."""
    used = np.zeros(vocab_size, dtype=bool)
    for file in files:
        used[file.pad_id] = True
        for begin in range(0, len(file.ids), 1 << 22):  # in blocks: the file may not fit in memory
            used[file.ids[begin : begin + (1 << 22)]] = True
    return torch.from_numpy(np.flatnonzero(used))


class CompactEmbedding(nn.Module):
    """An embedding that holds the rows of the used tokens only; takes the usual token ids."""

    lookup: Tensor  # token id -> row

    def __init__(self, full: nn.Embedding, used: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(full.weight.detach()[used].clone())
        # a token that is not among them would be the wrong row: it is none, and so an error
        lookup = torch.full((full.num_embeddings,), len(used))
        lookup[used.cpu()] = torch.arange(len(used))
        self.register_buffer("lookup", lookup.to(full.weight.device), persistent=False)
        # the model's own padding is among them unless the tokenizer pads with another piece
        padding = full.padding_idx
        self.padding = int(lookup[padding]) if padding in used.tolist() else None

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(self.lookup[ids], self.weight, padding_idx=self.padding)


class Vocabulary:
    """Shrinks a model's embedding to the used tokens, and restores the whole model."""

    rest: Tensor  # from `shrink` on: the whole table as it was before training

    def __init__(self, used: Tensor) -> None:
        self.used = used
        self.decay = 1.0  # what weight decay has made of the unused rows since

    def shrink(self, model: RositaForSequenceClassification) -> None:
        """Replace the model's word embedding, in place, by one of the used rows."""
        full = model.bert.get_input_embeddings()
        self.rest, self.decay = full.weight.detach().clone(), 1.0
        model.bert.set_input_embeddings(CompactEmbedding(full, self.used.to(full.weight.device)))

    def restore(self, model: RositaForSequenceClassification) -> RositaForSequenceClassification:
        """A whole copy of a shrunk model."""
        state = model.state_dict()
        name = next(name for name in state if ".word_embeddings" in name and "2." not in name)
        table = self.rest * self.decay
        table[self.used.to(table.device)] = state[name]
        return build_model(model.config, {**state, name: table}, training=model.training)

    def state_dict(self) -> dict[str, object]:
        """What `load_state_dict` needs to go on, beside the whole model."""
        # without weight decay the unused rows of the whole model are the rest already
        return {"rest": None if self.decay == 1.0 else self.rest, "decay": self.decay}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a saved state, after `shrink` of the whole model saved with it."""
        self.decay = state["decay"]
        if state["rest"] is not None:
            self.rest = state["rest"].to(self.rest)
