"""Corrections for many tests."""

from __future__ import annotations

from collections.abc import Sequence

#: Accepted share of false verdicts in a family.
FALSE_DISCOVERIES = 0.10


def survivors(p_values: Sequence[float]) -> list[bool]:
    """Return which tests survive control of the false discovery rate over the family (Benjamini and Hochberg, 1995)."""
    ordered = sorted(p_values)
    count = len(ordered)
    cut = max((p for place, p in enumerate(ordered, start=1) if p <= FALSE_DISCOVERIES * place / count), default=-1.0)
    return [p <= cut for p in p_values]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): rejecting hypotheses below 0.05 has a family-wise error of at most 5 %."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
