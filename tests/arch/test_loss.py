"""The chunked loss compared with PyTorch's loss on complete logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tinylm_ablate.arch import loss as module
from tinylm_ablate.arch.loss import IGNORED, next_token_loss


@pytest.fixture(params=[1, 7, 1000], ids=["one row a chunk", "uneven chunks", "one chunk"])
def problem(request, monkeypatch):
    """Return hidden states, the head's matrix, targets (a tenth of which are ignored), and the size of chunks."""
    vocab_size = 501
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", request.param * 4 * vocab_size)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(60, 16, generator=generator).requires_grad_()
    weight = torch.randn(vocab_size, 16, generator=generator).requires_grad_()
    targets = torch.randint(vocab_size, (60,), generator=generator)
    targets[::10] = IGNORED
    return hidden, weight, targets


def reference(hidden, weight, targets, reduction):
    return F.cross_entropy(hidden @ weight.mT, targets, ignore_index=IGNORED, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_loss_and_gradients_are_exact(problem, reduction):
    hidden, weight, targets = problem
    expected, found = reference(*problem, reduction), next_token_loss(hidden, weight, targets, reduction)
    torch.testing.assert_close(found, expected)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(found, (hidden, weight), slope), torch.autograd.grad(expected, (hidden, weight), slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_of_one_side_only(problem):
    hidden, weight, targets = problem
    for wanted, inputs in ((hidden, (hidden, weight.detach())), (weight, (hidden.detach(), weight))):
        (ours,) = torch.autograd.grad(next_token_loss(*inputs, targets), wanted)
        (theirs,) = torch.autograd.grad(reference(*inputs, targets, "mean"), wanted)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(next_token_loss(*problem), reference(*problem, "mean"))


def test_a_backward_pass_can_be_repeated(problem):
    hidden, weight, targets = problem
    loss = next_token_loss(hidden, weight, targets)
    first = torch.autograd.grad(loss, (hidden, weight), torch.tensor(2.0), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight), torch.tensor(2.0))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast_multiplies_in_bf16_and_sums_in_fp32(problem, reduction):
    hidden, weight, targets = problem
    with torch.autocast("cpu", torch.bfloat16):
        found = next_token_loss(hidden, weight, targets, reduction)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32
    expected = reference(hidden.detach().bfloat16().float(), weight.detach().bfloat16().float(), targets, reduction)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)


def test_all_targets_ignored_is_not_a_number():
    hidden, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert next_token_loss(hidden, weight, torch.full((3,), IGNORED)).isnan()
    assert next_token_loss(hidden, weight, torch.full((3,), IGNORED), "none").tolist() == [0, 0, 0]


def test_memory_does_not_grow_with_tokens_times_vocabulary(monkeypatch):
    """No tensor with the size of all logits is ever allocated."""
    vocab_size, tokens = 4000, 512
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", 16 * 4 * vocab_size)
    hidden = torch.randn(tokens, 8).requires_grad_()
    weight = torch.randn(vocab_size, 8).requires_grad_()
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Largest():
        next_token_loss(hidden, weight, torch.randint(vocab_size, (tokens,))).backward()
    assert largest <= 16 * vocab_size
