"""Effects over budgets and scales: whether an effect grows, holds or shrinks, and where it would vanish."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import count

#: One-sided error of a slope's bound.
_TAIL = 0.05

#: Minimum factor by which a quantity varies for settings to differ in it.
_DIFFERENT = 1.2


@dataclass(frozen=True)
class Point:
    """An effect, or the loss of one arm, at one setting.

    Attributes:
        scale: Name of the scale.
        parameters, tokens: Parameters and tokens of the setting.
        setting: Its label.
        effect: The estimate.
    """

    scale: str
    parameters: float
    tokens: float
    setting: str
    effect: Estimate


class Course(enum.StrEnum):
    """Trend of an effect as scale or budget grows."""

    GROWS = "grows"
    HOLDS = "holds"
    SHRINKS = "shrinks"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Slope:
    """Slope of an effect per factor of e, with its 90 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Trend:
    """An effect over settings.

    Attributes:
        label: Label of the comparison.
        points: Smaller scales and budgets first.
        by_tokens: Slope in log tokens at equal parameters; None if no scale has two budgets.
        by_parameters: Slope in log parameters: at equal tokens if ``by_tokens`` is known, otherwise along the settings that
            were run, in which tokens usually grow with parameters; None if there is only one scale.
        course: Change of the effect with scale, or with budget if there is only one scale.
        text: A sentence for readers, with the size at which a shrinking effect would be zero.
    """

    label: str
    points: Sequence[Point]
    by_tokens: Slope | None
    by_parameters: Slope | None
    course: Course
    text: str


@dataclass(frozen=True)
class Fit:
    """A linear fit over log tokens and log parameters.

    Attributes:
        centers: "tokens" and "parameters", as far as they are columns, to the mean of their logarithms.
        solver: (columns, points): the value at new settings is ``row @ solver @ values``.
        spare: Number of points minus the number of columns.
        misfit: Mean squared residual over ``spare``; 0 without spare points.
    """

    centers: Mapping[str, float]
    solver: NDArray[np.float64]
    spare: int
    misfit: float

    def row(self, tokens: float, parameters: float) -> NDArray[np.float64]:
        """Return the row of a setting."""
        own = {"tokens": tokens, "parameters": parameters}
        return np.array([1.0, *(math.log(own[name]) - center for name, center in self.centers.items())])


def fit(points: Sequence[Point], values: NDArray[np.float64]) -> Fit | None:
    """Fit values over log tokens and log parameters by least squares, as far as the points distinguish them; or None."""
    logs = {name: np.log([getattr(point, name) for point in points]) for name in ("tokens", "parameters")}
    # If every scale has one budget, tokens and parameters grow together, and the fit uses parameters.
    paired = len({point.scale for point in points}) == len(points)
    centers: dict[str, float] = {}
    design = np.ones((len(points), 1))
    for name in ("parameters", "tokens") if paired else ("tokens", "parameters"):
        own = logs[name] - logs[name].mean()
        beyond = own - design @ np.linalg.pinv(design) @ own
        if np.ptp(beyond) > math.log(_DIFFERENT) and design.shape[1] < len(points):
            centers[name] = float(logs[name].mean())
            design = np.column_stack([design, own])
    if not centers:
        return None
    solver: NDArray[np.float64] = np.linalg.pinv(design).astype(np.float64)
    spare = len(points) - design.shape[1]
    residuals = values - design @ solver @ values
    return Fit(centers, solver, spare, float(residuals @ residuals / spare) if spare > 0 else 0.0)


def reach(fitted: Fit, row: NDArray[np.float64], points: Sequence[Point], tail: float, new: bool = False) -> float:
    """Distance from ``row @ solver @ values`` to a one-sided bound.

    It includes the points' errors (each with the quantile of its degrees of freedom) and, with spare points, the residual of
    the line; with ``new``, also that of the predicted point.
    """
    from scipy.special import stdtrit

    weights = row @ fitted.solver
    total = float(sum((w * point.effect.reach(tail)) ** 2 for w, point in zip(weights, points, strict=True)))
    if fitted.spare > 0:
        share = float(weights @ weights) + (1.0 if new else 0.0)
        total += float(stdtrit(fitted.spare, 1 - tail)) ** 2 * fitted.misfit * share
    return math.sqrt(total)


def trend(label: str, points: Sequence[Point], margin: float) -> Trend:
    """Return the trend of an effect over its points.

    ``course`` is "grows" or "shrinks" if the slope's 90 % interval excludes zero, "holds" if the effect would change by less
    than ``margin`` over a tenfold scale or budget, and otherwise, or with fewer than two points, unknown.
    """
    ordered = sorted(points, key=lambda point: (point.parameters, point.tokens))
    known = [point for point in ordered if point.effect.pairs > 1 or point.effect.exact]
    values = np.array([point.effect.mean for point in known])
    fitted = fit(known, values) if len(known) > 1 else None
    if fitted is None:
        return Trend(label, ordered, None, None, Course.UNKNOWN, "one setting: no trend")
    names = list(fitted.centers)

    def slope_along(*along: str) -> Slope:
        row = np.array([0.0, *(float(name in along) for name in names)])
        mean, distance = float(row @ fitted.solver @ values), reach(fitted, row, known, _TAIL)
        return Slope(mean, mean - distance, mean + distance)

    slopes = {name: slope_along(name) for name in names}
    leading = "parameters" if "parameters" in slopes else "tokens"
    # With both, the course is that of larger models with equal tokens per parameter.
    slope, last = slope_along(*names), known[-1]
    direction = 1 if last.effect.mean >= 0 else -1
    course = Course.UNKNOWN
    if slope.low > 0 or slope.high < 0:
        course = Course.GROWS if slope.mean * direction > 0 else Course.SHRINKS
    elif max(abs(slope.low), abs(slope.high)) * math.log(10) < margin:
        course = Course.HOLDS
    zero = None
    if course == Course.SHRINKS:
        at = math.log(getattr(last, leading)) - last.effect.mean / slope.mean
        zero = math.exp(min(at, 700.0))
    text = _sentence(course, leading, zero, known)
    return Trend(label, ordered, slopes.get("tokens"), slopes.get("parameters"), course, text)


def _sentence(course: Course, leading: str, zero: float | None, points: Sequence[Point]) -> str:
    """Describe a course along "parameters" or "tokens"; a shrinking effect would be zero at ``zero`` of these."""
    of = "scale" if leading == "parameters" else "budget"
    span = f"{count(getattr(points[0], leading))} to {count(getattr(points[-1], leading))} {leading}"
    if course == Course.UNKNOWN:
        return f"whether the effect changes with {of} is open ({span})"
    if zero is not None:
        crossing = f" and would cross zero at about {count(zero)} {leading}" if zero < 1e15 else ""
        return f"the effect shrinks with {of} ({span}){crossing}"
    return f"the effect {course} with {of} ({span})"
