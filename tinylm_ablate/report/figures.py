"""Figures, each a function of a data frame: ``figure(frame, by, measure)`` returns an Altair chart, or None without data.

One description gives the static SVG of a page or a repository, and the interactive figure of a page that works offline.
Altair describes, Vega-Lite draws, and vl-convert carries both in one wheel, so neither needs a browser or a network.

``FIGURES`` is the registry. A frame has one row per run, or per point of a run, with the columns "identity", "arm", "seed" and
what the figure shows. Arms keep the order of their first rows.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tinylm_ablate.files import write_atomic
from tinylm_ablate.report.measures import by_name, count

if TYPE_CHECKING:
    import altair as alt

Draw = Callable[[pd.DataFrame, Sequence[str], str], "alt.TopLevelMixin | None"]

#: Okabe and Ito's colors, which most people can tell apart, without the yellow that is hard to see on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])

_FONT = "Liberation Sans, Arial, sans-serif"
_THEME = {
    "background": "transparent",
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor", "titleColor": "currentColor", "domainColor": "#88888888", "tickColor": "#88888888",
        "gridColor": "#88888833", "labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal", "labelLimit": 220,
    },
    "legend": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12,
               "labelLimit": 240, "symbolStrokeWidth": 2},
    "title": {"color": "currentColor", "fontSize": 13, "fontWeight": "normal", "anchor": "start"},
    "header": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12},
    "text": {"color": "currentColor", "fontSize": 12},
    "rule": {"color": "currentColor"},
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """An entry of the registry.

    Attributes:
        draw: The function.
        rows: The long frame that it reads (``Records.rows``), or "runs" for one row per run.
        title: Heading over the figure.
        alt: What it shows, in a sentence.
    """

    draw: Draw
    rows: str
    title: str
    alt: str


FIGURES: dict[str, Kind] = {}


def figure(title: str, alt: str, rows: str = "runs") -> Callable[[Draw], Draw]:
    """Add a function to the registry under its own name."""

    def add(draw: Draw) -> Draw:
        FIGURES[draw.__name__] = Kind(draw, rows, title, alt)
        return draw

    return add


def specification(chart: Any) -> dict[str, Any]:
    """A chart as a Vega-Lite specification with our theme; the same for the same chart in any process."""
    import altair as alt

    with alt.data_transformers.enable("default", max_rows=None, consolidate_datasets=False):
        spec: dict[str, Any] = chart.to_dict()
    return {**_rounded(spec), "config": _THEME}


def svg(spec: Mapping[str, Any]) -> str:
    """A specification as SVG, in which text takes the color of its surroundings."""
    import vl_convert

    drawn: str = vl_convert.vegalite_to_svg(dict(spec))
    # Identifiers are counted up over a process; the same figure is to have the same bytes.
    numbers: dict[str, str] = {}
    return re.sub(r"\b(clip|gradient_)\d+\b", lambda found: numbers.setdefault(found[0], f"{found[1]}{len(numbers)}"), drawn)


def on_white(drawn: str) -> str:
    """An SVG that stands by itself: dark text on white."""
    return drawn.replace("currentColor", "#24292f").replace("<svg ", '<svg style="background:#ffffff" ', 1)


def png(drawn: str) -> bytes:
    """An SVG as PNG on white, with two pixels for each of its units."""
    import vl_convert

    image: bytes = vl_convert.svg_to_png(on_white(drawn), scale=2)
    return image


def save(chart: Any, path: Path) -> list[Path]:
    """Write a chart as SVG and PNG.

    Args:
        chart: The chart.
        path: Where it goes, without a suffix.
    """
    return save_drawn(svg(specification(chart)), path)


def save_drawn(drawn: str, path: Path) -> list[Path]:
    """Write an SVG and its PNG."""
    written = [path.with_name(f"{path.name}{suffix}") for suffix in (".svg", ".png")]
    write_atomic(written[0], on_white(drawn))
    write_atomic(written[1], png(drawn))
    return written


@figure("Arms", "Each arm's seeds as points, their mean, and its 95 % interval over seeds")
def arms(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """A row per arm: a point per seed, the mean, and its 95 % interval where there are two seeds."""
    import altair as alt

    data = _tidy(frame, by, measure)
    if data.empty:
        return None
    about, order = by_name(measure, -1), list(dict.fromkeys(data["arm"]))
    summary = _summary(data)
    low, high = data["value"].min(), data["value"].max()
    reach = (high - low) or abs(high) * 0.01 or 1.0
    # With two seeds an interval is so wide that it would hide every difference: it is cut at the frame.
    domain = [float(low - 0.6 * reach), float(high + 0.6 * reach)]
    x = alt.X(
        "value:Q", title=_axis(measure), scale=alt.Scale(domain=domain, zero=False, nice=False), axis=alt.Axis(tickCount=6)
    )
    y = alt.Y("arm:N", sort=order, title=None)
    base = alt.Chart(summary).encode(y=y)
    rule = base.mark_rule(strokeWidth=2, clip=True, color=COLORS[0]).encode(x=alt.X("low:Q", title=_axis(measure)), x2="high:Q")
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=36, opacity=0.55, color=COLORS[0])
        .encode(x=x, y=y, tooltip=["arm:N", "seed:N", alt.Tooltip("value:Q", title=about.title)])
    )
    means = base.mark_tick(thickness=3, size=18, color=COLORS[1]).encode(
        x="mean:Q", tooltip=["arm:N", alt.Tooltip("mean:Q", title="mean"), "low:Q", "high:Q", "seeds:Q"]
    )
    return alt.layer(rule, points, means).properties(width=420, height=max(60, 26 * len(order)))


@figure(
    "Loss while training", "Training loss over tokens, a line per arm with a band from its lowest to its highest seed", "curves"
)
def loss(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """Training loss over tokens: the mean of each arm, and a band from its lowest to its highest seed."""
    import altair as alt
    import numpy as np

    data = _tidy(frame, by, measure).dropna(subset=["tokens"])
    if data.empty:
        return None
    parts = []
    for arm, own in data.groupby("arm", sort=False):
        curves = [curve.sort_values("tokens") for _, curve in own.groupby("identity")]
        tokens = min((curve["tokens"].to_numpy(float) for curve in curves), key=lambda found: (found[-1], len(found)))
        values = np.array([np.interp(tokens, curve["tokens"], curve["value"]) for curve in curves])
        parts.append(
            pd.DataFrame({"arm": arm, "tokens": tokens, "mean": values.mean(0), "low": values.min(0), "high": values.max(0)})
        )
    drawn = pd.concat(parts)
    # The first points, before anything is learned, would squeeze everything to compare into a corner.
    tail = drawn[drawn["tokens"] > drawn["tokens"].max() / 8]
    low, high = float(drawn["low"].min()), float((tail if len(tail) else drawn)["high"].max())
    domain = [low - 0.05 * (high - low), high + 0.05 * ((high - low) or 1)]
    order = list(dict.fromkeys(drawn["arm"]))
    color = _color("arm", order)
    x = alt.X("tokens:Q", title="tokens", axis=alt.Axis(format="~s", tickCount=6))
    scale = alt.Scale(domain=domain, zero=False, nice=False)
    base = alt.Chart(drawn).encode(x=x, color=color)
    band = base.mark_area(opacity=0.18, clip=True).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    line = base.mark_line(strokeWidth=1.8, clip=True).encode(
        y=alt.Y("mean:Q", title="training loss (nats per token)", scale=scale),
        strokeDash=_dash("arm", order),
        tooltip=["arm:N", "tokens:Q", alt.Tooltip("mean:Q", title="loss")],
    )
    return alt.layer(band, line).properties(width=440, height=270)


@figure("Tuning", "Validation loss over the factor on each tuned setting, a line per arm")
def tuning(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The measure over the first column of ``by``, on a logarithmic axis, a line per arm; a panel per value of "key"."""
    import altair as alt

    x = next((name for name in by if name in frame), None)
    if x is None or measure not in frame or frame.empty:
        return None
    keys = frame["key"] if "key" in frame else pd.Series(x, index=frame.index)
    shown = pd.DataFrame({"arm": frame["arm"], "x": frame[x].astype(float), "value": frame[measure], "key": keys})
    order = list(dict.fromkeys(shown["arm"]))
    panels = [
        alt.Chart(own)
        .mark_line(point=True)
        .encode(
            x=alt.X("x:Q", title=f"{x} on {key}" if key != x else _short(x), scale=alt.Scale(type="log", base=2)),
            y=alt.Y("value:Q", title=_axis(measure), scale=alt.Scale(zero=False)),
            color=_color("arm", order),
            tooltip=["arm:N", "x:Q", "value:Q"],
        )
        .properties(width=380, height=240)
        for key, own in shown.groupby("key", sort=False)
    ]
    return panels[0] if len(panels) == 1 else alt.concat(*panels, columns=2)


