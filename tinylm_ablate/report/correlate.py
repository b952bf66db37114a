"""Rank correlation of what varies over a grid with the quality that came of it (Figure 4), and the points behind it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinylm_ablate.report import measures
from tinylm_ablate.report.arms import Section, columns_of
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.measures import Measure
from tinylm_ablate.report.printed import FOLDER
from tinylm_ablate.report.trend import Correlation, correlation, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def correlations(section: Section, columns: Sequence[str], paper: str | None) -> list[str]:
    """Markdown: for each column its rank correlation with quality, the paper's beside it. Empty without measured arms.

    Quality is a mean over seeds, oriented so that more is better: bits per byte of the test text with its sign turned, and the
    share of right answers.

    Args:
        section: The arms; each is one point.
        columns: What is correlated: columns of the records, or axes.
        paper: Stem of a CSV with the columns factor and spearman; a factor is the last part of a column's name.
    """
    shown = _qualities(section)
    if not shown:
        return []
    printed = _printed(paper)
    rows = []
    for column in columns:
        found = [_correlation(section, column, measure) for measure in shown]
        factor = column.split(".")[-1] if column != measures.PARAMETERS.column else measures.PARAMETERS.title
        rows.append([factor.replace("_", " "), *map(_text, found), printed.get(factor, "–")])
    counts = sorted({_correlation(section, column, measure).arms for column in columns for measure in shown})
    return [
        "### Rank correlation with quality",
        table(["", *(f"with {_quality(measure)} [95 %]" for measure in shown), "paper"], rows, 1),
        f"Spearman's, over {' to '.join(map(str, counts))} arms, each the mean of its seeds. Quality is oriented so that more "
        "is better: bits/byte with its sign turned. The paper's is with its mean accuracy over three tasks."
        + (
            " Parameters should not correlate, since they are meant to be equal."
            if measures.PARAMETERS.column in columns
            else ""
        ),
    ]


def draw(section: Section, columns: Sequence[str]) -> Figure | None:
    """Bits per byte of the test text over each column, a point an arm; None if nothing was measured."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = _qualities(section)[:1]
    if not shown:
        return None
    figure = Figure(figsize=(2.9 * len(columns), 3.2), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        points = _points(section, column, shown[0])
        axes.plot([x for x, _ in points], [y for _, y in points], "o", color="#0072B2", markersize=5, alpha=0.8)
        axes.set_xlabel(column.split(".")[-1].replace("_", " ") if column != measures.PARAMETERS.column else "parameters")
        axes.set_title(f"Spearman {_text(_correlation(section, column, shown[0])).split(' ')[0]}", fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=all(x.is_integer() for x, _ in points)))
        axes.xaxis.set_major_formatter(lambda value, _: measures.count(value))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{shown[0].title} (fewer is better)")
    return figure


def _qualities(section: Section) -> list[Measure]:
    columns = columns_of(section.arms)
    return [*measures.bits(columns, "test")[-1:], *measures.cloze(columns, "test")[-1:]]


def _quality(measure: Measure) -> str:
    return f"{'−' if measure.better < 0 else ''}{measure.title}"


def _correlation(section: Section, column: str, measure: Measure) -> Correlation:
    places, quality = points(section, [column], measure.column, measure.better)
    return correlation(places[column], quality)


def _points(section: Section, column: str, measure: Measure) -> list[tuple[float, float]]:
    """Value of the column and mean of the measure, for each arm that has both."""
    places, quality = points(section, [column], measure.column, measure.better)
    return [(x, measure.better * y) for x, y in zip(places[column], quality, strict=True)]


def _text(found: Correlation) -> str:
    if math.isnan(found.rho):
        return "–"
    text = f"{found.rho:+.3f}" + ("" if math.isinf(found.low) else f" [{found.low:+.2f}, {found.high:+.2f}]")
    return text.replace("-", "−")


def _printed(paper: str | None) -> dict[str, str]:
    path = FOLDER / f"{(paper or '').removesuffix('.csv')}.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        row["factor"]: f"{float(row['spearman']):+.3f}".replace("-", "−")
        for row in rows
        if {"factor", "spearman"} <= row.keys()
    }
