import copy
import itertools
import math
import re
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import make_bert, write_cola
from tqdm import tqdm

from rosita.checkpoint import load_model
from rosita.config import KDSettings
from rosita.data.batches import Sampler
from rosita.data.encode import encode_file
from rosita.distillation.losses import DistillationLoss, LabelLoss
from rosita.distillation.teacher import Teacher
from rosita.errors import RositaError
from rosita.evaluation import Scores
from rosita.files import read_torch, write_torch
from rosita.pruning.cut import Cut, prune
from rosita.pruning.importance import TaylorImportance
from rosita.pruning.moments import put_moments, surviving_moments
from rosita.pruning.schedule import PruningSchedule
from rosita.pruning.shape import Shape
from rosita.runtime import start_accelerator
from rosita.stages.distil import check_warmup
from rosita.stages.preflight import evaluation_count
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer
from rosita.training.embedding import Vocabulary, used_tokens
from rosita.training.loop import Interrupted, Training
from rosita.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    rate_share,
    set_rate,
)
from rosita.training.plan import Plan, Progress, total_steps
from rosita.training.state import resume, save_state, state_file

COLA = GLUE["CoLA"]


class Bench:
    """A tiny model and task, and runs of the loop over them."""

    def __init__(self, folder):
        self.folder = folder
        bert = make_bert(folder / "bert")
        self.model = load_model(bert, COLA, new_classifier=True)
        write_cola(folder / "data")
        path = folder / "data" / "train.tsv"
        self.file = encode_file(path, COLA, read_tokenizer(bert), 32)
        self.saved = []
        self.rungs = []
        self.evaluations = []  # of the best models
        self.used = None

    def _save(self, model, name="", evaluation=None):
        self.saved.append((name, str(Shape.of(model.config))))
        if name:
            self.rungs.append((name, evaluation))
        else:
            self.evaluations.append(evaluation)

    def training(self, name="run", plan=None, objective=None, evaluate=None, batch=8, **settings):
        defaults = {
            "weight_decay": 0.01,
            "save_state_steps": 1000,
            "num_train_epochs": 2.0,
            "learning_rate": 1e-3,
            "precision": "fp32",  # the claims are exact to rounding, on any machine
        }
        made = KDSettings(
            output_dir="o",
            teacher_model="t",
            student_model="s",
            pred_distill=True,
            **(defaults | settings),
        )
        plan = Plan(made, micro_batch_size=batch, **(plan or {}))
        return Training(
            copy.deepcopy(self.model), objective or LabelLoss(), Sampler([self.file], batch, 1),
            plan, start_accelerator(made), self.folder / name, evaluate,
            self._save, self.used,
        )  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def weights(training):
    return {name: value.clone() for name, value in training.whole_model.state_dict().items()}


def numbers(entry):
    """An entry of the history without its texts."""
    return {name: value for name, value in entry.items() if not isinstance(value, str)}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, msg=name)


class Dev:
    """Scores that are given, one per evaluation; the last one repeats. None: a collapsed model."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, model):
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if value == "kill":
            raise KeyError
        collapsed = value is None
        return Scores(value or 0.0, "matthews", {"matthews": value or 0.0}, collapsed)


def teacher_loss(bench, seed=9):
    torch.manual_seed(seed)
    teacher = copy.deepcopy(bench.model)
    for weight in teacher.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return DistillationLoss(Teacher(teacher), True, True)


def cut_after(training, last):
    """Run until step `last`; its state is saved, and the run is cut off."""
    after_step = training._after_step

    def cut(step, bar):
        after_step(step, bar)
        if step == last:
            save_state(training)
            raise Interrupted

    training._after_step = cut
    with pytest.raises(Interrupted):
        training.run()


def depth_plan(bench):
    target = replace(Shape.of(bench.model.config), keep_layers=1)
    return {"schedule": PruningSchedule.plan(bench.model.config, target, "depth", 8, 10)}


def width_plan(bench, steps=8, **how):
    schedule = PruningSchedule.plan(bench.model.config, Shape(2, 3, 20, 8), "width", steps, 10)
    return {"schedule": replace(schedule, **how)}


def use_few_tokens(bench):
    """Leave some words of the vocabulary out of the training; [PAD] and unused rows are there."""
    bench.used = used_tokens([bench.file], bench.model.config.vocab_size)
    assert 10 < len(bench.used) < bench.model.config.vocab_size - 10


def published_adam(weight, gradients, rate, decay, betas=(0.9, 0.999), epsilon=1e-6):
    """The published KD scripts' Adam, written out in float64: no bias correction."""
    weight, first, second = weight.double(), 0.0, 0.0
    for gradient in gradients:
        first = betas[0] * first + (1 - betas[0]) * gradient.double()
        second = betas[1] * second + (1 - betas[1]) * gradient.double() ** 2
        weight = weight - rate * (first / (second.sqrt() + epsilon) + decay * weight)
    return weight


