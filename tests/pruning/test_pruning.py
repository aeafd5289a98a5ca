from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL

from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification, set_dropout
from rosita.pruning.cut import factorize, prune
from rosita.pruning.importance import important_layers, scored_weights, top_units
from rosita.pruning.schedule import PruningSchedule
from rosita.pruning.shape import Shape, parameter_count


def model_and_scores(seed: int = 0, **more):
    torch.manual_seed(seed)
    config = RositaConfig(vocab_size=50, num_labels=2, **(SMALL | more))
    model = RositaForSequenceClassification(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    scores = {name: torch.rand_like(weight) for name, weight in scored_weights(model).items()}
    return model, scores


def masked_to_zero(model, scores, target: Shape):
    """The dense model with every head and FFN unit zeroed that is not among the best (numpy)."""
    config, state = model.config, {k: v.clone() for k, v in model.state_dict().items()}
    size = config.head_dim
    for layer in range(config.num_hidden_layers):
        out = scores[f"encoder.layer.{layer}.attention.output.dense.weight"].numpy()
        heads = [out[:, h * size : (h + 1) * size].sum() for h in range(config.num_attention_heads)]
        for head in np.argsort(heads)[: -target.keep_heads]:
            name = f"bert.encoder.layer.{layer}.attention.output.dense.weight"
            state[name][:, head * size : (head + 1) * size] = 0
        up = scores[f"encoder.layer.{layer}.intermediate.dense.weight"].numpy().sum(1)
        down = scores[f"encoder.layer.{layer}.output.dense.weight"].numpy().sum(0)
        for unit in np.argsort(up + down)[: -target.ffn_hidden_dim]:
            state[f"bert.encoder.layer.{layer}.output.dense.weight"][:, unit] = 0
    twin = RositaForSequenceClassification(config).eval()
    twin.load_state_dict(state)
    return twin


INPUTS = {
    "input_ids": torch.arange(5, 35).view(3, 10),
    "attention_mask": torch.tensor([[1] * 10, [1] * 7 + [0] * 3, [1] * 2 + [0] * 8]),
}


def test_without_dropout_a_model_in_training_says_what_it_says_in_evaluation_pruned_or_not():
    model, scores = model_and_scores()
    for p in (0.5, 0.0):
        set_dropout(model, p)
        for one in (model, prune(model, Shape(2, 2, 20), scores)):
            with torch.no_grad():
                evaluated = one.eval()(**INPUTS).logits
                trained = one.train()(**INPUTS).logits
            assert torch.allclose(evaluated, trained) == (p == 0)


def test_chosen_layers_are_kept_with_their_own_heads_and_renumbered():
    model, scores = model_and_scores()
    target = Shape(2, 2, 20)
    kept = prune(model, target, scores, layers=[0, 2])
    shallow = prune(model, replace(Shape.of(model.config), keep_layers=2), layers=[0, 2])
    renamed = {name: score for name, score in scores.items() if ".layer.0." in name}
    renamed |= {
        name.replace(".layer.2.", ".layer.1."): score
        for name, score in scores.items()
        if ".layer.2." in name
    }
    twin = model.state_dict()
    for name, weight in shallow.state_dict().items():
        source = name.replace(".layer.1.", ".layer.2.")
        torch.testing.assert_close(weight, twin[source], rtol=0, atol=0)
    expected = prune(shallow, target, renamed)(**INPUTS).logits
    torch.testing.assert_close(kept(**INPUTS).logits, expected)


def test_the_most_important_layers_are_those_with_the_largest_sums():
    _, scores = model_and_scores()
    scores = {name: score * (10 if ".layer.1." in name else 1) for name, score in scores.items()}
    sums = [
        sum(score.sum().item() for name, score in scores.items() if f".layer.{layer}." in name)
        for layer in range(3)
    ]
    assert important_layers(scores, 3, 2) == sorted(np.argsort(sums)[-2:].tolist())
    assert important_layers(scores, 3, 1) == [1]


def test_a_factorization_anew_is_the_best_of_its_rank_and_dropping_columns_is_not():
    model, _ = model_and_scores()
    shape = Shape.of(model.config)
    trained = prune(model, replace(shape, emb_hidden_dim=20))
    embeddings = trained.bert.embeddings
    with torch.no_grad():  # training turns the factors away from the singular vectors
        embeddings.word_embeddings1.weight.add_(torch.randn(50, 20))
    table = product(trained)
    u, s, vt = np.linalg.svd(table)
    best = np.linalg.norm(table - (u[:, :6] * s[:6]) @ vt[:6])
    smaller = replace(shape, emb_hidden_dim=6)
    anew = np.linalg.norm(table - product(prune(trained, smaller, recompute_svd=True)))
    dropped = np.linalg.norm(table - product(prune(trained, smaller)))
    assert anew == pytest.approx(best, rel=1e-4)
    assert dropped > 1.05 * best


def product(model):
    embeddings = model.bert.embeddings
    factors = (embeddings.word_embeddings1.weight, embeddings.word_embeddings2.weight)
    first, second = (weight.detach().double().numpy() for weight in factors)
    return first @ second.T


@pytest.mark.parametrize("heads, ffn", [(1, 48), (4, 7), (2, 20), (3, 1)])
def test_pruned_model_equals_the_dense_one_with_removed_heads_and_units_zeroed(heads, ffn):
    model, scores = model_and_scores()
    target = Shape(heads, 3, ffn)
    expected = masked_to_zero(model, scores, target)(**INPUTS).logits
    torch.testing.assert_close(prune(model, target, scores)(**INPUTS).logits, expected)


def test_head_size_is_free():
    model, scores = model_and_scores(hidden_size=36, num_attention_heads=12)
    target = Shape(5, 3, 48)
    expected = masked_to_zero(model, scores, target)(**INPUTS).logits
    torch.testing.assert_close(prune(model, target, scores)(**INPUTS).logits, expected)


def test_dropping_layers_keeps_the_first_and_needs_no_scores():
    model, _ = model_and_scores()
    states = model(**INPUTS, output_hidden_states=True).hidden_states
    shallow = prune(model, replace(Shape.of(model.config), keep_layers=2))
    actual = shallow(**INPUTS, output_hidden_states=True).hidden_states
    assert len(actual) == 3
    for mine, theirs in zip(actual, states, strict=False):
        torch.testing.assert_close(mine, theirs)


def test_factorized_embedding_equals_the_truncated_svd():
    weight = torch.randn(200, 24, dtype=torch.float64)
    left, values, right = np.linalg.svd(weight.numpy(), full_matrices=False)
    first, second = factorize(weight, 9)
    expected = (left[:, :9] * values[:9]) @ right[:9]
    np.testing.assert_allclose((first @ second.T).numpy(), expected, atol=1e-10)
    # columns of W1 are ordered by singular value: later prunings cut the trailing ones
    np.testing.assert_allclose(first.norm(dim=0).numpy(), values[:9], rtol=1e-9)


def test_cutting_a_factorized_embedding_again_equals_factorizing_once():
    model, _ = model_and_scores()
    shape = Shape.of(model.config)
    once = prune(model, replace(shape, emb_hidden_dim=6))
    twice = prune(prune(model, replace(shape, emb_hidden_dim=20)), replace(shape, emb_hidden_dim=6))
    torch.testing.assert_close(once(**INPUTS).logits, twice(**INPUTS).logits)


def test_full_rank_factorization_changes_no_logit():
    model, _ = model_and_scores()
    full = prune(model, replace(Shape.of(model.config), emb_hidden_dim=32))
    torch.testing.assert_close(full(**INPUTS).logits, model(**INPUTS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape, labels", [("a2_l8_f512_e128", 2), ("a12_l12_f3072_e-1", 3)])
def test_parameter_count_follows_the_formula(shape, labels):
    heads, layers, ffn, rank = (int(part[1:]) for part in shape.split("_"))
    d, vocabulary, width = 768, 30522, heads * 64
    words = vocabulary * d if rank == -1 else vocabulary * rank + rank * d
    layer = 3 * (d * width + width) + width * d + d + 2 * d * ffn + ffn + d + 4 * d
    expected = words + 512 * d + 2 * d + 2 * d + layers * layer + d * d + d + labels * (d + 1)
    config = RositaConfig(num_labels=labels)
    assert parameter_count(config, Shape.parse(shape)) == expected


def test_pruning_leaves_the_original_alone():
    model, scores = model_and_scores()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = prune(model, Shape(2, 2, 10, 8), scores)
    with torch.no_grad():
        for weight in pruned.parameters():
            weight.zero_()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "target, word",
    [
        (Shape(5, 3, 48), "keep_heads 5"),
        (Shape(4, 0, 48), "keep_layers 0"),
        (Shape(4, 3, 49), "ffn_hidden_dim 49"),
        (Shape(4, 3, 48, 33), "emb_hidden_dim 33"),
        (Shape(2, 3, 48), "scores"),
    ],
)
def test_impossible_targets_are_named(target, word):
    model, _ = model_and_scores()
    with pytest.raises(RositaError, match=word):
        prune(model, target)


def test_top_units_keeps_the_earlier_of_equal_scores_in_ascending_order():
    assert top_units(torch.tensor([1.0, 3.0, 0.0, 3.0, 1.0]), 3).tolist() == [0, 1, 3]
    assert top_units(torch.zeros(6), 2).tolist() == [0, 1]


def visited(schedule: PruningSchedule, steps: int) -> dict[int, str]:
    return {s: str(shape) for s in range(1, steps + 1) if (shape := schedule.due(s))}


def test_width_schedule_visits_the_shapes_of_the_paper_from_12_to_2_heads():
    config = RositaConfig(num_hidden_layers=8)
    schedule = PruningSchedule.plan(config, Shape(2, 8, 512, 128), "width", 57.9, 58)
    expected = {5 * k: f"a{12 - k}_l8_f{3072 - 256 * k}_e{768 - 64 * k}" for k in range(1, 11)}
    assert visited(schedule, 200) == expected
    assert expected[5] == "a11_l8_f2816_e704" and expected[50] == "a2_l8_f512_e128"


def test_depth_schedule_visits_12_to_8_layers_one_at_a_time():
    schedule = PruningSchedule.plan(RositaConfig(), Shape(12, 8, 3072), "depth", 12, 12)
    assert visited(schedule, 100) == {3 * k: f"a12_l{12 - k}_f3072_e-1" for k in range(1, 5)}


def test_uneven_width_sizes_are_cut_to_int_and_end_at_the_target():
    config = RositaConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=4)
    schedule = PruningSchedule.plan(config, Shape(5, 4, 100, 50), "width", 700, 700)
    for number in range(1, 8):
        shape = schedule.shape(number)
        assert shape.ffn_hidden_dim == int(1536 - (1536 - 100) * number / 7 + 1e-9)
        assert shape.emb_hidden_dim == int(384 - (384 - 50) * number / 7 + 1e-9)
    assert schedule.shape(7) == schedule.target


@pytest.mark.parametrize(
    "target, kind, steps, word",
    [
        (Shape(2, 12, 512, 128), "depth", 99, "layers only"),
        (Shape(2, 8, 512, 128), "width", 99, "keeps the layers"),
        (Shape(12, 12, 512, 128), "width", 99, "no heads"),
        (Shape(2, 12, 512, 128), "width", 9, "prun_period_proportion"),
    ],
)
def test_schedules_that_cannot_be_kept_are_refused(target, kind, steps, word):
    with pytest.raises(RositaError, match=word):
        PruningSchedule.plan(RositaConfig(), target, kind, steps, 1000)


def test_a_schedule_that_the_run_would_end_within_is_refused():
    target = Shape(12, 8, 3072)  # four layers fewer, one every third step
    assert PruningSchedule.plan(RositaConfig(), target, "depth", 12, 12).due(12) == target
    with pytest.raises(RositaError, match="max_steps 11 ends the run before .* due at step 12"):
        PruningSchedule.plan(RositaConfig(), target, "depth", 12, 11)
