"""Which heads and FFN units of a run's first model survive its prunings: for the record."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from rosita.model import RositaConfig
from rosita.pruning.cut import Cut
from rosita.pruning.importance import ffn_scores, head_scores

SLICES = 32  # parts of a layer's FFN units that are summed up as one number

Survivors = dict[str, Any]  # {"ffn": units at the start, "layers": [{"heads": [...], "units": []}]}


def all_units(config: RositaConfig) -> Survivors:
    """Every head and unit of a model, numbered from 0 in each layer."""
    layer = {
        "heads": list(range(config.num_attention_heads)),
        "units": list(range(config.prun_intermediate_size)),
    }
    layers = [{name: list(ids) for name, ids in layer.items()}]
    return {"ffn": config.prun_intermediate_size, "layers": layers * config.num_hidden_layers}


def follow(
    survivors: Survivors, cut: Cut, scores: dict[str, Tensor]
) -> tuple[Survivors, list[dict[str, Any]]]:
    """The survivors of a pruning, and its record, a dict per kept layer.

    "heads_before", "head_scores" and "heads" (kept) are in the numbering of the run's first model;
    "ffn_scores" is the mean score of the living units in each of `SLICES` equal slices of the first
    model's units (None: none lives), "ffn_kept" the share of each slice that is kept. Empty where
    neither heads nor units are cut.
    """
    if not cut.heads:
        return {**survivors, "layers": [survivors["layers"][old] for old in cut.layers]}, []
    layers, record = [], []
    for old, heads, units in zip(cut.layers, cut.heads, cut.units, strict=True):
        before = survivors["layers"][old]
        after = {
            "heads": [before["heads"][i] for i in heads.tolist()],
            "units": [before["units"][i] for i in units.tolist()],
        }
        layers.append(after)
        importance = head_scores(scores, old, cut.config.num_attention_heads)
        ffn = ffn_scores(scores, old).double().cpu().numpy()
        record.append(
            {
                "heads_before": before["heads"],
                "head_scores": [_short(value) for value in importance.tolist()],
                "heads": after["heads"],
                "ffn_scores": _means(before["units"], ffn, survivors["ffn"]),
                "ffn_kept": _shares(after["units"], survivors["ffn"]),
            }
        )
    return {**survivors, "layers": layers}, record


def _slice_of(units: list[int], ffn: int) -> np.ndarray:
    """The slice (0..SLICES-1, or fewer for fewer units) that each unit is in."""
    return np.asarray(units, dtype=np.int64) * min(SLICES, ffn) // ffn


def _means(units: list[int], scores: np.ndarray, ffn: int) -> list[float | None]:
    slices = _slice_of(units, ffn)
    count = min(SLICES, ffn)
    sums = np.bincount(slices, scores, minlength=count)
    living = np.bincount(slices, minlength=count)
    return [_short(total / n) if n else None for total, n in zip(sums, living, strict=True)]


def _shares(units: list[int], ffn: int) -> list[float]:
    count = min(SLICES, ffn)
    there = np.bincount(_slice_of(list(range(ffn)), ffn), minlength=count)
    kept = np.bincount(_slice_of(units, ffn), minlength=count)
    return [round(float(share), 4) for share in kept / there]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
