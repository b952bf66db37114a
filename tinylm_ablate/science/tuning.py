"""Tuning of learning rates for each arm: factors to try next, and the best one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: Factors on the scale's rate that every arm tries.
START = (0.5, 1.0, 2.0)

#: Largest factor; the smallest is its inverse. A best factor at either end is called an edge.
FURTHEST = 16.0

#: Ratio of the next factor to the best while that is at an edge.
_STEP = 2.0

State = Literal["open", "interior", "edge"]


@dataclass(frozen=True)
class Tuning:
    """The state of one arm's tuning.

    Attributes:
        tried: Factor to loss, ascending; infinite or NaN losses mean divergence.
        best: The best factor so far; None before any finite result.
        next: Factors to try next; empty when done.
        state: "open" while there are factors to try; "interior" if both neighbors of the best are worse; "edge" if the best
            is the smallest or largest factor allowed, or if all diverged: the arm is not testable.
    """

    tried: Mapping[float, float]
    best: float | None
    next: tuple[float, ...]
    state: State


def tune(tried: Mapping[float, float]) -> Tuning:
    """Return the next factors for one arm.

    Args:
        tried: Factor to validation loss, all with one seed that no comparison uses.
    """
    losses = {factor: loss if math.isfinite(loss) else math.inf for factor, loss in sorted(tried.items())}
    missing = tuple(factor for factor in sorted(START) if factor not in losses)
    finite = [factor for factor, loss in losses.items() if loss < math.inf]
    # Of equal losses, take the smaller rate, which is safer.
    best = min(finite, key=lambda factor: (losses[factor], factor)) if finite else None
    if missing:
        return Tuning(dict(sorted(tried.items())), best, missing, "open")
    smallest, largest = min(losses), max(losses)
    further: float | None = None
    if best is None or best == smallest:
        further = smallest / _STEP
    elif best == largest:
        further = largest * _STEP
    if further is None:
        return Tuning(dict(sorted(tried.items())), best, (), "interior")
    allowed = further * (1 + 1e-9) >= 1 / FURTHEST and further <= FURTHEST * (1 + 1e-9)
    return Tuning(dict(sorted(tried.items())), best, (further,) if allowed else (), "open" if allowed else "edge")


def changed_orders(curves: Mapping[str, Mapping[float, float]]) -> tuple[int, int]:
    """Return the number of pairs of arms whose order differs between the scale's rate and tuned rates, and of all pairs.

    Args:
        curves: For each arm, factor to loss on the tuning seed; arms without a loss at factor 1 are omitted.
    """
    kept = {arm: own for arm, own in curves.items() if math.isfinite(own.get(1.0, math.nan))}
    before = {arm: own[1.0] for arm, own in kept.items()}
    after = {arm: min(loss for loss in own.values() if math.isfinite(loss)) for arm, own in kept.items()}

    def order(losses: Mapping[str, float], first: str, second: str) -> tuple[bool, bool]:
        return losses[first] < losses[second], losses[first] > losses[second]

    names = list(kept)
    pairs = [(first, second) for place, first in enumerate(names) for second in names[place + 1 :]]
    return sum(order(before, *pair) != order(after, *pair) for pair in pairs), len(pairs)
