"""Means, spreads and paired differences over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A difference of two arms, paired by seed.

    Attributes:
        mean: Mean of the differences.
        low, high: Its confidence interval.
        pairs: Seeds that both arms have.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); NaN for what too few values leave unknown."""
    if not values:
        return math.nan, math.nan
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95) -> Difference | None:
    """``first`` - ``second``, with Student's t-interval over the seeds that both have; None below two such seeds.

    Runs of one seed see the same text in the same order, so part of their noise is common and leaves the difference.

    Args:
        first, second: Seed to value.
        confidence: Coverage of the interval.
    """
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return None
    from scipy.special import stdtrit

    mean, deviation = mean_and_deviation([first[seed] - second[seed] for seed in seeds])
    reach = float(stdtrit(len(seeds) - 1, (1 + confidence) / 2)) * deviation / math.sqrt(len(seeds))
    return Difference(mean, mean - reach, mean + reach, len(seeds))
