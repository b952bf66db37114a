"""Support for one decoder that serves R runs of one shape at once.

With R runs every weight carries a leading axis of runs, and so does every hidden state: a matrix is (R, rows, columns) where it
is (rows, columns) for one run, and a state (R, B, T, width) where it is (B, T, width). Run r reads its own weights alone, so
runs that train together do not see each other.

A GPU computes a product of all runs at once. A processor, which gains nothing by that, computes one for each run, with the
operations that the run alone has: so every number of a run in a stack is that of the run alone, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Devices that compute runs one by one.
_ONE_BY_ONE = {"cpu"}


def runs_axis(runs: int | None) -> tuple[int, ...]:
    """The leading axis of the weights of so many runs; none for a single run."""
    return () if runs is None else (runs,)


def one_by_one(device: str) -> bool:
    """Return whether this kind of device computes runs one by one."""
    return device in _ONE_BY_ONE


def apart(weight: Tensor) -> bool:
    """Return whether the runs of this weight are computed one by one."""
    return one_by_one(weight.device.type) or weight.shape[0] == 1


def run_by_run(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """The results of a function of one run for each run."""
    results = [function(*own) for own in zip(*(operand.unbind() for operand in operands), strict=True)]
    return results[0].unsqueeze(0) if len(results) == 1 else torch.stack(results)


def like(weight: Tensor, hidden: Tensor) -> Tensor:
    """A weight, raised to fp32 where it meets fp32; elsewhere it stays as it is, for autocast to round."""
    return weight.float() if hidden.dtype == torch.float32 else weight


def positions(hidden: Tensor, matrix: Tensor) -> Tensor:
    """The positions of a run below each other: (..., d) -> (N, d), or (R, ..., d) -> (R, N, d) beside matrices of R runs."""
    return hidden.flatten(matrix.ndim - 2, -2)


def spread(weight: Tensor, hidden: Tensor, own: int = 1) -> Tensor:
    """A weight, of which each run has the last ``own`` axes, shaped to broadcast: (R, d) -> (R, 1, ..., 1, d)."""
    if weight.ndim == own:
        return weight
    return weight.view(weight.shape[0], *[1] * (hidden.ndim - weight.ndim), *weight.shape[1:])


def scale(hidden: Tensor, weight: Tensor, own: int = 1) -> Tensor:
    """hidden * weight, of which each run has the last ``own`` axes."""
    if weight.ndim > own and apart(weight):
        return run_by_run(torch.mul, hidden, weight)
    return hidden * spread(weight, hidden, own)


def product(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden weight^T + bias.

    Args:
        hidden: (..., columns); with weights of R runs (R, ..., columns).
        weight: (rows, columns) or (R, rows, columns).
        bias: (rows,) or (R, rows), or None.

    Returns:
        (..., rows) or (R, ..., rows).
    """
    weight, bias = like(weight, hidden), None if bias is None else like(bias, hidden)
    if weight.ndim == 2:
        return F.linear(hidden, weight, bias)
    if apart(weight):
        return run_by_run(F.linear, hidden, weight, *(() if bias is None else (bias,)))
    flat = positions(hidden, weight)
    out = torch.bmm(flat, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, weight.mT)
    return out.view(*hidden.shape[:-1], -1)