def test_without_bias_correction_a_step_is_that_of_the_published_adam():
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(5, 4)
    start = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    settings = KDSettings(
        output_dir="o", teacher_model="t", student_model="s", pred_distill=True, weight_decay=0.1
    )
    optimizer = build_optimizer(layer, settings)
    given = {name: [] for name in start}
    for done in range(40):
        for name, weight in layer.named_parameters():
            weight.grad = torch.randn(weight.shape, generator=generator) * 1e-4  # epsilon counts
            given[name].append(weight.grad.clone())
        set_rate(optimizer, settings, 1e-2, done)
        optimizer.step()
    for name, weight in layer.named_parameters():
        expected = published_adam(start[name], given[name], 1e-2, 0.1 if name == "weight" else 0)
        torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_each_layer_moves_by_its_part_of_the_rate(bench):
    """Adam's first step, corrected, is the rate itself in every weight that has a gradient."""
    training = bench.training(
        lr_schedule="none",
        learning_rate=1e-3,
        layer_decay=0.5,
        bias_correction=True,
        weight_decay=0.0,
        adam_epsilon=1e-12,
        max_steps=1,
    )
    before = weights(training)
    training.run()
    layers = bench.model.config.num_hidden_layers
    seen = set()
    for name, value in weights(training).items():
        where = re.search(r"embeddings|layer\.\d+|pooler|classifier", name)[0]
        below_top = {"embeddings": layers, "pooler": 0, "classifier": 0} | {
            f"layer.{number}": layers - 1 - number for number in range(layers)
        }
        moved = (value - before[name]).abs().max()
        if not name.endswith("key.bias"):  # has no gradient: softmax takes no notice of it
            torch.testing.assert_close(
                moved, torch.tensor(1e-3 * 0.5 ** below_top[where]), rtol=1e-3, atol=0, msg=name
            )
        seen.add(where)
    assert len(seen) == layers + 3


def test_the_projection_of_the_embedding_is_of_the_embedding(bench):
    shares = {
        name: rate_share(name, layers=4, decay=0.5)
        for name in (
            "bert.embeddings.word_embeddings.weight",
            "bert.embeddings_project.weight",
            "bert.encoder.layer.0.output.dense.weight",
            "classifier.bias",
        )
    }
    assert list(shares.values()) == [0.5**4, 0.5**4, 0.5**3, 1.0]


def test_the_missing_correction_makes_a_step_as_much_longer_as_the_formula_says():
    settings = KDSettings(output_dir="o", teacher_model="t", student_model="s", pred_distill=True)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), settings)
    factors = {}
    for step in (1, 10, 332):
        set_rate(optimizer, settings, 1.0, step - 1)
        factors[step] = round(optimizer.param_groups[0]["lr"], 1)
    assert factors == {1: 3.2, 10: 6.5, 332: 1.9}


def test_the_missing_correction_starts_anew_with_the_optimizer_after_a_pruning(bench):
    plan = width_plan(bench)
    training = bench.training(plan=plan, objective=teacher_loss(bench), lr_schedule="none")
    training.run()
    since = training.total_steps - plan["schedule"].count * plan["schedule"].period + 1
    assert 0 < since < training.total_steps
    factor = (1 - 0.9**since) / (1 - 0.999**since) ** 0.5
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor)


