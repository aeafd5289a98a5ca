import copy
import errno
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import SMALL, make_bert, write_cola

from rosita.checkpoint import load_model
from rosita.data.batches import Batch
from rosita.data.encode import encode_file
from rosita.distillation.knowledge import Knowledge, State, layer_map
from rosita.distillation.losses import (
    DistillationLoss,
    LabelLoss,
    prediction_loss,
)
from rosita.distillation.teacher import Teacher
from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.provenance import weights_hash
from rosita.runtime import freeze
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer


def test_prediction_loss_equals_the_formula_in_float64():
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 5, 3))
    expected = 0.0
    for s, t in zip(student / 2.0, teacher / 2.0, strict=True):
        soft = np.exp(t) / np.exp(t).sum()
        expected += -(soft * (s - np.log(np.exp(s).sum()))).mean()
    actual = prediction_loss(torch.tensor(student), torch.tensor(teacher), temperature=2.0)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_layer_map_is_that_of_the_paper():
    assert layer_map(12, 8) == dict(enumerate([0, 1, 3, 4, 6, 7, 9, 10, 12]))
    assert layer_map(6, 4) == dict(enumerate([0, 1, 3, 4, 6]))
    assert layer_map(12, 4) == dict(enumerate([0, 3, 6, 9, 12]))
    assert layer_map(8, 8) == dict(enumerate(range(9)))


def test_other_layer_maps_follow_the_last_layers_or_the_last_one_alone():
    assert layer_map(12, 4, "last") == dict(enumerate([0, 9, 10, 11, 12]))
    assert layer_map(12, 4, "ends") == {0: 0, 4: 12}


def test_the_squared_error_is_the_mse_over_the_units_at_real_tokens():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 4, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    expected = 0.0
    for row, length in ((0, 5), (1, 2)):
        error = student[row, :length].double() - teacher[row, :length].double()
        expected += (error**2).mean(dim=-1).sum().item()
    found = Knowledge().squared_error(student, State(teacher, mask))
    assert found.item() == pytest.approx(expected)


def test_the_representation_loss_is_the_sum_over_the_followed_states():
    teacher, student, given = model(0), model(1), batch()
    found = DistillationLoss(Teacher(teacher), False, True).losses(student, given)
    with torch.no_grad():
        ours, theirs = (
            m(**given.inputs, output_hidden_states=True).hidden_states for m in (student, teacher)
        )
    real = given.inputs["attention_mask"].bool()
    expected = sum(
        (ours[i].double() - theirs[i].double()).square()[real].mean(dim=-1).sum()
        for i in range(len(ours))
    )
    assert found["representation"].total.item() == pytest.approx(expected.item(), rel=1e-5)


def model(seed: int, num_labels: int = 2) -> RositaForSequenceClassification:
    torch.manual_seed(seed)
    config = RositaConfig(vocab_size=50, num_labels=num_labels, **SMALL)
    return RositaForSequenceClassification(config).eval()


