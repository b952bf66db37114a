"""The ladder of Figure 1: what each step came to here, beside what the paper prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tinylm_ablate.report import measures
from tinylm_ablate.report.arms import Section
from tinylm_ablate.report.documents import estimate
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.printed import Printed
from tinylm_ablate.report.statistics import mean_and_deviation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The word in ``experiment.figures`` that asks for this figure.
NAME = "ladder"

_BITS = measures.by_name("test/bits_per_byte/all", -1)

#: Ours and the paper's, of Okabe and Ito's colours.
_OURS, _PAPERS = "#0072B2", "#D55E00"


def shown(section: Section, printed: Printed | None, write: Callable[[Figure | None], str | None]) -> list[str]:
    """Figure and table of the steps in Markdown, each arm being a step on the one before; nothing where none has finished runs.

    Args:
        section: The arms, lowest first.
        printed: The paper's rows for them, or None.
        write: Writes a figure, and returns its path relative to the page.
    """
    bits = [arm.by_seed(_BITS.column) for arm in section.arms]
    averages = _averages(printed, len(bits))
    path = write(_draw([arm.label for arm in section.arms], bits, averages))
    if path is None:
        return []
    rows = []
    for step in range(1, len(bits)):
        below, arm = section.arms[step - 1], section.arms[step]
        gained = estimate((bits[step - 1], bits[step]), (below.scores(), arm.scores()), (1, -1), _BITS.column)
        if gained is None:
            ours = "–"
        elif gained.pairs < 2:
            ours = f"{_BITS.signed(gained.mean)} [one seed: no interval]"
        else:
            ours = f"{_BITS.signed(gained.mean)} [{_BITS.signed(gained.low)}, {_BITS.signed(gained.high)}]"
        before, after = averages[step - 1], averages[step]
        paper = "–" if before is None or after is None else f"{after - before:+.2f}".replace("-", "−")
        rows.append([f"{below.label} → {arm.label}", ours, paper])
    return [
        "### What each step adds",
        f"![The ladder: bits per byte after each step here, and mean accuracy after each step in the paper]({path})",
        table(["step", "here: fewer bits/byte [95 %]", "paper: points of mean accuracy"], rows, 1),
        "Above zero is a gain. The paper's are of single runs and have no interval.",
    ]


def _averages(printed: Printed | None, arms: int) -> list[float | None]:
    rows: Sequence[Mapping[str, str] | None] = printed.rows if printed is not None else [None] * arms
    return [float(row["average"]) if row is not None and row.get("average") else None for row in rows]


def _draw(labels: Sequence[str], bits: Sequence[Mapping[int, float]], averages: Sequence[float | None]) -> Figure | None:
    """Ours above, a dot a seed and a line through the means, fewer bits being higher; the paper's below."""
    from matplotlib.figure import Figure

    if not any(bits):
        return None
    known = [place for place, average in enumerate(averages) if average is not None]
    figure = Figure(figsize=(7.2, 4.6 if known else 2.8), layout="constrained")
    panels = figure.subplots(2 if known else 1, 1, sharex=True, squeeze=False)[:, 0]
    measured = [place for place, values in enumerate(bits) if values]
    means = [mean_and_deviation(list(bits[place].values()))[0] for place in measured]
    panels[0].plot(measured, means, "-", color=_OURS)
    for place, mean in zip(measured, means, strict=True):
        seeds = list(bits[place].values())
        panels[0].plot([place] * len(seeds), seeds, "o", color=_OURS, markersize=5, alpha=0.7)
        panels[0].annotate(f"{mean:.3f}", (place, mean), xytext=(8, 6), textcoords="offset points", fontsize=9)
    panels[0].invert_yaxis()
    panels[0].set_ylabel("here: bits per byte\n(fewer is higher)")
    if known:
        panels[1].plot(known, [averages[place] for place in known], "s-", color=_PAPERS, markersize=5)
        for place in known:
            panels[1].annotate(
                f"{averages[place]:.2f}", (place, averages[place]), xytext=(8, -10), textcoords="offset points", fontsize=9
            )
        panels[1].set_ylabel("paper: mean accuracy, %")
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.1, y=0.2)
    panels[-1].set_xticks(range(len(labels)), [label if place == 0 else f"+ {label}" for place, label in enumerate(labels)])
    return figure
