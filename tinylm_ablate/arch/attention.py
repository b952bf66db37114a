"""Causal attention: our own kernels for small heads, PyTorch's for large ones on a GPU, products over blocks on a CPU.

In training on a CPU, PyTorch's fused attention reaches a fraction of the speed of plain matrix products, especially in bf16 and
with small heads. Here, scores are computed in blocks that fit the cache, and blocks in the future are skipped. As in
FlashAttention (Dao et al. 2022, arXiv 2205.14135), the scores are not kept: the backward pass recomputes them, which costs no
more than writing and reading them.

All operands are (N, channels, T), N = batch * heads: with the few channels of a head as rows, products are nearly as fast as
large ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tinylm_ablate.arch.attention_kernel import kernel
from tinylm_ablate.arch.gpu import KERNELS

#: Queries per block.
_BLOCK = 64

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
    if queries.device.type == "cuda" and KERNELS is not None and KERNELS.usable(values):
        attended: Tensor = KERNELS.attend(queries, keys, values)
        return attended.view(batch, length, heads * size)
    if queries.device.type != "cpu":
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        fused = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=group > 1)
        return fused.transpose(1, 2).reshape(batch, length, heads * size)
    if group > 1:
        keys, values = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2)
    grad = torch.is_grad_enabled() and any(operand.requires_grad for operand in (queries, keys, values))
    if not grad and queries.dtype == torch.float32:  # without a backward pass, PyTorch's kernel is faster
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        fused = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return fused.transpose(1, 2).reshape(batch, length, heads * size)
    operands = [part.permute(0, 2, 3, 1).reshape(batch * heads, size, length) for part in (queries, keys, values)]
    mixed: Tensor = _Attention.apply(*operands) if grad else _opaque(_attend, _attend_operator)(*operands)  # type: ignore[no-untyped-call]
    return mixed.view(batch, heads, size, length).permute(0, 3, 1, 2).reshape(batch, length, heads * size)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed: Tensor = _opaque(_attend, _attend_operator)(queries, keys, values)
        ctx.save_for_backward(queries, keys, values, mixed)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        backward = _opaque(_attend_backward, _attend_backward_operator)
        slopes: tuple[Tensor, Tensor, Tensor] = backward(grad.contiguous(), *ctx.saved_tensors)
        return slopes


def _opaque(function: Callable[..., Any], operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator while torch.compile traces, and otherwise the function: calling an operator imports the compiler."""
    return operator if torch.compiler.is_compiling() else function


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The mixed values, (N, head_dim, T)."""
    if (own := kernel(queries)) is not None:
        return own.forward(queries, keys, values)
    mixed: Tensor = _filled_later(queries)
    for part, block, past, weights, _ in _weights(queries, keys):
        mixed[part, :, block] = values[part, :, past] @ weights.mT
    return mixed


def _attend_backward(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from that of the mixed values."""
    if (own := kernel(queries)) is not None:
        return own.backward(grad, queries, keys, values, mixed)
    grad_queries = _filled_later(queries)
    # Summed over blocks in fp32.
    grad_keys, grad_values = (torch.zeros(queries.shape, dtype=torch.float32) for _ in range(2))
    # The gradient of a softmax takes from each slope the mean slope of its row: sum over keys of weight * slope = grad . mixed.
    mean = -(grad.float() * mixed).sum(1).to(grad.dtype).unsqueeze(2)
    for part, block, past, weights, scratch in _weights(queries, keys):
        slopes = torch.baddbmm(mean[part, block], grad[part, :, block].mT, values[part, :, past], out=scratch).mul_(weights)
        grad_queries[part, :, block] = keys[part, :, past] @ slopes.mT
        grad_keys[part, :, past] += queries[part, :, block] @ slopes
        grad_values[part, :, past] += grad[part, :, block] @ weights
    scale = 1 / math.sqrt(queries.shape[1])
    return grad_queries.mul_(scale), grad_keys.mul_(scale).to(queries.dtype), grad_values.to(queries.dtype)


def _filled_later(operand: Tensor) -> Tensor:
    """Return contiguous memory for an operand: operands of a single sequence are views in another order."""
    return torch.empty_like(operand, memory_format=torch.contiguous_format)


# As custom operators, both are opaque to torch.compile.
_attend_operator = torch.library.custom_op("tinylm_ablate::attend", _attend, mutates_args=())
_attend_backward_operator = torch.library.custom_op("tinylm_ablate::attend_backward", _attend_backward, mutates_args=())


@_attend_operator.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    del keys, values
    return _filled_later(queries)


@_attend_backward_operator.register_fake
def _(grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    del grad, mixed
    return _filled_later(queries), _filled_later(keys), _filled_later(values)


def _weights(queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, slice, slice, Tensor, Tensor]]:
    """The softmax weights, tile by tile.

    Yields:
        Slices of the N products, of the queries of a block and of the keys up to its end; the weights of these keys for these
        queries; and scratch memory of the same size. The next tile overwrites both.
    """
    count, size, length = queries.shape
    rows = min(_BLOCK, length)
    step = max(1, min(count, torch.get_num_threads() * _CACHE_BYTES // (rows * length * queries.element_size())))
    memory = queries.new_empty(2, step * rows * length)
    future = torch.full((rows, rows), float("-inf"), dtype=queries.dtype).triu(1)
    for start in range(0, length, rows):
        end = min(start + rows, length)
        mask = torch.zeros(end - start, end, dtype=queries.dtype)
        mask[:, start:] = future[: end - start, : end - start]
        block, past = slice(start, end), slice(end)
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            tile = (part.stop - first, end - start, end)
            weights, scratch = (buffer[: math.prod(tile)].view(tile) for buffer in memory)
            torch.baddbmm(mask, queries[part, :, block].mT, keys[part, :, past], alpha=1 / math.sqrt(size), out=scratch)
            yield part, block, past, torch.softmax(scratch, -1, out=weights), scratch
