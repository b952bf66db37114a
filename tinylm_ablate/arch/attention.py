"""Causal attention: our own kernels for small heads and for CPUs with a matrix unit, and otherwise PyTorch's.

In bf16 on a CPU without a matrix unit (see ``amx_attention``), the backward pass of PyTorch's fused attention reaches a
fraction of the speed of plain matrix products. Here, it consists of products over blocks of queries that fit the cache; keys in
the future of a block are skipped. As in FlashAttention (Dao et al. 2022, arXiv 2205.14135), scores are not kept: the backward
pass recomputes them, which costs no more than writing and reading them.

Its operands are (N, T, head_dim), N = batch * heads; in memory, the few channels of the C kernel's heads are rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tinylm_ablate.arch import amx_attention
from tinylm_ablate.arch.attention_kernel import compiled, kernel
from tinylm_ablate.arch.c_kernels import opaque
from tinylm_ablate.arch.gpu import ATTENTION
from tinylm_ablate.arch.shapes import KERNEL_CHANNELS

#: Queries per block: more skip fewer keys of the future, fewer are copied more often. Up to ``_WHOLE`` tokens, a sequence is
#: one block, whose products are the gradients.
_BLOCK, _WHOLE = 256, 512

#: Bytes of scores per thread and block: half of a common second-level cache.
_CACHE_BYTES = 2**20


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(queries keys^T / sqrt(head_dim), over the past) values.

    Args:
        queries: (B, T, heads, head_dim); B may be several axes, such as runs and sequences.
        keys, values: (B, T, kv_heads, head_dim); each is shared by heads / kv_heads consecutive heads.

    Returns:
        (B, T, heads * head_dim).
    """
    leading = queries.shape[:-2]
    mixed = _causal_attention(*(part.flatten(0, -4) for part in (queries, keys, values)))
    return mixed.view(*leading, -1)


