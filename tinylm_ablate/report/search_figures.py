"""Figures of many settings at once: fronts, parallel coordinates, importances and the trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from tinylm_ablate.report.drawing import COLORS, axis_title, chart, figure, short_title, value_text
from tinylm_ablate.report.measures import by_name

if TYPE_CHECKING:
    import altair as alt


@figure("Pareto front", "The measure over a cost, with the Pareto front")
def pareto(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The measure against the first column of ``by``, both minimized, with the Pareto front."""
    import altair as alt

    cost = next((key for key in by if key in frame), None)
    if cost is None or measure not in frame:
        return None
    better = by_name(measure, -1).better or -1
    data = frame.dropna(subset=[cost, measure]).rename(columns={cost: "cost", measure: "value"})
    data = data.assign(identity=data.get("identity", data.index), cost=pd.to_numeric(data["cost"]))
    if data.empty:
        return None
    ordered = data.sort_values("cost", kind="stable")
    best = (-better * ordered["value"]).cummin()
    front = ordered[(-better * ordered["value"]) == best].drop_duplicates("value")
    x = alt.X(
        "cost:Q", title=short_title(cost), scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~s", tickCount=5)
    )
    y = alt.Y("value:Q", title=axis_title(measure), scale=alt.Scale(zero=False))
    shown = ["identity", "cost", "value"]
    points = chart(data[shown]).mark_point(filled=True, opacity=0.5, color=COLORS[0]).encode(x=x, y=y, tooltip=shown)
    line = chart(front[shown]).mark_line(point=True, interpolate="step-after", color=COLORS[1]).encode(x=x, y=y, tooltip=shown)
    return alt.layer(points, line).properties(width=420, height=260)


