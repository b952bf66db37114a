"""The two modules that turn a Llama block into a PanGu-pi block (Wang et al. 2023, arXiv 2312.17276).

The paper leaves some choices open. Ours are: how the series combines with SwiGLU's gate, that every term is a SiLU with one
scale and one shift per neuron, and that shortcuts have the same input as attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinylm_ablate.arch.layers import Matrix
from tinylm_ablate.arch.runs import apart, run_by_run, runs_axis, spread
from tinylm_ablate.arch.shapes import Shape


class SeriesActivation(nn.Module):
    """Series informed activation instead of SwiGLU's SiLU: sum over i = 1..n of silu(a_i * gate + b_i).

    The paper's feed-forward block has no gate: (sum of sigma_i(a_i * x + b_i)) W2. With SwiGLU we interpret it as
    down(series(gate(x)) * up(x)). n = 1 is Llama's block, without scale and shift, and not built here.

    Args:
        terms: n, at least 2.
        width: Neurons h of the block.
        runs: Number of runs (see ``runs``).
    """

    def __init__(self, terms: int, width: int, runs: int | None = None) -> None:
        super().__init__()
        self.terms = terms
        # (n, h) each, stored flat so that weight decay and Muon do not treat them as matrices.
        self.scales = nn.Parameter(torch.zeros(*runs_axis(runs), terms * width))
        self.shifts = nn.Parameter(torch.zeros(*runs_axis(runs), terms * width))

    def forward(self, gate: Tensor) -> Tensor:
        """(..., h) -> (..., h)."""
        if self.scales.ndim == 2 and apart(self.scales):
            return run_by_run(self._series, gate, self.scales, self.shifts)
        return self._series(gate, self.scales, self.shifts)

    def _series(self, gate: Tensor, scales: Tensor, shifts: Tensor) -> Tensor:
        terms = []
        for term in range(self.terms):
            own = slice(term * gate.shape[-1], (term + 1) * gate.shape[-1])
            scale, shift = (spread(kept[..., own].to(gate.dtype), gate) for kept in (scales, shifts))
            terms.append(F.silu(torch.addcmul(shift, gate, scale)))
        return sum(terms[1:], start=terms[0])


class AugmentedShortcuts(nn.Module):
    """Augmented shortcuts: AugMSA(z) = MSA(z) + z + sum over i = 1..T of T_i(z), with T_i(z) = up_i(gelu(down_i(z))).

    In a pre-norm block, attention reads a normalized z; the shortcuts read the same z, and the residual stream is the identity.
    The T bottlenecks of width/r are computed as one of T * width/r, which is the same function.
    """

    def __init__(self, shape: Shape, runs: int | None = None) -> None:
        super().__init__()
        inner = shape.shortcuts * shape.shortcut_width
        self.down = Matrix(inner, shape.width, runs=runs)
        self.up = Matrix(shape.width, inner, runs=runs)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        up: Tensor = self.up(F.gelu(self.down(hidden)))
        return up
