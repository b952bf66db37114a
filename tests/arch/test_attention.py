"""Attention compared with softmax(QK^T)V in double precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tinylm_ablate.arch import bf16_attention, small_heads
from tinylm_ablate.arch.attention import causal_attention


def written_out(queries, keys, values):
    """(B, T, heads, size) each -> (B, T, heads * size), in double precision."""
    group = queries.shape[2] // keys.shape[2]
    queries, keys, values = (part.double() for part in (queries, keys, values))
    keys, values = (part.repeat_interleave(group, dim=2) for part in (keys, values))
    scores = torch.einsum("bqhd,bkhd->bhqk", queries, keys) / math.sqrt(queries.shape[3])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, values).flatten(2)


def operands(length, heads, kv_heads, size, dtype=torch.float32):
    """Queries, keys and values as slices of one product, as in the decoder."""
    generator = torch.Generator().manual_seed(length)
    product = torch.randn(3, length, heads + 2 * kv_heads, size, generator=generator).to(dtype).requires_grad_()
    return product, torch.split(product, [heads, kv_heads, kv_heads], dim=2)


@pytest.mark.parametrize("length", [1, 5, 64, 65, 300])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("own", [True, False], ids=["own", "PyTorch's"])
def test_values_and_gradients_are_exact(length, heads, kv_heads, own, monkeypatch):
    if not own:
        monkeypatch.setattr(small_heads, "usable", lambda _: False)
    product, parts = operands(length, heads, kv_heads, 8)
    found, expected = causal_attention(*parts), written_out(*parts)
    torch.testing.assert_close(found, expected.float())
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (ours,) = torch.autograd.grad(found, product, slope)
    (theirs,) = torch.autograd.grad(expected, product, slope.double())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(causal_attention(*parts), expected.float())


def test_double_precision_is_kept():
    product, parts = operands(150, 2, 2, 8, torch.float64)
    found, expected = causal_attention(*parts), written_out(*parts)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(each, product, slope, retain_graph=True)[0] for each in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kv_heads", "size"), [(4, 8), (4, 16), (2, 64)])
@pytest.mark.parametrize("own", [True, False], ids=["own", "other processors"])
def test_bf16_is_as_accurate_as_pytorchs(kv_heads, size, own, monkeypatch):
    if not own:
        monkeypatch.setattr(bf16_attention, "usable", lambda _: False)
    product, parts = operands(300, 4, kv_heads, size, torch.bfloat16)
    slope = torch.randn(3, 300, 4 * size, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = written_out(*parts)
    (exact,) = torch.autograd.grad(expected, product, slope.double())
    errors = []
    for found in (causal_attention(*parts), pytorchs(*parts)):
        (gradient,) = torch.autograd.grad(found, product, slope)
        pairs = ((found.detach(), expected.detach()), (gradient, exact))
        errors.append([float((one - other).norm() / other.norm()) for one, other in pairs])
    for ours, theirs in zip(*errors, strict=True):
        assert ours < max(1.5 * theirs, 0.01)


def pytorchs(queries, keys, values):
    keys, values = (part.repeat_interleave(queries.shape[2] // keys.shape[2], dim=2) for part in (keys, values))
    parts = (part.transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2)


def test_large_scores_do_not_overflow():
    product, _ = operands(200, 2, 2, 8)
    parts = torch.split(100 * product, [2, 2, 2], dim=2)
    found = causal_attention(*parts)
    # In fp32, a score of 1e5 has a rounding error of about 0.01.
    torch.testing.assert_close(found, written_out(*parts).float(), rtol=1e-2, atol=0.1)
    found.sum().backward()
    assert bool(product.grad.isfinite().all())
