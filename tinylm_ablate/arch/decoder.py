"""The Llama-like decoder (Touvron et al. 2023, arXiv 2302.13971), with PanGu-pi's blocks as options.

For token ids t, with x of (B, T, width):

    x = embedding[t]
    for each layer:   x = x + attention(norm(x))  [+ shortcuts(norm(x))]
                      x = x + down(silu(gate(norm(x))) * up(norm(x)))
    logits = head(norm(x))

Biases of queries, keys and values (Qwen2) and norms of queries and keys (Qwen3) are options, for parents that have them.

Counting, Hugging Face's names, generation and initial weights live beside this file, not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinylm_ablate.arch.attention import causal_attention
from tinylm_ablate.arch.layers import Matrix, RMSNorm, Rotary, like, rotate
from tinylm_ablate.arch.loss import next_token_loss
from tinylm_ablate.arch.pangu import AugmentedShortcuts, SeriesActivation
from tinylm_ablate.arch.recomputing import swiglu_down
from tinylm_ablate.arch.shapes import Shape


class Attention(nn.Module):
    """Causal self-attention; groups of heads may share their keys and values (Ainslie et al. 2023, arXiv 2305.13245)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.head_dim
        self.qkv = Matrix((shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.width, shape.qkv_bias)
        self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else None
        self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else None
        self.out = Matrix(shape.width, shape.heads * shape.head_dim)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        batch, length, _ = hidden.shape
        heads = self.qkv(hidden).view(batch, length, -1, self.head_dim)
        turned, values = torch.split(heads, [self.heads + self.kv_heads, self.kv_heads], dim=2)
        turned = rotate(self.normed(turned), cos.to(heads.dtype), sin.to(heads.dtype))
        queries, keys = torch.split(turned, [self.heads, self.kv_heads], dim=2)
        out: Tensor = self.out(causal_attention(queries, keys, values))
        return out

    def normed(self, heads: Tensor) -> Tensor:
        """Queries and keys, (..., heads + kv_heads, head_dim), before they are turned: with their norms, if there are any."""
        if self.q_norm is None or self.k_norm is None:
            return heads
        weights = (self.q_norm.weight.expand(self.heads, -1), self.k_norm.weight.expand(self.kv_heads, -1))
        return F.rms_norm(heads, (self.head_dim,), eps=self.q_norm.eps) * torch.cat(weights).to(heads.dtype)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = Matrix(2 * shape.ffn_width, shape.width)
        self.down = Matrix(shape.width, shape.ffn_width)
        self.activation = SeriesActivation(shape.activations, shape.ffn_width) if shape.activations > 1 else nn.SiLU()

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        gate_up = self.gate_up(hidden)
        if isinstance(self.activation, nn.SiLU):
            return swiglu_down(gate_up, self.down.weight)
        gate, up = gate_up.chunk(2, dim=-1)
        down: Tensor = self.down(self.activation(gate) * up)
        return down


class Layer(nn.Module):
    """One block, pre-norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width, shape.norm_eps)
        self.attention = Attention(shape)
        self.shortcuts = AugmentedShortcuts(shape) if shape.shortcuts else None
        self.ffn_norm = RMSNorm(shape.width, shape.norm_eps)
        self.ffn = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        hidden = self.attention_norm(x)
        x = x + self.attention(hidden, cos, sin)
        if self.shortcuts is not None:
            x = x + self.shortcuts(hidden)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class Decoder(nn.Module):
    """A decoder of a given shape.

    All matrices are zero until ``init.random.initialise`` draws them or ``load_state_dict`` fills them.

    Attributes:
        shape: Its sizes.
        checkpointing: Whether training keeps only the input of each layer and computes the rest again in the backward pass:
            about a third more arithmetic, and far less memory.
        stream: What the residual stream is in, where it is finer than what the weights are kept in.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.checkpointing = False
        self.stream: torch.dtype | None = None
        self.embedding = nn.Embedding(shape.vocab_size, shape.width, _weight=torch.zeros(shape.vocab_size, shape.width))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width, shape.norm_eps)
        self.head = None if shape.tied else Matrix(shape.vocab_size, shape.width)
        self.rotary = Rotary(shape.head_dim, shape.rope_theta, shape.rope_scaling)

    @property
    def blocks(self) -> list[Layer]:
        """The layers, with their type."""
        return cast(list[Layer], list(self.layers))

    @property
    def head_weight(self) -> Tensor:
        """The matrix from the last hidden state to the logits, (V, width)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def through(self, x: Tensor, layers: Sequence[Layer]) -> Tensor:
        """The residual stream after some of the layers: (B, T, width) -> (B, T, width)."""
        cos, sin = self.rotary.tables(x.shape[1], x.device)
        for layer in layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, use_reentrant=False)
            else:
                x = layer(x, cos, sin)
        return x

    def hidden(self, tokens: Tensor) -> Tensor:
        """The normalised state before the head: (B, T) token ids -> (B, T, width)."""
        x: Tensor = self.embedding(tokens)
        out: Tensor = self.norm(self.through(x if self.stream is None else x.to(self.stream), self.blocks))
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, V) logits, in the precision of the matrix products."""
        hidden = self.hidden(tokens)
        return F.linear(hidden, like(self.head_weight, hidden))

    def loss(self, tokens: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Cross-entropy of the next token in nats, without ever holding the (B, T, V) logits.

        Args:
            tokens: (B, T) token ids.
            targets: (B, T) ids of the tokens that follow; a target of -100 does not count.
            reduction: "mean" over the targets that count, or "none".

        Returns:
            A scalar, or (B, T) with zeros where a target does not count; fp32.
        """
        return self._loss(self.hidden(tokens), targets, reduction)

    def stream_loss(self, x: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """``loss``, of the residual stream behind the last layer, (B, T, width)."""
        return self._loss(self.norm(x), targets, reduction)

    def _loss(self, hidden: Tensor, targets: Tensor, reduction: Literal["mean", "none"]) -> Tensor:
        losses = next_token_loss(hidden.flatten(0, 1), self.head_weight, targets.flatten(), reduction)
        return losses if reduction == "mean" else losses.view(targets.shape)