@figure("Settings against the measure", "Parallel coordinates: one line per run through its settings and its measure")
def parallel(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """Parallel coordinates: one line per run through the columns of ``by`` and the measure, colored by the measure."""
    import altair as alt

    if measure not in frame:
        return None
    keys = [key for key in by if key in frame and frame[key].nunique() > 1]
    data = frame.dropna(subset=[*keys, measure]).reset_index(drop=True)
    if data.empty or not keys:
        return None
    parts, labels = [], []
    for key in [*keys, measure]:
        place = _places(data[key])
        parts.append(pd.DataFrame({"run": data.index, "key": short_title(key), "place": place, "value": data[measure]}))
        ends = pd.DataFrame({"place": place, "label": [value_text(value) for value in data[key]]})
        ticks = ends.drop_duplicates().sort_values("place")
        if len(ticks) > 8:
            ticks = ticks.iloc[[0, len(ticks) // 2, -1]]
        labels.append(ticks.assign(key=short_title(key)))
    order = [short_title(key) for key in [*keys, measure]]
    x = alt.X("key:N", sort=order, title=None, axis=alt.Axis(labelAngle=0, domain=False, ticks=False))
    y = alt.Y("place:Q", axis=None)
    lines = (
        chart(pd.concat(parts))
        .mark_line(opacity=0.4, strokeWidth=1)
        .encode(
            x=x, y=y, detail="run:N", color=alt.Color("value:Q", title=axis_title(measure), scale=alt.Scale(scheme="viridis"))
        )
    )
    words = chart(pd.concat(labels)).mark_text(align="left", dx=4).encode(x=x, y=y, text="label:N")
    return alt.layer(lines, words).properties(width=max(360, 120 * len(order)), height=280)


@figure("Importance of settings", "Share of the measure's variance that each setting explains, with a 90 % interval")
def importance(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The share of the measure's variance that each column of ``by`` explains by itself (see ``importances``)."""
    import altair as alt

    data = importances(frame, by, measure)
    if data.empty:
        return None
    data = data.assign(key=[short_title(key) for key in data["setting"]])
    y = alt.Y("key:N", sort=list(data["key"]), title=None)
    bars = (
        chart(data)
        .mark_bar(color=COLORS[0], height=12)
        .encode(x=alt.X("share:Q", title=f"share of the variance of {axis_title(measure)}"), y=y)
    )
    rules = chart(data).mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q", y=y)
    return alt.layer(bars, rules).properties(width=380, height=max(50, 24 * len(data)))


@figure("Trials of the search", "The objectives of each trial, with the best")
def search(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """Trials of a search: the objective over the trial's number, or two objectives with their front (column "front")."""
    import altair as alt

    if frame.empty:
        return None
    x = next(iter(by), "trial")
    data = pd.DataFrame({"trial": frame["trial"], "x": frame[x], "value": frame[measure], "front": frame["front"]})
    encodings = {
        "x": alt.X("x:Q", title=short_title(x), scale=alt.Scale(zero=False)),
        "y": alt.Y("value:Q", title=axis_title(measure), scale=alt.Scale(zero=False)),
        "tooltip": ["trial:Q", "x:Q", "value:Q"],
    }
    points = chart(data).mark_point(filled=True, opacity=0.5, color=COLORS[0]).encode(**encodings)
    best = data[data["front"]]
    marked = chart(best).mark_line(point=True, strokeWidth=1, color=COLORS[1]).encode(**encodings)
    return alt.layer(points, marked).properties(width=420, height=260)


#: Maximum number of runs per forest.
_MOST_RUNS = 400


def importances(frame: pd.DataFrame, by: Sequence[str], measure: str, resamples: int = 8) -> pd.DataFrame:
    """Return the share of a measure's variance that each setting explains by itself: functional ANOVA over random forests.

    Hutter, Hoos, Leyton-Brown (2014), with Optuna's evaluator. The interval is the range from the 5th to the 95th percentile
    over forests of resampled runs: it shows how much the result depends on the available runs.

    Args:
        frame: One row per run.
        by: Settings; constant ones are omitted.
        measure: Column to explain.
        resamples: Number of forests.

    Returns:
        Columns setting, share, low, high, largest first; empty with fewer than eight runs or two settings.
    """
    import numpy as np
    import optuna

    head = ["setting", "share", "low", "high"]
    keys = [key for key in by if key in frame and frame[key].nunique(dropna=False) > 1]
    data = frame.dropna(subset=[measure]) if measure in frame else frame.iloc[:0]
    if len(data) < 8 or len(keys) < 2 or data[measure].nunique() < 2:
        return pd.DataFrame(columns=head)
    coded: dict[str, list[Any]] = {}
    spaces: dict[str, optuna.distributions.BaseDistribution] = {}
    for key in keys:
        numbers = pd.to_numeric(data[key], errors="coerce")
        if numbers.notna().all() and numbers.nunique() > 1:
            coded[key] = numbers.astype(float).tolist()
            spaces[key] = optuna.distributions.FloatDistribution(float(numbers.min()), float(numbers.max()))
        else:
            coded[key] = data[key].map(value_text).tolist()
            spaces[key] = optuna.distributions.CategoricalDistribution(sorted(set(coded[key])))
    keys = list(spaces)
    values = data[measure].astype(float).tolist()
    source = np.random.default_rng(0)
    found = []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for number in range(resamples):
        drawn = source.integers(len(values), size=min(len(values), _MOST_RUNS))
        study = optuna.create_study()
        study.add_trials(
            [
                optuna.create_trial(params={key: coded[key][row] for key in keys}, distributions=spaces, value=values[row])
                for row in drawn
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=16, max_depth=8, seed=number)
        try:
            found.append(evaluator.evaluate(study, params=keys))
        except (RuntimeError, ValueError):  # a resample without variation
            continue
    if not found:
        return pd.DataFrame(columns=head)
    table = pd.DataFrame(found)[keys]
    rows = [(key, table[key].mean(), table[key].quantile(0.05), table[key].quantile(0.95)) for key in keys]
    return pd.DataFrame(rows, columns=head).sort_values("share", ascending=False, ignore_index=True)


def _places(values: pd.Series[Any]) -> pd.Series[float]:
    """Scale values to 0 to 1: numbers by size, words by order."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        ranks = {word: place for place, word in enumerate(sorted(set(values.map(value_text))))}
        numbers = values.map(value_text).map(ranks).astype(float)
    low, high = float(numbers.min()), float(numbers.max())
    return (numbers - low) / ((high - low) or 1.0)
