"""Effects over budgets and scales."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from tinylm_ablate.science.estimate import Estimate


@dataclass(frozen=True)
class Point:
    """An effect at one setting.

    Attributes:
        scale: Name of the scale.
        parameters, tokens: Of the setting.
        setting: Its label.
        effect: The estimate.
    """

    scale: str
    parameters: float
    tokens: float
    setting: str
    effect: Estimate


class Course(enum.StrEnum):
    """What an effect does as scale or budget grow."""

    GROWS = "grows"
    HOLDS = "holds"
    SHRINKS = "shrinks"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Slope:
    """A slope of an effect with its 90 % interval, for each factor of e."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Trend:
    """An effect over settings.

    Attributes:
        label: Of the comparison.
        points: Smaller scales and budgets first.
        by_tokens, by_parameters: Slopes in log tokens and log parameters; None where the settings do not vary enough.
        course: What the effect does with scale, or with budget where there is one scale.
        crosses_zero_at: (number, "parameters" or "tokens") where a shrinking effect would be zero; None otherwise.
        text: One sentence for a reader.
    """

    label: str
    points: Sequence[Point]
    by_tokens: Slope | None
    by_parameters: Slope | None
    course: Course
    crosses_zero_at: tuple[float, str] | None
    text: str


def trend(label: str, points: Sequence[Point], margin: float) -> Trend:
    """The trend of an effect over its points; ``course`` is unknown with fewer than two."""
    raise NotImplementedError
