"""Device, precision and processes of a run."""

from __future__ import annotations

import ctypes
import functools
import math
import sys
import time
from datetime import timedelta
from typing import TypeVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object
from torch import nn

from rosita.config import LoopSettings
from rosita.errors import RositaError

Model = TypeVar("Model", bound=nn.Module)


def start_accelerator(settings: LoopSettings) -> Accelerator:
    """Device, precision and processes of this run; seeds torch.

    Raises `RositaError` where it is another precision in some of many processes, or fp16 on a CPU.
    """
    keep_freed_memory()
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if auto_takes_bf16(settings.no_cuda) else "fp32"
    # the classifier gets no gradient where only hidden states are learnt; the first process may
    # have files to make for hours, while the others wait
    partial = not getattr(settings, "pred_distill", True)
    accelerator = Accelerator(
        cpu=settings.no_cuda or only_cpu(),
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=partial),
            InitProcessGroupKwargs(timeout=timedelta(days=1)),
        ],
    )
    if precision == "fp16" and accelerator.device.type == "cpu":  # accelerate would take fp32
        raise RositaError(
            "--precision fp16 needs a GPU, and this run is on the CPU: type --precision bf16, or"
            " fp32"
        )
    if accelerator.num_processes > 1 and len(found := set(gather_object([precision]))) > 1:
        raise RositaError(
            f"--precision is {' and '.join(sorted(found))} in the processes of this run;"
            " give all of them the same one, as --precision fp32"
        )
    torch.manual_seed(settings.seed)  # alike in all processes: they draw the same new classifier
    return accelerator


def only_cpu() -> bool:
    """Whether there is nothing but the CPU; processes on it must be told to work together."""
    return not torch.accelerator.is_available()


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for reuse, where it is glibc; harmless elsewhere.

    Otherwise it hands large blocks back to the system, and every step of a model of BERT-base's
    size spends a fifth of its time on page faults for the gradients that it frees and takes again.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(mmap_threshold, 32 << 20)  # the largest it takes
        libc.mallopt(trim_threshold, 2**31 - 1)


def auto_takes_bf16(no_cuda: bool) -> bool:
    """Whether `--precision auto` is bf16 here: the hardware has it, and is faster by it."""
    if torch.cuda.is_available() and not no_cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    knows_it = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return knows_it and _bf16_gain() > 1.25


@functools.cache
def _bf16_gain() -> float:
    """How many times faster a product of a teacher's size is in bf16 on this CPU: measured.

    To have the instruction is not enough. An AMD EPYC makes 2.6 times as many products by it, an
    Intel Xeon whose AMX a virtual machine hides half as many. On one core: where others are busy,
    the threads of a product wait for each other, and any quotient comes out.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows, weights = (torch.ones(size, 768) for size in (384, 768))
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}  # seconds
    for _ in range(8):  # in turn, so that what else runs hits both
        for dtype in best:
            product = rows.to(dtype), weights.to(dtype)
            start = time.perf_counter()
            F.linear(*product)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]


def arithmetic(accelerator: Accelerator) -> str:
    """Where and how a run computes, in words: another arithmetic gives other bits."""
    mixed = accelerator.mixed_precision
    return f"on {accelerator.device.type} in {'fp32' if mixed == 'no' else mixed}"


def freeze(model: Model, accelerator: Accelerator) -> Model:
    """A teacher on the run's device, without gradients; its linear layers in the run's precision.

    Autocast would cast these weights anew in every step: it keeps the casts of trained ones only.
    Embeddings and LayerNorm stay in fp32, so that the results are autocast's.
    """
    model.eval().requires_grad_(False).to(accelerator.device)
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if accelerator.mixed_precision in dtypes:
        cast_linear_layers(model, dtypes[accelerator.mixed_precision])
    return model


def cast_linear_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the linear layers of a model, in place, in the dtype that autocast runs them in."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.to(dtype)
