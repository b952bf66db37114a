"""Learning rates for each arm: which factors to try next, and which is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

#: Factors about the dial's rate that every arm tries.
START = (0.5, 1.0, 2.0)

#: Furthest factor on either side: beyond it the best is called an edge.
FURTHEST = 16.0

State = Literal["open", "interior", "edge"]


@dataclass(frozen=True)
class Tuning:
    """The state of one arm's tuning.

    Attributes:
        tried: Factor to loss, ascending; infinite or NaN losses are divergences.
        best: The best factor so far; None before any finite result.
        next: Factors to try next, empty when done.
        state: "open" while there is something to try; "interior" where both neighbors of the best are worse; "edge" where the
            best is the smallest or largest factor allowed, or all diverged: the arm is not testable.
    """

    tried: Mapping[float, float]
    best: float | None
    next: tuple[float, ...]
    state: State


def tune(tried: Mapping[float, float], start: Sequence[float] = START, step: float = 2.0, furthest: float = FURTHEST) -> Tuning:
    """The next factors for one arm.

    Args:
        tried: Factor to validation loss, all on one seed that no comparison uses.
        start: Factors that are tried first, all at once.
        step: While the best is at an edge, the next factor is this many times further out.
        furthest: The largest factor tried; the smallest is one over it.
    """
    losses = {factor: loss if math.isfinite(loss) else math.inf for factor, loss in sorted(tried.items())}
    missing = tuple(factor for factor in sorted(start) if factor not in losses)
    finite = [factor for factor, loss in losses.items() if loss < math.inf]
    # Of equal losses the smaller rate, which is the safer one.
    best = min(finite, key=lambda factor: (losses[factor], factor)) if finite else None
    if missing:
        return Tuning(dict(sorted(tried.items())), best, missing, "open")
    smallest, largest = min(losses), max(losses)
    further: float | None = None
    if best is None or best == smallest:
        further = smallest / step
    elif best == largest:
        further = largest * step
    if further is None:
        return Tuning(dict(sorted(tried.items())), best, (), "interior")
    allowed = 1 / furthest <= further * (1 + 1e-9) and further <= furthest * (1 + 1e-9)
    return Tuning(dict(sorted(tried.items())), best, (further,) if allowed else (), "open" if allowed else "edge")


def changed_orders(curves: Mapping[str, Mapping[float, float]], tolerance: float = 0.0) -> tuple[int, int]:
    """Return how many pairs of arms change their order between the dial's own rate and tuned rates, of how many.

    Args:
        curves: For each arm, factor to loss on the tuning seed; arms without a loss at factor 1 are left out.
        tolerance: Differences up to this are no order.
    """
    kept = {arm: own for arm, own in curves.items() if math.isfinite(own.get(1.0, math.nan))}
    before = {arm: own[1.0] for arm, own in kept.items()}
    after = {arm: min(loss for loss in own.values() if math.isfinite(loss)) for arm, own in kept.items()}

    def order(losses: Mapping[str, float], first: str, second: str) -> int:
        difference = losses[first] - losses[second]
        return 0 if abs(difference) <= tolerance else int(math.copysign(1, difference))

    names = list(kept)
    pairs = [(first, second) for place, first in enumerate(names) for second in names[place + 1 :]]
    return sum(order(before, *pair) != order(after, *pair) for pair in pairs), len(pairs)
