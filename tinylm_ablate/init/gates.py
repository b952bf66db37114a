"""Hard-concrete gates over the coupled structures of a model, and the model with its gates.

A gate (Louizos et al. 2018, arXiv 1712.01312) has a parameter a = log alpha: with u uniform in (0, 1),

    s = sigmoid((log u - log(1 - u) + a) / beta),    z = min(1, max(0, 1.2 s - 0.1)),
    P(z > 0) = sigmoid(a - beta log(0.1 / 1.1)).

A gate multiplies the output weights of its unit: a head's columns of the output projection, an FFN neuron's column of the down
projection, a channel's column of the embedding and its row of both projections. RMSNorm divides by the root mean square of the
channels with open gates, as in the child. The gated parent is therefore a plain decoder with other weights, and once the gates
are 0 or 1 (or folded), it computes the same function as the child.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tinylm_ablate.init.neurons import heads_together

if TYPE_CHECKING:
    from tinylm_ablate.arch.shapes import Shape

#: Interval to which the concrete distribution is stretched before it is clamped.
_LOW, _HIGH = -0.1, 1.1

#: Bounds of log alpha, which starts at the upper one with every gate open; they allow a closed gate to open again.
_BOUND = math.log(100)


class Gates(nn.Module):
    """Gates of one axis.

    Args:
        rows: Number of targets: layers, or one for the channels.
        units: Gates per row.
        kept: Number of units that the child keeps.
        temperature: beta.
    """

    def __init__(self, rows: int, units: int, kept: int, temperature: float) -> None:
        super().__init__()
        self.units, self.kept, self.temperature = units, kept, temperature
        self.log_alpha = nn.Parameter(torch.full((rows, units), _BOUND))
        self.multipliers = nn.Parameter(torch.zeros(2, rows))

    def sample(self, generator: torch.Generator) -> Tensor:
        """Sample the gates for one step, (rows, units), each in [0, 1]."""
        u = torch.rand(self.log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(self.log_alpha.device)
        return _stretched((torch.logit(u) + self.log_alpha) / self.temperature)

    @torch.no_grad()
    def values(self) -> Tensor:
        """Gates without noise, as at test time in Louizos et al., (rows, units)."""
        return _stretched(self.log_alpha)

    def probability(self) -> Tensor:
        """Probability that each gate is open, (rows, units)."""
        return torch.sigmoid(self.log_alpha - self.temperature * math.log(-_LOW / _HIGH))

    def penalty(self, share: float) -> Tensor:
        """Terms of the Lagrangian when the targets have moved ``share`` of the way to the child's sizes."""
        excess = 1 - self.probability().mean(1) - share * (1 - self.kept / self.units)
        return (self.multipliers[0] * excess + self.multipliers[1] * excess.square()).sum()

    @torch.no_grad()
    def distance(self) -> Tensor:
        """Expected number of open units beyond the child's, (rows,)."""
        return self.probability().sum(1) - self.kept

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep log alpha within its bounds."""
        self.log_alpha.clamp_(-_BOUND, _BOUND)


def _stretched(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def gates_for(shape: Shape, child: Shape, temperature: float) -> dict[str, Gates]:
    """Create open gates for each axis that is smaller in the child; ``shape`` is the parent's with the kept layers."""
    together = heads_together(shape, child)
    sizes = {
        "width": (1, shape.width, child.width),
        "heads": (shape.depth, shape.heads // together, child.heads // together),
        "ffn": (shape.depth, shape.ffn_width, child.ffn_width),
    }
    return {axis: Gates(*size, temperature) for axis, size in sizes.items() if size[2] < size[1]}


def fold(weights: Mapping[str, Tensor], shape: Shape, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply a decoder's weights by the gates of their output units.

    Args:
        weights: Under the decoder's names.
        shape: Shape of the decoder.
        gates: Axis -> (rows, units); missing axes are open.
    """
    result = dict(weights)
    width = gates["width"][0] if "width" in gates else None
    if width is not None:
        result["embedding.weight"] = weights["embedding.weight"] * width
    for layer in range(shape.depth):
        for axis, module in (("heads", "attention.out"), ("ffn", "ffn.down")):
            name = f"layers.{layer}.{module}.weight"
            if axis in gates:
                units = gates[axis][layer]
                result[name] = result[name] * units.repeat_interleave(weights[name].shape[1] // len(units))
            if width is not None:
                result[name] = result[name] * width.unsqueeze(1)
    return result


def gated(weights: Mapping[str, Tensor], shape: Shape, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``fold``, with norms over open channels only: weights of a plain decoder that computes the gated parent.

    With n of d channels open, all outputs to the residual stream are scaled by c = sqrt(d/n), so that the mean square over d
    channels equals that over n; the norms' weights are divided by c, and the one before a tied head, whose matrix is scaled,
    once more.
    """
    result = fold(weights, shape, gates)
    if "width" not in gates:
        return result
    growth = math.sqrt(shape.width / max(1, int(gates["width"].count_nonzero())))
    for name, weight in result.items():
        if name.endswith(("embedding.weight", "attention.out.weight", "ffn.down.weight")):
            result[name] = weight * growth
        elif name.endswith(("attention_norm.weight", "ffn_norm.weight")):
            result[name] = weight / growth
    result["norm.weight"] = result["norm.weight"] / growth ** (2 if shape.tied else 1)
    return result
