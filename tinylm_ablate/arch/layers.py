"""The parts that all blocks are made of: a matrix, the norm and the rotary embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinylm_ablate.arch.recomputing import rms_norm
from tinylm_ablate.arch.rope import NONE, frequencies


def like(weight: Tensor, hidden: Tensor) -> Tensor:
    """A weight, raised to the fp32 that it meets; elsewhere it stays as it is, for autocast to round."""
    return weight.float() if hidden.dtype == torch.float32 else weight


class Matrix(nn.Module):
    """x -> x W^T + b, W of (rows, columns), b of (rows,) if there is one. Zero until initial weights are drawn or loaded, which
    costs nothing at any size."""

    def __init__(self, rows: int, columns: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns))
        self.bias = nn.Parameter(torch.zeros(rows)) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        return F.linear(hidden, like(self.weight, hidden), None if self.bias is None else like(self.bias, hidden))


class RMSNorm(nn.Module):
    """x -> x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return rms_norm(hidden, like(self.weight, hidden), self.eps)


class Rotary:
    """The rotary embedding (Su et al. 2021, arXiv 2104.09864), in the convention of Hugging Face's Llama.

    Channel j of a head is paired with channel j + head_dim/2 (not with its neighbour, as in the original Llama code), and the
    pair at position p is turned by the angle p * theta^(-2j/head_dim), scaled where the shape says so (``arch.rope``).

    The tables are kept, but are no buffers: made on first use, for the device and the longest sequence so far, they are right
    after a model was built on the meta device, emptied, moved, or copied, with nothing to reset.
    """

    def __init__(self, head_dim: int, theta: float, scaling: str = NONE) -> None:
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling
        self._tables: tuple[Tensor, Tensor] | None = None

    def tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions 0 to ``length`` - 1, (length, 1, head_dim / 2) each, fp32; the 1 is for the heads."""
        tables = self._tables
        if tables is None or tables[0].shape[0] < length or tables[0].device != device:
            # A table made while inference mode is on could not be used in training afterwards.
            with torch.inference_mode(False), torch.no_grad():
                positions = torch.arange(length, dtype=torch.float32, device=device)
                turns = frequencies(self.head_dim, self.theta, self.scaling, device)
                angles = torch.outer(positions, turns).unsqueeze(1)
                tables = self._tables = (angles.cos(), angles.sin())
        return tables[0][:length], tables[1][:length]


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head by its position.

    Args:
        heads: (B, T, heads, head_dim).
        cos, sin: (T, 1, head_dim / 2), see ``Rotary.tables``.
    """
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
