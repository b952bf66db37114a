"""Decision accuracy: how often a small scale orders two arms as a larger one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Agreement:
    """Share of pairs of arms in the same order at two scales.

    Attributes:
        distance: (least, most) difference of the pairs at the small scale, in the metric's unit; (0, inf) for all of them.
        pairs, arms: How many.
        share: Of pairs that agree; NaN without pairs.
        low, high: 95 % interval over arms; NaN where there are too few arms.
    """

    distance: tuple[float, float]
    pairs: int
    arms: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """Agreement between two scales.

    Attributes:
        small, large: Labels of the settings.
        overall: All pairs.
        by_distance: In bins.
        points: Columns experiment, first, second, small (difference), large (difference), agree: one row per pair.
    """

    small: str
    large: str
    overall: Agreement
    by_distance: Sequence[Agreement]
    points: pd.DataFrame


def accuracy(arms: pd.DataFrame, small: str, large: str) -> Accuracy:
    """Compares orders of arms at two scales.

    Args:
        arms: Columns experiment, arm, setting, value (mean over seeds; less is better): one row per arm and setting.
            Pairs are formed within an experiment.
        small, large: Two values of ``setting``.
    """
    raise NotImplementedError
