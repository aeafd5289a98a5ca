import math
import re
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import REPOSITORY, make_bert, write_cola
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rosita.config import KDSettings
from rosita.data.batches import Sampler
from rosita.data.encode import encode_file
from rosita.distillation.teacher import Teacher
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.provenance import weights_hash
from rosita.pruning.shape import parameter_count
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer
from rosita.training.cpu import fast_on_cpu
from rosita.training.optimizer import build_optimizer

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from scaling import check as scaling_check  # noqa: E402
from scaling import simulator as scaling  # noqa: E402
from scaling import tables as scaling_tables  # noqa: E402
from scaling.simulator import Job, Machine  # noqa: E402

DENSE = RositaConfig(vocab_size=90, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
                     intermediate_size=64, num_labels=3)  # fmt: skip
PRUNED = scaling.student_of(DENSE, "a2_l2_f40_e8")
MACHINE = Machine("some", 1e12, 0.5, 1e-6, 1e11, inside_rate=1e10, between_rate=1e9)
TOKENS, ROWS = 10, 4
IDS = torch.ones(ROWS, TOKENS, dtype=torch.long)
# operations of the dispatcher that launch nothing
VIEWS = re.compile("view|transpose|aten.t.|expand|slice|select|reshape|alias|detach|squeeze|empty")


@pytest.mark.parametrize("config", [DENSE, PRUNED])
def test_flops_are_those_that_the_dispatcher_counts_on_the_real_model(config):
    model = RositaForSequenceClassification(config).train()  # dropout: attention is written out
    with FlopCounterMode(display=False) as counted:
        logits = model(IDS, IDS).logits
    assert counted.get_total_flops() == ROWS * scaling.forward_flops(config, TOKENS)
    with FlopCounterMode(display=False) as counted:
        logits.sum().backward()
    both = ROWS * scaling.training_flops(config, TOKENS)
    assert counted.get_total_flops() == both - ROWS * scaling.forward_flops(config, TOKENS)


class Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not VIEWS.search(str(function))
        return function(*args, **(kwargs or {}))


def launches(layers: int, training: bool) -> int:
    config = RositaConfig(vocab_size=90, hidden_size=48, num_hidden_layers=layers,
                          num_attention_heads=4, intermediate_size=64)  # fmt: skip
    model = fast_on_cpu(RositaForSequenceClassification(config).train(training))
    with Launches() as found, torch.set_grad_enabled(training):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(IDS, IDS).logits
        if training:
            logits.sum().backward()
    return found.count


def test_the_launches_of_a_layer_are_those_that_the_dispatcher_sees():
    teacher = (launches(6, False) - launches(2, False)) / 4
    student = (launches(6, True) - launches(2, True)) / 4
    assert scaling.LAUNCHES_TEACHER_LAYER == pytest.approx(teacher, rel=0.1)
    assert scaling.LAUNCHES_STUDENT_LAYER == pytest.approx(student, rel=0.1)


def kept_bytes(config: RositaConfig, rows: int, tokens: int) -> int:
    """What autograd keeps of a forward pass, weights and their casts left out."""
    model = fast_on_cpu(RositaForSequenceClassification(config).train())  # as the loop runs it here
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.ones(rows, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            model(ids, ids).logits.sum()
    for weight in model.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    sizes = {tuple(weight.shape) for weight in model.parameters() if weight.dim() == 2}
    sizes |= {shape[::-1] for shape in sizes}  # a cast of a weight, or its transpose
    return sum(t.untyped_storage().nbytes() for t in kept.values() if tuple(t.shape) not in sizes)


@pytest.mark.parametrize(("tokens", "shape"), [(12, "a4_l{}_f96_e-1"), (40, "a2_l{}_f64_e8")])
def test_activations_are_those_that_autograd_keeps(tokens, shape):
    whole = wide(96, 5)
    deep, flat = (scaling.student_of(whole, shape.format(layers)) for layers in (5, 1))
    found = kept_bytes(deep, 7, tokens) - kept_bytes(flat, 7, tokens)
    expected = scaling.activation_bytes(deep, tokens) - scaling.activation_bytes(flat, tokens)
    assert 7 * expected == pytest.approx(found, rel=0.05)


def wide(hidden: int, layers: int) -> RositaConfig:
    return RositaConfig(vocab_size=90, hidden_size=hidden, num_hidden_layers=layers,
                        num_attention_heads=4, intermediate_size=4 * hidden)  # fmt: skip


def test_training_keeps_sixteen_bytes_a_parameter():
    model = RositaForSequenceClassification(DENSE)
    settings = KDSettings(teacher_model="-", student_model="-", output_dir="-", pred_distill=True)
    optimizer = build_optimizer(model, settings)
    model(IDS, IDS).logits.sum().backward()
    optimizer.step()
    held = sum(w.nbytes + w.grad.nbytes for w in model.parameters())
    held += sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if value.dim()
    )
    assert held == scaling.TRAINED_BYTES * parameter_count(DENSE)


