"""Effects of arms at one setting: paired by seed, with the variance over documents."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tinylm_ablate.science.estimate import Estimate, common_seeds, contrast, mean_and_deviation, ratio_variance
from tinylm_ablate.science.evidence import Items, Setting
from tinylm_ablate.science.looks import look

#: Suffix of a metric's standard error over held-out items.
_ERRORS = ("/standard_error", "/se")


def effect(
    setting: Setting, terms: Sequence[tuple[str, str, float]], *, relative: bool = False, exact: bool = False
) -> tuple[Estimate | None, int]:  # fmt: skip
    """Return a weighted sum over arms, and the number of common seeds; None without a common seed.

    Args:
        setting: Setting of the runs.
        terms: Arm, metric, weight.
        relative: Whether to sum logarithms, so that differences are ratios.
        exact: Whether the metrics are counts or measured once: seeds need not be common, and the interval has no width.
    """
    values = [_values(setting, arm, metric, relative) for arm, metric, _ in terms]
    weights = [weight for _, _, weight in terms]
    if exact:
        if not all(values):
            return None, 0
        means = [mean_and_deviation(list(own.values()))[0] for own in values]
        fewest = min(len(own) for own in values)
        return Estimate(math.fsum(w * m for w, m in zip(weights, means, strict=True)), 0.0, fewest, exact=True), fewest
    seeds = common_seeds(values)
    if not seeds:
        return None, 0
    # Below the first look, nothing is decided and all seeds are shown.
    used = seeds[: look(len(seeds)) or len(seeds)]
    found = contrast(values, weights, used)
    parts = () if relative else _paired(setting, terms, used)
    return dataclasses.replace(found, documents=parts or _recorded(setting, terms, used, relative)), len(seeds)


def _values(setting: Setting, arm: str, metric: str, relative: bool) -> dict[int, float]:
    values = setting.by_seed(arm, metric)
    return {seed: math.log(value) for seed, value in values.items() if value > 0} if relative else values


def _paired(setting: Setting, terms: Sequence[tuple[str, str, float]], seeds: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """Variance over documents that all runs share, by language; empty if a run's documents are unknown or differ."""
    metrics = {metric for _, metric, _ in terms}
    if len(metrics) != 1:
        return ()
    column, _, language = metrics.pop().rpartition("/")
    by_arm = [setting.identities(arm) for arm, _, _ in terms]
    runs: list[list[Mapping[str, Items]]] = [[setting.evidence.items(own[seed], column) for own in by_arm] for seed in seeds]
    languages = sorted({name for row in runs for own in row for name in own if language in (name, "all")})
    found = []
    for name in languages:
        items = [[own.get(name) for own in row] for row in runs]
        first = items[0][0]
        if first is None or any(
            own is None or own.names != first.names or (own.sizes != first.sizes).any() for row in items for own in row
        ):
            return ()
        mean: NDArray[np.float64] = np.zeros(len(first.names)) + sum(
            weight * own.values for row in items for own, (_, _, weight) in zip(row, terms, strict=True) if own is not None
        ) / len(seeds)
        if len(first.names) > 1:
            variance, free = ratio_variance(mean, first.sizes)
            found.append((variance / len(languages) ** 2, free))
    return tuple(found)


def _recorded(
    setting: Setting, terms: Sequence[tuple[str, str, float]], seeds: Sequence[int], relative: bool
) -> tuple[tuple[float, float], ...]:
    """Variance from the recorded standard errors of metrics on different texts, such as two parts of the training data.

    It does not decrease with the number of seeds, since all seeds may share the items. For one metric of several arms, errors
    over the same items mostly cancel, so these standard errors would be meaningless.
    """
    if len(terms) > 1 and len({metric for _, metric, _ in terms}) == 1:
        return ()
    found = []
    for arm, metric, weight in terms:
        for suffix in _ERRORS:
            errors = setting.by_seed(arm, metric + suffix)
            if errors and all(seed in errors for seed in seeds):
                values = setting.by_seed(arm, metric)
                own = [(errors[seed] / (values[seed] if relative else 1.0)) ** 2 for seed in seeds]
                found.append((weight**2 * math.fsum(own) / len(own), math.inf))
                break
    return tuple(found)
