"""Causal attention with small heads on a GPU, in Triton.

PyTorch's fused attention is made for heads of 64 channels and more. With up to 32, the kernels here are twice as fast
(docs/LAB.md), and add up each result in a fixed order, so that equal inputs have bit-identical results. PyTorch's backward
passes add in the order in which blocks finish.

Import ``arch.gpu`` rather than this module, which needs Triton.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tinylm_ablate.arch.gpu_kernels import TYPES, supported

#: Channels per head up to which these kernels are not slower than PyTorch's.
_LARGEST = 32

#: Queries and keys per block, and warps per program. The backward pass does not load ahead: the registers are worth more.
_BLOCK, _WARPS = 64, 4


@triton.jit
def _load(base, rows, stride, length, size: tl.constexpr, padded: tl.constexpr, inside: tl.constexpr):
    """Some positions of one head, (rows, padded), zero beyond ``size`` and, unless all are ``inside``, beyond ``length``."""
    columns = tl.arange(0, padded)
    places = base + rows[:, None] * stride + columns[None, :]
    if not inside:
        return tl.load(places, mask=(rows < length)[:, None] & (columns < size)[None, :], other=0.0)
    if size == padded:
        return tl.load(places)
    return tl.load(places, mask=(columns < size)[None, :], other=0.0)


@triton.jit
def _store(base, rows, stride, length, value, size: tl.constexpr, padded: tl.constexpr):
    columns = tl.arange(0, padded)
    mask = (rows < length)[:, None] & (columns < size)[None, :]
    tl.store(base + rows[:, None] * stride + columns[None, :], value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _mix(
    queries, k, v, k_row, v_row, rows, begin, length, scale, top, total, mixed,
    size: tl.constexpr, padded: tl.constexpr, block: tl.constexpr, diagonal: tl.constexpr,
):  # fmt: skip
    """Add one block of keys and values to what a block of queries has attended to; only the ``diagonal`` block has a future."""
    past = begin + tl.arange(0, block)
    keys = _load(k, past, k_row, length, size, padded, not diagonal)
    values = _load(v, past, v_row, length, size, padded, not diagonal)
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    if diagonal:
        scores = tl.where(rows[:, None] >= past[None, :], scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - higher[:, None])
    fade = tl.exp2(top - higher)
    mixed = tl.dot(weights.to(values.dtype), values, mixed * fade[:, None], input_precision="ieee")
    return higher, total * fade + tl.sum(weights, 1), mixed


@triton.jit
def _attend(
    q, k, v, out, sums,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    heads, group, length, scale,
    size: tl.constexpr, padded: tl.constexpr, block: tl.constexpr, unit: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head; ``sums`` receives the logarithm (base 2) of each softmax's denominator."""
    start = tl.program_id(1) * block
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    rows = start + tl.arange(0, block)
    k += (batch * k_batch + (head // group) * k_head) * unit
    v += (batch * v_batch + (head // group) * v_head) * unit
    queries = _load(q + (batch * q_batch + head * q_head) * unit, rows, q_row * unit, length, size, padded, False)
    top = tl.full([block], float("-inf"), tl.float32)
    total = tl.zeros([block], tl.float32)
    mixed = tl.zeros([block, padded], tl.float32)
    for begin in range(0, start, block):
        top, total, mixed = _mix(
            queries, k, v, k_row * unit, v_row * unit, rows, begin, length, scale, top, total, mixed, size, padded, block, False
        )
    top, total, mixed = _mix(
        queries, k, v, k_row * unit, v_row * unit, rows, start, length, scale, top, total, mixed, size, padded, block, True
    )
    _store(out + (batch * length * heads + head) * size, rows, heads * size, length, mixed / total[:, None], size, padded)
    tl.store(sums + (batch * heads + head) * length + rows, top + tl.log2(total), mask=rows < length)


@triton.jit
def _queries(q, out, grad, sums, q_row, stride, rows, length, size: tl.constexpr, padded: tl.constexpr, inside: tl.constexpr):
    """Queries, the gradients of their mixes, the mean of these, and the logarithms of the softmax denominators."""
    queries = _load(q, rows, q_row, length, size, padded, inside)
    slope = _load(grad, rows, stride, length, size, padded, inside)
    mixed = _load(out, rows, stride, length, size, padded, inside)
    mean = tl.sum(slope.to(tl.float32) * mixed.to(tl.float32), 1)
    if inside:
        return queries, slope, mean, tl.load(sums + rows)
    return queries, slope, mean, tl.load(sums + rows, mask=rows < length, other=float("inf"))


@triton.jit
def _to_keys(
    keys, values, q, out, grad, sums, q_row, stride, rows, begin, length, scale, of_keys, of_values,
    size: tl.constexpr, padded: tl.constexpr, block: tl.constexpr, diagonal: tl.constexpr, inside: tl.constexpr,
):  # fmt: skip
    """Add what one block of queries contributes to the gradients of a block of keys and values."""
    later = begin + tl.arange(0, block)
    queries, slope, mean, sum_ = _queries(q, out, grad, sums, q_row, stride, later, length, size, padded, inside)
    weights = tl.exp2(tl.dot(keys, tl.trans(queries), input_precision="ieee") * scale - sum_[None, :])
    if diagonal:
        weights = tl.where(later[None, :] >= rows[:, None], weights, 0.0)
    of_values = tl.dot(weights.to(slope.dtype), slope, of_values, input_precision="ieee")
    slopes = weights * (tl.dot(values, tl.trans(slope), input_precision="ieee") - mean[None, :])
    return tl.dot(slopes.to(queries.dtype), queries, of_keys, input_precision="ieee"), of_values


@triton.jit
def _to_queries(
    queries, slope, mean, sum_, k, v, k_row, v_row, rows, begin, length, scale, of_queries,
    size: tl.constexpr, padded: tl.constexpr, block: tl.constexpr, diagonal: tl.constexpr,
):  # fmt: skip
    """Add what one block of keys and values contributes to the gradients of a block of queries."""
    past = begin + tl.arange(0, block)
    keys = _load(k, past, k_row, length, size, padded, not diagonal)
    values = _load(v, past, v_row, length, size, padded, not diagonal)
    weights = tl.exp2(tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale - sum_[:, None])
    if diagonal:
        weights = tl.where(rows[:, None] >= past[None, :], weights, 0.0)
    slopes = weights * (tl.dot(slope, tl.trans(values), input_precision="ieee") - mean[:, None])
    return tl.dot(slopes.to(keys.dtype), keys, of_queries, input_precision="ieee")


@triton.jit
def _attend_backward(
    q, k, v, out, sums, grad, grad_q, grad_k, grad_v,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    heads, group, length, scale, natural,
    size: tl.constexpr, padded: tl.constexpr, block: tl.constexpr, unit: tl.constexpr, even: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of keys and values, over all queries of its heads, then of the queries of the same block.

    ``even``: the length is a multiple of ``block``.
    """
    start = tl.program_id(1) * block
    shared = heads // group
    batch, kv_head = (tl.program_id(0) // shared).to(tl.int64), tl.program_id(0) % shared
    rows = start + tl.arange(0, block)
    q += batch * q_batch * unit
    k += (batch * k_batch + kv_head * k_head) * unit
    v += (batch * v_batch + kv_head * v_head) * unit
    q_row, k_row, v_row, q_head = q_row * unit, k_row * unit, v_row * unit, q_head * unit
    stride = heads * size
    out += batch * length * stride
    grad += batch * length * stride
    sums += batch * heads * length
    keys = _load(k, rows, k_row, length, size, padded, even)
    values = _load(v, rows, v_row, length, size, padded, even)
    of_keys = tl.zeros([block, padded], tl.float32)
    of_values = tl.zeros([block, padded], tl.float32)
    for member in range(group):
        head = kv_head * group + member
        of_keys, of_values = _to_keys(
            keys, values, q + head * q_head, out + head * size, grad + head * size, sums + head * length, q_row, stride,
            rows, start, length, scale, of_keys, of_values, size, padded, block, True, even,
        )  # fmt: skip
        for begin in range(start + block, length, block):
            of_keys, of_values = _to_keys(
                keys, values, q + head * q_head, out + head * size, grad + head * size, sums + head * length, q_row, stride,
                rows, begin, length, scale, of_keys, of_values, size, padded, block, False, even,
            )  # fmt: skip
    base = (batch * length * shared + kv_head) * size
    _store(grad_k + base, rows, shared * size, length, of_keys * natural, size, padded)
    _store(grad_v + base, rows, shared * size, length, of_values, size, padded)
    for member in range(group):
        head = kv_head * group + member
        queries, slope, mean, sum_ = _queries(
            q + head * q_head, out + head * size, grad + head * size, sums + head * length, q_row, stride, rows, length,
            size, padded, even,
        )  # fmt: skip
        of_queries = tl.zeros([block, padded], tl.float32)
        for begin in range(0, start, block):
            of_queries = _to_queries(
                queries, slope, mean, sum_, k, v, k_row, v_row, rows, begin, length, scale, of_queries,
                size, padded, block, False,
            )  # fmt: skip
        of_queries = _to_queries(
            queries, slope, mean, sum_, k, v, k_row, v_row, rows, start, length, scale, of_queries, size, padded, block, True
        )
        base = (batch * length * heads + head) * size
        _store(grad_q + base, rows, stride, length, of_queries * natural, size, padded)


def usable(values: Tensor) -> bool:
    """Return whether the kernels support these values, and are not slower than PyTorch's."""
    return values.shape[-1] <= _LARGEST and values.dtype in TYPES and supported()


def _numbers(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[list[int], dict[str, Any]]:
    """Strides and sizes of the operands, for both kernels.

    Strides are in units of up to 8 channels: the compiler then knows that 16 bytes can be loaded at once.
    """
    size = queries.shape[-1]
    strides = [stride for operand in (queries, keys, values) for stride in operand.stride()[:3]]
    unit = math.gcd(8, *strides)
    group = queries.shape[2] // keys.shape[2]
    return [*(stride // unit for stride in strides), queries.shape[2], group, queries.shape[1]], {
        "size": size, "padded": max(16, triton.next_power_of_2(size)), "block": _BLOCK, "unit": unit,
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
    _attend_backward[grid](
        queries, keys, values, out.contiguous(), sums, grad.contiguous(), *slopes, *numbers,
        math.log2(math.e) * natural, natural, **sizes, even=length % _BLOCK == 0, num_warps=_WARPS, num_stages=1,
    )  # fmt: skip
    return slopes[0], slopes[1], slopes[2]


def _rows(operand: Tensor) -> Tensor:
    return operand if operand.stride(-1) == 1 else operand.contiguous()


# As custom operators, they are opaque to torch.compile.
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
