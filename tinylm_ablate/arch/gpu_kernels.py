"""Triton kernels for a GPU: causal attention with small heads, and the slopes of a cross-entropy.

PyTorch's fused attention is made for heads of 64 channels and more. With up to 32, the kernels here are as fast or faster, by
up to 45 % (docs/LAB.md), and add up each result in a fixed order, so that equal inputs have bit-identical results. PyTorch's
backward passes add in the order in which blocks finish.

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

#: Channels per head up to which the attention kernel is not slower than PyTorch's.
_LARGEST = 32

#: Queries and keys per block; warps per program; and programs of up to 16 channels from which the backward pass takes half as
#: many warps.
_BLOCK, _WARPS, _MANY = 64, 4, 1024

#: Logits per block of a row, and warps per program.
_LOGITS, _LOGIT_WARPS = 2048, 4


@triton.jit
def _load(base, rows, stride, inside, size: tl.constexpr, padded: tl.constexpr):
    """Some positions of one head, (rows, padded), zero outside."""
    columns = tl.arange(0, padded)
    mask = inside[:, None] & (columns < size)[None, :]
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store(base, rows, stride, inside, value, size: tl.constexpr, padded: tl.constexpr):
    columns = tl.arange(0, padded)
    mask = inside[:, None] & (columns < size)[None, :]
    tl.store(base + rows[:, None] * stride + columns[None, :], value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _attend(
    q, k, v, out, sums,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    heads, group, length, scale,
    size: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head; ``sums`` receives the logarithm (base 2) of each softmax's denominator."""
    start = tl.program_id(1) * block
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    rows = start + tl.arange(0, block)
    inside = rows < length
    queries = _load(q + batch * q_batch + head * q_head, rows, q_row, inside, size, padded)
    k += batch * k_batch + (head // group) * k_head
    v += batch * v_batch + (head // group) * v_head
    top = tl.full([block], float("-inf"), tl.float32)
    total = tl.zeros([block], tl.float32)
    mixed = tl.zeros([block, padded], tl.float32)
    for begin in range(0, start + block, block):
        past = begin + tl.arange(0, block)
        keys = _load(k, past, k_row, past < length, size, padded)
        values = _load(v, past, v_row, past < length, size, padded)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(rows[:, None] >= past[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        mixed = mixed * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        top = higher
    base = batch * length * heads
    _store(out + (base + head) * size, rows, heads * size, inside, mixed / total[:, None], size, padded)
    tl.store(sums + (batch * heads + head) * length + rows, top + tl.log2(total), mask=inside)


@triton.jit
def _attend_backward(
    q, k, v, out, sums, grad, grad_q, grad_k, grad_v,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    heads, group, length, scale, natural,
    size: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of keys and values, over all queries of its heads, then of the queries of the same block."""
    start = tl.program_id(1) * block
    shared = heads // group
    batch, kv_head = (tl.program_id(0) // shared).to(tl.int64), tl.program_id(0) % shared
    rows = start + tl.arange(0, block)
    inside = rows < length
    q, k, v = q + batch * q_batch, k + batch * k_batch + kv_head * k_head, v + batch * v_batch + kv_head * v_head
    first = batch * length * heads * size  # of the batch in out, grad and grad_q
    stride = heads * size
    keys = _load(k, rows, k_row, inside, size, padded)
    values = _load(v, rows, v_row, inside, size, padded)
    of_keys = tl.zeros([block, padded], tl.float32)
    of_values = tl.zeros([block, padded], tl.float32)
    for member in range(group):
        head = kv_head * group + member
        for begin in range(start, length, block):
            later = begin + tl.arange(0, block)
            there = later < length
            queries = _load(q + head * q_head, later, q_row, there, size, padded)
            slope = _load(grad + first + head * size, later, stride, there, size, padded)
            mixed = _load(out + first + head * size, later, stride, there, size, padded)
            mean = tl.sum(slope.to(tl.float32) * mixed.to(tl.float32), 1)
            sum_ = tl.load(sums + (batch * heads + head) * length + later, mask=there, other=float("inf"))
            weights = tl.exp2(tl.dot(keys, tl.trans(queries), input_precision="ieee") * scale - sum_[None, :])
            weights = tl.where(later[None, :] >= rows[:, None], weights, 0.0)
            of_values += tl.dot(weights.to(slope.dtype), slope, input_precision="ieee")
            slopes = weights * (tl.dot(values, tl.trans(slope), input_precision="ieee") - mean[None, :])
            of_keys += tl.dot(slopes.to(queries.dtype), queries, input_precision="ieee")
    base = batch * length * shared * size + kv_head * size
    _store(grad_k + base, rows, shared * size, inside, of_keys * natural, size, padded)
    _store(grad_v + base, rows, shared * size, inside, of_values, size, padded)
    for member in range(group):
        head = kv_head * group + member
        queries = _load(q + head * q_head, rows, q_row, inside, size, padded)
        slope = _load(grad + first + head * size, rows, stride, inside, size, padded)
        mixed = _load(out + first + head * size, rows, stride, inside, size, padded)
        mean = tl.sum(slope.to(tl.float32) * mixed.to(tl.float32), 1)
        sum_ = tl.load(sums + (batch * heads + head) * length + rows, mask=inside, other=float("inf"))
        of_queries = tl.zeros([block, padded], tl.float32)
        for begin in range(0, start + block, block):
            past = begin + tl.arange(0, block)
            keys = _load(k, past, k_row, past < length, size, padded)
            values = _load(v, past, v_row, past < length, size, padded)
            weights = tl.exp2(tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale - sum_[:, None])
            weights = tl.where(rows[:, None] >= past[None, :], weights, 0.0)
            slopes = weights * (tl.dot(slope, tl.trans(values), input_precision="ieee") - mean[:, None])
            of_queries += tl.dot(slopes.to(keys.dtype), keys, input_precision="ieee")
        _store(grad_q + first + head * size, rows, stride, inside, of_queries * natural, size, padded)


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


def usable(values: Tensor) -> bool:
    """Return whether the attention kernel supports these values, and is not slower than PyTorch's."""
    return values.shape[-1] <= _LARGEST and values.dtype in (torch.float32, torch.bfloat16, torch.float16) and supported()


def _numbers(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[list[int], dict[str, Any]]:
    """Strides and sizes of the operands, for both kernels."""
    size = queries.shape[-1]
    strides = [stride for operand in (queries, keys, values) for stride in operand.stride()[:3]]
    padded = max(16, triton.next_power_of_2(size))
    group = queries.shape[2] // keys.shape[2]
    return [*strides, queries.shape[2], group, queries.shape[1]], {
        "size": size, "padded": padded, "block": _BLOCK,
    }  # fmt: skip


def _attend_op(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The mixed values, (B, T, heads, head_dim), and the logarithms of the softmax denominators, (B, heads, T)."""
    batch, length, heads, size = queries.shape
    queries, keys, values = (_rows(part) for part in (queries, keys, values))
    out = queries.new_empty(queries.shape)
    sums = queries.new_empty((batch, heads, length), dtype=torch.float32)
    numbers, sizes = _numbers(queries, keys, values)
    grid = (batch * heads, triton.cdiv(length, _BLOCK))  # only the first axis may exceed 65,535
    _attend[grid](queries, keys, values, out, sums, *numbers, math.log2(math.e) / math.sqrt(size), **sizes, num_warps=_WARPS)
    return out, sums


def _attend_backward_op(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values from that of the mixed values."""
    batch, length, _, size = queries.shape
    queries, keys, values = (_rows(part) for part in (queries, keys, values))
    slopes = tuple(part.new_empty(part.shape) for part in (queries, keys, values))
    numbers, sizes = _numbers(queries, keys, values)
    natural = 1 / math.sqrt(size)
    grid = (batch * keys.shape[2], triton.cdiv(length, _BLOCK))
    warps = _WARPS // 2 if size <= 16 and grid[0] * grid[1] >= _MANY else _WARPS
    _attend_backward[grid](
        queries, keys, values, out.contiguous(), sums, grad.contiguous(), *slopes, *numbers,
        math.log2(math.e) * natural, natural, **sizes, num_warps=warps,
    )  # fmt: skip
    return slopes[0], slopes[1], slopes[2]


def _rows(operand: Tensor) -> Tensor:
    return operand if operand.stride(-1) == 1 else operand.contiguous()


# As custom operators, both are opaque to torch.compile.
_attend_operator = torch.library.custom_op("tinylm_ablate::attend_gpu", _attend_op, mutates_args=())
_attend_backward_operator = torch.library.custom_op("tinylm_ablate::attend_gpu_backward", _attend_backward_op, mutates_args=())


@_attend_operator.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    del keys, values
    batch, length, heads, _ = queries.shape
    return queries.new_empty(queries.shape), queries.new_empty((batch, heads, length), dtype=torch.float32)


@_attend_backward_operator.register_fake
def _(grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    del grad, out, sums
    return queries.new_empty(queries.shape), keys.new_empty(keys.shape), values.new_empty(values.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, grad: Tensor, of_sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    del of_sums
    slopes: tuple[Tensor, Tensor, Tensor] = _attend_backward_operator(grad, *ctx.saved_tensors)
    return slopes


_attend_operator.register_autograd(_backward, setup_context=_keep)


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(queries keys^T / sqrt(head_dim), over the past) values.

    Args:
        queries: (B, T, heads, head_dim).
        keys, values: (B, T, kv_heads, head_dim); each is shared by heads / kv_heads consecutive heads.

    Returns:
        (B, T, heads, head_dim).
    """
    # Autocast leaves normed queries and keys in fp32.
    mixed: Tensor = _attend_operator(queries.to(values.dtype), keys.to(values.dtype), values)[0]
    return mixed


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
        logits, targets.contiguous(), losses, entries, ignored, write=slopes, block=block, num_warps=_LOGIT_WARPS
    )
    return losses
