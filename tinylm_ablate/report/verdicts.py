"""Verdicts on claims: a sentence and a figure on all of them, and the page with every comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from tinylm_ablate.report.blocks import Block, Cell, Figure, Fold, Heading, Inline, Items, Piece, Row, Table, Text, link, strong
from tinylm_ablate.report.blocks import Verdict as VerdictBlock
from tinylm_ablate.report.drawing import chart, figure, specification
from tinylm_ablate.report.measures import by_name
from tinylm_ablate.science.comparison import Comparison, Outcome
from tinylm_ablate.science.verdict import Verdict

if TYPE_CHECKING:
    import altair as alt

#: Outcome -> sign and color; a verdict is never shown by its color alone.
SIGNS = {
    Outcome.REPRODUCED: ("✓", "var(--good)"), Outcome.REVERSED: ("✗", "var(--bad)"), Outcome.NO_EFFECT: ("≈", "var(--none)"),
    Outcome.UNDECIDED: ("?", "var(--open)"), Outcome.NOT_TESTABLE: ("–", "var(--quiet)"),
}  # fmt: skip

#: Maximum effect to plot, in margins; larger ones are at the edge.
_FURTHEST = 16.0
_REASON, _TITLE, _NARROW_TITLE = 60, 80, 50


def headline(verdicts: Sequence[Verdict], runs: str = "The runs") -> Inline:
    """Summarize the verdicts on all claims in one sentence.

    Args:
        verdicts: All verdicts.
        runs: Name of the runs, at the beginning of the sentence.
    """
    tested = [verdict for verdict in verdicts if verdict.at is not None]
    ours = sum(verdict.claim.ours for verdict in verdicts)
    whole = f"the {len(verdicts)} claims ({len(verdicts) - ours} of the paper, {ours} of our own)"
    if not tested:
        return [f"{runs} concern none of {whole}."]
    counts = Counter(verdict.outcome for verdict in tested)
    pieces: list[Piece] = [f"{runs} concern {'all' if len(tested) == len(verdicts) else len(tested)} of {whole}: "]
    for number, outcome in enumerate(outcome for outcome in Outcome if counts[outcome]):
        pieces += [", " if number else "", strong(str(counts[outcome])), f" {outcome}"]
    return [*pieces, "."]


def summary(verdicts: Sequence[Verdict], name: str) -> list[Block]:
    """Return the figure of all verdicts with runs; claims without runs are collapsed.

    Args:
        verdicts: All verdicts.
        name: Stem of the figure's file.
    """
    # Decided claims are first; claims with the same outcome keep the paper's order.
    ran = sorted((verdict for verdict in verdicts if verdict.at is not None), key=lambda own: list(Outcome).index(own.outcome))
    absent = [verdict for verdict in verdicts if verdict.at is None]
    blocks: list[Block] = []
    frame = as_frame(ran)
    if (chart := picture(frame, ["claim"], "effect")) is not None:
        facts = "; ".join(f"{verdict.claim.title}: {verdict.outcome}" for verdict in ran)
        blocks.append(
            Figure(
                name,
                specification(chart),
                "Effect and interval of each claim in margins (the smallest effects that matter): a claimed difference is "
                "beyond +1, its opposite beyond −1, and a claim of no difference holds in between",
                f"Verdict, effect and interval of each claim in units of its margin. {facts}.",
                specification(_picture(frame, "claim", "effect", narrow=True)),
            )
        )
    if absent:
        blocks.append(
            Fold(
                f"{len(absent)} {'claim has' if len(absent) == 1 else 'claims have'} no runs here",
                [Items([f"{verdict.claim.title} ({verdict.claim.source}): {verdict.claim.experiment}" for verdict in absent])],
            )
        )
    return blocks


def as_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per claim: its verdict, and its deciding comparison in units of its margin."""
    rows = []
    for verdict in verdicts:
        decisive = deciding(verdict)
        mean, low, high = _in_margins(decisive)
        reason = verdict.reason if verdict.outcome == Outcome.NOT_TESTABLE else ""
        rows.append(
            {
                "claim": verdict.claim.title, "source": verdict.claim.source, "verdict": str(verdict.outcome),
                "effect": mean, "low": low, "high": high, "reason": _cut(reason, _REASON), "setting": verdict.setting,
                "paper": "" if decisive is None else _paper(decisive), "why": verdict.reason,
            }
        )  # fmt: skip
    columns = ["claim", "source", "verdict", "effect", "low", "high", "reason", "setting", "paper", "why"]
    return pd.DataFrame(rows, columns=columns)