@figure("The ladder", "Bits per byte after each step here, and mean accuracy after each step in the paper")
def ladder(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """Each arm is a step on the one before: a point per seed and a line through the means; the paper's ``average`` below."""
    import altair as alt

    data = _tidy(frame, by, measure)
    if data.empty:
        return None
    order = list(dict.fromkeys(frame["arm"]))
    x = alt.X("arm:N", sort=order, title=None, scale=alt.Scale(domain=order), axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(zero=False, reverse=by_name(measure, -1).better < 0)
    y = alt.Y("value:Q", title=f"{_axis(measure)}, better is higher", scale=scale)
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=45, opacity=0.6, color=COLORS[0])
        .encode(x=x, y=y, tooltip=["arm:N", "seed:N", "value:Q"])
    )
    means = alt.Chart(_summary(data)).mark_line(color=COLORS[0]).encode(x=x, y=alt.Y("mean:Q", scale=scale))
    ours = alt.layer(means, points).properties(width=420, height=200)
    if "paper" not in frame or frame["paper"].isna().all():
        return ours
    printed = frame.dropna(subset=["paper"]).drop_duplicates("arm")[["arm", "paper"]]
    theirs = (
        alt.Chart(printed)
        .mark_line(point=True, color=COLORS[1])
        .encode(x=x, y=alt.Y("paper:Q", title="paper: mean accuracy, %", scale=alt.Scale(zero=False)))
    )
    return alt.vconcat(ours, theirs.properties(width=420, height=150))


