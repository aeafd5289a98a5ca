"""AdamW's moments through a pruning: those of the smaller model's weights, and of no others."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import make_bert

from rosita.checkpoint import load_model
from rosita.pruning.cut import Cut, prune
from rosita.pruning.importance import scored_weights
from rosita.pruning.moments import EMBEDDING, put_moments, surviving_moments
from rosita.pruning.shape import Shape
from rosita.tasks import GLUE


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = make_bert(tmp_path_factory.mktemp("moments") / "bert")
    return load_model(folder, GLUE["CoLA"], new_classifier=True)


def scores_of(model):
    torch.manual_seed(1)
    return {name: torch.rand_like(weight) for name, weight in scored_weights(model).items()}


def stepped(model, seed=0):
    """The model and its optimizer after a step with random gradients."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    return model, optimizer


def test_a_step_after_the_pruning_is_the_step_before_it_as_far_as_the_weights_are_left(bert):
    model, optimizer = stepped(copy.deepcopy(bert))
    cut = Cut.decide(model.config, Shape(2, 2, 17, -1), scores_of(model))
    small = cut.of_model(model)
    after = torch.optim.AdamW(small.parameters(), lr=1e-2, weight_decay=0.1)
    put_moments(small, after, surviving_moments(model, optimizer, cut))

    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    left = cut.of_layers({name: weight.grad for name, weight in model.named_parameters()})
    for name, weight in small.named_parameters():
        weight.grad = left[name]
    optimizer.step()
    after.step()

    expected = cut.of_layers(model.state_dict())
    for name, weight in small.named_parameters():  # AdamW works element by element
        torch.testing.assert_close(weight.detach(), expected[name])


def test_an_embedding_that_is_factorized_now_begins_without_moments(bert):
    model, optimizer = stepped(copy.deepcopy(bert))
    moments = surviving_moments(model, optimizer, Cut.decide(model.config, Shape(4, 3, 48, 8)))
    assert set(moments) == {"step", "exp_avg", "exp_avg_sq"}
    every = {name for name, _ in model.named_parameters()}
    assert set(moments["exp_avg"]) == every - {f"{EMBEDDING}.weight"}


@pytest.mark.parametrize("rotated", [False, True])
def test_a_factor_cut_again_keeps_the_moments_of_its_first_columns_unless_it_is_rotated(
    bert, rotated
):
    model, optimizer = stepped(prune(bert, Shape(4, 3, 48, 8)))
    cut = Cut.decide(model.config, Shape(4, 3, 48, 5))
    found = surviving_moments(model, optimizer, cut, rotated)["exp_avg_sq"]
    for name, weight in model.named_parameters():
        if not name.startswith(EMBEDDING):
            continue
        if rotated:
            assert name not in found
        else:
            torch.testing.assert_close(
                found[name], optimizer.state[weight]["exp_avg_sq"][:, :5], rtol=0, atol=0
            )


def test_weights_without_a_moment_begin_from_zero(bert):
    model = copy.deepcopy(bert)
    optimizer = torch.optim.AdamW(model.parameters())
    put_moments(model, optimizer, {})
    assert not optimizer.state
