"""Cross-entropy in chunks of tokens, so that the logits of a large vocabulary are never stored as a whole.

The gradient of the mean loss follows from the logits, so the forward pass of a chunk computes it too, and frees the logits
before the next chunk: no second product with the head's matrix is needed. (The idea is Liger Kernel's, Hsu et al. 2024, arXiv
2410.10989.)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tinylm_ablate.arch import loss_kernel
from tinylm_ablate.arch.costs import CHUNK_BYTES
from tinylm_ablate.arch.gpu import KERNELS
from tinylm_ablate.arch.runs import apart, product, run_by_run

#: Target that is ignored.
IGNORED = -100


def next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Cross-entropy of softmax(hidden weight^T) in nats, fp32.

    Args:
        hidden: (N, d); of R runs (R, N, d).
        weight: The head's matrix, (V, d) or (R, V, d).
        targets: (N,) or (R, N) ids, or IGNORED.
        reduction: "mean" over the targets of a run that are not ignored (NaN if there are none), or "none".

    Returns:
        A scalar or (R,); or (N,) or (R, N).
    """
    if weight.ndim == 3 and apart(weight):
        return run_by_run(functools.partial(next_token_loss, reduction=reduction), hidden, weight, targets)
    if reduction == "mean":
        loss: Tensor = _MeanLoss.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
        return loss
    keep = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    chunks = []
    for rows in _chunks(hidden, weight):
        part = (hidden[..., rows, :], weight, targets[..., rows])
        if keep:
            chunks.append(checkpoint(_losses, *part, use_reentrant=False))
        else:
            chunks.append(losses_and_slopes(product(*part[:2]), part[2], slopes=False)[0])
    return torch.cat(chunks, dim=-1)


def _losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = product(hidden, weight).float().flatten(0, -2)
    losses = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(targets.shape)


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    """Yield slices of the positions that limit the size of a chunk's logits, over all runs together."""
    limit = CHUNK_BYTES["cpu" if hidden.device.type == "cpu" else "gpu kernels" if _in_place(hidden) else "gpu"]
    rows, count = max(1, limit // (4 * weight.shape[:-1].numel())), hidden.shape[-2]
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def losses_and_slopes(logits: Tensor, targets: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and its gradients.

    Args:
        logits: (..., V), which may be overwritten.
        targets: Ids, (...), or IGNORED.
        slopes: Whether gradients are needed.

    Returns:
        The loss of each target in nats, (...), fp32, and with ``slopes`` their gradients with respect to the logits, (..., V),
        in the precision of the logits. Both are zero for ignored targets. The C kernel returns NaN where a logit is not
        finite.
    """
    if _in_place(logits):
        assert KERNELS is not None
        return KERNELS.losses_and_slopes(logits, targets, IGNORED, slopes), logits
    if loss_kernel.usable(logits):
        logits = logits.contiguous()
        return loss_kernel.losses_and_slopes(logits, targets, IGNORED, slopes), logits
    ignored = targets == IGNORED
    ids = targets.masked_fill(ignored, 0).unsqueeze(-1)
    log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    losses = -log_p.gather(-1, ids).squeeze(-1).masked_fill(ignored, 0)
    if not slopes:
        return losses, logits
    # d loss / d logits = softmax - one-hot, for targets that are not ignored.
    slope = log_p.exp_().scatter_add_(-1, ids, torch.full_like(ids, -1, dtype=torch.float32))
    return losses, slope.masked_fill_(ignored.unsqueeze(-1), 0).to(logits.dtype)


def _in_place(operand: Tensor) -> bool:
    """Return whether our kernel for a GPU replaces logits by slopes."""
    return operand.device.type == "cuda" and operand.dtype != torch.float64 and KERNELS is not None and KERNELS.supported()


class _MeanLoss(torch.autograd.Function):
    """The mean loss; its gradients are computed in the forward pass, and scaled in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        device = hidden.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        with torch.autocast(device, enabled=False):
            matrix = weight.to(precision)
            count = (targets != IGNORED).sum(-1)
            total = torch.zeros(count.shape, dtype=torch.float32, device=hidden.device)
            grad_hidden = torch.empty_like(hidden) if needs_hidden else None
            # Summed over chunks in fp32, whatever the precision of the products.
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
            for rows in _chunks(hidden, weight):
                chunk = hidden[..., rows, :].to(precision)
                losses, slope = losses_and_slopes(chunk @ matrix.mT, targets[..., rows], needs_hidden or needs_weight)
                total += losses.sum(-1)
                if grad_hidden is not None:
                    grad_hidden[..., rows, :] = slope @ matrix
                if grad_weight is not None:
                    grad_weight += slope.mT @ chunk
        ctx.save_for_backward(grad_hidden, grad_weight, count)
        ctx.weight_dtype = weight.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden, grad_weight, count = ctx.saved_tensors
        factor = (grad / count)[..., None, None]
        return (
            None if grad_hidden is None else grad_hidden * factor.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * factor).to(ctx.weight_dtype),
            None,
        )
