"""All pairs of arms at one setting, and the best arm."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tinylm_ablate.science.comparison import fewest
from tinylm_ablate.science.effects import effect
from tinylm_ablate.science.estimate import Estimate, mean_and_deviation
from tinylm_ablate.science.evidence import Setting, computed_once
from tinylm_ablate.science.family import holm
from tinylm_ablate.science.looks import adjusted, look, nominal

#: Accepted error over all pairs of a setting and metric together, and over all looks.
ERROR = 0.05

#: Arms that are shown and tested at most: the tests of two thousand would be two million.
MOST_ARMS = 40


@dataclass(frozen=True)
class Pair:
    """Two arms that differ in at least one run.

    Attributes:
        first, second: Labels of the arms.
        estimate: First minus second, at the look; below the first look, over all common seeds.
        seeds, look: Number of common seeds, and the number used; a look of 0 decides nothing.
        p: Look-adjusted two-sided p-value of "no difference"; 1 below the first look.
        holm: ``p`` corrected for the number of distinct pairs.
        decided: Whether ``holm`` is below 5 %.
        count: Number of pairs that are tested together.
    """

    first: str
    second: str
    estimate: Estimate
    seeds: int
    look: int
    p: float
    holm: float
    decided: bool
    count: int

    @property
    def needed(self) -> int | None:
        """Seeds that would decide it; None if none up to 1,000."""
        if self.estimate.mean == 0 or math.isnan(self.estimate.deviation):
            return None
        p = nominal(ERROR / (2 * self.count))
        return fewest(lambda seeds: bool(abs(self.estimate.mean) > self.estimate.with_seeds(seeds).reach(p)))


@dataclass(frozen=True)
class Result:
    """A metric of one arm.

    Attributes:
        arm: Its label.
        values: One per seed.
        mean, deviation: Over seeds; NaN where there are too few.
        best: Whether its mean is the best of the setting.
        clear: Whether it is the best, and all other arms are significantly worse.
        within_noise: Whether it may be as good as the best: the paired test does not distinguish them, or there is none.
        difference: Difference from the best arm; None for the best itself or without two common seeds.
    """

    arm: str
    values: Sequence[float]
    mean: float
    deviation: float
    best: bool
    clear: bool
    within_noise: bool
    difference: Estimate | None


@computed_once
def pairs(setting: Setting, metric: str) -> list[Pair]:
    """Compare all pairs of arms with at least two common seeds, in the order of the arms.

    Arms that share their runs (such as the exponents of Figure 7 at the base batch) are counted once, under the first of them.
    The correction is for all pairs, even if only the best arm is compared with the others, since the best was selected on the
    same data.
    """
    distinct: dict[tuple[str, ...], str] = {}
    for arm in setting.arms:
        if setting.by_seed(arm, metric):
            distinct.setdefault(tuple(setting.identities(arm).values()), arm)
    found: list[tuple[str, str, Estimate, int]] = []
    for first, second in itertools.combinations(distinct.values(), 2):
        own, seeds = effect(setting, [(first, metric, 1.0), (second, metric, -1.0)])
        if own is not None and own.pairs > 1:
            found.append((first, second, own, seeds))
    ps = [_two_sided(own) if look(seeds) else 1.0 for _, _, own, seeds in found]
    return [
        Pair(first, second, own, seeds, look(seeds), p, corrected, corrected < ERROR, len(found))
        for (first, second, own, seeds), p, corrected in zip(found, ps, holm(ps), strict=True)
    ]


@computed_once
def results(setting: Setting, metric: str, direction: int) -> list[Result]:
    """Return the result of each arm, in the order of the runs.

    Args:
        setting: The setting.
        metric: A column.
        direction: 1 if higher is better, -1 if lower is better, 0 if neither.
    """
    by_seed = {arm: setting.by_seed(arm, metric) for arm in setting.arms}
    means = {arm: mean_and_deviation(list(values.values())) for arm, values in by_seed.items()}
    measured = [arm for arm, values in by_seed.items() if values]
    if not direction or len(measured) < 2:
        return [Result(arm, list(by_seed[arm].values()), *means[arm], False, False, False, None) for arm in by_seed]
    best = max(measured, key=lambda arm: direction * means[arm][0])
    to_best: dict[str, tuple[Estimate, bool]] = {}
    same = {arm: setting.identities(arm) for arm in measured}
    for pair in pairs(setting, metric):
        for arm, other, sign in ((pair.first, pair.second, 1), (pair.second, pair.first, -1)):
            if same[other] == same[best]:
                found = dataclasses.replace(pair.estimate, mean=sign * pair.estimate.mean), pair.decided
                to_best |= {name: found for name in measured if same[name] == same[arm]}

    def worse(arm: str) -> bool:
        # The sign matters too: the best mean over all seeds may not be the best over the common ones.
        return arm in to_best and to_best[arm][1] and direction * to_best[arm][0].mean < 0

    rivals = {arm for arm in measured if same[arm] != same[best] and not worse(arm)}
    return [
        Result(
            arm, list(by_seed[arm].values()), *means[arm], arm == best, arm == best and not rivals, arm in rivals,
            to_best[arm][0] if arm in to_best and arm != best else None,
        )
        for arm in by_seed
    ]  # fmt: skip


def best_arms(setting: Setting, metric: str, direction: int) -> Setting:
    """The setting with the ``MOST_ARMS`` best arms by the mean of a metric, or whole where it has no more."""
    means = {arm: direction * setting.mean(arm, metric) for arm in setting.arms}
    if len(means) <= MOST_ARMS:
        return setting
    best = sorted((arm for arm, mean in means.items() if not math.isnan(mean)), key=lambda arm: -means[arm])[:MOST_ARMS]
    return dataclasses.replace(setting, runs=setting.runs[setting.runs["arm"].isin(best)])


def _two_sided(own: Estimate) -> float:
    return min(1.0, 2 * adjusted(own.p_above(0.0) if own.mean > 0 else own.p_below(0.0)))
