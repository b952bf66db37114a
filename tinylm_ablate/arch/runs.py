"""Support for one decoder that serves R runs of one shape at once.

With R runs, weights and hidden states have a leading axis of runs: a matrix is (R, rows, columns) instead of (rows, columns),
and a state (R, B, T, width) instead of (B, T, width). Each run uses only its own weights, so that runs that train together are
independent.

A GPU computes the products of all runs at once. A CPU, where that saves no time, computes them per run, with the operations of
a single run, so that a run in a stack has bit-identical results to the run alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Devices that compute runs one by one.
_ONE_BY_ONE = {"cpu"}


def runs_axis(runs: int | None) -> tuple[int, ...]:
    """Return the leading axes of weights for ``runs`` runs; none for a single run."""
    return () if runs is None else (runs,)


def one_by_one(device: str) -> bool:
    """Return whether this kind of device computes runs one by one."""
    return device in _ONE_BY_ONE


def apart(weight: Tensor) -> bool:
    """Return whether the runs of this weight are computed one by one."""
    return one_by_one(weight.device.type) or weight.shape[0] == 1


def run_by_run(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """Apply a function to each run."""
    results = [function(*own) for own in zip(*(operand.unbind() for operand in operands), strict=True)]
    return results[0].unsqueeze(0) if len(results) == 1 else torch.stack(results)


def like(weight: Tensor, hidden: Tensor) -> Tensor:
    """Convert a weight to fp32 if the other operand is fp32."""
    return weight.float() if hidden.dtype == torch.float32 else weight


def positions(hidden: Tensor, matrix: Tensor) -> Tensor:
    """Flatten the positions of a run: (..., d) -> (N, d), or (R, ..., d) -> (R, N, d) with matrices of R runs."""
    return hidden.flatten(matrix.ndim - 2, -2)


def spread(weight: Tensor, hidden: Tensor, own: int = 1) -> Tensor:
    """Reshape a weight with ``own`` axes per run for broadcasting: (R, d) -> (R, 1, ..., 1, d)."""
    if weight.ndim == own:
        return weight
    return weight.view(weight.shape[0], *[1] * (hidden.ndim - weight.ndim), *weight.shape[1:])


def scale(hidden: Tensor, weight: Tensor, own: int = 1) -> Tensor:
    """Multiply hidden states by a weight with ``own`` axes per run."""
    if weight.ndim > own and apart(weight):
        return run_by_run(torch.mul, hidden, weight)
    return hidden * spread(weight, hidden, own)


def product(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return hidden weight^T + bias.

    Args:
        hidden: (..., columns); with weights of R runs (R, ..., columns).
        weight: (rows, columns) or (R, rows, columns).
        bias: (rows,) or (R, rows), or None.

    Returns:
        (..., rows) or (R, ..., rows).
    """
    if weight.dtype != hidden.dtype and not torch.is_autocast_enabled(hidden.device.type):
        weight, bias = like(weight, hidden), None if bias is None else like(bias, hidden)
    if weight.ndim == 2:
        return F.linear(hidden, weight, bias)
    if apart(weight):
        return run_by_run(F.linear, hidden, weight, *(() if bias is None else (bias,)))
    flat = positions(hidden, weight)
    out = torch.bmm(flat, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, weight.mT)
    return out.view(*hidden.shape[:-1], -1)
