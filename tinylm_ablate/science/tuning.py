"""Learning rates for each arm: which factors to try next, and which is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tuning:
    """The state of one arm's tuning.

    Attributes:
        tried: Factor to loss; infinite or NaN losses are divergences.
        best: The best factor so far; None before any result.
        next: Factors to try next, empty when done.
        state: "open", "interior" or "edge" (the best factor is the smallest or largest allowed: not testable).
    """

    tried: Mapping[float, float]
    best: float | None
    next: tuple[float, ...]
    state: str


def tune(tried: Mapping[float, float]) -> Tuning:
    """The next factors for an arm: 1/2, 1, 2, then further factors of 2 while the best is at an edge."""
    raise NotImplementedError