def batch(padding: int = 0, labels=(0, 1, 1)) -> Batch:
    """Rows of 6, 4 and 3 tokens, padded to 6 + padding."""
    lengths = (6, 4, 3)
    ids = torch.zeros(3, 6 + padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.arange(5 + row, 5 + row + length)
        mask[row, :length] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return Batch(inputs, torch.tensor(labels), np.arange(3))


@pytest.mark.parametrize("objective", ["label", "distil"])
def test_losses_do_not_change_with_padding(objective):
    student = model(1)
    made = LabelLoss() if objective == "label" else DistillationLoss(Teacher(model(0)), True, True)
    short, long = made.losses(student, batch()), made.losses(student, batch(padding=9))
    for name, loss in short.items():
        torch.testing.assert_close(long[name].total, loss.total)


def test_a_student_equal_to_its_teacher_has_no_representation_loss():
    found = DistillationLoss(Teacher(model(0)), True, True).losses(model(0), batch())
    assert found["representation"].total.item() == 0
    assert found["representation"].unit == "tokens" and found["prediction"].unit == "rows"


def test_over_positions_the_representation_loss_is_the_mse_over_the_padded_length():
    teacher, student, given = model(0), model(1), batch(padding=4)
    positions = given.inputs["input_ids"].shape[1]
    made = DistillationLoss(Teacher(teacher), True, True, positions=positions)
    found = made.losses(student, given)["representation"]

    expected = 0.0
    padding = given.inputs["attention_mask"].numpy()[..., None] == 0
    with torch.no_grad():
        states = [
            m(**given.inputs, output_hidden_states=True).hidden_states for m in (student, teacher)
        ]
    for ours, theirs in zip(*states, strict=True):
        error = ours.double().numpy() - theirs.double().numpy()
        expected += np.where(padding, 0, error**2).mean()  # the padding's own error stays out
    assert found.unit == "rows"
    assert found.total.item() / len(given.rows) == pytest.approx(expected, rel=1e-5)


def test_weights_multiply_the_losses_and_the_gold_label_joins_if_asked():
    plain = DistillationLoss(Teacher(model(0)), True, True).losses(model(1), batch())
    weighed = DistillationLoss(Teacher(model(0)), True, True, repr_weight=3.0, label_weight=0.5)
    found = weighed.losses(model(1), batch())
    label = LabelLoss().losses(model(1), batch())["label"].total
    torch.testing.assert_close(found["representation"].total, 3 * plain["representation"].total)
    torch.testing.assert_close(found["prediction"].total, plain["prediction"].total)
    torch.testing.assert_close(found["label"].total, 0.5 * label)


@pytest.mark.parametrize("learn_labels", [False, True])
def test_regression_learns_the_teachers_number_or_as_published_the_label(learn_labels):
    teacher, student = model(0, num_labels=1), model(1, num_labels=1)
    gold = batch(labels=(0.5, 2.0, 4.5))
    objective = DistillationLoss(Teacher(teacher), True, False, learn_labels=learn_labels)
    found = objective.losses(student, gold)["prediction"].total.item()
    said, taught = (m(**gold.inputs).logits.squeeze(-1).detach() for m in (student, teacher))
    target = gold.labels if learn_labels else taught
    assert found == pytest.approx((said - target).square().sum().item())


@pytest.mark.parametrize("learn_labels", [False, True])
def test_two_teachers_of_a_regression_make_two_students_unless_labels_are_learnt(learn_labels):
    gradients = []
    for seed in (0, 2):
        student = model(1, num_labels=1)
        objective = DistillationLoss(
            Teacher(model(seed, num_labels=1)), True, False, learn_labels=learn_labels
        )
        objective.losses(student, batch(labels=(0.5, 2.0, 4.5)))["prediction"].total.backward()
        gradients.append(student.classifier.weight.grad)
    assert torch.equal(*gradients) == learn_labels


def test_the_teacher_teaches_in_evaluation_mode_and_gets_no_gradient():
    teacher, student = model(0).train(), model(1)
    objective = DistillationLoss(Teacher(teacher), True, True)
    assert not teacher.training
    losses = objective.losses(student, batch())
    sum(loss.total for loss in losses.values()).backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None for weight in student.parameters())


def test_cached_logits_are_the_teachers_and_never_those_of_another_teacher(tmp_path):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    path = write_cola(tmp_path / "data") / "train.tsv"
    file = encode_file(path, GLUE["CoLA"], tokenizer, 32)
    teacher = load_model(tmp_path / "bert", GLUE["CoLA"], new_classifier=True).eval()
    rows = np.array([7, 1, 30])
    student = copy.deepcopy(teacher)
    guide = Teacher(teacher)
    objective = DistillationLoss(guide, True, False)
    live = objective.losses(student, file.batch(rows))
    alone = Accelerator(cpu=True)
    guide.remember([file], weights_hash(teacher.state_dict()), alone)
    asked = []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    cached = objective.losses(student, file.batch(rows))
    assert not asked
    torch.testing.assert_close(cached["prediction"].total, live["prediction"].total)

    with torch.no_grad():
        teacher.classifier.bias[0] += 5
    again = encode_file(path, GLUE["CoLA"], tokenizer, 32)
    expected = objective.losses(student, again.batch(rows))["prediction"].total
    guide.remember([again], weights_hash(teacher.state_dict()), alone)
    actual = objective.losses(student, again.batch(rows))["prediction"].total
    torch.testing.assert_close(actual, expected)
    assert len(list(file.cache.glob("logits-*.npy"))) == 2