@pytest.mark.parametrize("together", [False, True])
def test_gradients_are_clipped_together_or_tensor_by_tensor(together):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(4)]
    for size, weight in zip((0.01, 0.5, 3.0), weights, strict=False):  # the last one has none
        weight.grad = size * torch.randn(3, 4, generator=generator)
    before = [weight.grad.double() for weight in weights[:3]]
    norms = [gradient.norm() for gradient in before]
    if together:
        norms = [torch.stack(norms).norm()] * 3
    clip_gradients(weights, 1.0, together)
    for weight, gradient, norm in zip(weights, before, norms, strict=False):
        expected = gradient / max(1.0, norm.item())
        torch.testing.assert_close(weight.grad.double(), expected, rtol=1e-5, atol=0)
    assert weights[3].grad is None


@pytest.mark.parametrize(
    ("pruned", "layer_decay"), [(None, 1.0), ("width", 1.0), (None, 0.5), ("depth", 0.5)]
)
def test_leaving_unused_embedding_rows_out_changes_nothing(bench, pruned, layer_decay):
    plan = {"width": width_plan, "depth": depth_plan}[pruned](bench) if pruned else {}
    settings = {"weight_decay": 0.1, "learning_rate": 1e-2, "layer_decay": layer_decay}
    dense = bench.training("dense", plan, teacher_loss(bench), **settings)
    torch.manual_seed(5)
    dense.run()
    use_few_tokens(bench)
    compact = bench.training("compact", plan, teacher_loss(bench), **settings)
    assert compact.student.bert.get_input_embeddings().weight.shape[0] == len(bench.used)
    torch.manual_seed(5)
    compact.run()
    for name, value in weights(dense).items():
        torch.testing.assert_close(weights(compact)[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_used_row_has_its_gradient_whatever_the_id_of_the_padding(bench):
    rows = np.arange(len(bench.file))
    for pad, filled in ((1, 1), (60, 60), (1, 0)):  # a piece that no row has; a word; two pieces
        file = replace(bench.file, pad_id=filled)
        model = copy.deepcopy(bench.model).eval()
        model.config.pad_token_id = pad
        model.bert.set_input_embeddings(
            torch.nn.Embedding.from_pretrained(
                model.bert.get_input_embeddings().weight.detach(), freeze=False, padding_idx=pad
            )
        )
        shrunk = copy.deepcopy(model)
        vocabulary = Vocabulary(used_tokens([file], model.config.vocab_size))
        vocabulary.shrink(shrunk)
        for one in (model, shrunk):
            one(**file.batch(rows).inputs).logits.square().sum().backward()
        whole = model.bert.get_input_embeddings().weight.grad
        torch.testing.assert_close(
            shrunk.bert.get_input_embeddings().weight.grad, whole[vocabulary.used]
        )
        assert (whole[pad] == 0).all() and whole.abs().sum() > 0


def test_a_token_that_was_said_to_be_unused_is_an_error_and_no_other_row(bench):
    vocabulary = Vocabulary(torch.tensor([0, 3, 5]))
    shrunk = copy.deepcopy(bench.model)
    vocabulary.shrink(shrunk)
    embedding = shrunk.bert.get_input_embeddings()
    full = bench.model.bert.get_input_embeddings()
    torch.testing.assert_close(embedding(torch.tensor([5, 3])), full(torch.tensor([5, 3])))
    with pytest.raises(IndexError):
        embedding(torch.tensor([4]))


@pytest.mark.parametrize("iterative", [False, True])
@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_a_run_cut_off_and_resumed_ends_with_bitwise_the_same(bench, iterative, stop_at):
    use_few_tokens(bench)
    plan = width_plan(bench) if iterative else {}
    whole = bench.training("whole", plan, teacher_loss(bench), Dev(0.1, 0.3, 0.2), eval_step=3)
    expected = whole.run()

    dev = Dev(0.1, 0.3, 0.2)
    first = bench.training("cut", plan, teacher_loss(bench), dev, eval_step=3)
    cut_after(first, stop_at)
    torch.manual_seed(12345)  # another process has another random state
    second = bench.training("cut", plan, teacher_loss(bench), dev, eval_step=3)
    torch.rand(17)
    progress = second.run()
    assert_equal(weights(second), weights(whole))
    assert progress.best == expected.best
    assert progress.history == expected.history


def test_a_state_with_any_bit_flipped_or_cut_off_is_never_taken(bench, capsys):
    first = bench.training("cut", num_train_epochs=1.0)
    first.run()
    save_state(first)
    path, whole = state_file(first.folder), state_file(first.folder).read_bytes()
    assert torch.load(path, weights_only=True)["progress"]["step"] == 5  # torch reads it as ever
    places = torch.randint(8 * len(whole), (30,), generator=torch.Generator().manual_seed(0))
    tail = range(8 * len(whole) - 400, 8 * len(whole), 7)  # the archive's directory, the checksum
    for place in [0, *places.tolist(), *tail]:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(RositaError, match="altered"):
            read_torch(path, sealed=True)
    second = bench.training("cut", num_train_epochs=1.0)
    for harmed in (whole[:-1], b"", bytes(damaged)):
        path.write_bytes(harmed)
        resume(second)
        assert second.progress.step == 0
        line, end = capsys.readouterr().out.splitlines()[-1].rsplit("; ", 1)
        assert str(path) in line and end == "the run begins again"
    path.write_bytes(whole)
    resume(second)
    assert second.progress.step == 5


def test_the_state_of_another_run_is_refused(bench):
    first = bench.training("cut", num_train_epochs=1.0)
    save_state(first)
    second = bench.training("cut", num_train_epochs=1.0)
    second.run_hash = "another"
    with pytest.raises(RositaError, match="state.pt is the state of another run; move"):
        second.run()


def test_accumulating_micro_batches_gives_the_losses_and_weights_of_the_whole_batch(bench):
    for module in bench.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    objective = teacher_loss(bench)
    whole = bench.training("a", {}, objective)
    split = bench.training("b", {}, objective)
    split.plan.micro_batch_size = 3  # 3 + 3 + 2 rows: uneven, and padded differently
    first, second = whole.run(), split.run()
    for mine, theirs in zip(first.history, second.history, strict=True):
        assert numbers(mine) == pytest.approx(numbers(theirs), rel=1e-4)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(split)[name], rtol=1e-3, atol=1e-5, msg=name)


def test_scoring_changes_no_weight(bench):
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    training = bench.training("score", {"update": False})
    training.run()
    assert_equal(weights(training), before)
    assert training.importance.steps == training.total_steps == 10


@pytest.mark.parametrize("per_epoch", [1, 3, 7, 10, 100, 236])
def test_a_part_of_an_epoch_is_so_many_steps_and_none_more_by_rounding(per_epoch):
    sampler = Sampler([range(per_epoch)], 1, 0)  # of a file only its rows are counted
    for hundredths in range(1, 1000):
        settings = KDSettings(output_dir="o", teacher_model="t", student_model="s",
                              pred_distill=True, num_train_epochs=hundredths / 100)  # fmt: skip
        assert total_steps(settings, sampler) == -(-hundredths * per_epoch // 100)


def test_the_rate_warms_up_linearly_and_decays_to_zero(bench):
    training = bench.training("rate", {"warmup_steps": 2}, lr_schedule="warmup_linear")
    assert training.total_steps == 10
    rates = [training.rate(done) for done in range(11)]
    expected = [0, 0.5, 1] + [(10 - done) / 8 for done in range(3, 11)]
    assert rates == pytest.approx([1e-3 * value for value in expected])


def test_after_a_pruning_the_rate_goes_on_from_where_it_was_and_ends_at_zero(bench):
    training = bench.training("anchor", lr_schedule="warmup_linear")
    training.progress.anchor_step, training.progress.anchor_rate = 4, 6e-4
    assert training.rate(4) == pytest.approx(6e-4)
    assert training.rate(7) == pytest.approx(3e-4)
    assert training.rate(10) == 0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3])
