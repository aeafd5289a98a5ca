"""Device, precision, optimizer and signals of a run."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from rosita.config import LoopSettings


def start_accelerator(settings: LoopSettings) -> Accelerator:
    """Device, precision and processes of this run; seeds torch."""
    keep_freed_memory()
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(settings.no_cuda) else "fp32"
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
    torch.manual_seed(settings.seed + accelerator.process_index)
    return accelerator


def only_cpu() -> bool:
    """Whether there is nothing but the CPU; processes on it must be told to work together."""
    return not torch.accelerator.is_available()


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for reuse, where it is glibc; harmless elsewhere.

    Otherwise it hands large blocks back to the system, and every step of a model of BERT-base's
    size spends a fifth of its time on page faults for the gradients that it frees and takes again.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(mmap_threshold, 32 << 20)  # the largest it takes
        libc.mallopt(trim_threshold, 2**31 - 1)


def has_bf16(no_cuda: bool) -> bool:
    if torch.cuda.is_available() and not no_cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def freeze(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A teacher on the run's device, without gradients; its linear layers in the run's precision.

    Autocast would cast these weights anew in every step: it keeps the casts of trained ones only.
    Embeddings and LayerNorm stay in fp32, so that the results are autocast's.
    """
    model = model.eval().requires_grad_(False).to(accelerator.device)
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if accelerator.mixed_precision in dtypes:
        cast_linear_layers(model, dtypes[accelerator.mixed_precision])
    return model


def cast_linear_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the linear layers of a model, in place, in the dtype that autocast runs them in."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.to(dtype)


def build_optimizer(model: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW, fused; no weight decay on biases and LayerNorm."""
    groups = [
        {
            "params": [
                weight
                for name, weight in model.named_parameters()
                if (name.endswith("bias") or "LayerNorm" in name) != decays
            ],
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, eps=settings.adam_epsilon, fused=True
    )


def set_rate(
    optimizer: torch.optim.Optimizer, settings: LoopSettings, rate: float, done: int
) -> None:
    """Give AdamW the rate of its next step; `done`: its steps since the moments began from zero.

    Without bias correction a step is rate * m / (sqrt(v) + eps), as the published KD scripts have
    it. torch's AdamW always divides m by 1 - b1^t and v by 1 - b2^t: with the rate times their
    quotient, and epsilon and decay adapted, its step is that one exactly, not about.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
        if settings.bias_correction:
            continue
        first, second = (1 - beta ** (done + 1) for beta in group["betas"])
        factor = first / second**0.5
        group["lr"] = rate * factor
        group["eps"] = settings.adam_epsilon / second**0.5
        if group["weight_decay"]:
            group["weight_decay"] = settings.weight_decay / factor


@torch.no_grad()
def clip_gradients(weights: Iterable[nn.Parameter], norm: float, together: bool) -> None:
    """Shorten gradients, in place, to `norm` at most: of all weights together, or of each."""
    weights = list(weights)
    if together:
        nn.utils.clip_grad_norm_(weights, norm)
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    lengths = torch.stack(torch._foreach_norm(gradients))
    # as clip_grad_norm_ counts, so that a lone tensor is shortened alike by both
    torch._foreach_mul_(gradients, list((norm / (lengths + 1e-6)).clamp(max=1.0).unbind()))


def gradients_are_finite(accelerator: Accelerator, model: nn.Module) -> bool:
    """False for an overflow under the loss scale of fp16, which the optimizer skips too."""
    if not accelerator.scaler:
        return True
    return all(
        weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None
    )


class Stop:
    """Whether a signal has asked for the end."""

    requested = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Within the block SIGTERM and SIGINT only set `requested`; the loop stops at a good place."""
    stop = Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True

    earlier = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def agree_to_stop(accelerator: Accelerator, stop: Stop, ask: bool) -> bool:
    """Whether to stop here. Many processes do so together, and only where they `ask` each other."""
    if accelerator.num_processes == 1:
        return stop.requested
    if not ask:
        return False
    requested = torch.tensor(float(stop.requested), device=accelerator.device)
    return accelerator.reduce(requested, "sum").item() > 0
