"""Decision accuracy: how often a small scale orders two arms like a larger one.

DataDecide (Magnusson et al. 2025) studied this for training data; here it is measured for architectures and training choices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tinylm_ablate.science.evidence import Evidence, Setting, settings

#: Boundaries of the bins of differences at the small scale, in bits per byte.
BINS = (0.0, 0.005, 0.01, 0.02, 0.05, math.inf)

#: Minimum number of arms in a bin's pairs for an interval.
LEAST_ARMS = 5

_RESAMPLES = 1000


@dataclass(frozen=True)
class Agreement:
    """Share of pairs of arms with the same order at two scales.

    Attributes:
        distance: (minimum, maximum) difference of the pairs at the small scale, in the metric's unit; (0, inf) for all.
        pairs, arms: Their numbers.
        share: Share of pairs that agree; NaN without pairs.
        low, high: 95 % interval; NaN with fewer than ``LEAST_ARMS`` arms.
    """

    distance: tuple[float, float]
    pairs: int
    arms: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """Agreement between two settings.

    Attributes:
        small, large: Their labels.
        overall: Agreement of all pairs.
        by_distance: Agreement in the bins of ``BINS``.
        points: Columns experiment, first, second, small, large (differences, first minus second), agree: one row per pair.
    """

    small: str
    large: str
    overall: Agreement
    by_distance: Sequence[Agreement]
    points: pd.DataFrame


def accuracy(arms: pd.DataFrame, small: str, large: str) -> Accuracy:
    """Compare the orders of arms at two settings.

    Pairs share arms and are not independent: the interval is the percentile bootstrap over arms, which draws each experiment's
    arms with replacement and weights a pair by how often both were drawn.

    Args:
        arms: Columns experiment, arm, setting, value (mean over seeds): one row per arm and setting. Pairs are formed within an
            experiment, of arms that have both settings.
        small, large: Two values of ``setting``.
    """
    wide = arms[arms["setting"].isin([small, large])].pivot_table(
        index=["experiment", "arm"], columns="setting", values="value"
    )
    wide = wide.dropna() if {small, large} <= set(wide.columns) else wide.iloc[:0]
    rows = []
    for experiment, own in wide.groupby(level="experiment"):
        values = [
            (arm, *pair) for (_, arm), pair in zip(own.index, own[[small, large]].to_numpy(np.float64).tolist(), strict=True)
        ]
        rows += [
            (experiment, first[0], second[0], first[1] - second[1], first[2] - second[2])
            for first, second in itertools.combinations(values, 2)
        ]
    points = pd.DataFrame(rows, columns=["experiment", "first", "second", "small", "large"])
    # A tie agrees only with another tie.
    points["agree"] = np.sign(points["small"]) == np.sign(points["large"])
    resampled = _weights(points)
    whole = np.ones(len(points), dtype=bool)
    distances = points["small"].abs().to_numpy(np.float64)
    return Accuracy(
        small, large, _agreement(points, whole, resampled, (0.0, math.inf)),
        [
            _agreement(points, (distances >= low) & (distances < high), resampled, (low, high))
            for low, high in itertools.pairwise(BINS)
        ],
        points,
    )  # fmt: skip


def _weights(points: pd.DataFrame) -> NDArray[np.float64]:
    """Count how often each pair is drawn in each resample: (resamples, pairs)."""
    source = np.random.default_rng(0)
    weights = np.zeros((_RESAMPLES, len(points)))
    for _, own in points.groupby("experiment"):
        names: Mapping[str, int] = {name: i for i, name in enumerate(sorted(set(own["first"]) | set(own["second"])))}
        drawn = source.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
        first, second = (drawn[:, [names[name] for name in own[side]]] for side in ("first", "second"))
        weights[:, points.index.get_indexer(own.index)] = first * second
    return weights


def _agreement(
    points: pd.DataFrame, chosen: NDArray[np.bool_], weights: NDArray[np.float64], distance: tuple[float, float]
) -> Agreement:
    own = points[chosen]
    agree = own["agree"].to_numpy(np.float64)
    arms = len({(row.experiment, name) for row in own.itertuples() for name in (row.first, row.second)})
    low = high = math.nan
    if arms >= LEAST_ARMS:
        totals = weights[:, chosen].sum(axis=1)
        shares = (weights[:, chosen] @ agree)[totals > 0] / totals[totals > 0]
        # If all pairs agree, the bootstrap interval has no width; the rule of three over arms replaces it.
        low, high = (float(end) for end in np.quantile(shares, [0.025, 0.975]))
        low = min(low, 1 - 3 / arms) if agree.all() else low
        high = max(high, 3 / arms) if not agree.any() else high
    share = float(agree.mean()) if len(own) else math.nan
    return Agreement(distance, len(own), arms, share, float(np.maximum(0.0, low)), float(np.minimum(1.0, high)))


def between_scales(evidence: Mapping[str, Evidence], metric: str, small: str, large: str) -> Accuracy:
    """Decision accuracy of one scale for another, over all experiments that were run at both.

    For each experiment, this uses the two settings that answer the same question with the most similar tokens per parameter;
    among several, those with the most tokens.
    """
    rows = []
    for name, own in evidence.items():
        groups = settings(own)
        pairs = [
            (first, second)
            for first in groups
            for second in groups
            if (first.scale, second.scale) == (small, large) and first.others == second.others
        ]
        if pairs:
            for setting in min(pairs, key=lambda pair: (round(_unlike(*pair), 1), -pair[1].tokens)):
                rows += [(name, arm, setting.scale, setting.mean(arm, metric)) for arm in setting.arms]
    return accuracy(pd.DataFrame(rows, columns=["experiment", "arm", "setting", "value"]).dropna(), small, large)


def _unlike(first: Setting, second: Setting) -> float:
    """Distance of the tokens per parameter of two settings, in log units; 0 if unknown."""
    ratio = (first.tokens / first.parameters) / (second.tokens / second.parameters)
    return abs(math.log(ratio)) if math.isfinite(ratio) and ratio > 0 else 0.0
