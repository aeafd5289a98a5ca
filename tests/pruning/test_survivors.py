"""The record of who survives: in the numbering of the first model, after several prunings."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import make_bert

from rosita.checkpoint import load_model
from rosita.pruning.cut import Cut
from rosita.pruning.importance import scored_weights
from rosita.pruning.shape import Shape
from rosita.pruning.survivors import SLICES, all_units, follow
from rosita.tasks import GLUE


def random_scores(model, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=generator)
        for name, weight in scored_weights(model).items()
    }


@pytest.fixture
def model(tmp_path):
    return load_model(make_bert(tmp_path / "bert"), GLUE["CoLA"], new_classifier=True)


def test_after_two_prunings_the_survivors_are_the_first_models_rows_that_are_left(model):
    first = copy.deepcopy(model)
    living = all_units(model.config)
    for seed, shape in enumerate((Shape(3, 3, 30, -1), Shape(2, 2, 17, -1))):
        scores = random_scores(model, seed)
        cut = Cut.decide(model.config, shape, scores)
        living, record = follow(living, cut, scores)
        model = cut.of_model(model)
    assert len(living["layers"]) == len(record) == 2
    for number, layer in enumerate(living["layers"]):
        name = f"bert.encoder.layer.{number}."
        dense, pruned = first.state_dict(), model.state_dict()
        units = dense[f"{name}intermediate.dense.weight"][layer["units"]]
        torch.testing.assert_close(pruned[f"{name}intermediate.dense.weight"], units)
        size = first.config.head_dim
        heads = dense[f"{name}attention.self.query.weight"].view(-1, size, 32)[layer["heads"]]
        expected = pruned[f"{name}attention.self.query.weight"].view(-1, size, 32)
        torch.testing.assert_close(heads, expected)
        assert record[number]["heads"] == layer["heads"]


def test_a_record_tells_scores_and_shares_per_slice_of_the_first_models_units(model):
    scores = random_scores(model, 0)
    cut = Cut.decide(model.config, Shape(4, 3, 20, -1), scores)
    living, record = follow(all_units(model.config), cut, scores)
    layer, kept = record[1], set(living["layers"][1]["units"])
    prefix = "encoder.layer.1."
    both = scores[f"{prefix}intermediate.dense.weight"].sum(1)
    both = both + scores[f"{prefix}output.dense.weight"].sum(0)
    assert len(layer["ffn_scores"]) == len(layer["ffn_kept"]) == SLICES
    for index in range(SLICES):  # 48 units in 32 slices: 1 or 2 each
        units = [unit for unit in range(48) if unit * SLICES // 48 == index]
        assert layer["ffn_scores"][index] == pytest.approx(both[units].mean().item(), rel=1e-3)
        assert layer["ffn_kept"][index] == len(kept & set(units)) / len(units)
    heads = scores[f"{prefix}attention.output.dense.weight"].sum(0).view(4, -1).sum(1)
    assert layer["head_scores"] == pytest.approx(heads.tolist(), rel=1e-3)
    assert layer["heads_before"] == layer["heads"] == [0, 1, 2, 3]


def test_slices_without_a_living_unit_have_no_score(model):
    scores = {name: torch.ones_like(x) for name, x in random_scores(model, 0).items()}
    cut = Cut.decide(model.config, Shape(4, 3, 10, -1), scores)
    living, _ = follow(all_units(model.config), cut, scores)
    smaller = cut.of_model(model)
    scores = random_scores(smaller, 1)
    _, record = follow(living, Cut.decide(smaller.config, Shape(4, 3, 5, -1), scores), scores)
    # of equal scores the first units are kept: 0..9, in the first 7 slices
    assert all(value is not None for value in record[0]["ffn_scores"][:7])
    assert record[0]["ffn_scores"][7:] == [None] * (SLICES - 7)
    assert record[0]["ffn_kept"][7:] == [0.0] * (SLICES - 7)


def test_cutting_layers_needs_no_scores_and_records_none(model):
    cut = Cut.decide(model.config, Shape(4, 1, 48, -1))
    living, record = follow(all_units(model.config), cut, {})
    assert record == [] and len(living["layers"]) == 1
