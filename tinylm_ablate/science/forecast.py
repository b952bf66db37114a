"""Forecasts for settings that were not run, recorded in advance and judged afterwards.

The interval covers two models: a loss follows a straight line or a power law, both in log parameters and log tokens; an effect
follows its line, or is constant at its mean. Neither model is known to be true, so ``judge_forecasts`` reports how often the
intervals are correct.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tinylm_ablate.science.effects import effect
from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import Evidence, settings
from tinylm_ablate.science.trend import Point, fit, reach
from tinylm_ablate.science.verdict import Verdict

#: One-sided error of a 90 % interval.
_TAIL = 0.05

#: Maximum factor between a setting and the points in a quantity without a column in the line.
_ALIKE = 1.5

#: Maximum factor between the tokens of a forecast and of the runs that judge it, which corresponds to the margin of a claim.
TOKENS_ALIKE = 1.05

_SUBJECT = ("experiment", "metric", "subject", "quantity", "scale")
_FORECAST = (
    "date", "experiment", "metric", "subject", "quantity", "scale", "parameters", "tokens", "forecast", "low", "high",
    "based_on",
)  # fmt: skip
#: Columns of ``results/forecasts.csv``.
COLUMNS = (*_FORECAST, "hash", "observed", "inside")


@dataclass(frozen=True)
class Forecast:
    """Expected value at a setting that was not run, with its 90 % interval.

    Attributes:
        experiment, metric: Experiment and metric.
        subject: An arm, or the label of a comparison.
        quantity: "loss" or "effect".
        scale, parameters, tokens: The setting.
        mean, low, high: The forecast.
        based_on: Labels of the settings that it is based on, joined by "; ".
    """

    experiment: str
    metric: str
    subject: str
    quantity: str
    scale: str
    parameters: float
    tokens: float
    mean: float
    low: float
    high: float
    based_on: str


def forecast(
    points: Sequence[Point], experiment: str, metric: str, subject: str, quantity: str, scale: str, parameters: float,
    tokens: float,
) -> Forecast | None:  # fmt: skip
    """Forecast one loss or effect; None if the points do not determine it.

    Args:
        points: At least two settings with at least two seeds; the scales must differ if ``parameters`` is new, and the budgets
            if only ``tokens`` is.
        experiment, metric, subject, quantity: The forecast quantity; "loss" or "effect".
        scale, parameters, tokens: The setting that was not run.
    """
    if quantity not in ("loss", "effect"):
        raise ValueError(f"quantity {quantity!r} is neither loss nor effect")
    known = [point for point in points if point.effect.pairs > 1]
    if len(known) < 2:
        return None
    line = _line(known, parameters, tokens)
    if line is None:
        return None
    if quantity == "effect":
        courses = [line, _constant(known)]
    else:
        courses = [line, _power(known, parameters, tokens)] if all(point.effect.mean > 0 for point in known) else [line]
    mean = math.fsum(course[0] for course in courses) / len(courses)
    low, high = min(course[1] for course in courses), max(course[2] for course in courses)
    based_on = "; ".join(dict.fromkeys(point.setting for point in known))
    return Forecast(experiment, metric, subject, quantity, scale, parameters, tokens, mean, low, high, based_on)


#: Mean, low, high.
_Course = tuple[float, float, float]


def _line(points: Sequence[Point], parameters: float, tokens: float) -> _Course | None:
    """A straight line in log parameters and log tokens, as far as the points distinguish them."""
    values = np.array([point.effect.mean for point in points])
    fitted = fit(points, values)
    if fitted is None or not _within(points, set(fitted.centers), parameters, tokens):
        return None
    row = fitted.row(tokens, parameters)
    mean, distance = float(row @ fitted.solver @ values), reach(fitted, row, points, _TAIL, new=True)
    return mean, mean - distance, mean + distance


def _power(points: Sequence[Point], parameters: float, tokens: float) -> _Course:
    """A power law: the line of the logarithms, with relative errors."""
    logs = [
        dataclasses.replace(
            point,
            effect=Estimate(
                math.log(own.mean),
                own.deviation / own.mean,
                own.pairs,
                tuple((v / own.mean**2, free) for v, free in own.documents),
            ),
        )
        for point in points
        for own in [point.effect]
    ]
    found = _line(logs, parameters, tokens)
    assert found is not None  # the same points gave the line
    return math.exp(found[0]), math.exp(found[1]), math.exp(found[2])


def _constant(points: Sequence[Point]) -> _Course:
    """Mean of an effect over settings of equal weight."""
    mean = math.fsum(point.effect.mean for point in points) / len(points)
    distance = math.sqrt(math.fsum((point.effect.reach(_TAIL) / len(points)) ** 2 for point in points))
    return mean, mean - distance, mean + distance


def _within(points: Sequence[Point], columns: set[str], parameters: float, tokens: float) -> bool:
    """Return whether the line applies to a setting: quantities without a column must be as at its points."""

    def alike(values: Sequence[float], new: float) -> bool:
        return min(values) / _ALIKE <= new <= max(values) * _ALIKE

    if columns == {"tokens"}:
        return alike([point.parameters for point in points], parameters)
    if columns == {"parameters"}:
        ratios = [point.tokens / point.parameters for point in points]
        return alike(ratios, tokens / parameters) or alike([point.tokens for point in points], tokens)
    return True


def add(table: pd.DataFrame | None, forecasts: Sequence[Forecast], date: str) -> pd.DataFrame:
    """Add new forecasts, with date and hash, to ``table`` (``results/forecasts.csv``).

    Existing forecasts are never changed: for each experiment, metric, subject, quantity, scale and number of tokens, the first
    one is kept. The hash covers the content of the row, so that later edits are detected.
    """
    kept = pd.DataFrame(columns=list(COLUMNS)) if table is None else table.copy()
    known = {_key(row) for row in kept.to_dict("records")}
    rows = []
    for own in forecasts:
        values = {name: value for name, value in dataclasses.asdict(own).items() if name != "mean"}
        row = {"date": date, **values, "forecast": own.mean}
        if _key(row) not in known:
            known.add(_key(row))
            rows.append({**row, "hash": _hash(row), "observed": math.nan, "inside": ""})
    if not rows:
        return kept[list(COLUMNS)]
    new = pd.DataFrame(rows, columns=list(COLUMNS))
    return new if kept.empty else pd.concat([kept, new], ignore_index=True)[list(COLUMNS)]


def judge_forecasts(table: pd.DataFrame, observed: pd.DataFrame) -> pd.DataFrame:
    """Fill the columns observed and inside ("yes" or "no") of ``table`` for settings that have been run since.

    Of several settings at a scale, the one with the most similar number of tokens is used, if it is within ``TOKENS_ALIKE``.

    Args:
        table: Result of ``add``.
        observed: Columns experiment, metric, subject, quantity, scale, tokens, value.
    """
    found = table.copy()
    values: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in observed.to_dict("records"):
        values.setdefault(_subject(row), []).append((float(row["tokens"]), float(row["value"])))
    known = [_nearest(values.get(_subject(row), []), float(row["tokens"])) for row in found.to_dict("records")]
    found["observed"] = [
        old if math.isnan(new) else new for old, new in zip(found["observed"].astype(float), known, strict=True)
    ]
    inside = (found["observed"] >= found["low"]) & (found["observed"] <= found["high"])
    found["inside"] = np.where(found["observed"].isna(), "", np.where(inside, "yes", "no"))
    return found


def changed(table: pd.DataFrame) -> list[int]:
    """Positions of rows that no longer match their hash."""
    return [place for place, row in enumerate(table.to_dict("records")) if row["hash"] != _hash(row)]


def _nearest(found: Sequence[tuple[float, float]], tokens: float) -> float:
    """Return the value at the most similar number of tokens; NaN if none is similar."""
    distance, value = min(((abs(math.log(own / tokens)), value) for own, value in found), default=(math.inf, math.nan))
    return value if distance <= math.log(TOKENS_ALIKE) else math.nan


def _subject(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in _SUBJECT)


def _key(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return *_subject(row), f"{float(row['tokens']):.6g}"


def _hash(row: Mapping[Any, Any]) -> str:
    words = [f"{row[name]:.6g}" if isinstance(row[name], int | float) else str(row[name]) for name in _FORECAST]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def forecast_losses(evidence: Evidence, metric: str, scale: str, parameters: float, tokens: float) -> list[Forecast]:
    """Forecast each arm's metric at a setting that was not run, for arms with sufficient runs."""
    found = []
    for arm, points in _losses(evidence, metric).items():
        own = forecast(points, evidence.experiment, metric, arm, "loss", scale, parameters, tokens)
        found += [own] if own is not None else []
    return found