@figure("Verdicts", "Each claim's effect and interval in units of its margin, the paper's effect, and the verdict")
def picture(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """All verdicts: one row per claim with its effect and interval in margins, the verdict and the paper's effect."""
    return None if frame.empty or measure not in frame else _picture(frame, next(iter(by), "claim"), measure)


def _picture(frame: pd.DataFrame, key: str, measure: str, narrow: bool = False) -> alt.TopLevelMixin:
    """Return the figure of some verdicts.

    Args:
        frame: Result of ``as_frame``.
        key: The column of titles.
        measure: The column of effects.
        narrow: Whether it is for a phone: the title is above the interval, with only the verdict next to it.
    """
    import altair as alt

    ends = {name: frame[name].clip(-_FURTHEST, _FURTHEST) for name in ("low", "high", measure)}
    shown = frame.assign(
        word=[f"{SIGNS[Outcome(verdict)][0]} {verdict}" for verdict in frame["verdict"]],
        title=[_cut(title, _NARROW_TITLE if narrow else _TITLE) for title in frame[key]],
        row=range(len(frame)),
        **ends,
    )
    # Rows are positions rather than titles, since two claims may have the same title.
    step, over = (44, 15) if narrow else (18, 0)
    places = alt.Scale(domain=[-0.5, len(frame) - 0.5], range=[0, step * len(frame)], nice=False)
    height, left, plot = step * len(frame), 0 if narrow else 470, 170 if narrow else 250
    margins = alt.Scale(
        type="symlog", constant=1, domain=[-_FURTHEST, _FURTHEST], range=[left, left + plot], nice=False, clamp=True
    )
    ticks = [-4, -1, 0, 1, 4] if narrow else [-10, -4, -1, 0, 1, 4, 10]
    signs = "datum.value > 0 ? '+' + datum.value : replace(toString(datum.value), '-', '−')"
    axis = alt.Axis(values=ticks, labelExpr=signs, orient="top", title="effect in margins", titleAnchor="start", titleX=left)
    y = alt.Y("row:Q", scale=places, axis=None)
    outcomes = [str(outcome) for outcome in Outcome]
    color = alt.Color(
        "verdict:N", legend=None, scale=alt.Scale(domain=outcomes, range=[SIGNS[outcome][1] for outcome in Outcome])
    )
    tips = [f"{key}:N", "source:N", "verdict:N", alt.Tooltip(f"{measure}:Q", title="effect in margins"), "setting:N", "why:N"]
    tested = alt.datum.verdict != str(Outcome.NOT_TESTABLE)
    base = chart(shown).encode(y=y)
    zone = chart(pd.DataFrame({"from": [-1.0], "to": [1.0]})).mark_rect(color="#888888", opacity=0.16)
    zone = zone.encode(x=alt.X("from:Q", scale=margins, axis=axis), x2="to:Q")
    rules = base.mark_rule(strokeWidth=3, yOffset=over).encode(
        x=alt.X("low:Q", scale=margins), x2="high:Q", color=color, opacity=alt.condition(tested, alt.value(1), alt.value(0.5))
    )
    points = base.mark_point(filled=True, size=70, opacity=1, yOffset=over).encode(
        x=alt.X(f"{measure}:Q", scale=margins), color=color, tooltip=tips
    )

    def words(column: str, x: int, across: Literal["left", "right"] = "left", **style: Any) -> Any:
        shade = alt.condition(tested, alt.value("currentColor"), alt.value("var(--quiet)"))
        return base.mark_text(align=across, **style).encode(x=alt.value(x), text=f"{column}:N", color=shade, tooltip=tips)

    aside = left + plot + 14
    bold = base.mark_text(align="left", fontWeight="bold", yOffset=over).encode(
        x=alt.value(aside), text="word:N", color=color, tooltip=tips
    )
    if narrow:
        layers = [zone, rules, points, words("title", 0, yOffset=-6), bold]
        return alt.layer(*layers).properties(width=330, height=height)
    layers = [zone, rules, points, words("title", left - 12, "right"), bold]
    if (shown["paper"] != "").any():
        heads = pd.DataFrame({"row": [-1], "text": ["in the paper"]})
        layers += [words("paper", aside + 158), chart(heads).mark_text(align="left").encode(
            x=alt.value(aside + 158), y=y, text="text:N"
        )]  # fmt: skip
    layers.append(words("reason", aside + 158 + 86 * bool((shown["paper"] != "").any()), fontStyle="italic", fontSize=11))
    return alt.layer(*layers).properties(width=1240, height=height)


def about(verdict: Verdict) -> list[Block]:
    """Return a verdict for an experiment's page, with its comparisons collapsed; empty if it has no runs."""
    if verdict.at is None:
        return []
    blocks: list[Block] = [VerdictBlock(verdict.claim.title, verdict.claim.source, str(verdict.outcome), verdict.reason)]
    inner: list[Block] = [_comparisons([verdict])] if verdict.comparisons else []
    inner += [Items(verdict.notes)] if verdict.notes else []
    return [*blocks, Fold("Comparisons behind this verdict", inner)] if inner else blocks


def claims_blocks(verdicts: Sequence[Verdict], stems: Mapping[str, str]) -> list[Block]:
    """Return the page of all claims: the sentence, the figure, one line per claim, and every comparison.

    Args:
        verdicts: All verdicts.
        stems: Experiment -> stem of its page, if any.
    """
    rows: list[Row] = []
    for own in verdicts:
        experiment, claim = own.claim.experiment, own.claim
        page = Cell([link(experiment, f"{stems[experiment]}.md")] if experiment in stems else experiment, experiment)
        survives = "–" if own.survives is None else "yes" if own.survives else "no"
        rows.append([_word(own.outcome), claim.title, claim.source, own.setting or "–", own.reason, page, survives])
    head = ["verdict", "claim", "source", "at", "why", "experiment", "survives 10 % FDR"]
    blocks: list[Block] = [Heading(1, "Claims"), Text(headline(verdicts)), *summary(verdicts, "claims")]
    blocks += [Heading(2, "Every claim"), Table(head, rows, 7, "Verdict on each claim")]
    if compared := [verdict for verdict in verdicts if verdict.comparisons and verdict.at is not None]:
        blocks += [Heading(2, "Every comparison"), _comparisons(compared)]
    notes = [f"{verdict.claim.title}: {note}" for verdict in verdicts if verdict.at is not None for note in verdict.notes]
    blocks += [Heading(2, "Notes"), Items(notes)] if notes else []
    return blocks


def deciding(verdict: Verdict) -> Comparison | None:
    """Return the deciding comparison: the first with the outcome, or the smallest effect if all hold."""
    measured = [comparison for comparison in verdict.comparisons if comparison.effect is not None]
    same = [comparison for comparison in measured if comparison.outcome == verdict.outcome] or measured
    if not same:
        return None
    if verdict.outcome == Outcome.REPRODUCED:
        return min(same, key=lambda comparison: _in_margins(comparison)[0])
    return same[0]


def _comparisons(verdicts: Sequence[Verdict]) -> Table:
    rows: list[Row] = []
    for verdict in verdicts:
        for own in verdict.comparisons:
            measure = by_name(own.metrics[0], 0) if own.metrics else by_name("", 0)
            effect = Cell("–")
            if own.effect is not None:
                low, high = own.interval()
                texts = [_effect(value, own, measure.signed) for value in (own.effect.mean, low, high)]
                interval = "" if math.isinf(low) or math.isinf(high) else f" [{texts[1]}, {texts[2]}]"
                effect = Cell(texts[0] + interval, own.effect.mean)
            margin = "–" if math.isnan(own.margin) else _effect(own.margin, own, measure.signed).removeprefix("+")
            rows.append(
                [
                    *([verdict.claim.title] if len(verdicts) > 1 else []), own.label, _word(own.outcome), measure.title, effect,
                    Cell(f"{margin} ({own.margin_source})" if own.margin_source else margin, own.margin),
                    Cell(f"{own.look} of {own.seeds}", own.look), Cell("–" if own.p >= 1 else f"{own.p:.2g}", own.p),
                    Cell("–" if own.needed is None else str(own.needed), own.needed), Cell(_paper(own) or "–", own.paper),
                    own.reason or "–",
                ]
            )  # fmt: skip
    head = [*(["claim"] if len(verdicts) > 1 else []), "comparison", "verdict", "measure", "effect [96.7 %]", "margin"]
    head += ["seeds used", "p", "seeds that would decide", "paper", "why"]
    return Table(head, rows, len(head) - 7, "Comparisons behind the verdicts")


def _in_margins(own: Comparison | None) -> tuple[float, float, float]:
    """Return effect and interval in units of the margin; NaN without effect or margin."""
    if own is None or own.effect is None or math.isnan(own.margin) or own.margin == 0:
        return math.nan, math.nan, math.nan
    margin = abs(own.margin)
    low, high = own.interval()
    # Without an interval (one seed) nothing but the point is drawn.
    ends = (math.nan, math.nan) if math.isinf(low) and math.isinf(high) else (low / margin, high / margin)
    return own.effect.mean / margin, *ends


def _effect(value: float, own: Comparison, signed: object) -> str:
    if own.relative:
        return f"{100 * math.expm1(value):+.1f} %".replace("-", "−")
    text: str = signed(value)  # type: ignore[operator]
    return text


def _paper(own: Comparison) -> str:
    if own.paper is None:
        return ""
    if own.relative:
        return f"{100 * math.expm1(own.paper):+.1f} %".replace("-", "−")
    return f"{own.paper:+.2f}".replace("-", "−")


def _word(outcome: Outcome) -> Cell:
    return Cell(f"{SIGNS[outcome][0]} {outcome}", str(outcome), str(outcome).replace(" ", "-"))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
