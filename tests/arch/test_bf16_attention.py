"""Attention in bf16 in C compared with softmax(QK^T)V in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.arch.test_attention import pytorchs, written_out
from tests.helpers import in_fork
from tinylm_ablate.arch import bf16_attention as module
from tinylm_ablate.arch.attention import causal_attention
from tinylm_ablate.hardware import cpu_flags, torch_threads

#: Limits of oneDNN's instructions, and the libraries that each allows.
LIMITS = {
    "AVX512_CORE_BF16": ["attention_avx512"],
    "avx512_core": [],
    "AVX512_CORE_AMX": ["attention_amx", "attention_avx512"],
    "DEFAULT": ["attention_amx", "attention_avx512"],
}


KINDS = module._KINDS


@pytest.fixture(autouse=True, scope="module", params=[kind[0] for kind in KINDS])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each library that this machine can run, alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_KINDS", [each for each in KINDS if each[0] == request.param])
        module._found.cache_clear()
        try:
            if not module.available():
                pytest.skip(f"{request.param}: needs a CPU with its instructions, and a C compiler")
            yield str(request.param)
        finally:
            module._found.cache_clear()


def operands(batch: int, length: int, heads: int, size: int, seed: int = 0) -> list[Tensor]:
    """Queries, keys and values as slices of one product, and the gradient of the mixed values."""
    generator = torch.Generator().manual_seed(seed)
    product = torch.randn(batch, length, 3 * heads, size, generator=generator).bfloat16()
    return [*product.chunk(3, dim=2), torch.randn(batch, length, heads, size, generator=generator).bfloat16()]


def passes(queries: Tensor, keys: Tensor, values: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the output, and gradients of queries, keys and values."""
    mixed, sums = module._attend(queries, keys, values)
    return [mixed, *module._attend_backward(grad, queries, keys, values, mixed, sums)]


def differentiated(attend: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
    """Return the same by a function that PyTorch differentiates."""
    *parts, grad = given
    leaves = [each.detach().requires_grad_() for each in parts]
    mixed = attend(*leaves).view(grad.shape)
    return [mixed.detach(), *torch.autograd.grad(mixed, leaves, grad.to(mixed.dtype))]


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 2), length=st.integers(1, 340), heads=st.integers(1, 3),
    size=st.integers(1, 140), seed=st.integers(0, 99), factor=st.sampled_from([0.25, 1.0, 4.0]),
)  # fmt: skip
def test_both_passes_equal_double_precision(batch: int, length: int, heads: int, size: int, seed: int, factor: float) -> None:
    """As far as PyTorch's attention in bf16 does."""
    given = operands(batch, length, heads, size, seed)
    given[0] *= factor
    exact, theirs = (differentiated(attend, *given) for attend in (written_out, pytorchs))
    for ours, theirs_, expected in zip(passes(*given), theirs, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        errors = [float((found.double() - expected).norm() / (expected.norm() + 1e-2)) for found in (ours, theirs_)]
        assert errors[0] <= 2 * errors[1] + 0.003


@pytest.mark.parametrize("size", [8, 64])
def test_gradients_flow_through_the_decoders_attention(size: int) -> None:
    queries, keys, values, grad = operands(2, 70, 4, size)
    keys, values = keys[:, :, :2], values[:, :, :2]  # each shared by two heads
    leaves = [each.detach().requires_grad_() for each in (queries, keys, values)]
    found = torch.autograd.grad(causal_attention(*leaves), leaves, grad.flatten(2))
    expected = torch.autograd.grad(written_out(*leaves), leaves, grad.flatten(2).double())
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).norm() <= 0.02 * theirs.norm()


def test_no_query_sees_the_future() -> None:
    queries, keys, values, grad = operands(1, 100, 2, 16)
    later_keys, later_values = keys.clone(), values.clone()
    later_keys[:, 60:], later_values[:, 60:] = 3.0, -3.0
    before, after = (passes(queries, *each, grad)[:2] for each in ((keys, values), (later_keys, later_values)))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[:, :60], other[:, :60]) and not torch.equal(one[:, 60:], other[:, 60:])


def test_the_number_of_threads_changes_nothing() -> None:
    given = operands(2, 90, 3, 24)
    with torch_threads(1):
        one = passes(*given)
    with torch_threads(4):
        assert all(torch.equal(a, b) for a, b in zip(one, passes(*given), strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_values_that_are_not_finite_are_never_lost(bad: float, place: int) -> None:
    given = operands(3, 40, 2, 16)
    given[place][1, 35, 0, 3] = bad
    found = passes(*given)[place == 3 :]  # the output does not depend on its own gradient
    for each in found:
        assert each[1, :, 0].isnan().all()
        assert each[[0, 2]].isfinite().all() and each[1, :, 1].isfinite().all()


def test_large_scores_do_not_overflow() -> None:
    given = operands(1, 50, 1, 8)
    for each in given:
        each *= 2.0**30
    assert all(each.isfinite().all() for each in passes(*given))


def test_the_future_is_ignored_however_low_the_scores_of_the_past_are() -> None:
    queries, keys, values, grad = operands(1, 3, 1, 8)
    queries[:], keys[:] = 2.0**55, -(2.0**55)
    mixed, *slopes = passes(queries, keys, values, grad)
    assert torch.equal(mixed[0, 0], values[0, 0]) and all(each.isfinite().all() for each in slopes)


def test_saturated_attention_computes_with_no_subnormal_numbers() -> None:
    """They would make a step of a trained model six times slower."""
    queries, keys, values, grad = operands(1, 2, 1, 8)
    queries[0, 1], keys[0, 0], keys[0, 1] = 10.0, -10.0, 0.0  # the second token ignores the first one
    grad[0, 0] = 0.0
    for each in passes(queries, keys, values, grad):
        assert not ((each != 0) & (each.abs() < torch.finfo(torch.bfloat16).tiny)).any()


def test_operands_of_other_shapes_or_precisions_read_no_foreign_memory() -> None:
    queries, keys, values, _ = operands(2, 9, 2, 8)
    for wrong in (keys.float(), keys[:, :5], keys[:1], keys[..., :4]):
        with pytest.raises(ValueError, match="the same shape and precision"):
            module._attend(queries, wrong, values)


def test_channels_in_any_order_give_the_same() -> None:
    given = operands(2, 40, 2, 16)
    turned = [each.mT.contiguous().mT for each in given]
    assert all(torch.equal(a, b) for a, b in zip(passes(*given), passes(*turned), strict=True))


def test_the_compiler_knows_the_layout_of_both_passes() -> None:
    """Sizes, strides and types."""
    *parts, grad = operands(2, 40, 3, 16)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(module._attend_operator, parts, test_utils=tests)
    mixed, sums = module._attend(*parts)
    torch.library.opcheck(module._attend_backward_operator, (grad, *parts, mixed, sums), test_utils=tests)


def kind_after_a_fresh_start() -> str | None:
    module._found.cache_clear()
    return module.kind()


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_for_pytorchs_products_holds_here(limit: str) -> None:
    allowed = [name for name, flag, _ in KINDS if name in LIMITS[limit] and flag in cpu_flags()]
    assert in_fork(kind_after_a_fresh_start, ONEDNN_MAX_CPU_ISA=limit) == (allowed[0] if allowed else None)
