"""The norm and the feed-forward product with backward passes of their own, which keep none of their intermediate results.

What PyTorch would keep of them is computed again from their inputs, which are kept anyway: a few elementwise passes against
half of a layer's activations. Compiled layers need none of this, since the compiler chooses for itself what it recomputes.

Weights may carry a leading axis of R runs, and then so do hidden states (see ``runs``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tinylm_ablate.arch.runs import positions, product, spread


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``F.rms_norm`` over the last dimension, of which only ``x`` and its roots are kept.

    Args:
        x: (..., d); with weights of R runs (R, ..., d).
        weight: (d,) or (R, d).
        eps: Added to the mean square.
    """
    if _plain(x, weight) or x.dtype not in (torch.float32, torch.float64) or x.dtype != weight.dtype:
        if weight.ndim == 1:
            return F.rms_norm(x, weight.shape, weight, eps)
        return F.rms_norm(x, weight.shape[-1:], eps=eps) * spread(weight, x)
    result: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result


def swiglu_down(gate_up: Tensor, weight: Tensor) -> Tensor:
    """(silu(gate) * up) weight^T, of which only ``gate_up`` is kept.

    Args:
        gate_up: gate and up beside each other, (..., 2 * ffn_width); with weights of R runs (R, ..., 2 * ffn_width).
        weight: (width, ffn_width) or (R, width, ffn_width).

    Returns:
        (..., width), in the precision of ``gate_up``.
    """
    if _plain(gate_up, weight):
        gate, up = gate_up.chunk(2, dim=-1)
        return product(F.silu(gate) * up, weight.to(gate_up.dtype))
    result: Tensor = _SwiGLUDown.apply(gate_up, weight)  # type: ignore[no-untyped-call]
    return result


def _plain(*operands: Tensor) -> bool:
    """Whether there is nothing to keep, or a compiler to choose it."""
    return torch.compiler.is_compiling() or not torch.is_grad_enabled() or not any(t.requires_grad for t in operands)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        root = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, root)
        result: Tensor = (x * root).mul_(spread(weight, x))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, root = ctx.saved_tensors
        normed = x * root
        per_channel = grad * normed
        grad_weight = per_channel.sum(tuple(range(weight.ndim - 1, grad.ndim - 1)))
        mean = product(per_channel, weight.unsqueeze(-2)).div_(x.shape[-1])
        return torch.addcmul(grad * spread(weight, x), normed, mean, value=-1).mul_(root), grad_weight, None


class _SwiGLUDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, weight: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        ctx.save_for_backward(gate_up, weight)
        return product(F.silu(gate).mul_(up), weight.to(gate_up.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate_up, weight = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        passed = F.silu(gate)
        hidden = passed * up
        grad_weight = positions(grad, weight).mT @ positions(hidden, weight)
        torch.matmul(positions(grad, weight), weight.to(grad.dtype), out=positions(hidden, weight))
        slope = hidden
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(slope, passed, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(slope.mul_(up), gate, grad_input=grad_gate)
        return grad_gate_up, grad_weight.to(weight.dtype)