def test_no_run_is_pruned_where_its_rate_is_zero_and_so_would_stay(share):
    settings = KDSettings(
        output_dir="o",
        teacher_model="t",
        student_model="s",
        pred_distill=True,
        warmup_proportion=share,
    )
    for steps, period in itertools.product((5, 10, 30), (1, 2, 3, 4)):
        schedule = PruningSchedule(Shape(4, 3, 48), Shape(4, 2, 48), 32, "depth", period)
        plan = Plan(settings, share * steps, schedule=schedule)
        rate = learning_rate(plan, Progress(), steps, period - 1)
        try:
            check_warmup(settings, steps, schedule)
        except RositaError:
            assert rate < settings.learning_rate * (steps - period + 1) / steps
        else:
            assert rate > 0


def test_a_constant_rate_stays_through_prunings(bench):
    training = bench.training("none", lr_schedule="none")
    training.progress.anchor_step, training.progress.anchor_rate = 4, 1e-3
    assert [training.rate(done) for done in (0, 5, 10)] == [1e-3] * 3


def test_a_cosine_rate_follows_half_a_cosine_after_its_warm_up(bench):
    training = bench.training("cosine", {"warmup_steps": 2}, lr_schedule="warmup_cosine")
    expected = [0, 0.5] + [(1 + math.cos(math.pi * done / 8)) / 2 for done in range(9)]
    rates = [training.rate(done) for done in range(11)]
    assert rates == pytest.approx([1e-3 * value for value in expected])