def test_cached_states_give_the_losses_of_the_teacher_itself(tmp_path):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    path = write_cola(tmp_path / "data") / "train.tsv"
    file = encode_file(path, GLUE["CoLA"], tokenizer, 32)
    teacher = load_model(tmp_path / "bert", GLUE["CoLA"], new_classifier=True).eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.1)
    guide = Teacher(teacher)
    objective = DistillationLoss(guide, True, True)
    rows = np.array([7, 1, 30])
    live = objective.losses(student, file.batch(rows))
    guide.remember(
        [file],
        weights_hash(teacher.state_dict()),
        Accelerator(cpu=True),
        list(range(teacher.config.num_hidden_layers + 1)),
    )
    asked = []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    cached = objective.losses(student, file.batch(rows))
    assert not asked
    torch.testing.assert_close(cached["prediction"].total, live["prediction"].total)
    # half precision keeps eleven bits of a state
    torch.testing.assert_close(
        cached["representation"].total, live["representation"].total, rtol=2e-3, atol=0
    )
    assert not list(file.cache.glob(".*"))


def test_a_damaged_memory_of_the_teacher_is_made_again_with_one_line(tmp_path, capsys):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    file = encode_file(write_cola(tmp_path / "data") / "train.tsv", GLUE["CoLA"], tokenizer, 32)
    guide = Teacher(load_model(tmp_path / "bert", GLUE["CoLA"], new_classifier=True))
    batch = file.batch(np.array([7, 1, 30]))
    live = guide.say(batch).logits
    asked = []
    guide.model.register_forward_hook(lambda *_: asked.append(1))
    guide.remember([file], "0" * 32, Accelerator(cpu=True), [0])
    capsys.readouterr()
    for kind in ("logits", "states"):
        (path,) = file.cache.glob(f"{kind}-*.npy")
        whole = path.read_bytes()
        for harmed in (whole[:-9] + b"\x7f" + whole[-8:], whole[:200], whole[:-4]):
            path.write_bytes(harmed)
            asked.clear()
            guide.remember([file], "0" * 32, Accelerator(cpu=True), [0])
            assert asked and path.read_bytes() == whole
            (line,) = capsys.readouterr().out.splitlines()
            assert line.startswith(str(path)) and line.endswith("the teacher is asked again")
    asked.clear()
    guide.remember([file], "0" * 32, Accelerator(cpu=True), [0])
    torch.testing.assert_close(guide.say(batch).logits, live)
    assert not asked


def test_a_full_disk_is_an_error_line_and_leaves_nothing(tmp_path, monkeypatch):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    file = encode_file(write_cola(tmp_path / "data") / "train.tsv", GLUE["CoLA"], tokenizer, 32)
    teacher = load_model(tmp_path / "bert", GLUE["CoLA"], new_classifier=True).eval()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RositaError, match="no room for .* GB .* No space left on device"):
        Teacher(teacher).remember([file], "0" * 32, Accelerator(cpu=True), [0, 3])
    assert not list(file.cache.glob("*.npy")) and not list(file.cache.glob(".*"))


def test_a_teacher_that_says_nan_is_an_error_and_is_not_cached(tmp_path):
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    file = encode_file(write_cola(tmp_path / "data") / "train.tsv", GLUE["CoLA"], tokenizer, 32)
    teacher = load_model(tmp_path / "bert", GLUE["CoLA"], new_classifier=True).eval()
    with torch.no_grad():
        teacher.classifier.bias[0] = float("nan")
    with pytest.raises(RositaError, match="NaN or infinite logits on .*train.tsv"):
        Teacher(teacher).remember([file], "0" * 32, Accelerator(cpu=True))
    assert not list(file.cache.glob("*.npy")) and not list(file.cache.glob(".*"))


def test_a_teacher_frozen_in_bf16_loses_no_more_than_autocast_does():
    given, teacher = batch().inputs, model(0).eval()
    accelerator = SimpleNamespace(mixed_precision="bf16", device=torch.device("cpu"))
    frozen = freeze(copy.deepcopy(teacher), accelerator)
    with torch.no_grad():
        exact = teacher(**given, output_hidden_states=True)
        with torch.autocast("cpu", torch.bfloat16):
            cast = teacher(**given, output_hidden_states=True)
            found = frozen(**given, output_hidden_states=True)
    assert all(not weight.requires_grad for weight in frozen.parameters())
    for expected, auto, actual in zip(
        (exact.logits, *exact.hidden_states),
        (cast.logits, *cast.hidden_states),
        (found.logits, *found.hidden_states),
        strict=True,
    ):
        loss = (auto.float() - expected).square().mean().sqrt()
        assert (actual.float() - expected).square().mean().sqrt() <= 1.5 * loss + 1e-6
