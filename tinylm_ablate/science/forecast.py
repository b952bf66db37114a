"""Forecasts of a scale that was not run, and their judgement once it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinylm_ablate.science.trend import Point

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Forecast:
    """A number that is expected at a setting that was not run, with its 90 % interval.

    Attributes:
        experiment, metric: Of what.
        subject: An arm, or the label of a comparison.
        quantity: "loss" or "effect".
        scale, parameters, tokens: Of the setting.
        mean, low, high: The forecast.
        based_on: Settings that it was made from, joined by "; ".
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
    """The forecast from points at two settings or more that determine it; None otherwise."""
    raise NotImplementedError


def add(table: pd.DataFrame | None, forecasts: Sequence[Forecast], date: str) -> pd.DataFrame:
    """``table`` (results/forecasts.csv) with new forecasts, dated and hashed; forecasts that stand there are never changed."""
    raise NotImplementedError


def judge_forecasts(table: pd.DataFrame, observed: pd.DataFrame) -> pd.DataFrame:
    """``table`` with the columns observed and inside filled where the setting was run since.

    Args:
        table: As ``add`` makes it.
        observed: Columns experiment, metric, subject, quantity, scale, tokens, value.
    """
    raise NotImplementedError