def test_the_decay_can_wait_for_the_last_pruning(bench):
    plan = width_plan(bench)
    shape = {"keep_heads": 2, "keep_layers": 3, "ffn_hidden_dim": 20, "emb_hidden_dim": 8}
    training = bench.training(
        "wait", plan, lr_schedule="decay_after_pruning", depth_or_width="width", **shape
    )
    last = plan["schedule"].count * plan["schedule"].period
    assert 0 < last < training.total_steps == 10
    expected = [min(1, (10 - done) / (10 - last)) for done in range(11)]
    assert [training.rate(done) for done in range(11)] == pytest.approx(
        [1e-3 * value for value in expected]
    )


@pytest.mark.parametrize("keep", [False, True])
def test_moments_go_through_a_pruning_with_their_weights_or_begin_from_zero(bench, keep):
    plan = width_plan(bench, keep_optimizer=keep)
    training = bench.training("moments", plan, teacher_loss(bench))
    training.use(prune(training.whole_model, Shape(4, 3, 48, 20)))
    training.importance = TaylorImportance(training.student)
    for weight in training.student.parameters():
        weight.grad = torch.randn_like(weight)
    training.importance.add(training.student)
    training.optimizer.step()
    for weight in training.student.parameters():  # a moment that tells whose it is
        training.optimizer.state[weight]["exp_avg"].copy_(weight.detach())
    training._prune(5, Shape(2, 3, 20, 8), plan["schedule"], tqdm(disable=True))
    state = training.optimizer.state
    if not keep:
        assert not state
        return
    for name, weight in training.student.named_parameters():
        assert state[weight]["step"] == 1
        assert state[weight]["exp_avg_sq"].shape == weight.shape
        torch.testing.assert_close(state[weight]["exp_avg"], weight.detach(), msg=name)


