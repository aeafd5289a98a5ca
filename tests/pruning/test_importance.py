import pickle

import pytest
import torch
from conftest import SMALL

from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.pruning.importance import (
    MATRICES,
    TaylorImportance,
    ffn_scores,
    head_scores,
    important_layers,
    load_scores,
    save_scores,
    scored_weights,
)


def tiny() -> RositaForSequenceClassification:
    torch.manual_seed(0)
    return RositaForSequenceClassification(RositaConfig(vocab_size=50, num_labels=2, **SMALL))


def test_scores_are_w_times_the_sum_of_absolute_gradients_in_float64():
    model = tiny().double().eval()
    taylor = TaylorImportance(model)
    gradients: dict[str, list[torch.Tensor]] = {}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(1, 50, (4, 7), generator=generator)
        loss = model(ids, labels=torch.tensor([0, 1, 1, 0])).loss
        names, weights = zip(*scored_weights(model).items(), strict=True)
        for name, gradient in zip(names, torch.autograd.grad(loss, weights), strict=True):
            gradients.setdefault(name, []).append(gradient)
        model.zero_grad()
        model(ids, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        taylor.add(model)
    assert len(gradients) == 3 * len(MATRICES)
    for name, score in taylor.scores(model, divide_by=2).items():
        weight = scored_weights(model)[name]
        expected = (weight * sum(gradient.abs() for gradient in gradients[name])).abs() / 2
        torch.testing.assert_close(score, expected)


def test_scores_by_unit_are_the_change_of_the_loss_when_the_unit_goes_in_float64():
    model = tiny().double().eval()
    taylor = TaylorImportance(model, by_unit=True)
    ids = torch.randint(1, 50, (4, 7), generator=torch.Generator().manual_seed(0))
    model(ids, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
    taylor.add(model)
    scores, size = taylor.scores(model), model.config.head_dim
    layer = model.bert.encoder.layer[1]
    out = layer.attention.output.dense.weight
    change = (out * out.grad).detach()
    expected = [change[:, h * size : (h + 1) * size].sum().abs().item() for h in range(4)]
    assert head_scores(scores, 1, 4).tolist() == pytest.approx(expected)
    up, down = (
        (w * w.grad).detach() for w in (layer.intermediate.dense.weight, layer.output.dense.weight)
    )
    torch.testing.assert_close(ffn_scores(scores, 1), up.sum(1).abs() + down.sum(0).abs())


def test_scores_survive_the_file_and_bert_prefixes_are_accepted(tmp_path):
    model = tiny()
    scores = {name: torch.rand_like(weight) for name, weight in scored_weights(model).items()}
    save_scores(tmp_path / "taylor.pkl", scores)
    for prefix in ("", "bert."):
        torch.save({prefix + name: score for name, score in scores.items()}, tmp_path / "t.pkl")
        read = load_scores(tmp_path / "t.pkl", model)
        assert read.keys() == scores.keys()
    read = load_scores(tmp_path / "taylor.pkl", model)
    for name, score in scores.items():
        torch.testing.assert_close(read[name], score, rtol=0, atol=0)


def test_scores_of_other_weights_in_the_file_choose_no_layer(tmp_path):
    model = tiny()
    scores = {name: torch.rand_like(weight) for name, weight in scored_weights(model).items()}
    others = {
        "bert.pooler.dense.weight": torch.ones(3, 3),
        "bert.encoder.layer.0.output.dense.bias": torch.full((3,), 1e9),
        "step": 7,
    }
    torch.save(others | scores, tmp_path / "taylor.pkl")
    read = load_scores(tmp_path / "taylor.pkl", model)
    assert read.keys() == scores.keys()
    layers = model.config.num_hidden_layers
    assert important_layers(read, layers, 1) == important_layers(scores, layers, 1)


class Exploit:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_code_in_a_scores_file_is_not_run(tmp_path):
    for dump in (pickle.dump, torch.save):
        with open(tmp_path / "taylor.pkl", "wb") as file:
            dump({"encoder": Exploit(tmp_path / "owned")}, file)
        with pytest.raises(RositaError, match="taylor.pkl"):
            load_scores(tmp_path / "taylor.pkl", tiny())
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "harm, word",
    [
        (lambda scores: scores.popitem(), "no score for"),
        (lambda scores: scores.update({next(iter(scores)): torch.zeros(2, 3)}), r"scores \[2, 3\]"),
        (lambda scores: next(iter(scores.values())).fill_(float("nan")), "NaN"),
    ],
)
def test_scores_of_another_model_or_with_nan_are_refused(tmp_path, harm, word):
    model = tiny()
    scores = {name: torch.rand_like(weight) for name, weight in scored_weights(model).items()}
    harm(scores)
    save_scores(tmp_path / "taylor.pkl", scores)
    with pytest.raises(RositaError, match=word):
        load_scores(tmp_path / "taylor.pkl", model)


def test_a_scores_file_cut_off_or_of_another_kind_is_one_clear_error(tmp_path):
    path = tmp_path / "taylor.pkl"
    save_scores(path, {"x": torch.zeros(1000)})
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(RositaError, match="taylor.pkl"):
            load_scores(path, tiny())
    with pytest.raises(RositaError, match="compute_taylor"):
        load_scores(tmp_path / "missing.pkl", tiny())
