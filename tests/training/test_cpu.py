import copy

import pytest
import torch
from test_model import inputs, twins

from rosita.training.cpu import CpuDropout, CpuSelfAttention, fast_on_cpu


def test_a_model_made_fast_gives_the_same_logits_and_has_the_same_weights_and_copies():
    _, ours = twins()
    expected, names = ours(**inputs()).logits, list(ours.state_dict())
    fast = copy.deepcopy(fast_on_cpu(ours))
    assert list(fast.state_dict()) == names
    torch.testing.assert_close(fast(**inputs()).logits, expected)
    kinds = {type(module) for module in fast.modules()}
    assert CpuSelfAttention in kinds and torch.nn.Dropout not in kinds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_a_share_of_p_and_scales_the_rest_to_keep_the_mean(p, dtype):
    torch.manual_seed(0)
    x = torch.full((1000, 1001), 3.0, dtype=dtype, requires_grad=True)
    y = CpuDropout(p)(x)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 5 * (p * (1 - p) / y.numel()) ** 0.5  # five standard errors
    expected = torch.tensor(3 / (1 - p), dtype=dtype)  # p rounded to 2^-16 may move the last bit
    torch.testing.assert_close(y[y != 0].unique(), expected[None], rtol=2**-8, atol=0)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(x.grad.amax(), torch.tensor(1 / (1 - p), dtype=dtype))
    assert not torch.equal(y, CpuDropout(p)(x))  # another draw


def test_dropout_is_the_identity_in_evaluation_and_at_0_and_gives_zeros_at_1():
    x = torch.randn(5, 7)
    assert CpuDropout(0.5).eval()(x) is x
    assert torch.equal(CpuDropout(0.0)(x), x)
    assert torch.equal(CpuDropout(1.0)(x), torch.zeros(5, 7))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_written_out_equals_the_fused_one(masked):
    _, ours = twins()
    attention = ours.bert.encoder.layer[0].attention.self
    hidden = torch.randn(4, 9, ours.config.hidden_size, requires_grad=True)
    mask = torch.ones(4, 1, 1, 9, dtype=torch.bool)
    mask[1, ..., 5:] = False
    mask = mask if masked else None
    fused = attention.eval()(hidden, mask)
    (fused_grad,) = torch.autograd.grad(fused.square().sum(), hidden)
    attention = fast_on_cpu(attention)
    assert type(attention) is CpuSelfAttention
    attention.train().dropout.p = 1e-6  # of the written-out path; rounds to dropping nothing
    written = attention(hidden, mask)
    (written_grad,) = torch.autograd.grad(written.square().sum(), hidden)
    torch.testing.assert_close(written, fused)
    torch.testing.assert_close(written_grad, fused_grad)
    if torch.cpu._is_avx512_bf16_supported():
        with torch.autocast("cpu", torch.bfloat16):
            rounded = attention.eval()(hidden, mask)
        torch.testing.assert_close(rounded.float(), fused, rtol=0.03, atol=0.03)