def test_new_factors_of_the_embedding_make_the_published_first_step_beside_kept_moments(bench):
    settings = bench.training(weight_decay=0.0).settings
    model = copy.deepcopy(bench.model)
    optimizer = build_optimizer(model, settings)
    steps, rate = 7, 1e-3
    for done in range(steps):
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        set_rate(optimizer, settings, rate, done)
        optimizer.step()
    cut = Cut.decide(model.config, Shape(4, 3, 48, 8))
    small = cut.of_model(model)
    after = build_optimizer(small, settings)
    moments = surviving_moments(model, optimizer, cut)
    put_moments(small, after, moments, counted=settings.bias_correction)
    factors = {n: w for n, w in small.named_parameters() if ".word_embeddings" in n}
    assert len(factors) == 2
    before = {name: weight.detach().clone() for name, weight in factors.items()}
    for weight in small.parameters():
        weight.grad = torch.randn_like(weight)
    set_rate(after, settings, rate, steps)
    after.step()
    for name, weight in factors.items():
        expected = published_adam(before[name], [weight.grad], rate, 0.0)
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-7)


def test_only_models_of_the_final_shape_are_candidates_whatever_their_score(bench):
    dev = Dev(0.9, 0.8, -0.5, -0.7)  # the first two come before the last pruning
    training = bench.training("best", width_plan(bench, 6), teacher_loss(bench), dev, eval_step=2)
    progress = training.run()
    assert progress.best["score"] == -0.5 and progress.best["shape"] == "a2_l3_f20_e8"
    assert bench.saved == [("", "a2_l3_f20_e8")]


@pytest.mark.parametrize("values, best", [((None, -0.05, None, -0.2), 4), ((0.1, None), 2)])
def test_a_collapsed_model_is_worse_than_any_other_and_the_training_goes_on(
    bench, capsys, values, best
):
    progress = bench.training("collapse", evaluate=Dev(*values), eval_step=2).run()
    entries = [entry for entry in progress.history if "score" in entry]
    repeated = [*values, *[values[-1]] * 5]
    for entry, value in zip(entries, repeated, strict=False):
        assert entry.get("collapsed") == (True if value is None else None)
    assert len(entries) == 5 and progress.best["step"] == best
    assert "collapsed" not in progress.best
    assert len(bench.saved) == (2 if values[0] is None else 1)
    said = capsys.readouterr().out
    expected = repeated[:5].count(None)
    assert said.count("dev matthews 0.0000 (all predictions are the same), best") == expected
    assert "warning" not in said


def test_a_run_whose_best_model_is_collapsed_ends_with_one_line_that_says_what_to_try(
    bench, capsys
):
    progress = bench.training("flat", evaluate=Dev(None), eval_step=2).run()
    assert progress.best["collapsed"] and progress.best["step"] == 2
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "lower --learning_rate" in warnings[0] and "--precision fp32" in warnings[0]


def test_iterative_pruning_visits_the_schedule_and_prunes_with_the_scores_so_far(bench):
    training = bench.training("visit", width_plan(bench), teacher_loss(bench), Dev(0.1))
    shapes = [
        (e["step"], e["shape"]) for e in training.run().history if "score" not in e and "shape" in e
    ]
    assert shapes == [(4, "a3_l3_f34_e20"), (8, "a2_l3_f20_e8")]


def test_a_ladder_keeps_the_model_of_every_shape_just_before_its_pruning_with_its_score(bench):
    plan, dev = width_plan(bench, save_ladder=True), Dev(0.1, 0.2, 0.3)
    progress = bench.training("ladder", plan, teacher_loss(bench), dev, eval_step=3).run()
    assert progress.best["shape"] == "a2_l3_f20_e8"
    rungs = [(name, entry["step"], entry["score"]) for name, entry in bench.rungs]
    # prunings come before steps 4 and 8; step 3 has been evaluated already
    assert rungs == [("ladder/a4_l3_f48_e-1", 3, 0.1), ("ladder/a3_l3_f34_e20", 7, 0.3)]
    assert bench.saved[:2] == [(name, name.removeprefix("ladder/")) for name, *_ in rungs]


