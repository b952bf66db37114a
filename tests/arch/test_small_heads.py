"""Attention with heads of 8 channels in C compared with PyTorch in double precision, and the fallback without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import in_fork
from tinylm_ablate.arch import small_heads as module
from tinylm_ablate.arch.attention import causal_attention
from tinylm_ablate.hardware import torch_threads

pytestmark = pytest.mark.skipif(not module.available(), reason="no C compiler that builds the kernel")


def operands(number: int, length: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(number, 8, length, generator=generator).to(dtype) for _ in range(4)]


def passes(queries: Tensor, keys: Tensor, values: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the output, and gradients of queries, keys and values."""
    mixed = module._attend(queries, keys, values)
    return [mixed, *module._attend_backward(grad, queries, keys, values, mixed)]


def exact(*given: Tensor) -> list[Tensor]:
    """Return the same by PyTorch in double precision."""
    return in_precision(torch.float64, *given)


def in_precision(dtype: torch.dtype, *given: Tensor) -> list[Tensor]:
    *parts, grad = (each.to(dtype).mT.contiguous() for each in given)
    leaves = [each.unsqueeze(1).requires_grad_() for each in parts]
    mixed = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
    return [each[:, 0].mT for each in (mixed.detach(), *torch.autograd.grad(mixed, leaves, grad.unsqueeze(1)))]


@settings(max_examples=15, deadline=None)
@given(number=st.integers(1, 5), length=st.integers(1, 70), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1.0, 4.0]))
def test_both_passes_equal_double_precision(number: int, length: int, seed: int, scale: float) -> None:
    given = operands(number, length, torch.float32, seed)
    given[0] *= scale
    for found, expected in zip(passes(*given), exact(*given), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


def test_bf16_is_no_less_accurate_than_pytorchs() -> None:
    given = operands(4, 256, torch.bfloat16)
    for found, theirs, expected in zip(passes(*given), in_precision(torch.bfloat16, *given), exact(*given), strict=True):
        assert found.dtype == torch.bfloat16
        assert (found - expected).norm() <= (theirs - expected).norm()


def test_the_number_of_threads_changes_nothing() -> None:
    given = operands(7, 33, torch.float32)
    with torch_threads(1):
        one = passes(*given)
    with torch_threads(3):
        assert all(torch.equal(a, b) for a, b in zip(one, passes(*given), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_values_that_are_not_finite_are_never_lost(dtype: torch.dtype, bad: float, place: int) -> None:
    given = operands(3, 20, dtype)
    given[place][1, 3, 5] = bad
    found = passes(*given)[place == 3 :]  # the output does not depend on its own gradient
    for each in found:
        assert each[1].isnan().any() and each[[0, 2]].isfinite().all()


@pytest.mark.parametrize("keys", [[1e30] * 8, [-1e30] * 8, [1e30, -1e30, *[0.0] * 6]], ids=["inf", "-inf", "nan"])
@pytest.mark.parametrize("length", [1, 4])
def test_scores_that_overflow_are_not_lost(keys: list[float], length: int) -> None:
    many = torch.tensor(keys)[:, None].expand(1, 8, length)
    given = [torch.full((1, 8, length), 1e30), many, *operands(1, length, torch.float32)[:2]]
    assert all(each.isnan().all() for each in passes(*given))


def test_operands_of_other_shapes_or_precisions_read_no_foreign_memory() -> None:
    queries, keys, values, _ = operands(2, 9, torch.float32)
    for wrong in (keys.bfloat16(), keys[..., :5], keys[:1]):
        with pytest.raises(ValueError, match="the same shape and precision"):
            module._attend(queries, wrong, values)


def test_pytorchs_default_precision_changes_nothing() -> None:
    given = operands(2, 40, torch.float32)
    expected = passes(*given)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = passes(*given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_damaged_library_is_compiled_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert in_fork(module.available, XDG_CACHE_HOME=str(tmp_path))
        (library,) = (tmp_path / "tinylm_ablate").glob("*.so")
        size = library.stat().st_size
        library.unlink()  # it is loaded by no process any more
        library.write_bytes(b"damaged")
    assert size > 1000


def test_saturated_attention_computes_with_no_subnormal_numbers() -> None:
    """They would make a step of a trained model six times slower."""
    queries, keys, values, grad = operands(1, 2, torch.float32)
    queries[..., 1], keys[..., 0], keys[..., 1], grad[..., 0] = 10.0, -10.0, 0.0, 0.0  # the second token ignores the first one
    for each in passes(queries, keys, values, 0.1 * grad):
        assert not ((each != 0) & (each.abs() < torch.finfo(torch.float32).tiny)).any()


def test_subnormal_numbers_are_rounded_as_before() -> None:
    passes(*operands(1, 4, torch.float32))
    assert float(torch.tensor(1e-40) * 1.0) > 0


def is_used_and_equal() -> tuple[bool, bool]:
    x = torch.randn(2, 9, 1, 8, requires_grad=True)
    expected = torch.nn.functional.scaled_dot_product_attention(*[x.transpose(1, 2)] * 3, is_causal=True).transpose(1, 2)
    return module.available(), torch.allclose(causal_attention(x, x, x), expected.flatten(2), atol=1e-5)


def test_without_a_compiler_the_result_is_the_same(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    assert in_fork(is_used_and_equal, **environment) == (False, True)
    (tmp_path / "cc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    assert in_fork(is_used_and_equal, **environment) == (False, True)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_compiler_knows_the_layout_of_both_passes(batch: int) -> None:
    """Sizes, strides and types."""
    *parts, grad = operands(3 * batch, 70, torch.float32)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(module._attend_operator, parts, test_utils=tests)
    backward = (grad, *parts, module._attend(*parts))
    torch.library.opcheck(module._attend_backward_operator, backward, test_utils=tests)
