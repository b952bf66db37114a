"""Prediction of larger scales from small ones: decision accuracy, trends of effects, and forecasts made before the runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from tinylm_ablate.report.blocks import Block, Cell, Figure, Fold, Heading, Row, Table, Text
from tinylm_ablate.report.drawing import specification
from tinylm_ablate.report.figures import FIGURES
from tinylm_ablate.report.forecasts import EDITED, METRIC
from tinylm_ablate.report.measures import by_name, count
from tinylm_ablate.report.page import Page
from tinylm_ablate.science.accuracy import Accuracy, Agreement, between_scales
from tinylm_ablate.science.evidence import Evidence, settings
from tinylm_ablate.science.trend import Slope
from tinylm_ablate.science.verdict import Verdict

if TYPE_CHECKING:
    from tinylm_ablate.report.measures import Measure

_MOST_PAIRS = 100


def scales_page(evidence: Mapping[str, Evidence], verdicts: Sequence[Verdict], forecasts: pd.DataFrame) -> Page | None:
    """Return the page, or None if nothing was run at two scales or budgets and nothing was forecast.

    Args:
        evidence: Evidence by the name of the experiment.
        verdicts: Verdicts on all claims.
        forecasts: ``forecasts.csv``, judged.
    """
    measure = by_name(METRIC, -1)
    blocks: list[Block] = []
    for small, large in _scales(evidence):
        found = between_scales(evidence, METRIC, small, large)
        blocks += _accuracy(found, measure, f"scales_{small}_{large}") if found.overall.pairs else []
    blocks += _trends(verdicts)
    blocks += _forecasts(forecasts)
    if not blocks:
        return None
    title = "What a small scale says about a larger one"
    return Page("scales", title, [Heading(1, title), *blocks])


def _scales(evidence: Mapping[str, Evidence]) -> list[tuple[str, str]]:
    """Return pairs of scales, smaller first, at which an experiment was run."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for own in evidence.values():
        known = [(group.parameters, group.scale) for group in settings(own) if group.scale and not math.isnan(group.parameters)]
        for first, second in itertools.combinations(sorted(known), 2):
            if first[1] != second[1]:
                found.setdefault((first[1], second[1]), (first[0], second[0]))
    return sorted(found, key=lambda pair: (found[pair], pair))


def _accuracy(found: Accuracy, measure: Measure, name: str) -> list[Block]:
    """Decision accuracy of one scale for another: a sentence, the figure, a row per bin, and the pairs that disagree."""
    blocks: list[Block] = [
        Heading(2, f"Decision accuracy of {found.small} for {found.large}"),
        Text(
            f"{found.overall.pairs} pairs of {found.overall.arms} arms were run at both scales; {_share(found.overall)} "
            f"of them have the same order in {measure.title}. Intervals (95 %) are bootstrapped over arms, which pairs share."
        ),
    ]
    kind = FIGURES["scales"]
    if (chart := kind.draw(found.points, [found.small, found.large], METRIC)) is not None:
        blocks.append(Figure(name, specification(chart), kind.title, f"{kind.alt}."))
    rows: list[Row] = [
        [_distance(own), own.pairs, own.arms, Cell(_share(own), own.share)]
        for own in (*found.by_distance, found.overall)
        if own.pairs
    ]
    head = [f"difference at {found.small}, {measure.title}", "pairs", "arms", "same order [95 %]"]
    blocks.append(Table(head, rows, 1, "Decision accuracy by distance"))
    wrong = found.points[~found.points["agree"].astype(bool)]
    if len(wrong):
        worst = wrong.sort_values("large", key=lambda values: -values.abs(), kind="stable").head(_MOST_PAIRS)
        table: list[Row] = [
            [*(str(row[name]) for name in ("experiment", "first", "second")),
             *(Cell(measure.signed(float(row[side])), float(row[side])) for side in ("small", "large"))]
            for row in worst.to_dict("records")
        ]  # fmt: skip
        listed = f"the {_MOST_PAIRS} furthest apart" if len(wrong) > _MOST_PAIRS else f"all {len(wrong)}"
        head = ["experiment", "arm", "against", f"difference at {found.small}", f"at {found.large}"]
        blocks.append(Fold(f"Pairs whose order differs ({listed})", [Table(head, table, 3, "Pairs whose order differs")]))
    return blocks


def _distance(own: Agreement) -> str:
    low, high = own.distance
    if math.isinf(high):
        return "all" if low == 0 else f"{low:g} or more"
    return f"{low:g} to {high:g}"


def _share(own: Agreement) -> str:
    interval = "" if math.isnan(own.low) else f" [{100 * own.low:.0f}, {100 * own.high:.0f}]"
    return f"{100 * own.share:.0f}{interval} %"


def _trends(verdicts: Sequence[Verdict]) -> list[Block]:
    """Change of the effect of each comparison over its tested settings."""
    rows: list[Row] = [
        [
            verdict.claim.title, own.label, "; ".join(point.setting for point in own.points), str(own.course),
            _slope(own.by_tokens), _slope(own.by_parameters), own.text,
        ]
        for verdict in verdicts
        for own in verdict.trends
    ]  # fmt: skip
    if not rows:
        return []
    slopes = [f"slope in log {name} [90 %]" for name in ("tokens", "parameters")]
    head = ["claim", "comparison", "settings", "effect", *slopes, "reading"]
    return [Heading(2, "Effects over scales and budgets"), Table(head, rows, 7, "Trends of effects")]


def _slope(own: Slope | None) -> Cell:
    if own is None:
        return Cell("–")
    words = [f"{value:+.3g}".replace("-", "−") for value in (own.mean, own.low, own.high)]
    return Cell(words[0] if math.isinf(own.low) else f"{words[0]} [{words[1]}, {words[2]}]", own.mean)


def _forecasts(table: pd.DataFrame) -> list[Block]:
    """Every forecast with later measurements, and the number of correct intervals."""
    if table.empty:
        return []
    inside = table["inside"].tolist()
    judged = len([found for found in inside if found in ("yes", "no")])
    note = f"{len(table)} forecasts were recorded before their scale was run; {judged} of them have been measured since"
    note += f", and {inside.count('yes')} are within their 90 % interval." if judged else "."
    rows: list[Row] = []
    for row in table.to_dict("records"):
        forecast, low, high, seen = (
            "–" if math.isnan(row[name]) else f"{row[name]:.4g}".replace("-", "−")
            for name in ("forecast", "low", "high", "observed")
        )
        state = "edited since it was written" if row[EDITED] else str(row["inside"]) or "not run yet"
        at = f"{row['scale']}, {count(float(row['tokens']))} tokens"
        numbers = [Cell(f"{forecast} [{low}, {high}]", float(row["forecast"])), Cell(seen, float(row["observed"]))]
        rows.append([*(str(row[name]) for name in ("date", "experiment", "subject", "quantity")), at, state, *numbers])
    head = ["date", "experiment", "of", "quantity", "at", "inside", "forecast [90 %]", "observed"]
    return [Heading(2, "Forecasts"), Text(note), Table(head, rows, 6, "Forecasts and measurements")]