@pytest.mark.parametrize("eval_step, steps", [(1, 8), (3, 8), (5, 8), (2, 4), (100, 8)])
@pytest.mark.parametrize("ladder", [False, True])
def test_a_dry_run_announces_as_many_evaluations_as_the_run_makes(bench, eval_step, steps, ladder):
    plan = width_plan(bench, steps, save_ladder=ladder)
    training = bench.training("count", plan, teacher_loss(bench), Dev(0.1), eval_step=eval_step)
    made = [entry for entry in training.run().history if entry["kind"] == "dev"]
    assert evaluation_count(training.plan, training.total_steps) == len(made)


def test_patience_stops_after_that_many_epochs_without_a_gain(bench):
    how = {"eval_step": 1, "patience": 0.6}  # 3 of the 5 steps of an epoch
    progress = bench.training("patience", evaluate=Dev(0.1, 0.2, 0.15), **how).run()
    assert progress.step == 5 and progress.best["step"] == 2


def test_patience_waits_for_an_evaluation(bench):
    """Of 5 steps an epoch the first scores are at 3 and 6: at 4 nothing new is known."""
    how = {"eval_step": 3, "patience": 0.2}
    progress = bench.training("patience", evaluate=Dev(0.1, 0.2, 0.1), **how).run()
    assert progress.step == 9 and progress.best["step"] == 6


def test_a_best_model_that_is_later_than_the_state_stays_the_best_with_its_score(bench):
    """A killed run had written the model of step 4; its state is that of step 3."""
    how = {"eval_step": 2, "save_state_steps": 3}
    with pytest.raises(KeyError):  # as good as a kill
        bench.training("late", evaluate=Dev(0.5, 0.8, "kill"), **how).run()
    state = read_torch(state_file(bench.folder / "late"), sealed=True)
    assert state["progress"]["step"] == 3 and state["progress"]["best"]["score"] == 0.5
    written = bench.evaluations[-1]
    assert (written["step"], written["score"]) == (4, 0.8)

    training = bench.training("late", evaluate=Dev(0.4), **how)  # to other bits
    training.saved = written
    progress = training.run()
    assert progress.step == 10 and progress.best == written
    assert bench.evaluations[-1] is written  # no worse one was written over it


def test_a_run_cut_off_where_its_patience_ends_takes_no_step_more(bench):
    how = {"eval_step": 1, "patience": 0.6}  # 3 of the 5 steps of an epoch
    whole = bench.training("whole", evaluate=Dev(0.1, 0.2, 0.15), **how).run()
    assert whole.step == 5
    cut_after(bench.training("cut", evaluate=Dev(0.1, 0.2, 0.15), **how), whole.step)
    resumed = bench.training("cut", evaluate=Dev(0.15), **how).run()
    assert (resumed.step, resumed.history) == (whole.step, whole.history)


def test_patience_counts_from_a_best_model_that_is_later_than_the_state_and_a_pruning(bench):
    """Prunings come before steps 4 and 8; the state is that of step 7, the best model of step 9."""
    plan, given = width_plan(bench), [0.1] * 7
    how = {"eval_step": 1, "patience": 0.6, "num_train_epochs": 4.0}
    dev = Dev(*given, 0.5, 0.8, 0.4)
    whole = bench.training("whole", plan, teacher_loss(bench), dev, **how).run()
    assert (whole.best["step"], whole.step) == (9, 12)
    cut_after(bench.training("cut", plan, teacher_loss(bench), Dev(0.1), **how), 7)
    resumed = bench.training("cut", plan, teacher_loss(bench), Dev(0.5, 0.8, 0.4), **how)
    resumed.saved = whole.best  # it was written before the run was killed
    progress = resumed.run()
    assert (progress.step, progress.history) == (whole.step, whole.history)


def test_the_model_is_evaluated_at_the_end_once(bench):
    for every, steps in ((4, [4, 8, 10]), (5, [5, 10]), (50, [10])):
        progress = bench.training(f"end{every}", evaluate=Dev(0.1), eval_step=every).run()
        assert [entry["step"] for entry in progress.history if "score" in entry] == steps


