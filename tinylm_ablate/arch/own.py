"""User-defined blocks of a decoder: a class that names its matrices and computes with them (docs/extending.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tinylm_ablate.arch.layers import Matrix, rotate
from tinylm_ablate.arch.shapes import Shape, own_block, own_matrices
from tinylm_ablate.errors import ConfigError


class OwnBlock(Protocol):
    """Interface of both kinds of blocks: a dataclass with this method, and ``attend`` or ``feed``."""

    def matrices(self, shape: Shape) -> Mapping[str, tuple[int, int]]:
        """Return the matrices of one layer: name -> (rows, columns).

        The random rule initializes them, and knows q, k, v, out, gate, up and down by name; they have weight decay like other
        matrices, and are counted as parameters and operations.
        """


class OwnAttentionBlock(OwnBlock, Protocol):
    """A block that replaces attention.

    It may also have ``flops(shape, context_length)``: operations per token in addition to those of its matrices, two per
    multiply-add; without it, those of full causal attention are counted.
    """

    def attend(
        self, hidden: Tensor, matrix: Mapping[str, nn.Module], shape: Shape, rotate: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return what is added to the residual stream.

        Args:
            hidden: (B, T, width), normalized. A position must not depend on later ones.
            matrix: The matrices, each a function (..., columns) -> (..., rows) with an attribute ``weight``.
            shape: The shape of the decoder.
            rotate: The rotary embedding, (B, T, heads, head_dim) -> the same.

        Returns:
            (B, T, width).
        """


class OwnFfnBlock(OwnBlock, Protocol):
    """A block that replaces the FFN; ``flops`` as above, zero if it is missing."""

    def feed(self, hidden: Tensor, matrix: Mapping[str, nn.Module], shape: Shape) -> Tensor:
        """Return what is added to the residual stream: (B, T, width) -> (B, T, width)."""


class _Own(nn.Module):
    """A block and its matrices."""

    name = ""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.block = shape, own_block(shape, self.name)
        sizes = own_matrices(shape, self.name)
        self.matrix = nn.ModuleDict({name: Matrix(rows, columns) for name, (rows, columns) in sizes.items()})

    def checked(self, hidden: Tensor, out: Any) -> Tensor:
        """Check that the result of the block fits the residual stream.

        Raises:
            ConfigError: The result has another size.
        """
        if not isinstance(out, Tensor) or out.shape != hidden.shape:
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ConfigError([f"arch.{self.name}: returned {found} for {tuple(hidden.shape)}; allowed: the same size"])
        return out


class OwnAttention(_Own):
    """``arch.own_attention``."""

    name = "own_attention"

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""

        def turned(heads: Tensor) -> Tensor:
            return rotate(heads, cos.to(heads.dtype), sin.to(heads.dtype))

        return self.checked(hidden, self.block.attend(hidden, self.matrix, self.shape, turned))


class OwnFeedForward(_Own):
    """``arch.own_ffn``."""

    name = "own_ffn"

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        return self.checked(hidden, self.block.feed(hidden, self.matrix, self.shape))


def check_causal(decoder: nn.Module, shape: Shape) -> None:
    """Refuse a block that is not causal, whose loss would be meaningless.

    Raises:
        ConfigError: Two texts that differ only in their second half have different states in their first half.
    """
    if not (shape.own_attention or shape.own_ffn):
        return
    tokens = torch.arange(16).remainder(shape.vocab_size).expand(2, -1).clone()
    tokens[1, 8:] = (tokens[1, 8:] + 1).remainder(shape.vocab_size)
    with torch.no_grad():
        one, other = decoder(tokens)[:, :8].float()
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-5):
        keys = [f"arch.{name}" for name in ("own_attention", "own_ffn") if getattr(shape, name)]
        raise ConfigError([f"{' and '.join(keys)}: a position depends on later ones; allowed: causal blocks"])
