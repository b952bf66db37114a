"""Figures of one experiment, each a function of a data frame (``tinylm_ablate.report.drawing``).

A frame has one row per run, or per point of a run, with the columns "identity", "arm", "seed" and what the figure shows. Arms
keep the order of their first rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from tinylm_ablate.report import search_figures  # noqa: F401  completes the registry
from tinylm_ablate.report.drawing import COLORS, axis_title, chart, figure, short_title, value_text
from tinylm_ablate.report.drawing import FIGURES as FIGURES
from tinylm_ablate.report.measures import by_name

if TYPE_CHECKING:
    import altair as alt

_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


@figure("Arms", "Each arm's seeds as points, their mean, and its 95 % interval over seeds")
def arms(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """One row per arm: a point per seed, the mean, and its 95 % interval if there are two seeds."""
    import altair as alt

    data = _tidy(frame, by, measure)
    if data.empty:
        return None
    order = list(dict.fromkeys(data["arm"]))
    summary = _summary(data)
    low, high = data["value"].min(), data["value"].max()
    reach = (high - low) or abs(high) * 0.01 or 1.0
    # With two seeds, an interval is so wide that it would hide all differences, so it is clipped.
    domain = [float(low - 0.6 * reach), float(high + 0.6 * reach)]
    x = alt.X(
        "value:Q", title=axis_title(measure), scale=alt.Scale(domain=domain, zero=False, nice=False), axis=alt.Axis(tickCount=6)
    )
    y = alt.Y("arm:N", sort=order, title=", ".join(map(short_title, by)) or None)
    base = chart(summary).encode(y=y)
    rule = base.mark_rule(strokeWidth=2, clip=True, color=COLORS[0]).encode(
        x=alt.X("low:Q", title=axis_title(measure)), x2="high:Q"
    )
    points = (
        chart(data)
        .mark_point(filled=True, size=36, opacity=0.55, color=COLORS[0])
        .encode(x=x, y=y, tooltip=["arm:N", "seed:N", alt.Tooltip("value:Q", title=axis_title(measure))])
    )
    means = base.mark_tick(thickness=3, size=18, color=COLORS[1]).encode(
        x="mean:Q", tooltip=["arm:N", alt.Tooltip("mean:Q", title="mean"), "low:Q", "high:Q", "seeds:Q"]
    )
    return alt.layer(rule, points, means).properties(width=420, height=max(60, 26 * len(order)))


@figure(
    "Loss in training", "Training loss over tokens, one line per arm with a band from its lowest to its highest seed", "curves"
)
def loss(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """Training loss over tokens: the mean of each arm, and a band from its lowest to its highest seed."""
    data = _tidy(frame, by, measure).dropna(subset=["tokens"])
    return None if data.empty else _bands(data, "training loss (nats per token)")


#: Maximum number of metrics along a run, in adjacent panels.
_PANELS = 4


@figure(
    "Along the run",
    "Measures along the runs over tokens, one line per arm with a band from its lowest to its highest seed",
    "along",
)
def along(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The measure, the means over languages of other measures, and benchmarks, over tokens, one panel each (Figure 10)."""
    import altair as alt

    del by
    found = list(dict.fromkeys(frame["metric"]))
    names = [name for name in found if (name.startswith("test/") and name.endswith("/all")) or name.startswith("benchmarks/")]
    names = sorted(names, key=lambda name: name != measure)[:_PANELS]
    panels = [_bands(frame[frame["metric"] == name], axis_title(name)) for name in names]
    if not panels:
        return None
    return panels[0] if len(panels) == 1 else alt.concat(*panels, columns=2)