def test_a_row_takes_the_disk_that_the_cache_takes(tmp_path):
    data = write_cola(tmp_path / "CoLA", train=200)
    tokenizer = read_tokenizer(make_bert(tmp_path / "bert"))
    file = encode_file(data / "train.tsv", GLUE["CoLA"], tokenizer, 32)
    config = RositaConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1,
                          num_attention_heads=4, intermediate_size=8, num_labels=2)  # fmt: skip
    teacher = RositaForSequenceClassification(config).eval()
    teacher_hash = weights_hash(teacher.state_dict())
    Teacher(teacher).remember([file], teacher_hash, Accelerator(cpu=True))
    arrays = sum(path.stat().st_size for path in file.cache.glob("*.bin"))
    logits = next(file.cache.glob("logits-*.npy")).stat().st_size - 128  # numpy's header
    job = Job(config, config, len(file), tokens=0)
    expected = len(file) * scaling.row_bytes(job, logits=True) + 2 * int(file.lengths().sum())
    assert arrays + logits == expected


def test_the_order_of_an_epoch_takes_about_thirty_bytes_a_row():
    rows = 200_000
    file = scaling_check.random_rows(rows, 2)
    tracemalloc.start()
    batches = Sampler([file], 32, 0).epoch(0)
    next(batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # offsets are held by the file, and were there before
    assert peak / rows + 8 == pytest.approx(scaling.SAMPLER_BYTES, rel=0.25)


@pytest.mark.parametrize("devices", [2, 8, 9])
def test_an_exchange_takes_as_long_as_a_ring_that_is_played_through(devices):
    generator = np.random.default_rng(devices)
    held = generator.normal(size=(devices, devices))  # device x chunk
    expected = held.sum(axis=0)
    rate = MACHINE.inside_rate if devices <= 8 else MACHINE.between_rate
    size, seconds = 1e6, 0.0
    for hop in range(2 * (devices - 1)):
        sent = [(device - hop) % devices for device in range(devices)]
        chunks = [held[device, chunk] for device, chunk in enumerate(sent)]
        for device in range(devices):
            to, chunk = (device + 1) % devices, sent[device]
            reduces = hop < devices - 1
            held[to, chunk] = chunks[device] + (held[to, chunk] if reduces else 0)
        seconds += size / devices / rate + MACHINE.latency
    np.testing.assert_allclose(held, np.tile(expected, (devices, 1)))
    assert scaling.exchange_seconds(size, devices, MACHINE) == pytest.approx(seconds)
    assert scaling.exchange_seconds(size, 1, MACHINE) == 0


@pytest.mark.parametrize("devices", [1, 8, 64])
def test_the_cache_pays_from_the_first_epoch_in_which_the_clock_says_so(devices):
    job = scaling_tables.job("base", 10**6, devices, 256)
    machine = scaling_tables.A100
    asked, read = (replace(job, representation=False, cached=cached) for cached in (False, True))
    fill = scaling.fill_seconds(job, machine)
    epochs = 1
    while fill + epochs * scaling.epoch_seconds(read, machine) > epochs * scaling.epoch_seconds(
        asked, machine
    ):
        epochs += 1
    assert math.ceil(scaling.cache_pays_after(job, machine)) == epochs


def test_a_cache_on_a_disk_slower_than_the_teacher_never_pays():
    machine = replace(scaling_tables.A100, page_reads=100.0, host_bytes=1e6)
    assert scaling.cache_pays_after(scaling_tables.job("base", 10**8), machine) == math.inf


def test_a_step_takes_no_less_than_any_of_its_parts_and_no_more_than_their_sum():
    for name in ("base", "large"):
        for devices in (1, 8, 64):
            for batch in (8, 32, 256, 2048):
                job = scaling_tables.job(name, devices=devices, batch=batch)
                step = scaling.step_seconds(job, scaling_tables.A100)
                compute = step.teacher + step.student + step.update
                parts = (compute, step.launch, step.exchange, step.evaluation, step.saving)
                assert max(compute, step.launch) <= step.total <= sum(parts)
    job = replace(job, devices=1)
    slow = scaling.step_seconds(job, replace(scaling_tables.A100, asynchronous=False))
    compute = slow.teacher + slow.student + slow.update
    assert slow.total == pytest.approx(compute + slow.launch + slow.evaluation + slow.saving)


def test_calibration_finds_the_machine_that_the_times_come_from():
    known = replace(MACHINE, asynchronous=False)
    jobs = tuple(scaling_check.minilm(batch=batch) for batch in (16, 64))
    times = [scaling.step_seconds(job, known).total for job in jobs]
    found = scaling_check.calibrate(jobs, times, known.memory_rate)
    assert found.rate == pytest.approx(known.rate, rel=1e-3)
    assert found.launch_seconds == pytest.approx(known.launch_seconds, rel=1e-3)


def test_the_checks_runs_are_steps_of_the_real_loop():
    job = Job(DENSE_WIDE, scaling.student_of(DENSE_WIDE, "a2_l1_f8_e8"), 64, batch=4, tokens=5,
              dev_rows=50)  # fmt: skip
    for one in (job, replace(job, representation=False, cached=True)):
        assert scaling_check.measure_step(one) > 0
    assert scaling_check.measure_evaluation(job) > 0
    assert scaling_check.measure_epoch(job) > 0


# random rows have ids up to 5000
DENSE_WIDE = RositaConfig(vocab_size=5000, hidden_size=16, num_hidden_layers=2,
                          num_attention_heads=4, intermediate_size=16)  # fmt: skip
