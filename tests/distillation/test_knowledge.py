"""Which part of a teacher's hidden states is followed, against formulas and transformers' maps."""

import copy
import itertools

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from conftest import make_bert, write_cola

from rosita.checkpoint import load_model
from rosita.config import HskAmount, hsk_amount
from rosita.data.encode import encode_file
from rosita.distillation.knowledge import Knowledge, State, layer_map
from rosita.distillation.losses import DistillationLoss
from rosita.distillation.teacher import Teacher
from rosita.errors import RositaError
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer

ROWS = np.array([7, 1, 30, 4])
LENGTHS = ("left_first", "attention", "attention_no_sep")
WIDTHS = ("rand_mask", "uniform_mask", "importance_mask_dynamic")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT's folder, its model with distinct layers, and the rows of a file."""
    folder = tmp_path_factory.mktemp("knowledge")
    path = make_bert(folder / "bert")
    tokenizer = read_tokenizer(path)
    data = write_cola(folder / "data")
    file = encode_file(data / "train.tsv", GLUE["CoLA"], tokenizer, 32)
    model = load_model(path, GLUE["CoLA"], new_classifier=True).eval()
    return path, model, file, tokenizer.pieces["[SEP]"]


@pytest.mark.parametrize(
    "word, amount",
    [
        ("1l_10t_0.1h", (1, 10, 0.1)),
        ("3l", (3, None, 1.0)),
        ("12t", (None, 12, 1.0)),
        ("2l_.5h", (2, None, 0.5)),
        (None, (None, None, 1.0)),
    ],
)
def test_a_word_names_states_tokens_and_share(word, amount):
    assert hsk_amount(word) == HskAmount(*amount)


@pytest.mark.parametrize(
    "word", ["", "_", "1", "10t_1l", "1l__2t", "_1l", "1l_", "0l", "0t", "0h", "1.5h", "1l2t", "h"]
)
def test_other_words_are_refused(word):
    with pytest.raises(ValueError, match="must be of the form 1l_10t_0.1h|needs at least one"):
        hsk_amount(word)


def test_depth_is_the_last_states_of_the_student_spread_over_the_teachers_first_layers():
    assert layer_map(12, 6, "t_top8") == dict(enumerate([0, 1, 2, 4, 5, 6, 8]))
    assert layer_map(12, 6, "t_top12") == layer_map(12, 6)
    assert Knowledge(HskAmount(layers=1), "t_top8").mapping(12, 6) == {6: 8}
    assert Knowledge(HskAmount(layers=2), "t_top10").mapping(12, 6) == {5: 8, 6: 10}
    assert Knowledge().mapping(6, 4) == layer_map(6, 4)


def test_a_map_that_wants_more_layers_than_the_teacher_has_is_refused():
    for layers, kind in (((2, 4), "last"), ((6, 4), "t_top7")):
        with pytest.raises(RositaError, match=f"layer_map {kind}"):
            layer_map(*layers, kind)
    assert layer_map(4, 4, "last") == layer_map(4, 4) == layer_map(4, 4, "t_top4")


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_places_are_the_first_or_those_that_transformers_says_cls_attends_to(
    bert, length, number
):
    folder, model, file, sep = bert
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    batch, tokens = file.batch(ROWS), 3
    knowledge = Knowledge(HskAmount(tokens=tokens), length=length, sep_id=sep)
    places = Teacher(model, knowledge).say(batch, [number]).states[number].places.numpy()
    with torch.no_grad():
        maps = theirs(**batch.inputs, output_attentions=True).attentions
    from_first = maps[max(0, number - 1)].mean(dim=1)[:, 0].numpy()  # (rows, length)
    ids, mask = (batch.inputs[name].numpy() for name in ("input_ids", "attention_mask"))
    for row in range(len(ROWS)):
        allowed = [
            place
            for place in range(mask[row].sum())
            if length != "attention_no_sep" or ids[row, place] != sep
        ]
        if length != "left_first":
            allowed.sort(key=lambda place: -from_first[row, place])
        assert set(np.flatnonzero(places[row])) == set(allowed[:tokens])
    assert (places.sum(axis=1) == knowledge.token_counts(file)[ROWS]).all()