def _causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    batch, length, heads, size = queries.shape
    group = heads // keys.shape[2]
    if queries.device.type == "cuda" and ATTENTION is not None and ATTENTION.usable(values):
        attended: Tensor = ATTENTION.attend(queries, keys, values)
        return attended.view(batch, length, heads * size)
    cpu, bf16 = queries.device.type == "cpu", queries.dtype == torch.bfloat16
    if cpu and group > 1:
        keys, values, group = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2), 1
    grad = torch.is_grad_enabled() and any(operand.requires_grad for operand in (queries, keys, values))
    matrix_unit = amx_attention.usable(queries)
    copies = cpu and not matrix_unit and ((grad or bf16) if size == KERNEL_CHANNELS else (grad and bf16))
    if cpu and grad and not copies:
        values = values.contiguous()  # of a view, the backward pass would keep the whole product
    if matrix_unit:
        return amx_attention.attend(queries, keys, values, grad).view(batch, length, heads * size)
    if not copies:
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        fused = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=group > 1)
        return fused.transpose(1, 2).reshape(batch, length, heads * size)
    # ``reshape`` copies (under torch.compile, while rotating), since each product reads its operands several times.
    if size == KERNEL_CHANNELS:
        operands = [part.permute(0, 2, 3, 1).reshape(-1, size, length).mT for part in (queries, keys, values)]
    else:
        operands = [part.transpose(1, 2).reshape(-1, length, size) for part in (queries, keys, values)]
    mixed: Tensor = _Attention.apply(*operands) if grad else opaque(_attend, _attend_operator)(*operands)  # type: ignore[no-untyped-call]
    return mixed.view(batch, heads, length, size).transpose(1, 2).reshape(batch, length, heads * size)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed: Tensor = opaque(_attend, _attend_operator)(queries, keys, values)
        ctx.save_for_backward(queries, keys, values, mixed)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        backward = opaque(_attend_backward, _attend_backward_operator)
        slopes: tuple[Tensor, Tensor, Tensor] = backward(_ordered(grad), *ctx.saved_tensors)
        return slopes


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The mixed values, (N, T, head_dim)."""
    if (own := kernel(queries)) is not None:
        return own.forward(queries.mT, keys.mT, values.mT).mT
    # With three axes, or channels that are not contiguous, PyTorch is slow.
    queries, keys, values = (part.contiguous().unsqueeze(1) for part in (queries, keys, values))
    return _ordered(F.scaled_dot_product_attention(queries, keys, values, is_causal=True)[:, 0])


def _attend_backward(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from that of the mixed values."""
    if (own := kernel(queries)) is not None:
        of_queries, of_keys, of_values = own.backward(grad.mT, queries.mT, keys.mT, values.mT, mixed.mT)
        return of_queries.mT, of_keys.mT, of_values.mT
    count, length, size = queries.shape
    of_queries, of_keys, of_values = (queries.new_empty(count, length, size) for _ in range(3))
    rows, scale = length if length <= _WHOLE else _BLOCK, 1 / math.sqrt(size)
    step = max(1, min(count, torch.get_num_threads() * _CACHE_BYTES // (rows * length * queries.element_size())))
    memory = queries.new_empty(2, step * rows * length)
    for first in range(0, count, step):
        part = slice(first, min(first + step, count))
        if rows < length:  # summed over blocks in fp32, or more
            precision = torch.promote_types(queries.dtype, torch.float32)
            keys_sum, values_sum = (queries.new_zeros(part.stop - first, length, size, dtype=precision) for _ in range(2))
        for start in range(0, length, rows):
            block, end = slice(start, start + rows), min(start + rows, length)
            tile = (part.stop - first, end - start, end)
            weights, slopes = (buffer[: math.prod(tile)].view(tile) for buffer in memory)
            own_queries, own_grad = queries[part, block].contiguous(), grad[part, block].contiguous()
            past_keys, past_values = keys[part, :end].contiguous(), values[part, :end].contiguous()
            torch.bmm(own_queries, past_keys.mT, out=weights)
            torch.bmm(own_grad, past_values.mT, out=slopes)
            _weigh(weights, slopes, own_grad, mixed[part, block].contiguous(), start, scale)
            torch.bmm(slopes, past_keys, out=of_queries[part, block])
            if rows < length:
                keys_sum[:, :end] += slopes.mT @ own_queries
                values_sum[:, :end] += weights.mT @ own_grad
            else:
                torch.bmm(slopes.mT, own_queries, out=of_keys[part])
                torch.bmm(weights.mT, own_grad, out=of_values[part])
        if rows < length:
            of_keys[part], of_values[part] = keys_sum, values_sum
    return _ordered(of_queries), _ordered(of_keys), _ordered(of_values)


def _weigh(scores: Tensor, slopes: Tensor, grad: Tensor, mixed: Tensor, start: int, scale: float) -> None:
    """Replace scores by weights, and slopes of the weights by those of the scores.

    Args:
        scores: Products of queries and keys, (N, queries, keys), contiguous; the last key is the last query's own.
        slopes: Gradients of the weights, likewise.
        grad, mixed: Gradients of the queries' mixed values, and these, (N, queries, head_dim), contiguous.
        start: Position of the first query.
        scale: Factor of the products in the softmax.
    """
    if (own := compiled(scores)) is not None:
        own.weigh(scores, slopes, grad, mixed, start, scale)
        return
    future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(start + 1)
    torch.softmax(scores.mul_(scale).masked_fill_(future, float("-inf")), -1, out=scores)
    # The gradient of a softmax takes from each slope the mean slope of its row: sum over keys of weight * slope = grad . mixed.
    slopes.sub_((grad * mixed).sum(2, keepdim=True)).mul_(scores).mul_(scale)


def _ordered(operand: Tensor) -> Tensor:
    """Return an operand (N, T, head_dim) in the order in memory that is used throughout."""
    return operand.mT.contiguous().mT if operand.shape[2] == KERNEL_CHANNELS else operand.contiguous()


def _room(operand: Tensor) -> Tensor:
    """Return uninitialized memory of the same shape and order."""
    count, length, size = operand.shape
    return operand.new_empty(count, size, length).mT if size == KERNEL_CHANNELS else operand.new_empty(count, length, size)


# As custom operators, both are opaque to torch.compile.
_attend_operator = torch.library.custom_op("tinylm_ablate::attend", _attend, mutates_args=())
_attend_backward_operator = torch.library.custom_op("tinylm_ablate::attend_backward", _attend_backward, mutates_args=())


@_attend_operator.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    del keys, values
    return _room(queries)


@_attend_backward_operator.register_fake
def _(grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    del grad, mixed
    return _room(queries), _room(keys), _room(values)
