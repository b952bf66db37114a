"""Causal attention: our own kernels for bf16 on a CPU, for small heads and on a GPU, and otherwise PyTorch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tinylm_ablate.arch import bf16_attention, small_heads
from tinylm_ablate.arch.gpu import ATTENTION


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
    return mixed.reshape(*leading, -1)


def _causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Mixed values, (B, T, heads, head_dim)."""
    if queries.device.type == "cuda" and ATTENTION is not None and ATTENTION.usable(values):
        attended: Tensor = ATTENTION.attend(queries, keys, values)
        return attended
    group = queries.shape[2] // keys.shape[2]
    grad = torch.is_grad_enabled() and any(operand.requires_grad for operand in (queries, keys, values))
    if queries.device.type == "cpu":
        if group > 1:
            keys, values, group = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2), 1
        if grad:
            values = values.contiguous()  # of a view, the backward pass would keep the whole product
        if bf16_attention.usable(queries):
            return bf16_attention.attend(queries, keys, values, grad)
        if small_heads.usable(queries):
            return small_heads.attend(queries, keys, values, grad)
    queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=group > 1).transpose(1, 2)