def test_fixed_units_are_evenly_spread_or_drawn_once_from_the_seed():
    spread = Knowledge(HskAmount(hidden=0.25), width="uniform_mask").units(32)
    assert spread.tolist() == list(range(0, 32, 4))
    drawn = [Knowledge(HskAmount(hidden=0.25), width="rand_mask", seed=seed) for seed in (1, 1, 2)]
    first, again, other = (knowledge.units(32).tolist() for knowledge in drawn)
    assert first == again != other and len(set(first)) == 8 and first == sorted(first)


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_error_is_that_of_the_masked_target_or_of_the_kept_units_alone(width, left_out):
    random = np.random.default_rng(3)
    student, teacher = random.normal(size=(2, 3, 5, 8))
    places = np.array([[1, 0, 1, 0, 0], [1, 1, 1, 1, 0], [0, 1, 0, 0, 0]], dtype=bool)
    knowledge = Knowledge(HskAmount(hidden=0.25), width=width, left_out=left_out)
    units = knowledge.units(8)
    kept = np.zeros(teacher.shape, dtype=bool)
    if units is None:
        at_places = np.where(places[..., None], np.abs(teacher), -1)
        for row in range(3):
            number = round(0.25 * places[row].sum() * 8)
            kept[row].reshape(-1)[np.argsort(-at_places[row].reshape(-1))[:number]] = True
    else:
        kept[..., units.numpy()] = True
    kept &= places[..., None]
    if left_out:
        expected = ((student - teacher) ** 2 * kept).sum() / (0.25 * 8)
    else:
        expected = ((student - teacher * kept) ** 2 * places[..., None]).sum() / 8
    values = torch.tensor(teacher if units is None else teacher[..., units.numpy()])
    state = State(values, torch.tensor(places), units)
    found = knowledge.squared_error(torch.tensor(student), state)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_part_from_memory_gives_the_loss_of_the_teacher_itself(bert, tmp_path, length, width):
    folder, model, file, sep = bert
    file = copy.copy(file)
    file.cache = tmp_path
    knowledge = Knowledge(
        HskAmount(2, 3, 0.25), length=length, width=width, left_out=True, sep_id=sep
    )
    guide = Teacher(copy.deepcopy(model), knowledge)
    objective = DistillationLoss(guide, True, True, positions=32)
    student = load_model(folder, GLUE["CoLA"], new_classifier=True).eval()
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.1)
    live = objective.losses(student, file.batch(ROWS))
    numbers = sorted(guide.mapping(student.config.num_hidden_layers).values())
    guide.remember([file], "0" * 32, Accelerator(cpu=True), numbers)
    guide.model.register_forward_hook(lambda *_: pytest.fail("the teacher is asked"))
    cached = objective.losses(student, file.batch(ROWS))
    torch.testing.assert_close(cached["prediction"].total, live["prediction"].total)
    torch.testing.assert_close(
        cached["representation"].total, live["representation"].total, rtol=2e-3, atol=0
    )
    written = sum(
        np.load(path, mmap_mode="r").nbytes
        for kind in ("states", "places")
        for path in tmp_path.glob(f"{kind}-*.npy")
    )
    assert written == guide.states_bytes([file], numbers)
    seen = live["representation"]
    assert seen.unit == "rows"
    total = sum(
        knowledge.squared_error(ours, guide.say(file.batch(ROWS), [number]).states[number])
        for ours, number in zip(
            student(**file.batch(ROWS).inputs, output_hidden_states=True).hidden_states[-2:],
            numbers,
            strict=True,
        )
    )
    torch.testing.assert_close(seen.total, total / 3, rtol=2e-3, atol=0)


def test_two_amounts_do_not_share_a_memory(bert, tmp_path):
    _, model, file, sep = bert
    file = copy.copy(file)
    file.cache = tmp_path
    words = ("3t_0.25h", "3t_0.5h", "4t_0.25h", None)
    for word, width in itertools.product(words, ("rand_mask", "uniform_mask")):
        for seed in (1, 2):
            knowledge = Knowledge(
                hsk_amount(word), length="attention", width=width, sep_id=sep, seed=seed
            )
            Teacher(model, knowledge).remember([file], "0" * 32, Accelerator(cpu=True), [1])
    names = {path.name for path in tmp_path.glob("states-*.npy")}
    assert len(names) == 3 * (2 + 1) + 1  # the seed decides where units are drawn


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_counts_alike_in_whatever_batch_it_comes(bert, width):
    _, model, file, sep = bert
    student = copy.deepcopy(model)
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.1)
    for row_means in (False, True):
        knowledge = Knowledge(
            HskAmount(2, 6, 0.25), length="attention", width=width, row_means=row_means, sep_id=sep
        )
        objective = DistillationLoss(Teacher(model, knowledge), False, True)
        together = objective.losses(student, file.batch(ROWS))["representation"]
        alone = [objective.losses(student, file.batch(ROWS[i : i + 1])) for i in range(len(ROWS))]
        found = sum(losses["representation"].total for losses in alone)
        torch.testing.assert_close(together.total, found, rtol=1e-4, atol=0)


def test_a_mean_over_tokens_is_over_those_that_a_row_has(bert):
    _, model, file, sep = bert
    student = copy.deepcopy(model)
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.1)
    few, many = (
        DistillationLoss(
            Teacher(model, Knowledge(HskAmount(1, tokens), row_means=True)), False, True
        )
        for tokens in (40, 60)  # more than any row has
    )
    found = [one.losses(student, file.batch(ROWS))["representation"] for one in (few, many)]
    assert found[0].unit == "rows"
    torch.testing.assert_close(found[0].total, found[1].total)
    state = Teacher(model, few.teacher.knowledge).say(
        file.batch(ROWS), [model.config.num_hidden_layers]
    )
    said = state.states[model.config.num_hidden_layers]
    ours = student(**file.batch(ROWS).inputs, output_hidden_states=True).hidden_states[-1]
    error = (ours - said.values).square().mean(dim=-1)
    expected = sum(error[row][said.places[row]].mean() for row in range(len(ROWS)))
    torch.testing.assert_close(found[0].total, expected)
