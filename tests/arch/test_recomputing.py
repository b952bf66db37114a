"""The norm and the feed-forward product compared with PyTorch's, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm_ablate.arch.recomputing import rms_norm, swiglu_down

EPS = 1e-6


def plain_norm(x, weight):
    return F.rms_norm(x, weight.shape, weight, EPS)


def own_norm(x, weight):
    return rms_norm(x, weight, EPS)


def plain_swiglu(gate_up, weight):
    gate, up = gate_up.chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, weight)


def drawn(generator, *size, dtype=torch.float64):
    return torch.randn(*size, generator=generator, dtype=dtype).requires_grad_()


def slopes(function, *operands):
    result = function(*operands)
    weights = torch.arange(result.numel(), dtype=result.dtype).view(result.shape).cos()
    return result, *torch.autograd.grad((result * weights).sum(), operands)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_both_equal_pytorchs_up_to_rounding(batch, length, width, inner, seed):
    generator = torch.Generator().manual_seed(seed)
    norm = drawn(generator, batch, length, width), drawn(generator, width)
    product = drawn(generator, batch, length, 2 * inner), drawn(generator, width, inner)
    for own, plain, operands in ((own_norm, plain_norm, norm), (swiglu_down, plain_swiglu, product)):
        torch.testing.assert_close(slopes(own, *operands), slopes(plain, *operands))


def test_gradients_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    assert torch.autograd.gradcheck(own_norm, (drawn(generator, 2, 3, 5), drawn(generator, 5)))
    assert torch.autograd.gradcheck(swiglu_down, (drawn(generator, 2, 3, 8), drawn(generator, 5, 4)))


@pytest.mark.parametrize("frozen", [0, 1])
def test_an_operand_may_be_frozen(frozen):
    generator = torch.Generator().manual_seed(0)
    for own, operands in (
        (own_norm, [drawn(generator, 2, 3, 5), drawn(generator, 5)]),
        (swiglu_down, [drawn(generator, 2, 3, 8), drawn(generator, 5, 4)]),
    ):
        expected = slopes(own, *operands)[2 - frozen]
        operands[frozen].requires_grad_(False)
        own(*operands).mul(torch.arange(2 * 3 * 5).view(2, 3, 5).cos()).sum().backward()
        torch.testing.assert_close(operands[1 - frozen].grad, expected)


def test_products_in_bf16_leave_weights_and_their_gradients_in_fp32():
    generator = torch.Generator().manual_seed(0)
    gate_up, weight = drawn(generator, 2, 3, 8, dtype=torch.float32), drawn(generator, 5, 4, dtype=torch.float32)
    result, grad_gate_up, grad_weight = slopes(lambda a, b: swiglu_down(a.bfloat16(), b), gate_up, weight)
    assert (result.dtype, grad_weight.dtype) == (torch.bfloat16, torch.float32)
    for own, plain in zip((result, grad_gate_up, grad_weight), slopes(plain_swiglu, gate_up, weight), strict=True):
        torch.testing.assert_close(own.float(), plain, rtol=0.05, atol=0.05)
