"""All pairs of arms of one setting, and the mark of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import Setting


@dataclass(frozen=True)
class Pair:
    """Two arms that differ in at least one run.

    Attributes:
        first, second: Labels of the arms.
        estimate: First minus second, at the look.
        p: Look-adjusted two-sided p-value of "no difference".
        holm: The same, corrected for the number of different pairs.
        decided: ``holm`` is below 0.05 at a look.
        needed: Seeds that would decide it; None if none up to ``MOST_SEEDS``.
    """

    first: str
    second: str
    estimate: Estimate
    p: float
    holm: float
    decided: bool
    needed: int | None


@dataclass(frozen=True)
class Result:
    """A metric of one arm.

    Attributes:
        arm: Its label.
        values: One per seed.
        mean, deviation: Over seeds; NaN where there are too few.
        best: Its mean is the best of the setting.
        clear: It is the best, and every other arm is known to be worse.
        within_noise: It may be as good as the best.
        difference: To the best arm; None for the best itself or without two common seeds.
    """

    arm: str
    values: Sequence[float]
    mean: float
    deviation: float
    best: bool
    clear: bool
    within_noise: bool
    difference: Estimate | None


def pairs(setting: Setting, metric: str) -> list[Pair]:
    """Every two arms with two common seeds or more; arms that are the same runs count once."""
    raise NotImplementedError


def results(setting: Setting, metric: str, direction: int) -> list[Result]:
    """The result of each arm in the order of the runs; ``direction`` is 1 where more is better, -1 where less, 0 neither."""
    raise NotImplementedError
