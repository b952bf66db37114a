"""Several continuations of one text in one pass: the states of the text are computed once and shared.

A row is the text, padded on the right to P tokens, followed by K continuations of C tokens each. A token of a continuation sees
the text and the tokens before it in its own continuation, and has the position that it would have right after the text. So the
numbers are those of K separate sequences; the arithmetic is that of P + K * C tokens instead of K * (P + C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinylm_ablate.arch.attention import causal_attention
from tinylm_ablate.arch.decoder import Decoder, Layer
from tinylm_ablate.arch.layers import rotate


@dataclass(frozen=True)
class Layout:
    """Positions of texts and continuations in a batch.

    Attributes:
        texts: (B,) tokens of each text, 0 to P; the rest of its P places is padding.
        text: P.
        count: Continuations K of each text.
        length: Tokens C of each continuation, padding on the right included.
    """

    texts: Tensor
    text: int
    count: int
    length: int


def through(decoder: Decoder, x: Tensor, layers: Sequence[Layer], layout: Layout) -> Tensor:
    """The residual stream after some of the layers: (B, P + K * C, width) -> the same."""
    device, places = x.device, torch.arange(layout.text, device=x.device)
    after = layout.texts.unsqueeze(1) + torch.arange(layout.length, device=device)
    positions = torch.cat((places.expand(x.shape[0], -1), after.repeat(1, layout.count)), dim=1)
    cos, sin = (table[positions] for table in decoder.rotary.tables(layout.text + layout.length, device))
    # 0 where a key may be seen, (B, 1, 1, P) for the text and (C, C) within a continuation.
    padding = torch.zeros(x.shape[0], layout.text, device=device).masked_fill_(places >= layout.texts.unsqueeze(1), -math.inf)
    future = torch.full((layout.length, layout.length), -math.inf, device=device).triu_(1)
    for layer in layers:
        hidden = layer.attention_norm(x)
        attention = layer.attention
        heads = attention.qkv(hidden).unflatten(-1, (-1, attention.head_dim))
        rotated, values = torch.split(heads, [attention.heads + attention.kv_heads, attention.kv_heads], dim=-2)
        rotated = rotate(attention.normed(rotated), cos, sin)
        queries, keys = torch.split(rotated, [attention.heads, attention.kv_heads], dim=-2)
        x = x + attention.out(_attend(queries, keys, values, layout, padding[:, None, None], future))
        if layer.shortcuts is not None:
            x = x + layer.shortcuts(hidden)
        x = x + layer.ffn(layer.ffn_norm(x))
    return x


def _attend(queries: Tensor, keys: Tensor, values: Tensor, layout: Layout, padding: Tensor, future: Tensor) -> Tensor:
    """(B, P + K * C, heads or kv_heads, head_dim) -> (B, P + K * C, heads * head_dim)."""
    text = layout.text
    parts = []
    if text:
        parts.append(causal_attention(queries[:, :text], keys[:, :text], values[:, :text]))
    group = queries.shape[2] // keys.shape[2]
    if group > 1:
        keys, values = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2)
    # (B, heads, P, head_dim) of the text, and (B, heads, K, C, head_dim) of the continuations.
    text_keys, text_values = (part[:, :text].transpose(1, 2) for part in (keys, values))
    own_queries, own_keys, own_values = (
        part[:, text:].transpose(1, 2).unflatten(2, (layout.count, layout.length))  # type: ignore[no-untyped-call]
        for part in (queries, keys, values)
    )
    to_text = own_queries.flatten(2, 3) @ text_keys.mT + padding
    to_own = own_queries @ own_keys.mT + future
    scores = torch.cat((to_text.unflatten(2, to_own.shape[2:4]), to_own), dim=-1)
    weights = torch.softmax(scores.mul_(1 / math.sqrt(queries.shape[-1])), dim=-1)
    mixed = (weights[..., :text].flatten(2, 3) @ text_values).unflatten(2, to_own.shape[2:4])  # type: ignore[no-untyped-call]
    mixed = mixed + weights[..., text:] @ own_values
    parts.append(mixed.flatten(2, 3).transpose(1, 2).flatten(2))
    return torch.cat(parts, dim=1)
