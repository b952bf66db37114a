"""Means, spreads, and paired comparisons over seeds and evaluation documents.

A number of a run varies for two reasons: the seed (initial weights and the order of the data) and the choice of held-out
documents. Two runs of one seed see the same text in the same order, and all runs are asked about the same documents, so
arms are compared by their difference within each seed, and within each document.

**Why verdicts rest on t-intervals and not on the bootstrap.** With n seeds the hierarchical bootstrap resamples n numbers, of
which 2 have 3 means; its variance is (n - 1)/n of the unbiased one, and its tails are no heavier for how little n seeds tell.
In simulations without any effect its 95 % intervals leave zero out in 43 % of cases with 2 seeds, 26 % with 3 and 16 % with 5
(``tests/report/test_statistics.py``), against the 5 % that they promise. Student's t knows how little 2 seeds say: its quantile
is 12.7 in place of 1.96. It assumes that differences over seeds are about normal, which nothing can check with a few of them.

**Why documents come on top.** All seeds share the documents, so their choice does not show in the spread over seeds: t over
five seeds alone finds differences in 73 % of cases where there is none but in the documents that happened to be drawn. The two
parts are put together as Banerjee (1960) does for variances of unknown ratio: reach² = t²(n - 1) s²/n + t²(m - 1) v, each
variance with the quantile of its own degrees of freedom. The coverage is at least the nominal one whatever the ratio is; with
Satterthwaite's degrees of freedom it is not when the part with 1 degree is underestimated by chance. The interaction of seed
and document is counted in both parts, which errs on the same side.

**Why the spread is not pooled over arms.** The residual of all arms would give more degrees of freedom, but arms differ in
their spread (a high learning rate, a deep model): one with three times the spread of four others gets 16 % false verdicts.

Sources: S. K. Banerjee, Approximate confidence interval for linear functions of means of k populations when the population
variances are not equal, Sankhya 22 (1960); S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian
Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: More seeds than this are not promised to decide anything.
MOST_SEEDS = 1000

#: Below this many seeds no bootstrap is shown: it would be far too narrow (see above).
BOOTSTRAP_SEEDS = 5

_SMALLEST_P = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A difference of arms, or another weighted sum of them, paired by seed.

    Attributes:
        mean: Mean over the seeds.
        deviation: Sample standard deviation over the seeds.
        pairs: Seeds that all of the arms have.
        documents: For each language the variance of ``mean`` over the choice of documents, and its degrees of freedom; empty
            where no documents are known, so that an interval covers the seeds alone.
        exact: Whether it is a count and not a sample: nothing is left to chance.
    """

    mean: float
    deviation: float
    pairs: int
    documents: tuple[tuple[float, int], ...] = ()
    exact: bool = False

    def reach(self, confidence: float = 0.95, seeds: int | None = None) -> float:
        """Half the width of the interval; with ``seeds`` what it would be with so many, if the spreads stay as they are."""
        count = self.pairs if seeds is None else seeds
        if self.exact:
            return 0.0
        if count < 2:
            return math.inf
        from scipy.special import stdtrit

        parts = ((self.deviation**2 / count, count - 1), *self.documents)
        return math.sqrt(math.fsum(float(stdtrit(free, (1 + confidence) / 2)) ** 2 * variance for variance, free in parts))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Its confidence interval; from minus to plus infinity below two seeds."""
        reach = self.reach(confidence)
        return self.mean - reach, self.mean + reach

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.interval()[1]

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p-value of ``null``: one minus the confidence at which the interval just reaches it, at least 1e-12."""
        distance = abs(self.mean - null)
        if distance == 0 or self.reach() == math.inf:
            return 1.0
        low, high = math.log(_SMALLEST_P), 0.0
        if self.reach(1 - _SMALLEST_P) < distance:
            return _SMALLEST_P
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.reach(1 - math.exp(middle)) > distance else (low, middle)
        return math.exp(high)

    def seeds_to_decide(self, distance: float, confidence: float = 0.95) -> int | None:
        """The fewest seeds with which the interval would be narrower than ``distance``, if mean and spreads stay as they are.

        None if up to ``MOST_SEEDS`` do not suffice, as when the documents alone leave it open.
        """
        if self.pairs < 2 or distance <= 0 or self.reach(confidence, MOST_SEEDS) >= distance:
            return None
        low, high = 1, MOST_SEEDS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.reach(confidence, middle) < distance else (middle, high)
        return high


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); NaN for what too few values leave unknown."""
    if not values:
        return math.nan, math.nan
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def contrast(values: Sequence[Mapping[int, float]], weights: Sequence[float]) -> Estimate | None:
    """The weighted sum of arms within each seed that all of them have; None without such a seed.

    Args:
        values: Seed to value, for each arm.
        weights: One for each arm: (1, -1) is the difference of two.
    """
    seeds = common(values)
    if not seeds:
        return None
    sums = [math.fsum(weight * arm[seed] for weight, arm in zip(weights, values, strict=True)) for seed in seeds]
    mean, deviation = mean_and_deviation(sums)
    return Estimate(mean, deviation, len(seeds))


def common(values: Sequence[Mapping[int, float]]) -> list[int]:
    """The seeds that all arms have, sorted."""
    return sorted(set.intersection(*(set(arm) for arm in values))) if values else []


def ratio_variance(values: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[float, int]:
    """Variance over the choice of items of the ratio sum(values) / sum(sizes), and its degrees of freedom.

    By the delta method (Cochran, Sampling Techniques, 1977, Section 6.4), as ``evaluate.bits.standard_errors`` does it.

    Args:
        values: What each item came to, such as its bits, or the difference of two arms' bits: (m,), m of at least 2.
        sizes: What it is divided by, such as its bytes: (m,).
    """
    count = len(values)
    residuals = values - values.sum() / sizes.sum() * sizes
    return float(count / (count - 1) * (residuals @ residuals) / sizes.sum() ** 2), count - 1


def hierarchical_bootstrap(
    groups: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a mean over seeds, groups and items, of seeds and items drawn with replacement.

    Seeds and items are crossed (each seed is asked about every item), so a resample draws its items once for all of its seeds.
    It promises too much with few seeds: see the beginning of this file. The same input gives the same interval.

    Args:
        groups: For each language the items' values, (seeds, m), and their sizes, (m,): a group's number is the ratio of their
            sums, and the result is the unweighted mean over the groups.
        resamples: How many.
        confidence: Between the percentiles.
    """
    source = np.random.default_rng(0)
    seeds = len(groups[0][0])
    means = np.zeros((resamples, seeds))
    for values, sizes in groups:
        drawn = source.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples).astype(np.float64)
        means += (drawn @ values.T) / (drawn @ sizes)[:, None] / len(groups)
    picked = source.integers(seeds, size=(resamples, seeds))
    low, high = np.quantile(
        np.take_along_axis(means, picked, axis=1).mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2]
    )
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: below 0.05 are the hypotheses that may be rejected with a family-wise error of 5 %."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
