"""The arms of a section against each other, for one measure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tinylm_ablate.report.arms import Arm
from tinylm_ablate.report.documents import estimate, sums
from tinylm_ablate.report.measures import Measure
from tinylm_ablate.report.statistics import BOOTSTRAP_SEEDS, Estimate, hierarchical_bootstrap, holm, mean_and_deviation

#: Set behind a value that cannot be told from the best of its column.
WITHIN_NOISE = "≈"

#: Error that is accepted, over all pairs of a section and measure together.
ERROR = 0.05


@dataclass(frozen=True)
class Pair:
    """Two arms, compared over the seeds that both have.

    Attributes:
        first, second: Their positions.
        estimate: First minus second.
        p: Two-sided p-value of no difference.
        holm: The same after Holm's correction over all pairs.
        seeds_needed: Seeds that would decide it after the correction, if mean and spreads stay; None if none would.
    """

    first: int
    second: int
    estimate: Estimate
    p: float
    holm: float
    seeds_needed: int | None

    @property
    def decided(self) -> bool:
        """Whether the two differ beyond noise."""
        return self.holm < ERROR


@dataclass(frozen=True)
class Result:
    """What an arm came to in one measure.

    Attributes:
        values: One a seed.
        mean, deviation: Over the seeds; NaN where there are too few.
        best: Whether its mean is the best of the section.
        clear: Whether it is the best, and every other arm is known to be worse.
        within_noise: Whether the arm may well be as good as the best: the paired test does not tell them apart, or there is
            none.
        difference: To the best arm, paired by seed; None for the best itself, or without two common seeds.
    """

    values: Sequence[float]
    mean: float
    deviation: float
    best: bool
    clear: bool
    within_noise: bool
    difference: Estimate | None


def paired_tests(arms: Sequence[Arm], measure: Measure) -> list[Pair]:
    """Every two arms with two common seeds or more, in their order.

    All of them are corrected for, also where only the best is compared with the others: which arm is the best was seen in the
    same data.
    """
    values = [arm.by_seed(measure.column) for arm in arms]
    scores = [arm.scores() for arm in arms]
    found: list[tuple[int, int, Estimate]] = []
    for first, second in itertools.combinations(range(len(arms)), 2):
        both = ((values[first], values[second]), (scores[first], scores[second]))
        difference = estimate(*both, (1, -1), measure.column)
        if difference is not None and difference.pairs > 1:
            found.append((first, second, difference))
    p_values = [difference.p_value() for _, _, difference in found]
    return [
        Pair(first, second, difference, p, corrected, _seeds_needed(difference, len(found)))
        for (first, second, difference), p, corrected in zip(found, p_values, holm(p_values), strict=True)
    ]


def bootstrapped(pair: Pair, arms: Sequence[Arm], measure: Measure) -> tuple[float, float] | None:
    """95 % interval of a pair's difference by the hierarchical bootstrap; None below five seeds or without documents."""
    if pair.estimate.pairs < BOOTSTRAP_SEEDS:
        return None
    both = arms[pair.first], arms[pair.second]
    parts = sums([arm.by_seed(measure.column) for arm in both], [arm.scores() for arm in both], (1, -1), measure.column)
    return hierarchical_bootstrap(parts) if parts else None


def compare(arms: Sequence[Arm], measure: Measure) -> list[Result]:
    """The result of each arm; with ``measure.better`` = 0, or a single arm, none is the best."""
    by_seed = [arm.by_seed(measure.column) for arm in arms]
    means = [mean_and_deviation(list(values.values())) for values in by_seed]
    measured = [index for index, values in enumerate(by_seed) if values]
    if not measure.better or len(measured) < 2:
        return [
            Result(list(values.values()), *mean, False, False, False, None) for values, mean in zip(by_seed, means, strict=True)
        ]
    best = max(measured, key=lambda index: measure.better * means[index][0])
    to_best: dict[int, tuple[Estimate, bool]] = {}
    for pair in paired_tests(arms, measure):
        if best in (pair.first, pair.second):
            own = pair.estimate
            if pair.first == best:
                to_best[pair.second] = dataclasses.replace(own, mean=-own.mean), pair.decided
            else:
                to_best[pair.first] = own, pair.decided

    def worse(index: int) -> bool:
        # The sign is asked too: the best mean over all seeds need not be the best over the common ones.
        return index in to_best and to_best[index][1] and measure.better * to_best[index][0].mean < 0

    noisy = {index for index in measured if index != best and not worse(index)}
    return [
        Result(
            list(by_seed[index].values()), *means[index], index == best, index == best and not noisy, index in noisy,
            to_best[index][0] if index in to_best else None,
        )
        for index in range(len(arms))
    ]  # fmt: skip


def _seeds_needed(difference: Estimate, pairs: int) -> int | None:
    return difference.seeds_to_decide(abs(difference.mean), 1 - ERROR / pairs)


def written(result: Result, measure: Measure, seeds: int, marks: bool) -> str:
    """A result as text: mean ± standard deviation, bold if it is clearly the best, marked if it may be as good as the best.

    Args:
        result: What is written.
        measure: How.
        seeds: Seeds of the arm; where fewer have this measure, their number is added.
        marks: Whether to mark at all: not where each arm has one seed, and nothing can be said.
    """
    if not result.values:
        return "–"
    text = measure.text(result.mean)
    if len(result.values) > 1 and result.deviation > 0:
        text += f" ± {measure.text(result.deviation)}"
    if len(result.values) < seeds:
        text += f" (n = {len(result.values)})"
    if result.clear:
        return f"**{text}**"
    return f"{text} {WITHIN_NOISE}" if marks and result.within_noise else text