def forecast_effects(verdicts: Sequence[Verdict], scale: str, parameters: float, tokens: float) -> list[Forecast]:
    """Forecast each comparison of claims that have a trend; the subject is "claim: comparison"."""
    found = []
    for verdict in verdicts:
        metrics = {compared.label: compared.metrics[0] for compared in verdict.comparisons}
        for own in verdict.trends:
            subject = f"{verdict.claim.name}: {own.label}"
            made = forecast(
                own.points, verdict.claim.experiment, metrics[own.label], subject, "effect", scale, parameters, tokens
            )
            found += [made] if made is not None else []
    return found


def observed(evidence: Mapping[str, Evidence], metrics: Sequence[str], verdicts: Sequence[Verdict] = ()) -> pd.DataFrame:
    """Collect measured values for ``judge_forecasts``: losses of arms, and effects of claims at each of their settings."""
    rows = [
        (own.experiment, metric, arm, "loss", point.scale, point.tokens, point.effect.mean)
        for own in evidence.values()
        for metric in metrics
        for arm, points in _losses(own, metric).items()
        for point in points
    ]
    for verdict in verdicts:
        named = {compared.label: compared.metrics[0] for compared in verdict.comparisons}
        rows += [
            (
                verdict.claim.experiment, named[own.label], f"{verdict.claim.name}: {own.label}", "effect", point.scale,
                point.tokens, point.effect.mean,
            )
            for own in verdict.trends
            for point in own.points
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["experiment", "metric", "subject", "quantity", "scale", "tokens", "value"])


def _losses(evidence: Evidence, metric: str) -> dict[str, list[Point]]:
    """Return each arm's losses at settings that answer the same question as the largest one."""
    groups = settings(evidence)
    found: dict[str, list[Point]] = {}
    for setting in groups:
        if setting.others == groups[0].others and setting.parameters == setting.parameters:
            for arm in setting.arms:
                own, _ = effect(setting, [(arm, metric, 1.0)])
                if own is not None:
                    point = Point(setting.scale, setting.parameters, setting.tokens, setting.label, own)
                    found.setdefault(arm, []).append(point)
    return found
