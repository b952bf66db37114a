"""The Llama-like decoder (Touvron et al. 2023, arXiv 2302.13971), with PanGu-pi's blocks as options.

For token ids t, with x of (B, T, width):

    x = embedding[t]
    for each layer:   x = x + attention(norm(x))  [+ shortcuts(norm(x))]
                      x = x + down(silu(gate(norm(x))) * up(norm(x)))
    logits = head(norm(x))

Biases of queries, keys and values (Qwen2) and norms of queries and keys (Qwen3) are options, for parents that have them.

The same decoder serves R runs of one shape: its weights then have a leading axis of runs, ids are (R, B, T) and states
(R, B, T, width), written (..., T, width) below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinylm_ablate.arch.attention import causal_attention
from tinylm_ablate.arch.layers import Embedding, Matrix, RMSNorm, Rotary, rotate
from tinylm_ablate.arch.loss import next_token_loss
from tinylm_ablate.arch.own import OwnAttention, OwnFeedForward
from tinylm_ablate.arch.pangu import AugmentedShortcuts, SeriesActivation
from tinylm_ablate.arch.recomputing import swiglu_down
from tinylm_ablate.arch.runs import positions, product, scale
from tinylm_ablate.arch.shapes import Shape


class Attention(nn.Module):
    """Causal self-attention; groups of heads may share their keys and values (Ainslie et al. 2023, arXiv 2305.13245)."""

    def __init__(self, shape: Shape, runs: int | None = None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.head_dim
        self.qkv = Matrix((shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.width, shape.qkv_bias, runs)
        self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps, runs) if shape.qk_norm else None
        self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps, runs) if shape.qk_norm else None
        self.out = Matrix(shape.width, shape.heads * shape.head_dim, runs=runs)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(..., T, width) -> (..., T, width)."""
        heads = self.qkv(hidden).unflatten(-1, (-1, self.head_dim))
        rotated, values = torch.split(heads, [self.heads + self.kv_heads, self.kv_heads], dim=-2)
        rotated = rotate(self.normed(rotated), cos.to(heads.dtype), sin.to(heads.dtype))
        queries, keys = torch.split(rotated, [self.heads, self.kv_heads], dim=-2)
        out: Tensor = self.out(causal_attention(queries, keys, values))
        return out

    def normed(self, heads: Tensor) -> Tensor:
        """Apply the norms of queries and keys, if any, before rotation: (..., heads + kv_heads, head_dim)."""
        if self.q_norm is None or self.k_norm is None:
            return heads
        weights = torch.cat((self.q_norm.repeated(self.heads), self.k_norm.repeated(self.kv_heads)), dim=-2)
        normed = F.rms_norm(heads, (self.head_dim,), eps=self.q_norm.eps)
        return scale(normed, weights.to(heads.dtype), own=2)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape, runs: int | None = None) -> None:
        super().__init__()
        self.gate_up = Matrix(2 * shape.ffn_width, shape.width, runs=runs)
        self.down = Matrix(shape.width, shape.ffn_width, runs=runs)
        series = shape.activations > 1
        self.activation = SeriesActivation(shape.activations, shape.ffn_width, runs) if series else nn.SiLU()

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        gate_up = self.gate_up(hidden)
        if isinstance(self.activation, nn.SiLU):
            return swiglu_down(gate_up, self.down.weight)
        gate, up = gate_up.chunk(2, dim=-1)
        down: Tensor = self.down(self.activation(gate) * up)
        return down


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, shape: Shape, runs: int | None = None) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width, shape.norm_eps, runs)
        self.attention = OwnAttention(shape) if shape.own_attention else Attention(shape, runs)
        self.shortcuts = AugmentedShortcuts(shape, runs) if shape.shortcuts else None
        self.ffn_norm = RMSNorm(shape.width, shape.norm_eps, runs)
        self.ffn = OwnFeedForward(shape) if shape.own_ffn else FeedForward(shape, runs)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(..., T, width) -> (..., T, width)."""
        hidden = self.attention_norm(x)
        x = x + self.attention(hidden, cos, sin)
        if self.shortcuts is not None:
            x = x + self.shortcuts(hidden)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class Decoder(nn.Module):
    """A decoder of a given shape, or R of them.

    All matrices are zero until ``init.random.initialize`` or ``load_state_dict`` sets them.

    Args:
        shape: Its sizes.
        runs: Number of runs R, whose weights have a leading axis; None is one run without that axis.

    Attributes:
        shape: Its sizes.
        checkpointing: Whether training keeps only the input of each layer and recomputes the rest in the backward pass:
            about a third more computation, and far less memory.
        stream: Type of the residual stream if it is more precise than that of the weights.
    """

    def __init__(self, shape: Shape, runs: int | None = None) -> None:
        super().__init__()
        if shape.is_own and runs is not None:
            raise ValueError("user-defined blocks support only one run")
        self.shape, self.runs = shape, runs
        self.checkpointing = False
        self.stream: torch.dtype | None = None
        self.embedding = Embedding(shape.vocab_size, shape.width, runs)
        self.layers = nn.ModuleList(Layer(shape, runs) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width, shape.norm_eps, runs)
        self.head = None if shape.tied else Matrix(shape.vocab_size, shape.width, runs=runs)
        self.rotary = Rotary(shape.head_dim, shape.rope_theta, shape.rope_scaling)

    @property
    def blocks(self) -> list[Layer]:
        """The layers, with their type."""
        return cast(list[Layer], list(self.layers))

    @property
    def head_weight(self) -> Tensor:
        """The matrix from the last hidden state to the logits, (V, width) or (R, V, width)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def through(self, x: Tensor, layers: Sequence[Layer]) -> Tensor:
        """The residual stream after some of the layers: (..., T, width) -> (..., T, width)."""
        cos, sin = self.rotary.tables(x.shape[-2], x.device)
        for layer in layers:
            if self.checkpointing and torch.is_grad_enabled():
                # Nothing in a layer is random.
                x = checkpoint(layer, x, cos, sin, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, cos, sin)
        return x

    def hidden(self, tokens: Tensor) -> Tensor:
        """The normalized state before the head: (..., T) token ids -> (..., T, width)."""
        x: Tensor = self.embedding(self.each_run(tokens))
        out: Tensor = self.norm(self.through(x if self.stream is None else x.to(self.stream), self.blocks))
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., T) token ids -> (..., T, V) logits, in the precision of the matrix products."""
        return product(self.hidden(tokens), self.head_weight)

    def loss(self, tokens: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Cross-entropy of the next token in nats, computed without storing the (B, T, V) logits.

        Args:
            tokens: (B, T) token ids. With R runs (R, B, T), or (B, T) for all runs.
            targets: Ids of the next tokens, of the same shape; -100 is ignored.
            reduction: "mean" over the targets that are not ignored, or "none".

        Returns:
            A scalar, or (B, T) with zeros at ignored targets; with R runs (R,), or (R, B, T). fp32.
        """
        return self._loss(self.hidden(tokens), targets, reduction)

    def stream_loss(self, x: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Compute ``loss`` from the residual stream after the last layer, (..., T, width)."""
        return self._loss(self.norm(x), targets, reduction)

    def each_run(self, ids: Tensor) -> Tensor:
        """Add an axis of runs to ids (B, T) if the weights have one."""
        return ids if self.runs is None or ids.ndim == 3 else ids.expand(self.runs, *ids.shape)

    def _loss(self, hidden: Tensor, targets: Tensor, reduction: Literal["mean", "none"]) -> Tensor:
        targets, head = self.each_run(targets), self.head_weight
        losses = next_token_loss(positions(hidden, head), head, targets.flatten(head.ndim - 2), reduction)
        return losses if reduction == "mean" else losses.view(targets.shape)
