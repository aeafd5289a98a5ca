import types

import pytest
import torch
from accelerate import Accelerator

from rosita import runtime
from rosita.errors import RositaError


@pytest.mark.parametrize("instruction", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_auto_takes_bf16_where_the_cpu_is_faster_by_it_not_where_it_has_the_instruction(
    monkeypatch, instruction
):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda has=name == instruction: has)
    for gain, taken in ((0.55, False), (1.0, False), (2.6, True)):
        monkeypatch.setattr(runtime, "_bf16_gain", lambda gain=gain: gain)
        assert runtime.auto_takes_bf16(no_cuda=True) is taken
    monkeypatch.setattr(torch.cpu, instruction, lambda: False)
    assert not runtime.auto_takes_bf16(no_cuda=True)


def test_the_gain_of_bf16_is_the_quotient_of_the_best_times_of_both(monkeypatch):
    seconds = {torch.float32: iter([9, 4, 8] + [5] * 5), torch.bfloat16: iter([7, 7, 2] + [3] * 5)}
    now = [0.0]

    def product(rows, weights):
        assert rows.dtype == weights.dtype
        assert torch.get_num_threads() == 1  # those of a busy machine wait for each other
        now[0] += next(seconds[rows.dtype])

    monkeypatch.setattr(runtime.F, "linear", product)
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: now[0])
    threads = torch.get_num_threads()
    assert runtime._bf16_gain.__wrapped__() == 4 / 2
    assert torch.get_num_threads() == threads


def test_processes_of_another_precision_are_refused(monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(runtime, "gather_object", lambda mine: [*mine, "bf16"])
    monkeypatch.setattr(runtime, "auto_takes_bf16", lambda no_cuda: False)
    settings = types.SimpleNamespace(precision="auto", no_cuda=True, seed=1)
    with pytest.raises(RositaError, match="--precision is bf16 and fp32 in the processes"):
        runtime.start_accelerator(settings)


def test_fp16_is_refused_on_a_cpu_where_it_would_be_fp32_under_its_name():
    settings = types.SimpleNamespace(precision="fp16", no_cuda=True, seed=1)
    with pytest.raises(RositaError, match="--precision fp16 needs a GPU.*type --precision bf16"):
        runtime.start_accelerator(settings)
