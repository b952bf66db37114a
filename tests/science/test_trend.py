"""Trends and forecasts of planted effects."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from tinylm_ablate.science.claim_files import parse
from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.forecast import (
    COLUMNS,
    Forecast,
    add,
    changed,
    forecast,
    forecast_effects,
    forecast_losses,
    judge_forecasts,
    observed,
)
from tinylm_ablate.science.trend import Course, Point, trend
from tinylm_ablate.science.verdict import judge

BITS = "test/bits_per_byte/all"


def point(scale: str, parameters: float, tokens: float, mean: float, deviation: float = 0.001, seeds: int = 3) -> Point:
    return Point(scale, parameters, tokens, f"{scale}, {tokens:g}", Estimate(mean, deviation, seeds))


def test_an_effect_that_shrinks_with_scale_crosses_zero() -> None:
    """0.111 at 1M parameters and 0.083 at 4M: zero is 0.083 / 0.028 quadruplings further."""
    found = trend("deep", [point("s16", 4e6, 32e6, 0.083), point("s32", 1e6, 8e6, 0.111)], 0.01)
    assert found.course == Course.SHRINKS
    assert found.by_tokens is None and found.by_parameters is not None
    assert found.by_parameters.mean == pytest.approx(-0.028 / math.log(4))
    assert f"would cross zero at about {4 * 4 ** (0.083 / 0.028):.0f}M parameters" in found.text
    assert [own.scale for own in found.points] == ["s32", "s16"]


@pytest.mark.parametrize(
    ("means", "deviation", "course"),
    [
        ((0.05, 0.10), 0.001, Course.GROWS),
        ((-0.05, -0.10), 0.001, Course.GROWS),
        ((0.05, 0.0501), 0.0005, Course.HOLDS),
        ((0.05, 0.06), 0.05, Course.UNKNOWN),
    ],
)
def test_courses(means: tuple[float, float], deviation: float, course: Course) -> None:
    points = [point("s32", 1e6, 2e6, means[0], deviation, 8), point("s32", 1e6, 16e6, means[1], deviation, 8)]
    assert trend("x", points, 0.01).course == course


def test_both_slopes_are_reported_with_two_budgets_at_two_scales() -> None:
    points = [
        point(scale, n, n * ratio, 0.1 - 0.01 * math.log(n) + 0.02 * math.log(n * ratio), 1e-6)
        for scale, n in (("s32", 1e6), ("s16", 4e6))
        for ratio in (2, 8)
    ]
    found = trend("x", points, 0.01)
    assert found.by_tokens is not None and found.by_tokens.mean == pytest.approx(0.02)
    assert found.by_parameters is not None and found.by_parameters.mean == pytest.approx(-0.01)
    assert found.course == Course.GROWS


def test_one_setting_has_no_trend() -> None:
    assert trend("x", [point("s32", 1e6, 2e6, 0.1)], 0.01).course == Course.UNKNOWN
    assert trend("x", [point("s32", 1e6, 2e6, 0.1), point("s32", 1e6, 2.1e6, 0.2)], 0.01).by_tokens is None


def test_slopes_err_in_at_most_10_percent() -> None:
    source = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        points = []
        for scale, n in (("s32", 1e6), ("s16", 4e6), ("s8", 16e6)):
            seeds = 0.05 + 0.03 * source.standard_normal(3)
            points.append(point(scale, n, 8 * n, float(seeds.mean()), float(seeds.std(ddof=1))))
        slope = trend("x", points, 0.01).by_parameters
        wrong += slope is not None and not slope.low <= 0 <= slope.high
    assert wrong <= 400 * 0.1 + 3 * (400 * 0.1 * 0.9) ** 0.5


def losses(at: list[float], deviation: float = 0.001) -> list[Point]:
    """Losses on the power law 40 n^-0.2."""
    return [point(f"n{n:g}", n, 8 * n, 40 * n**-0.2, deviation) for n in at]


def test_the_forecast_of_a_power_law_covers_it() -> None:
    found = forecast(losses([1e6, 4e6]), "e", "m", "base", "loss", "n16", 16e6, 128e6)
    assert found is not None
    truth = 40 * 16e6**-0.2
    assert found.low <= truth <= found.high
    assert found.high - found.low < 0.5
    assert found.based_on == "n1e+06, 8e+06; n4e+06, 3.2e+07"


def test_forecasts_hold_in_90_percent_with_the_stated_noise() -> None:
    source = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        points = [
            point(own.scale, own.parameters, own.tokens, own.effect.mean + float(seeds.mean()), float(seeds.std(ddof=1)))
            for own in losses([1e6, 4e6, 16e6])
            for seeds in [0.02 * source.standard_normal(3)]
        ]
        found = forecast(points, "e", "m", "base", "loss", "n", 64e6, 512e6)
        assert found is not None
        observed = 40 * 64e6**-0.2 + 0.02 / 3**0.5 * source.standard_normal()
        inside += found.low <= observed <= found.high
    assert inside >= 200 * 0.9 - 3 * (200 * 0.9 * 0.1) ** 0.5


def test_undetermined_values_are_not_forecast() -> None:
    one_scale = [point("s32", 1e6, 2e6, 3.0), point("s32", 1e6, 8e6, 2.7)]
    assert forecast(one_scale, "e", "m", "base", "loss", "s16", 4e6, 32e6) is None
    assert forecast(one_scale, "e", "m", "base", "loss", "s32", 1e6, 32e6) is not None
    assert forecast(one_scale[:1], "e", "m", "base", "loss", "s32", 1e6, 32e6) is None
    assert forecast(losses([1e6, 4e6]), "e", "m", "base", "loss", "n", 16e6, 16e6 * 52) is None
    with pytest.raises(ValueError, match="neither loss nor effect"):
        forecast(one_scale, "e", "m", "base", "guess", "s32", 1e6, 32e6)


def test_the_forecast_of_an_effect_covers_a_constant_effect_and_its_trend() -> None:
    found = forecast(
        [point("s32", 1e6, 8e6, 0.111), point("s16", 4e6, 32e6, 0.083)], "e", "m", "deep", "effect", "s8", 16e6, 128e6
    )
    assert found is not None
    assert found.low < 0.055 < 0.097 < found.high


def made(subject: str = "base", mean: float = 2.0) -> Forecast:
    return Forecast("e", "m", subject, "loss", "s8", 16e6, 128e6, mean, mean - 0.1, mean + 0.1, "s32; s16")


def test_forecasts_are_dated_hashed_and_never_changed() -> None:
    first = add(None, [made()], "2026-11-26")
    assert list(first.columns) == list(COLUMNS)
    again = add(first, [made(mean=9.0), made("other")], "2026-12-01")
    assert again["forecast"].tolist() == [2.0, 2.0]
    assert again["date"].tolist() == ["2026-11-26", "2026-12-01"]
    assert changed(again) == []
    edited = again.copy()
    edited.loc[0, "high"] = 3.0
    assert changed(edited) == [0]


def test_the_table_round_trips(tmp_path) -> None:
    table = add(None, [made(mean=2 / 3), made("other", 1e-7)], "2026-11-26")
    table.to_csv(tmp_path / "f.csv", index=False)
    read = pd.read_csv(tmp_path / "f.csv")
    assert changed(read) == []
    assert len(add(read, [made()], "2027-01-01")) == 2


def test_forecasts_are_judged_once_the_scale_was_run() -> None:
    table = add(None, [made(), made("other"), made("third")], "2026-11-26")
    rows = [("e", "m", "base", "loss", "s8", 128e6, 2.05), ("e", "m", "other", "loss", "s8", 128e6, 2.5)]
    observed = pd.DataFrame(rows, columns=["experiment", "metric", "subject", "quantity", "scale", "tokens", "value"])
    found = judge_forecasts(table, observed)
    assert found["inside"].tolist() == ["yes", "no", ""]
    assert changed(found) == []


def test_forecasts_of_an_experiment_are_judged_when_the_scale_was_run(planted) -> None:
    content = {
        "title": "t", "source": "s", "experiment": "table", "arms": {name: {"arm": name} for name in ("new", "base")},
        "tests": [{"kind": "ordering", "better": ["new"], "than": ["base"], "metric": BITS, "direction": "less"}],
    }  # fmt: skip
    claim, _ = parse("c", content)
    assert claim is not None

    def run(scale: str, parameters: float) -> None:
        for arm, gain in (("base", 0.0), ("new", 0.05)):
            more = {"scale": scale, "parameters": parameters, "tokens": 8 * parameters, "grid": scale}
            planted.arm(arm, 40 * parameters**-0.2 - gain, spread=0.004, **more)

    run("s32", 1e6)
    run("s16", 4e6)
    evidence = {"table": planted.evidence()}
    made_of = [
        *forecast_losses(evidence["table"], BITS, "s8", 16e6, 128e6),
        *forecast_effects(judge([claim], evidence), "s8", 16e6, 128e6),
    ]
    assert [own.subject for own in made_of] == ["base", "new", "c: new better than base"]
    table = add(None, made_of, "2026-11-26")
    run("s8", 16e6)
    evidence = {"table": planted.evidence()}
    found = judge_forecasts(table, observed(evidence, [BITS], judge([claim], evidence)))
    assert found["inside"].tolist() == ["yes", "yes", "yes"]
    assert (found["observed"] > 0).all() and changed(found) == []
