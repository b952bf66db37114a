"""Several continuations of one text in one pass, which share the states of the text.

A row is the text, padded on the right to P tokens, followed by K continuations of C tokens each. A token of a continuation
attends to the text and to earlier tokens of the same continuation, with positions as if it directly followed the text. The
results equal those of K separate sequences, at the cost of P + K * C tokens instead of K * (P + C).

With a decoder of R runs, states are (R, B, P + K * C, width), and every run reads the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tinylm_ablate.arch.attention import causal_attention
from tinylm_ablate.arch.decoder import Attention, Decoder, Layer
from tinylm_ablate.arch.layers import rotate


@dataclass(frozen=True)
class Layout:
    """Positions of texts and continuations in a batch.

    Attributes:
        texts: (B,) tokens of each text, 0 to P; the rest is padding.
        text: Padded length P of the texts.
        count: Continuations K per text.
        length: Tokens C per continuation, including padding on the right.
    """

    texts: Tensor
    text: int
    count: int
    length: int


def through(decoder: Decoder, x: Tensor, layers: Sequence[Layer], layout: Layout) -> Tensor:
    """The residual stream after some of the layers: (..., B, P + K * C, width) -> the same."""
    if decoder.shape.is_own:
        return _apart(decoder, x, layers, layout)
    device, places = x.device, torch.arange(layout.text, device=x.device)
    after = layout.texts.unsqueeze(1) + torch.arange(layout.length, device=device)
    positions = torch.cat((places.expand(x.shape[-3], -1), after.repeat(1, layout.count)), dim=1)
    cos, sin = (table[positions] for table in decoder.rotary.tables(layout.text + layout.length, device))
    seen = _seen(layout, device)
    for layer in layers:
        hidden = layer.attention_norm(x)
        attention = layer.attention
        assert isinstance(attention, Attention)
        heads = attention.qkv(hidden).unflatten(-1, (-1, attention.head_dim))
        rotated, values = torch.split(heads, [attention.heads + attention.kv_heads, attention.kv_heads], dim=-2)
        rotated = rotate(attention.normed(rotated), cos, sin)
        queries, keys = torch.split(rotated, [attention.heads, attention.kv_heads], dim=-2)
        x = x + attention.out(_attend(queries, keys, values, layout, seen))
        if layer.shortcuts is not None:
            x = x + layer.shortcuts(hidden)
        x = x + layer.ffn(layer.ffn_norm(x))
    return x


def _apart(decoder: Decoder, x: Tensor, layers: Sequence[Layer], layout: Layout) -> Tensor:
    """Compute the same as separate sequences, one per continuation: user-defined blocks support no masks."""
    out = x.clone()
    for row, length in enumerate(layout.texts.tolist()):
        own = x[row, layout.text :].unflatten(0, (layout.count, layout.length))  # type: ignore[no-untyped-call]
        text = x[row, :length].expand(layout.count, -1, -1)
        states = decoder.through(torch.cat((text, own), dim=1), layers)
        out[row, :length] = states[0, :length]
        out[row, layout.text :] = states[:, length:].flatten(0, 1)
    return out


def _seen(layout: Layout, device: torch.device) -> Tensor:
    """Attention mask of the continuations, 0 or -inf: (B, 1, K * C, P + K * C)."""
    size = layout.count * layout.length
    text = torch.arange(layout.text, device=device) < layout.texts.unsqueeze(1)
    past = torch.ones(layout.length, layout.length, dtype=torch.bool, device=device).tril()
    own = torch.block_diag(*[past] * layout.count)  # type: ignore[no-untyped-call]
    rows = len(layout.texts)
    seen = torch.cat((text.unsqueeze(1).expand(rows, size, -1), own.expand(rows, -1, -1)), dim=-1)
    return torch.zeros(seen.shape, device=device).masked_fill_(~seen, -math.inf).unsqueeze(1)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, layout: Layout, seen: Tensor) -> Tensor:
    """(..., B, P + K * C, heads or kv_heads, head_dim) -> (..., B, P + K * C, heads * head_dim)."""
    text, leading = layout.text, queries.shape[:-3]
    queries, keys, values = (part.flatten(0, -4) for part in (queries, keys, values))
    parts = [causal_attention(queries[:, :text], keys[:, :text], values[:, :text])] if text else []
    group = queries.shape[2] // keys.shape[2]
    if group > 1:
        keys, values = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2)
    own, keys, values = (part.transpose(1, 2) for part in (queries[:, text:], keys, values))
    mask = seen.to(own.dtype).repeat(len(queries) // len(seen), 1, 1, 1)
    mixed = F.scaled_dot_product_attention(own, keys, values, attn_mask=mask)
    states = torch.cat([*parts, mixed.transpose(1, 2).flatten(2)], dim=1)
    return states.view(*leading, *states.shape[1:])
