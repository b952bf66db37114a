"""Our kernels for a GPU, against PyTorch's operations in double precision."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytestmark = pytest.mark.gpu

#: Relative error allowed in each precision.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 6e-3}


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return importlib.import_module("tinylm_ablate.arch.gpu_kernels")


@pytest.fixture(scope="module")
def attention() -> ModuleType:
    return importlib.import_module("tinylm_ablate.arch.gpu_attention")


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "size"), [(256, 7, 7, 8), (100, 4, 2, 8), (300, 4, 1, 16), (77, 3, 3, 24), (1, 2, 1, 32)]
)
def test_attention_and_its_gradients(
    attention: ModuleType, length: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    sizes = [heads, kv_heads, kv_heads]
    operands = torch.randn(3, length, sum(sizes), size, dtype=dtype, device="cuda").split(sizes, dim=2)
    weights = torch.randn(3, length, heads, size, device="cuda")
    found = [part.detach().requires_grad_() for part in operands]
    exact = [part.detach().double().requires_grad_() for part in operands]
    assert attention.usable(found[0])
    out = attention.attend(*found)
    (out * weights).sum().backward()
    exact_rows = (part.transpose(1, 2) for part in exact)
    expected = F.scaled_dot_product_attention(*exact_rows, is_causal=True, enable_gqa=True).transpose(1, 2)
    (expected * weights).sum().backward()
    assert error(out, expected) < TOLERANCE[dtype]
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert error(mine.grad, theirs.grad) < TOLERANCE[dtype] or theirs.grad.abs().max() < 1e-9


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("entries", [7, 1500, 48_000])
def test_losses_and_slopes(kernels: ModuleType, entries: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, 5, entries, device="cuda")).to(dtype)
    targets = torch.randint(0, entries, (2, 5), device="cuda")
    targets[0, 3] = -100
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none").view(2, 5)
    expected.sum().backward()
    losses = kernels.losses_and_slopes(logits.clone(), targets, -100, slopes=False)
    again = kernels.losses_and_slopes(logits, targets, -100, slopes=True)
    assert torch.equal(losses, again) and losses[0, 3] == 0
    torch.testing.assert_close(losses.double(), expected, rtol=0, atol=1e-5)
    assert exact.grad is not None and logits[0, 3].eq(0).all()
    torch.testing.assert_close(logits.double(), exact.grad, rtol=0, atol=1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [7, 152, 600])
def test_swiglu_and_its_gradients(kernels: ModuleType, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate_up = torch.randn(3, 11, 2 * width, dtype=dtype, device="cuda", requires_grad=True)
    weights = torch.randn(3, 11, width, device="cuda")
    assert kernels.gates(gate_up)
    out = kernels.swiglu(gate_up)
    (out * weights).sum().backward()
    exact = gate_up.detach().double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = F.silu(gate) * up
    (expected * weights).sum().backward()
    assert gate_up.grad is not None and exact.grad is not None
    assert error(out, expected) < TOLERANCE[dtype] and error(gate_up.grad, exact.grad) < TOLERANCE[dtype]


def test_two_equal_calls_have_bit_identical_results(attention: ModuleType) -> None:
    torch.manual_seed(0)
    parts = torch.randn(64, 512, 12, 8, dtype=torch.bfloat16, device="cuda").split([4, 4, 4], dim=2)
    results = []
    for _ in range(2):
        own = [part.detach().requires_grad_() for part in parts]
        attention.attend(*own).square().sum().backward()
        results.append([part.grad for part in own])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
