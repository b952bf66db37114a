"""Spearman's rank correlation over arms, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        rho: -1 to 1; NaN if one of the two does not vary, or with fewer than three arms.
        arms: Number of arms.
    """

    rho: float
    arms: int

    @property
    def mean(self) -> float:
        """``rho``."""
        return self.rho

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """By Fisher's transformation."""
        raise NotImplementedError


def correlation(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """The rank correlation of two equally long lists; equal values share their mean rank."""
    raise NotImplementedError