@figure("Quality over what varies", "The measure over each factor, a point per arm")
def correlation(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The measure over each column of ``by``, a point per arm (the mean of its seeds), side by side (Figure 4)."""
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
            alt.Chart(shown)
            .mark_point(filled=True, size=40, opacity=0.8, color=COLORS[0])
            .encode(
                x=alt.X("x:Q", title=_short(key), scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4, format="~s")),
                y=alt.Y("value:Q", title=_axis(measure) if number == 0 else None, scale=alt.Scale(zero=False)),
                tooltip=["arm:N", "x:Q", "value:Q"],
            )
            .properties(width=170, height=180)
        )
    return alt.concat(*panels, columns=3)


@figure("Batch against exponent", "The measure by batch and by exponent of the learning-rate rule, a cell per arm")
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

    base = alt.Chart(data).encode(
        x=alt.X("x:O", title=_short(keys[0]), sort=ordered("x"), axis=alt.Axis(labelAngle=0)),
        y=alt.Y("y:O", title=_short(keys[1]), sort=ordered("y")[::-1]),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=_axis(measure), scale=alt.Scale(scheme="viridis")), tooltip=["x:O", "y:O", "value:Q"]
    )
    words = base.mark_text().encode(
        text="label:N", color=alt.condition(alt.datum.value < middle, alt.value("#ffffff"), alt.value("#000000"))
    )
    return alt.layer(cells, words).properties(width=70 * data["x"].nunique(), height=44 * data["y"].nunique())


@figure("Forgetting by part", "Loss of each part of the training data under the final model, in the order in which it was seen")
def forgetting(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:  # noqa: ARG001
    """Loss of each part of the training data under the final model, a line per arm, beside unseen data (Figure 9)."""
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
    base = alt.Chart(shown).encode(x=x, color=_color("arm", order))
    seen = alt.datum.part != "unseen"
    scale = alt.Scale(zero=False)
    band = base.transform_filter(seen).mark_area(opacity=0.18).encode(y=alt.Y("min:Q", scale=scale), y2="max:Q")
    line = base.transform_filter(seen).mark_line().encode(y=alt.Y("mean:Q", title="loss (nats per token)", scale=scale))
    points = base.mark_point(filled=True).encode(y="mean:Q", tooltip=["arm:N", "part:N", "mean:Q", "min:Q", "max:Q"])
    return alt.layer(band, line, points).properties(width=420, height=250)


@figure(
    "Layers skipped at inference",
    "Bits per byte and cloze accuracy by the first skipped layer, a line per number of layers",
    "layer_skip",
)
def layer_skip(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:  # noqa: ARG001
    """The result of skipping 1, 2, … adjacent layers by the first of them, a column per arm; the whole model dashed."""
    import altair as alt

    shown = [name for name in ("bits_per_byte", "cloze") if name in frame and frame[name].notna().any()]
    if not shown:
        return None
    rows = []
    for name in shown:
        data = frame.groupby(["arm", "skipped", "first"], sort=False)[name].mean().reset_index().dropna()
        panels = []
        for arm, own in data.groupby("arm", sort=False):
            part = own[own["skipped"] > 0].assign(skipped=own["skipped"].map(str))
            lines = (
                alt.Chart(part)
                .mark_line(point=alt.OverlayMarkDef(size=18))
                .encode(
                    x=alt.X("first:Q", title="first skipped layer, from 0", axis=alt.Axis(tickMinStep=1, tickCount=6)),
                    y=alt.Y(f"{name}:Q", title="bits/byte" if name == "bits_per_byte" else "cloze accuracy",
                            scale=alt.Scale(type="log" if name == "bits_per_byte" else "linear", zero=False)),
                    color=_color("skipped", sorted(set(part["skipped"]))),
                    tooltip=["skipped:N", "first:Q", f"{name}:Q"],
                )
            )  # fmt: skip
            whole = own[own["skipped"] == 0]
            rule = alt.Chart(whole).mark_rule(strokeDash=[4, 3]).encode(y=f"{name}:Q")
            panels.append(alt.layer(lines, rule).properties(width=210, height=170, title=str(arm)))
        rows.append(alt.hconcat(*panels))
    return alt.vconcat(*rows)


@figure(
    "Standard deviation of each matrix by layer",
    "Standard deviation by layer, a panel per arm; after training, and dashed before it",
    "matrix_std",
)
def matrix_std(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:  # noqa: ARG001
    """Each matrix's standard deviation over the layers, trained and (dashed) initial, a panel per arm (Figure 11)."""
    import altair as alt

    if frame.empty:
        return None
    long = frame.melt(["arm", "layer", "matrix"], ["trained", "initial"], var_name="weights")
    means = long.groupby(["arm", "layer", "matrix", "weights"], sort=False)["value"].mean().reset_index()
    order = list(dict.fromkeys(frame["arm"]))
    lines = (
        alt.Chart(means)
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


@figure("Pareto front", "The measure against a cost, with the runs that no other beats in both")
def pareto(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The measure against the first column of ``by``, less of both being better, and the line of the best."""
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
    x = alt.X("cost:Q", title=_short(cost), scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~s", tickCount=5))
    y = alt.Y("value:Q", title=_axis(measure), scale=alt.Scale(zero=False))
    shown = ["identity", "cost", "value"]
    points = alt.Chart(data[shown]).mark_point(filled=True, opacity=0.5, color=COLORS[0]).encode(x=x, y=y, tooltip=shown)
    line = (
        alt.Chart(front[shown]).mark_line(point=True, interpolate="step-after", color=COLORS[1]).encode(x=x, y=y, tooltip=shown)
    )
    return alt.layer(points, line).properties(width=420, height=260)


@figure("Settings against the measure", "Parallel coordinates: a line per run through its settings and its measure")
def parallel(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """Parallel coordinates: a line per run through the columns of ``by`` and the measure, colored by the measure."""
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
        parts.append(pd.DataFrame({"run": data.index, "key": _short(key), "place": place, "value": data[measure]}))
        ends = pd.DataFrame({"place": place, "label": [_word(value) for value in data[key]]})
        ticks = ends.drop_duplicates().sort_values("place")
        if len(ticks) > 8:
            ticks = ticks.iloc[[0, len(ticks) // 2, -1]]
        labels.append(ticks.assign(key=_short(key)))
    order = [_short(key) for key in [*keys, measure]]
    x = alt.X("key:N", sort=order, title=None, axis=alt.Axis(labelAngle=0, domain=False, ticks=False))
    y = alt.Y("place:Q", axis=None)
    lines = (
        alt.Chart(pd.concat(parts))
        .mark_line(opacity=0.4, strokeWidth=1)
        .encode(x=x, y=y, detail="run:N", color=alt.Color("value:Q", title=_axis(measure), scale=alt.Scale(scheme="viridis")))
    )
    words = alt.Chart(pd.concat(labels)).mark_text(align="left", dx=4).encode(x=x, y=y, text="label:N")
    return alt.layer(lines, words).properties(width=max(360, 120 * len(order)), height=280)


@figure("Importance of settings", "Share of the measure's variance that each setting explains, with a 90 % interval")
def importance(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """The share of the measure's variance that each column of ``by`` explains by itself (see ``importances``)."""
    import altair as alt

    data = importances(frame, by, measure)
    if data.empty:
        return None
    data = data.assign(key=[_short(key) for key in data["setting"]])
    y = alt.Y("key:N", sort=list(data["key"]), title=None)
    bars = (
        alt.Chart(data)
        .mark_bar(color=COLORS[0], height=12)
        .encode(x=alt.X("share:Q", title=f"share of the variance of {_axis(measure)}"), y=y)
    )
    rules = alt.Chart(data).mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q", y=y)
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
        "x": alt.X("x:Q", title=_short(x), scale=alt.Scale(zero=False)),
        "y": alt.Y("value:Q", title=_axis(measure), scale=alt.Scale(zero=False)),
        "tooltip": ["trial:Q", "x:Q", "value:Q"],
    }
    points = alt.Chart(data).mark_point(filled=True, opacity=0.5, color=COLORS[0]).encode(**encodings)
    best = data[data["front"]]
    marked = alt.Chart(best).mark_line(point=True, strokeWidth=1, color=COLORS[1]).encode(**encodings)
    return alt.layer(points, marked).properties(width=420, height=260)


def importances(frame: pd.DataFrame, by: Sequence[str], measure: str, resamples: int = 8, most: int = 400) -> pd.DataFrame:
    """How much of a measure's variance each setting explains by itself: functional ANOVA over random forests.

    Hutter, Hoos, Leyton-Brown (2014), by Optuna's evaluator. The interval is the range from the 5th to the 95th percentile over
    forests of runs drawn with replacement: it says how much the answer depends on which runs there happen to be.

    Args:
        frame: One row per run.
        by: Settings; those that do not vary are left out.
        measure: Column that is explained.
        resamples: Forests.
        most: Runs that a forest sees at most.

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
            coded[key] = data[key].map(_word).tolist()
            spaces[key] = optuna.distributions.CategoricalDistribution(sorted(set(coded[key])))
    keys = list(spaces)
    values = data[measure].astype(float).tolist()
    source = np.random.default_rng(0)
    found = []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for number in range(resamples):
        drawn = source.integers(len(values), size=min(len(values), most))
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
        except (RuntimeError, ValueError):  # a resample in which nothing varies
            continue
    if not found:
        return pd.DataFrame(columns=head)
    table = pd.DataFrame(found)[keys]
    rows = [(key, table[key].mean(), table[key].quantile(0.05), table[key].quantile(0.95)) for key in keys]
    return pd.DataFrame(rows, columns=head).sort_values("share", ascending=False, ignore_index=True)


def _tidy(frame: pd.DataFrame, by: Sequence[str], measure: str) -> pd.DataFrame:
    """A copy with the columns identity, arm, seed, value and, where there are any, tokens; rows without a value left out."""
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
    """A label for the arm of each row: the values of ``by``."""
    if not by:
        return pd.Series("all runs", index=frame.index)
    return pd.Series([", ".join(map(_word, row)) for row in frame[list(by)].itertuples(index=False)], index=frame.index)


def _summary(data: pd.DataFrame) -> pd.DataFrame:
    """Mean of each arm and its 95 % interval over seeds."""
    from tinylm_ablate.science.estimate import Estimate

    rows = []
    for arm, values in data.groupby("arm", sort=False)["value"]:
        mean, spread, seeds = float(values.mean()), float(values.std()), len(values)
        low, high = Estimate(mean, spread, seeds).interval() if seeds > 1 else (mean, mean)
        rows.append((arm, mean, low, high, seeds))
    return pd.DataFrame(rows, columns=["arm", "mean", "low", "high", "seeds"])


def _color(column: str, order: Sequence[str]) -> alt.Color:
    import altair as alt

    colors = list(itertools.islice(itertools.cycle(COLORS), len(order)))
    title = None if column == "arm" else column
    legend = alt.Legend(orient="bottom", columns=3, symbolOpacity=1, symbolType="stroke") if len(order) > 1 else None
    return alt.Color(
        f"{column}:N", sort=list(order), title=title, legend=legend, scale=alt.Scale(domain=list(order), range=colors)
    )


def _dash(column: str, order: Sequence[str]) -> alt.StrokeDash:
    """More arms than colors are told apart by their dashes."""
    import altair as alt

    dashes = [_DASHES[number // len(COLORS) % len(_DASHES)] for number in range(len(order))]
    return alt.StrokeDash(f"{column}:N", legend=None, scale=alt.Scale(domain=list(order), range=dashes))


def _places(values: pd.Series[Any]) -> pd.Series[float]:
    """Values from 0 to 1 on an axis: numbers by size, words by their order."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        ranks = {word: place for place, word in enumerate(sorted(set(values.map(_word))))}
        numbers = values.map(_word).map(ranks).astype(float)
    low, high = float(numbers.min()), float(numbers.max())
    return (numbers - low) / ((high - low) or 1.0)


def _axis(measure: str) -> str:
    return by_name(measure, 0).title


def _short(key: str) -> str:
    """A column's name for an axis: the last part of a setting's key, the title of a measure."""
    title = by_name(key, 0).title
    return title if title != key else key.split(".")[-1].replace("_", " ")


def _word(value: Any) -> str:
    if isinstance(value, float):
        return count(value) if math.isfinite(value) else "–"
    return str(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.inf


def _rounded(value: Any) -> Any:
    """Numbers with six digits, so that a figure does not depend on the last bit of a processor's arithmetic."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value
