"""Numbers of seeds at which comparisons are judged, fixed in advance, and the error that each look may spend."""

from __future__ import annotations

#: Seeds at which a comparison is judged.
LOOKS = (3, 5, 8, 12)


def look(seeds: int) -> int:
    """The largest look that ``seeds`` suffice for, 0 if none."""
    return max((n for n in LOOKS if n <= seeds), default=0)


def level(comparisons: int = 1) -> float:
    """One-sided p-value below which one of so many comparisons is decided at any look."""
    raise NotImplementedError


def adjusted(p: float) -> float:
    """Probability of a nominal one-sided p-value this small at any of the looks: the look-adjusted p-value."""
    raise NotImplementedError
