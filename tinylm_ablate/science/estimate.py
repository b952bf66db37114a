"""A paired effect over seeds and documents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A difference of arms, or another weighted sum of them, paired by seed.

    Attributes:
        mean: Mean over the seeds.
        deviation: Sample standard deviation over the seeds.
        pairs: Seeds that all of the arms have.
        documents: Pairs (variance of ``mean`` over the choice of documents, degrees of freedom), one per language.
        exact: A count, not a sample: its interval has no width.
    """

    mean: float
    deviation: float
    pairs: int
    documents: tuple[tuple[float, float], ...] = ()
    exact: bool = False

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval; infinite below two seeds."""
        raise NotImplementedError

    def p_above(self, bound: float) -> float:
        """One-sided p-value of "the effect is at most ``bound``"."""
        raise NotImplementedError

    def p_below(self, bound: float) -> float:
        """One-sided p-value of "the effect is at least ``bound``"."""
        raise NotImplementedError
