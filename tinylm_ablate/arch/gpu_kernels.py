"""Triton kernels for a GPU: SwiGLU, and the slopes of a cross-entropy, in one pass each.

Import ``arch.gpu`` rather than this module, which needs Triton.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Warps per program; logits per block of a row; and neurons per program of SwiGLU.
_WARPS, _LOGITS, _NEURONS = 4, 2048, 1024

#: Supported types.
TYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def _gates(gate_up, count, width: tl.constexpr, block: tl.constexpr, unit: tl.constexpr):
    """Some neurons, which of them exist, where their gates are, the gates, their sigmoids, and what goes up."""
    units = tl.program_id(0) * (block // unit) + tl.arange(0, block // unit)
    lanes = tl.arange(0, unit)[None, :]
    neurons = units[:, None] * unit + lanes
    inside = (units * unit < count)[:, None] & (lanes < unit)
    rows = units // (width // unit)
    places = (rows.to(tl.int64) * width)[:, None] + neurons
    gate = tl.load(gate_up + places, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + places + width, mask=inside, other=0.0).to(tl.float32)
    return neurons, inside, places, gate, tl.sigmoid(gate), up


@triton.jit
def _swiglu(gate_up, hidden, count, width: tl.constexpr, block: tl.constexpr, unit: tl.constexpr):
    """silu(gate) * up of some neurons."""
    neurons, inside, _, gate, sigmoid, up = _gates(gate_up, count, width, block, unit)
    tl.store(hidden + neurons, (gate * sigmoid * up).to(hidden.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(gate_up, grad, slopes, count, width: tl.constexpr, block: tl.constexpr, unit: tl.constexpr):
    """Gradients of gate and up from those of silu(gate) * up."""
    neurons, inside, places, gate, sigmoid, up = _gates(gate_up, count, width, block, unit)
    slope = tl.load(grad + neurons, mask=inside, other=0.0).to(tl.float32)
    kind = slopes.dtype.element_ty
    tl.store(slopes + places, (slope * up * sigmoid * (1 + gate * (1 - sigmoid))).to(kind), mask=inside)
    tl.store(slopes + places + width, (slope * gate * sigmoid).to(kind), mask=inside)


@triton.jit
def _slopes(logits, targets, losses, entries, ignored, write: tl.constexpr, block: tl.constexpr):
    """Loss of one row of logits, which it replaces by d loss / d logits = softmax - one-hot, or by zeros if it is ignored."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * entries
    target = tl.load(targets + row)
    kept = target != ignored
    own = tl.load(logits + tl.maximum(target, 0)).to(tl.float32)  # before the reductions, whose barriers precede the writes
    top, total = float("-inf"), 0.0
    for begin in range(0, entries, block):
        columns = begin + tl.arange(0, block)
        part = tl.load(logits + columns, mask=columns < entries, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(part, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(part - higher), 0)
        top = higher
    log_total = top + tl.log(total)
    tl.store(losses + row, tl.where(kept, log_total - own, 0.0))
    if write:
        for begin in range(0, entries, block):
            columns = begin + tl.arange(0, block)
            inside = columns < entries
            part = tl.load(logits + columns, mask=inside, other=float("-inf")).to(tl.float32)
            slope = tl.exp(part - log_total) - tl.where(columns == target, 1.0, 0.0)
            tl.store(logits + columns, tl.where(kept, slope, 0.0).to(logits.dtype.element_ty), mask=inside)


@torch.compiler.assume_constant_result
def supported() -> bool:
    """Return whether the GPU has what the kernels need, such as products in bf16."""
    return _is_recent()


@functools.cache  # a function of its own, since the compiler traces through this decorator
def _is_recent() -> bool:
    return torch.cuda.get_device_capability() >= (8, 0)


def gates(values: Tensor) -> bool:
    """Return whether the SwiGLU kernel supports these gates, (..., 2 * width)."""
    return values.is_contiguous() and values.dtype in TYPES and values.numel() < 2**31 and supported()


def _neurons(gate_up: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """Grid and sizes of both kernels; as many neurons of a row as 16 bytes hold have consecutive places."""
    width = gate_up.shape[-1] // 2
    grid = (triton.cdiv(gate_up.numel() // 2, _NEURONS),)
    return grid, {"width": width, "block": _NEURONS, "unit": math.gcd(8, width), "num_warps": _WARPS}


def _swiglu_op(gate_up: Tensor) -> Tensor:
    grid, sizes = _neurons(gate_up)
    hidden = gate_up.new_empty((*gate_up.shape[:-1], sizes["width"]))
    _swiglu[grid](gate_up, hidden, hidden.numel(), **sizes)
    return hidden


def _swiglu_backward_op(gate_up: Tensor, grad: Tensor) -> Tensor:
    grid, sizes = _neurons(gate_up)
    slopes = torch.empty_like(gate_up)
    _swiglu_backward[grid](gate_up, grad.contiguous(), slopes, grad.numel(), **sizes)
    return slopes


_swiglu_operator = torch.library.custom_op("tinylm_ablate::swiglu_gpu", _swiglu_op, mutates_args=())
_swiglu_backward_operator = torch.library.custom_op("tinylm_ablate::swiglu_gpu_backward", _swiglu_backward_op, mutates_args=())


@_swiglu_operator.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


@_swiglu_backward_operator.register_fake
def _(gate_up: Tensor, grad: Tensor) -> Tensor:
    del grad
    return torch.empty_like(gate_up)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    slopes: Tensor = _swiglu_backward_operator(*ctx.saved_tensors, grad)
    return slopes


_swiglu_operator.register_autograd(_backward, setup_context=_keep)


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up of gate and up concatenated: (..., 2 * width) -> (..., width)."""
    hidden: Tensor = _swiglu_operator(gate_up)
    return hidden


def losses_and_slopes(logits: Tensor, targets: Tensor, ignored: int, slopes: bool) -> Tensor:
    """Cross-entropy of each position in nats, fp32, in one pass over the logits.

    Args:
        logits: (..., V); with ``slopes``, they are replaced by the gradients of the summed losses.
        targets: Ids (...), or ``ignored``, where loss and gradients are zero.
        ignored: Target that is ignored.
        slopes: Whether gradients are needed.
    """
    if not logits.is_contiguous():
        raise ValueError("logits are not contiguous")
    entries = logits.shape[-1]
    losses = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    block = min(_LOGITS, triton.next_power_of_2(entries))
    _slopes[(losses.numel(),)](
        logits, targets.contiguous(), losses, entries, ignored, write=slopes, block=block, num_warps=_WARPS
    )
    return losses
