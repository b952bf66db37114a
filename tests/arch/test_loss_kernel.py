"""The compiled cross-entropy compared with PyTorch in double precision, and the same without a compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import in_fork
from tinylm_ablate.arch import loss_kernel
from tinylm_ablate.arch.loss import IGNORED, losses_and_slopes
from tinylm_ablate.hardware import torch_threads

pytestmark = pytest.mark.skipif(not loss_kernel.usable(torch.zeros(1, 1)), reason="no C compiler that builds the kernel")


def problem(rows: int, entries: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(entries, (rows,), generator=generator)
    targets[::4] = IGNORED
    return torch.randn(rows, entries, generator=generator) * scale, targets


def exact(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    losses.sum().backward()
    assert logits.grad is not None
    return losses.detach(), logits.grad


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 9), entries=st.integers(1, 300), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_losses_and_slopes_equal_double_precision(rows: int, entries: int, seed: int, scale: float) -> None:
    logits, targets = problem(rows, entries, seed, scale)
    expected = exact(logits, targets)
    losses, same = losses_and_slopes(logits.clone(), targets, slopes=False)
    assert torch.equal(same, logits)
    again, slopes = losses_and_slopes(logits.clone(), targets, slopes=True)
    assert torch.equal(losses, again)
    torch.testing.assert_close(losses.double(), expected[0], rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(slopes.double(), expected[1], rtol=1e-5, atol=1e-6)


def test_bf16_differs_from_double_precision_by_its_own_rounding() -> None:
    logits, targets = problem(40, 1000, scale=4.0)
    losses, slopes = losses_and_slopes(logits.bfloat16(), targets, slopes=True)
    expected = exact(logits.bfloat16(), targets)
    assert losses.dtype == torch.float32 and slopes.dtype == torch.bfloat16
    torch.testing.assert_close(losses.double(), expected[0], rtol=2e-6, atol=2e-5)
    assert ((slopes - expected[1]).abs() <= expected[1].abs() * 2**-8 + 1e-7).all()


@pytest.mark.parametrize("offset", [100.0, 1e6])
def test_logits_far_from_zero_lose_no_accuracy(offset: float) -> None:
    logits, targets = problem(9, 50)
    logits += offset
    torch.testing.assert_close(losses_and_slopes(logits.clone(), targets, slopes=False)[0].double(), exact(logits, targets)[0])


def test_targets_may_be_small_integers_and_strided() -> None:
    logits, targets = problem(7, 33)
    expected = losses_and_slopes(logits.clone(), targets, slopes=False)[0]
    for other in (targets.to(torch.int32), torch.stack((targets, targets), dim=1)[:, 0]):
        assert torch.equal(losses_and_slopes(logits.clone(), other, slopes=False)[0], expected)


def test_threads_and_neighbors_change_nothing() -> None:
    logits, targets = problem(7, 33)
    with torch_threads(1):
        one = losses_and_slopes(logits.clone(), targets, slopes=True)
    with torch_threads(3):
        three = losses_and_slopes(logits.clone(), targets, slopes=True)
    alone = [losses_and_slopes(logits[row : row + 1].clone(), targets[row : row + 1], slopes=True) for row in range(7)]
    for place in range(2):
        assert torch.equal(one[place], three[place])
        assert torch.equal(one[place], torch.cat([each[place] for each in alone]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_never_lost(dtype: torch.dtype, bad: float) -> None:
    logits, targets = problem(3, 20)
    logits[1, 5] = bad
    losses, slopes = losses_and_slopes(logits.to(dtype), targets, slopes=True)
    assert losses[1].isnan() and slopes[1].isnan().all()
    assert losses[[0, 2]].isfinite().all() and slopes[[0, 2]].isfinite().all()


@pytest.mark.parametrize("wrong", [-1, 20, 10**12])
def test_a_target_beyond_the_vocabulary_reads_no_foreign_memory(wrong: int) -> None:
    logits, targets = problem(3, 20)
    targets[1] = wrong
    losses, slopes = losses_and_slopes(logits, targets, slopes=True)
    assert losses.isnan().tolist() == [False, True, False] and slopes[1].isnan().all()


def usable_and_losses() -> tuple[bool, list[list[float]]]:
    generator = torch.Generator().manual_seed(0)
    found = losses_and_slopes(torch.randn(5, 7, generator=generator), torch.tensor([1, -100, 3, 0, 6]), True)
    return loss_kernel.usable(torch.zeros(1, 1)), [each.flatten().tolist() for each in found if each is not None]


def test_without_a_compiler_the_result_is_the_same(tmp_path: Path) -> None:
    is_usable, compiled = in_fork(usable_and_losses)
    still_usable, plain = in_fork(usable_and_losses, PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert is_usable and not still_usable
    for one, other in zip(compiled, plain, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other))
