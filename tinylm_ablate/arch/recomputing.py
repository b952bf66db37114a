"""Norm and feed-forward product with custom backward passes that keep no intermediate results.

The backward pass recomputes them from the inputs, which are kept anyway: a few elementwise passes save half of a layer's
activations. Compiled layers do not use this, since the compiler chooses what to recompute, and neither do several runs in one
product, which train on a GPU.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tinylm_ablate.arch.gpu import KERNELS
from tinylm_ablate.arch.runs import apart, product, run_by_run, scale


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``F.rms_norm`` over the last dimension that keeps only ``x`` and its roots.

    Args:
        x: (..., d); of R runs (R, ..., d).
        weight: (d,) or (R, d).
        eps: Constant added to the mean square.
    """
    if weight.ndim == 2:
        if apart(weight):
            return run_by_run(functools.partial(rms_norm, eps=eps), x, weight)
        return scale(F.rms_norm(x, x.shape[-1:], eps=eps), weight)
    if _plain(x, weight) or x.dtype not in (torch.float32, torch.float64) or x.dtype != weight.dtype:
        return F.rms_norm(x, weight.shape, weight, eps)
    result: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result


def swiglu_down(gate_up: Tensor, weight: Tensor) -> Tensor:
    """(silu(gate) * up) weight^T that keeps only ``gate_up``.

    Args:
        gate_up: gate and up concatenated, (..., 2 * ffn_width); of R runs (R, ..., 2 * ffn_width).
        weight: (width, ffn_width) or (R, width, ffn_width).

    Returns:
        (..., width), in the precision of ``gate_up``.
    """
    if weight.ndim == 3 and apart(weight):
        return run_by_run(swiglu_down, gate_up, weight)
    if weight.ndim == 3 or _plain(gate_up, weight):
        return product(_swiglu(gate_up), weight.to(gate_up.dtype))
    result: Tensor = _SwiGLUDown.apply(gate_up, weight)  # type: ignore[no-untyped-call]
    return result


def _swiglu(gate_up: Tensor) -> Tensor:
    if gate_up.device.type == "cuda" and KERNELS is not None and KERNELS.gates(gate_up):
        hidden: Tensor = KERNELS.swiglu(gate_up)
        return hidden
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _plain(*operands: Tensor) -> bool:
    """Return whether no gradients are needed, or a compiler chooses what to keep."""
    return torch.compiler.is_compiling() or not torch.is_grad_enabled() or not any(t.requires_grad for t in operands)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        root = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, root)
        result: Tensor = (x * root).mul_(weight)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, root = ctx.saved_tensors
        normed = x * root
        per_channel = grad * normed
        grad_weight = per_channel.sum(tuple(range(grad.ndim - 1)))
        mean = (per_channel @ weight).div_(x.shape[-1]).unsqueeze(-1)
        return torch.addcmul(grad * weight, normed, mean, value=-1).mul_(root), grad_weight, None


class _SwiGLUDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, weight: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        ctx.save_for_backward(gate_up, weight)
        return F.linear(F.silu(gate).mul_(up), weight.to(gate_up.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate_up, weight = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        passed = F.silu(gate)
        hidden = passed * up
        grad_weight = grad.flatten(0, -2).mT @ hidden.flatten(0, -2)
        slope = torch.matmul(grad, weight.to(grad.dtype), out=hidden)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(slope, passed, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(slope.mul_(up), gate, grad_input=grad_gate)
        return grad_gate_up, grad_weight.to(weight.dtype)