def test_a_loss_that_is_not_finite_stops_with_step_batch_and_rate(bench):
    class Broken(LabelLoss):
        calls = 0

        def losses(self, model, batch):
            found = super().losses(model, batch)
            self.calls += 1
            if self.calls == 7:
                found["label"].total = found["label"].total * math.inf
            return found

    training = bench.training("nan", {}, Broken(), Dev(0.1))
    with pytest.raises(RositaError, match=r"at step 7 \(epoch 2, batch 2\), learning rate") as told:
        training.run()
    assert bench.saved == []
    assert "is kept in" not in str(told.value)  # there is none
    training = bench.training("nan-kept", {}, Broken(), Dev(0.1), save_state_steps=3)
    with pytest.raises(RositaError, match="the last good state is kept in .*nan-kept/last: try"):
        training.run()
    assert state_file(training.folder).exists()


def test_training_reduces_the_loss_on_a_learnable_task(bench):
    training = bench.training("learn", {}, num_train_epochs=60.0)
    losses = [e["loss_label"] for e in training.run().history if "loss_label" in e]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("update", [True, False])
def test_the_loss_scale_of_fp16_changes_neither_weights_nor_scores(bench, monkeypatch, update):
    def training(name, scale):
        accelerator = start_accelerator(KDSettings(output_dir="o", teacher_model="t",
                                                   student_model="s", pred_distill=True,
                                                   precision="fp32"))  # fmt: skip
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
        with monkeypatch.context() as patch:
            patch.setattr("test_training.start_accelerator", lambda settings: accelerator)
            made = bench.training(name, {"update": update}, teacher_loss(bench))
        made.importance = TaylorImportance(made.student)
        if scale:  # there is no fp16 on the CPU: the scaling alone, in fp32
            accelerator.native_amp = True
            accelerator.autocast = nullcontext
            monkeypatch.setattr(type(accelerator), "mixed_precision", "fp16")
        made.run()
        return weights(made), made.importance.scores(made.student)

    torch.manual_seed(0)
    plain, plain_scores = training("plain", None)
    torch.manual_seed(0)
    scaled, scaled_scores = training("scaled", 2.0**10)
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value, rtol=1e-5, atol=1e-7, msg=name)
    for name, value in plain_scores.items():
        torch.testing.assert_close(scaled_scores[name], value, rtol=1e-4, atol=1e-7, msg=name)


def test_losses_in_bf16_are_those_of_fp32_within_its_rounding(bench):
    for module in bench.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    exact = bench.training("fp32", objective=teacher_loss(bench)).run().history
    AcceleratorState._reset_state(reset_partial_state=True)  # one precision a process
    rounded = bench.training("bf16", objective=teacher_loss(bench), precision="bf16").run().history
    for mine, theirs in zip(exact, rounded, strict=True):
        assert numbers(mine) == pytest.approx(numbers(theirs), rel=0.02)
    assert exact != rounded


def test_a_run_that_goes_on_in_another_precision_says_so(bench, monkeypatch, capsys):
    def stop(training):
        save_state(training)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_after_step", lambda self, step, bar: stop(self))
        with pytest.raises(Interrupted):
            bench.training("other", objective=teacher_loss(bench)).run()
    AcceleratorState._reset_state(reset_partial_state=True)
    training = bench.training("other", objective=teacher_loss(bench), precision="bf16")
    training.run()
    assert "was on cpu in fp32 and is on cpu in bf16 from here" in capsys.readouterr().out
    assert training.progress.arithmetic == ["on cpu in fp32", "on cpu in bf16"]


def test_a_run_of_an_earlier_version_goes_on_with_its_batches_and_says_what_it_cannot_know(
    bench, capsys
):
    training = bench.training("earlier", objective=teacher_loss(bench))
    save_state(training)
    path = state_file(training.folder)
    state = read_torch(path, sealed=True)
    del state["pool_batches"], state["progress"]["arithmetic"]
    write_torch(path, state)
    assert training.sampler.pool_batches is None
    resume(training)
    assert training.sampler.pool_batches == 50
    assert "by a version that does not say how it computed" in training.progress.arithmetic
    assert "not to the same bits" in capsys.readouterr().out
