"""The arms of a section against the best of them, for one measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinylm_ablate.report.arms import Arm
from tinylm_ablate.report.measures import Measure
from tinylm_ablate.report.statistics import Difference, mean_and_deviation, paired_difference

#: Set behind a value that cannot be told from the best of its column.
WITHIN_NOISE = "≈"


@dataclass(frozen=True)
class Result:
    """What an arm came to in one measure.

    Attributes:
        values: One a seed.
        mean, deviation: Over the seeds; NaN where there are too few.
        best: Whether its mean is the best of the section.
        clear: Whether it is the best, and every other arm is known to be worse.
        within_noise: Whether the arm may well be as good as the best: the interval of the difference holds zero, or there is
            none.
        difference: To the best arm, paired by seed; None for the best itself, or without two common seeds.
    """

    values: Sequence[float]
    mean: float
    deviation: float
    best: bool
    clear: bool
    within_noise: bool
    difference: Difference | None


def compare(arms: Sequence[Arm], measure: Measure) -> list[Result]:
    """The result of each arm; with ``measure.better`` = 0, or a single arm, none is the best."""
    by_seed = [arm.by_seed(measure.column) for arm in arms]
    means = [mean_and_deviation(list(values.values())) for values in by_seed]
    measured = [index for index, values in enumerate(by_seed) if values]
    if not measure.better or len(measured) < 2:
        best = None
    else:
        best = max(measured, key=lambda index: measure.better * means[index][0])
    differences = [
        paired_difference(values, by_seed[best]) if best is not None and index != best else None
        for index, values in enumerate(by_seed)
    ]
    noisy = [
        best is not None and index in measured and index != best and not _worse(difference, measure)
        for index, difference in enumerate(differences)
    ]
    return [
        Result(list(by_seed[index].values()), *means[index], index == best, index == best and not any(noisy), *compared)
        for index, compared in enumerate(zip(noisy, differences, strict=True))
    ]


def _worse(difference: Difference | None, measure: Measure) -> bool:
    """Whether an arm is known to be worse than the best. The sign is asked too: the best mean over all seeds need not be the
    best over the common ones."""
    return difference is not None and difference.decided and measure.better * difference.mean < 0


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