def _bands(data: pd.DataFrame, title: str) -> Any:
    """Values over tokens (columns identity, arm, tokens, value): a mean per arm, and a band from lowest to highest seed."""
    import altair as alt
    import numpy as np

    parts = []
    for arm, own in data.groupby("arm", sort=False):
        curves = [curve.sort_values("tokens") for _, curve in own.groupby("identity")]
        tokens = min((curve["tokens"].to_numpy(float) for curve in curves), key=lambda found: (found[-1], len(found)))
        values = np.array([np.interp(tokens, curve["tokens"], curve["value"]) for curve in curves])
        parts.append(
            pd.DataFrame({"arm": arm, "tokens": tokens, "mean": values.mean(0), "low": values.min(0), "high": values.max(0)})
        )
    drawn = pd.concat(parts)
    # The first points, before anything is learned, would compress the rest of the plot into a corner.
    tail = drawn[drawn["tokens"] > drawn["tokens"].max() / 8]
    low, high = float(drawn["low"].min()), float((tail if len(tail) else drawn)["high"].max())
    domain = [low - 0.05 * (high - low), high + 0.05 * ((high - low) or 1)]
    # Points outside are omitted here, since a renderer takes five times as long to clip them.
    drawn = drawn[drawn["mean"] <= domain[1]].assign(high=lambda own: own["high"].clip(upper=domain[1]))
    order = list(dict.fromkeys(drawn["arm"]))
    color = _color("arm", order)
    x = alt.X("tokens:Q", title="tokens", axis=alt.Axis(format="~s", tickCount=6))
    scale = alt.Scale(domain=domain, zero=False, nice=False)
    base = chart(drawn).encode(x=x, color=color)
    band = base.mark_area(fillOpacity=0.18).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    line = base.mark_line(strokeWidth=1.8).encode(
        y=alt.Y("mean:Q", title=title, scale=scale),
        strokeDash=_dash("arm", order),
        tooltip=["arm:N", "tokens:Q", alt.Tooltip("mean:Q", title=title)],
    )
    return alt.layer(band, line).properties(width=440, height=270)


