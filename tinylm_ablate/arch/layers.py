"""Parts of all blocks: embedding, matrix, norm and rotary embedding.

Each serves one run, or R runs of one shape whose weights have a leading axis of runs (see ``runs``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinylm_ablate.arch.recomputing import rms_norm
from tinylm_ablate.arch.rope import NONE, frequencies
from tinylm_ablate.arch.runs import like, product, runs_axis


class Embedding(nn.Module):
    """Token embedding: ids -> rows of a matrix (V, width)."""

    def __init__(self, entries: int, width: int, runs: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*runs_axis(runs), entries, width))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, width); with R runs (R, B, T) -> (R, B, T, width)."""
        if self.weight.ndim == 2:
            return F.embedding(ids, self.weight)
        runs, entries, _ = self.weight.shape
        first_row = torch.arange(0, runs * entries, entries, device=ids.device)
        return F.embedding(ids + first_row.view(-1, 1, 1), self.weight.flatten(0, 1))


class Matrix(nn.Module):
    """x -> x W^T + b, with W (rows, columns) and an optional b (rows,).

    Zero until initial weights are drawn or loaded, which is free at any size.
    """

    def __init__(self, rows: int, columns: int, bias: bool = False, runs: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*runs_axis(runs), rows, columns))
        self.bias = nn.Parameter(torch.zeros(*runs_axis(runs), rows)) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        return product(hidden, self.weight, self.bias)


class RMSNorm(nn.Module):
    """x -> x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float, runs: int | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(*runs_axis(runs), width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return rms_norm(hidden, like(self.weight, hidden), self.eps)

    def repeated(self, count: int) -> Tensor:
        """Repeat the weight for ``count`` heads: (count, width), or (R, count, width)."""
        return self.weight.unsqueeze(-2).expand(*self.weight.shape[:-1], count, -1)


class Rotary:
    """The rotary embedding (Su et al. 2021, arXiv 2104.09864), in the convention of Hugging Face's Llama.

    Channel j of a head is paired with channel j + head_dim/2 (not with its neighbor, as in the original Llama code), and the
    pair at position p is rotated by the angle p * theta^(-2j/head_dim), scaled as the shape requires (``arch.rope``).

    The tables are cached, but not as buffers: since they are computed on first use, for the device and the longest sequence so
    far, they stay correct if the model is built on the meta device, emptied, moved or copied.
    """

    def __init__(self, head_dim: int, theta: float, scaling: str = NONE) -> None:
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling
        self._tables: tuple[Tensor, Tensor] | None = None

    def tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions 0 to ``length`` - 1, (length, 1, head_dim / 2) each, fp32; the 1 is for the heads."""
        tables = self._tables
        if tables is None or tables[0].shape[0] < length or tables[0].device != device:
            # Training cannot use a table that was created in inference mode.
            with torch.inference_mode(False), torch.no_grad():
                positions = torch.arange(length, dtype=torch.float32, device=device)
                turns = frequencies(self.head_dim, self.theta, self.scaling, device)
                angles = torch.outer(positions, turns).unsqueeze(1)
                tables = self._tables = (angles.cos(), angles.sin())
        return tables[0][:length], tables[1][:length]


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head by its position.

    Args:
        heads: (..., T, heads, head_dim).
        cos, sin: (T, 1, head_dim / 2), see ``Rotary.tables``.
    """
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
