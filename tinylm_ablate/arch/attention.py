"""Causal attention: PyTorch's kernels on a GPU, and products over blocks on a CPU.

On a CPU, PyTorch's fused attention does a fraction of the arithmetic that plain matrix products do there (a tenth with heads of
8 channels), most of all in bf16. So here the scores are made block by block, small enough to stay in the cache, with what lies
in the future of a whole block left out. The softmax weights are kept for the backward pass, T/2 numbers for each head and
token, since making them again is most of the work.

All operands are (N, channels, T), N = batch * heads: with the few channels of a head as rows, every product runs near the speed
of large ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Queries of a block.
_BLOCK = 128

#: Bytes of the scores that one thread works on at a time: half of a common second-level cache.
_CACHE_BYTES = 2**20


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(queries keys^T / sqrt(head_dim), over the past) values.

    Args:
        queries: (B, T, heads, head_dim).
        keys, values: (B, T, kv_heads, head_dim); each is shared by heads / kv_heads consecutive heads.

    Returns:
        (B, T, heads * head_dim).
    """
    batch, length, heads, size = queries.shape
    group = heads // keys.shape[2]
    if queries.device.type != "cpu":
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=group > 1)
        return mixed.transpose(1, 2).reshape(batch, length, heads * size)
    if group > 1:
        keys, values = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2)
    operands = [part.permute(0, 2, 3, 1).reshape(batch * heads, size, length) for part in (queries, keys, values)]
    if torch.is_grad_enabled() and any(operand.requires_grad for operand in operands):
        mixed = _Attention.apply(*operands)  # type: ignore[no-untyped-call]
    else:
        mixed, _ = _attend(*operands, False)
    return mixed.view(batch, heads, size, length).permute(0, 3, 1, 2).reshape(batch, length, heads * size)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed, weights = _attend(queries, keys, values, True)
        ctx.save_for_backward(queries, keys, values, mixed, weights)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes: tuple[Tensor, Tensor, Tensor] = _attend_backward(grad.contiguous(), *ctx.saved_tensors)
        return slopes


@torch.library.custom_op("tinylm_ablate::attend", mutates_args=())
def _attend(queries: Tensor, keys: Tensor, values: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """The mixed values, (N, head_dim, T), and with ``keep`` the softmax weights of all blocks, one after another."""
    count, size, length = queries.shape
    mixed = torch.empty_like(queries)
    kept = queries.new_empty(_kept(count, length) if keep else 0)
    future = torch.full((_BLOCK, _BLOCK), float("-inf"), dtype=queries.dtype).triu(1)
    for start, end, offset in _blocks(count, length):
        block = (end - start, end)
        mask = torch.zeros(block, dtype=queries.dtype)
        mask[:, start:] = future[: end - start, : end - start]
        weights = kept[offset : offset + count * block[0] * block[1]].view(count, *block) if keep else None
        for part in _parts(count, *block, queries.element_size()):
            scores = torch.baddbmm(mask, queries[part, :, start:end].mT, keys[part, :, :end], alpha=1 / math.sqrt(size))
            found = scores.softmax(-1) if weights is None else torch.softmax(scores, -1, out=weights[part])  # type: ignore[call-overload]
            mixed[part, :, start:end] = values[part, :, :end] @ found.mT
    return mixed, kept


@torch.library.custom_op("tinylm_ablate::attend_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from that of the mixed values."""
    count, size, length = queries.shape
    grad_queries = torch.empty_like(queries)
    # Summed over blocks in fp32.
    grad_keys, grad_values = (torch.zeros(queries.shape, dtype=torch.float32) for _ in range(2))
    # The softmax's gradient takes from each slope the mean slope of its row: sum over keys of weight * slope = grad . mixed.
    mean = -(grad.float() * mixed).sum(1).to(grad.dtype).unsqueeze(2)
    for start, end, offset in _blocks(count, length):
        block = (end - start, end)
        weights = kept[offset : offset + count * block[0] * block[1]].view(count, *block)
        for part in _parts(count, *block, queries.element_size()):
            slope = grad[part, :, start:end]
            scores = torch.baddbmm(mean[part, start:end], slope.mT, values[part, :, :end]).mul_(weights[part])
            grad_queries[part, :, start:end] = keys[part, :, :end] @ scores.mT
            grad_keys[part, :, :end] += queries[part, :, start:end] @ scores
            grad_values[part, :, :end] += slope @ weights[part]
    scale = 1 / math.sqrt(size)
    return grad_queries.mul_(scale), grad_keys.mul_(scale).to(queries.dtype), grad_values.to(queries.dtype)


@_attend.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    del keys, values
    return torch.empty_like(queries), queries.new_empty(_kept(queries.shape[0], queries.shape[2]) if keep else 0)


@_attend_backward.register_fake
def _(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    del grad, mixed, kept
    return torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)


def _blocks(count: int, length: int) -> Iterator[tuple[int, int, int]]:
    """First query, last key and place of the kept weights of each block."""
    offset = 0
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        yield start, end, offset
        offset += count * (end - start) * end


def _kept(count: int, length: int) -> int:
    """Softmax weights of all blocks."""
    return sum(count * (end - start) * end for start, end, _ in _blocks(count, length))


def _parts(count: int, rows: int, columns: int, size: int) -> Iterator[slice]:
    """Slices of the N products, each with scores that fit into the cache."""
    step = max(1, torch.get_num_threads() * _CACHE_BYTES // (rows * columns * size))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