@figure("Tuning", "Validation loss over the factor of each tuned setting, one line per arm")
def tuning(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The measure over the first column of ``by``, on a logarithmic axis, one line per arm and one panel per value of "key"."""
    import altair as alt

    x = next((name for name in by if name in frame), None)
    if x is None or measure not in frame or frame.empty:
        return None
    keys = frame["key"] if "key" in frame else pd.Series(x, index=frame.index)
    shown = pd.DataFrame({"arm": frame["arm"], "x": frame[x].astype(float), "value": frame[measure], "key": keys})
    order = list(dict.fromkeys(shown["arm"]))
    panels = [
        chart(own)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "x:Q",
                title=f"{x} on {key}" if key != x else short_title(x),
                scale=alt.Scale(type="log", base=2, nice=False),
                axis=alt.Axis(values=sorted(set(own["x"])), format="~g"),
            ),
            y=alt.Y("value:Q", title=axis_title(measure), scale=alt.Scale(zero=False)),
            color=_color("arm", order),
            tooltip=["arm:N", "x:Q", "value:Q"],
        )
        .properties(width=380, height=240)
        for key, own in shown.groupby("key", sort=False)
    ]
    return panels[0] if len(panels) == 1 else alt.concat(*panels, columns=2)


@figure("The ladder", "Bits per byte after each step here, and mean accuracy after each step in the paper")
def ladder(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """Each arm adds a step to the previous one: a point per seed, a line through the means; below, the paper's ``average``."""
    import altair as alt

    data = _tidy(frame, by, measure)
    if data.empty:
        return None
    order = list(dict.fromkeys(frame["arm"]))
    x = alt.X("arm:N", sort=order, title=None, scale=alt.Scale(domain=order), axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(zero=False, reverse=by_name(measure, -1).better < 0)
    y = alt.Y("value:Q", title=f"{axis_title(measure)}, better is higher", scale=scale)
    points = (
        chart(data)
        .mark_point(filled=True, size=45, opacity=0.6, color=COLORS[0])
        .encode(x=x, y=y, tooltip=["arm:N", "seed:N", "value:Q"])
    )
    means = chart(_summary(data)).mark_line(color=COLORS[0]).encode(x=x, y=alt.Y("mean:Q", scale=scale))
    ours = alt.layer(means, points).properties(width=420, height=200)
    if "paper" not in frame or frame["paper"].isna().all():
        return ours
    printed = frame.dropna(subset=["paper"]).drop_duplicates("arm")[["arm", "paper"]]
    theirs = (
        chart(printed)
        .mark_line(point=True, color=COLORS[1])
        .encode(x=x, y=alt.Y("paper:Q", title="paper: mean accuracy, %", scale=alt.Scale(zero=False)))
    )
    return alt.vconcat(ours, theirs.properties(width=420, height=150))


@figure("Quality over varied settings", "The measure over each factor, one point per arm")
def correlation(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The measure over each column of ``by``, one point per arm (the mean of its seeds), side by side (Figure 4)."""
    import altair as alt

    keys = [key for key in by if key in frame]
    if measure not in frame or not keys:
        return None
    data = frame.assign(**{key: pd.to_numeric(frame[key], errors="coerce") for key in keys})
    data = data.groupby("arm", sort=False)[[measure, *keys]].mean().dropna().reset_index()
    if data.empty:
        return None
    panels = []
    for number, key in enumerate(keys):
        shown = pd.DataFrame({"arm": data["arm"], "x": data[key], "value": data[measure]})
        panels.append(
            chart(shown)
            .mark_point(filled=True, size=40, opacity=0.8, color=COLORS[0])
            .encode(
                x=alt.X("x:Q", title=short_title(key), scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4, format="~s")),
                y=alt.Y("value:Q", title=axis_title(measure) if number == 0 else None, scale=alt.Scale(zero=False)),
                tooltip=["arm:N", "x:Q", "value:Q"],
            )
            .properties(width=170, height=180)
        )
    return alt.concat(*panels, columns=3)


@figure("Batch against exponent", "The measure by batch and by exponent of the learning-rate rule, one cell per arm")
def batch_lr(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """A heat map of the measure by the two columns of ``by``, each cell with its number (Figures 7 and 8)."""
    import altair as alt

    keys = [key for key in by if key in frame][:2]
    if len(keys) < 2 or measure not in frame:
        return None
    data = frame.dropna(subset=[measure]).groupby(keys, sort=False)[measure].mean().reset_index()
    data.columns = pd.Index(["x", "y", "value"])
    if data.empty:
        return None
    data["label"] = [f"{value:.3f}" for value in data["value"]]
    middle = float((data["value"].min() + data["value"].max()) / 2)

    def ordered(column: str) -> list[Any]:
        return sorted(data[column].unique(), key=lambda value: (_number(value), str(value)))

    base = chart(data).encode(
        x=alt.X("x:O", title=short_title(keys[0]), sort=ordered("x"), axis=alt.Axis(labelAngle=0)),
        y=alt.Y("y:O", title=short_title(keys[1]), sort=ordered("y")[::-1]),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=axis_title(measure), scale=alt.Scale(scheme="viridis")),
        tooltip=["x:O", "y:O", "value:Q"],
    )
    words = base.mark_text().encode(
        text="label:N", color=alt.condition(alt.datum.value < middle, alt.value("#ffffff"), alt.value("#000000"))
    )
    return alt.layer(cells, words).properties(width=70 * data["x"].nunique(), height=44 * data["y"].nunique())


@figure("Forgetting by part", "Loss of each part of the training data under the final model, in the order in which it was seen")
def forgetting(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:  # noqa: ARG001
    """Loss of each part of the training data under the final model, one line per arm, next to unseen data (Figure 9)."""
    import altair as alt

    names = [str(name) for name in frame if str(name).startswith("forgetting/part_") and str(name).count("/") == 1]
    parts = sorted(names, key=lambda name: int(name.rpartition("_")[2]))
    if not parts:
        return None
    long = frame.melt(["arm", "seed"], [*parts, *(["forgetting/unseen"] if "forgetting/unseen" in frame else [])])
    long = long.dropna(subset=["value"])
    if long.empty:
        return None
    long["part"] = [str(name).rpartition("/")[2].removeprefix("part_") for name in long["variable"]]
    shown = long.groupby(["arm", "part"], sort=False)["value"].agg(["mean", "min", "max"]).reset_index()
    places = [*(name.rpartition("_")[2] for name in parts), "unseen"]
    order = list(dict.fromkeys(frame["arm"]))
    x = alt.X("part:N", sort=places, title="part of the data, in the order of training", axis=alt.Axis(labelAngle=0))
    base = chart(shown).encode(x=x, color=_color("arm", order))
    seen = alt.datum.part != "unseen"
    scale = alt.Scale(zero=False)
    band = base.transform_filter(seen).mark_area(fillOpacity=0.18).encode(y=alt.Y("min:Q", scale=scale), y2="max:Q")
    line = base.transform_filter(seen).mark_line().encode(y=alt.Y("mean:Q", title="loss (nats per token)", scale=scale))
    points = base.mark_point(filled=True).encode(y="mean:Q", tooltip=["arm:N", "part:N", "mean:Q", "min:Q", "max:Q"])
    return alt.layer(band, line, points).properties(width=420, height=250)


@figure(
    "Layers skipped at inference",
    "Bits per byte and cloze accuracy by the first skipped layer, one line per number of layers",
    "layer_skip",
)
def layer_skip(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:  # noqa: ARG001
    """The result of skipping 1, 2, … adjacent layers by the first of them, one column per arm; the complete model is dashed."""
    import altair as alt

    names = ["bits_per_byte", "cloze", *(name for name in map(str, frame) if name.startswith("benchmarks/"))]
    shown = [name for name in names if name in frame and frame[name].notna().any()]
    if not shown:
        return None
    rows = []
    for name in shown:
        title = {"bits_per_byte": "bits/byte", "cloze": "cloze accuracy"}.get(name, name.removeprefix("benchmarks/"))
        data = frame.groupby(["arm", "skipped", "first"], sort=False)[name].mean().rename("value").reset_index().dropna()
        panels = []
        for arm, own in data.groupby("arm", sort=False):
            part = own[own["skipped"] > 0].assign(skipped=own["skipped"].map(str))
            lines = (
                chart(part)
                .mark_line(point=alt.OverlayMarkDef(size=18))
                .encode(
                    x=alt.X("first:Q", title="first skipped layer, from 0", axis=alt.Axis(tickMinStep=1, tickCount=6)),
                    y=alt.Y("value:Q", title=title,
                            scale=alt.Scale(type="log" if name == "bits_per_byte" else "linear", zero=False)),
                    color=_color("skipped", sorted(set(part["skipped"]))),
                    tooltip=["skipped:N", "first:Q", alt.Tooltip("value:Q", title=title)],
                )
            )  # fmt: skip
            whole = own[own["skipped"] == 0]
            rule = chart(whole).mark_rule(strokeDash=[4, 3]).encode(y="value:Q")
            panels.append(alt.layer(lines, rule).properties(width=210, height=170, title=str(arm)))
        rows.append(alt.hconcat(*panels))
    return alt.vconcat(*rows)


@figure(
    "Effective dimension by layer",
    "Number of principal components that explain most of the variance of each layer's features, one line per arm",
    "effective_dimension",
)
def effective_dimension(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:  # noqa: ARG001
    """The effective dimension over the layers, mean over seeds, one line per arm (Figure 4 of PanGu-pi)."""
    import altair as alt

    if frame.empty:
        return None
    means = frame.groupby(["arm", "layer"], sort=False)["dimension"].mean().reset_index()
    lines = (
        chart(means)
        .mark_line(point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("layer:Q", axis=alt.Axis(tickMinStep=1, tickCount=6)),
            y=alt.Y("dimension:Q", title="effective dimension"),
            color=_color("arm", list(dict.fromkeys(frame["arm"]))),
            tooltip=["arm:N", "layer:Q", "dimension:Q"],
        )
    )
    return alt.layer(lines).properties(width=420, height=220)


@figure(
    "Standard deviation of each matrix by layer",
    "Standard deviation by layer, one panel per arm: solid after training, dashed before",
    "matrix_std",
)
def matrix_std(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:  # noqa: ARG001
    """Each matrix's standard deviation over the layers, trained and (dashed) initial, one panel per arm (Figure 11)."""
    import altair as alt

    if frame.empty:
        return None
    long = frame.melt(["arm", "layer", "matrix"], ["trained", "initial"], var_name="weights")
    means = long.groupby(["arm", "layer", "matrix", "weights"], sort=False)["value"].mean().reset_index()
    order = list(dict.fromkeys(frame["arm"]))
    lines = (
        chart(means)
        .mark_line()
        .encode(
            x=alt.X("layer:Q", axis=alt.Axis(tickMinStep=1, tickCount=5)),
            y=alt.Y("value:Q", title="standard deviation"),
            color=_color("matrix", list(dict.fromkeys(means["matrix"]))),
            strokeDash=alt.StrokeDash("weights:N", sort=["trained", "initial"]),
            tooltip=["matrix:N", "weights:N", "layer:Q", "value:Q"],
        )
        .properties(width=170, height=130)
    )
    panels: alt.FacetChart = lines.facet(facet=alt.Facet("arm:N", sort=order, title=None), columns=3)
    return panels


@figure(
    "Differences at two scales", "One point per pair of arms: its difference at the smaller and at the larger scale", "scales"
)
def scales(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """Each pair's difference at the larger scale over that at the smaller one, with signs such that the latter is positive.

    Args:
        frame: Columns experiment, first, second, small, large and agree: one row per pair.
        by: Names of the smaller and the larger scale.
        measure: The compared measure.
    """
    import altair as alt

    if frame.empty or len(by) < 2:
        return None
    turned = frame["small"] < 0
    data = pd.DataFrame(
        {
            "experiment": frame["experiment"],
            "better": frame["first"].where(turned, frame["second"]),
            "worse": frame["second"].where(turned, frame["first"]),
            "small": frame["small"].abs(),
            "large": frame["large"].where(~turned, -frame["large"]),
            "order": frame["agree"].map({True: "same order", False: "other order"}),
        }
    )
    orders = ["same order", "other order"]
    points = (
        chart(data)
        .mark_point(filled=True, size=36, opacity=0.6)
        .encode(
            x=alt.X("small:Q", title=f"difference at {by[0]}, {axis_title(measure)}", axis=alt.Axis(tickCount=6)),
            y=alt.Y("large:Q", title=f"difference at {by[1]}", axis=alt.Axis(tickCount=6)),
            color=_color("order", orders, "circle").title(None),
            shape=alt.Shape("order:N", sort=orders, legend=None),
            tooltip=["experiment:N", "better:N", "worse:N", "small:Q", "large:Q"],
        )
    )
    zero = chart(pd.DataFrame({"y": [0.0]})).mark_rule(strokeDash=[4, 3]).encode(y="y:Q")
    return alt.layer(zero, points).properties(width=420, height=260)


def _tidy(frame: pd.DataFrame, by: Sequence[str], measure: str) -> pd.DataFrame:
    """Return the columns identity, arm, seed, value and, if any, tokens, without rows that lack a value."""
    if measure not in frame or frame.empty:
        return pd.DataFrame(columns=["identity", "arm", "seed", "value", "tokens"])
    data = frame.dropna(subset=[measure])
    columns = {
        "identity": data.get("identity", data.index),
        "arm": data["arm"] if "arm" in data else labels(data, by),
        "seed": data.get("seed", 0),
        "value": data[measure].astype(float),
    }
    return pd.DataFrame(columns).assign(**({"tokens": data["tokens"]} if "tokens" in data else {}))


def labels(frame: pd.DataFrame, by: Sequence[str]) -> pd.Series[str]:
    """Return a label for the arm of each row: the values of ``by``."""
    if not by:
        return pd.Series("all runs", index=frame.index)
    return pd.Series([", ".join(map(value_text, row)) for row in frame[list(by)].itertuples(index=False)], index=frame.index)


def _summary(data: pd.DataFrame) -> pd.DataFrame:
    """Mean of each arm and its 95 % interval over seeds."""
    from tinylm_ablate.science.estimate import Estimate

    rows = []
    for arm, values in data.groupby("arm", sort=False)["value"]:
        mean, spread, seeds = float(values.mean()), float(values.std()), len(values)
        low, high = Estimate(mean, spread, seeds).interval() if seeds > 1 else (mean, mean)
        rows.append((arm, mean, low, high, seeds))
    return pd.DataFrame(rows, columns=["arm", "mean", "low", "high", "seeds"])


def _color(column: str, order: Sequence[str], symbol: str = "stroke") -> alt.Color:
    import altair as alt

    colors = list(itertools.islice(itertools.cycle(COLORS), len(order)))
    title = None if column == "arm" else column
    legend = alt.Legend(orient="bottom", columns=3, symbolOpacity=1, symbolType=symbol) if len(order) > 1 else None
    return alt.Color(
        f"{column}:N", sort=list(order), title=title, legend=legend, scale=alt.Scale(domain=list(order), range=colors)
    )


def _dash(column: str, order: Sequence[str]) -> alt.StrokeDash:
    """Line style of an arm: dashes distinguish arms if there are more arms than colors."""
    import altair as alt

    dashes = [_DASHES[number // len(COLORS) % len(_DASHES)] for number in range(len(order))]
    return alt.StrokeDash(f"{column}:N", legend=None, scale=alt.Scale(domain=list(order), range=dashes))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.inf
