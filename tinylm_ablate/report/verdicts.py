"""Verdicts on claims: one sentence, one picture of all of them, and the page that has every comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from tinylm_ablate.report.blocks import (
    Block,
    Cell,
    Figure,
    Fold,
    Heading,
    Inline,
    Items,
    Piece,
    Table,
    Text,
    link,
    strong,
    word,
)
from tinylm_ablate.report.blocks import Verdict as VerdictBlock
from tinylm_ablate.report.drawing import figure, specification
from tinylm_ablate.report.measures import by_name
from tinylm_ablate.science.comparison import Comparison, Outcome
from tinylm_ablate.science.verdict import Verdict, count

if TYPE_CHECKING:
    import altair as alt

#: Outcome -> sign and color; a verdict is never told by its color alone.
SIGNS = {
    Outcome.REPRODUCED: ("✓", "#2DA44E"), Outcome.REVERSED: ("✗", "#E5534B"), Outcome.NO_EFFECT: ("≈", "#3B8ED8"),
    Outcome.UNDECIDED: ("?", "#C69026"), Outcome.NOT_TESTABLE: ("–", "#8C959F"),
}  # fmt: skip

#: Effects beyond so many margins are drawn at the edge.
_FURTHEST = 16.0
_REASON, _TITLE = 48, 72


def headline(verdicts: Sequence[Verdict], whose: str = "The paper's claims") -> Inline:
    """One sentence that says what the runs say about all claims."""
    tested = [verdict for verdict in verdicts if verdict.at is not None]
    if not tested:
        return [f"{whose}: none of {sum(not verdict.claim.ours for verdict in verdicts)} has been run yet."]
    paper, own = count(verdicts), count(verdicts, ours=True)
    pieces: list[Piece] = [f"{whose}: "]
    for number, outcome in enumerate(outcome for outcome in Outcome if paper.get(outcome)):
        pieces += [", " if number else "", strong(str(paper[outcome])), f" {outcome}"]
    pieces.append(f", of {sum(paper.values())}.")
    if own:
        told = ", ".join(f"{own[outcome]} {outcome}" for outcome in Outcome if own.get(outcome))
        pieces.append(f" Claims of our own: {told}.")
    return pieces


def summary(verdicts: Sequence[Verdict], name: str) -> list[Block]:
    """The picture of all verdicts that have runs; claims without any are folded away.

    Args:
        verdicts: All of them.
        name: Stem of the figure's file.
    """
    ran = [verdict for verdict in verdicts if verdict.at is not None]
    absent = [verdict for verdict in verdicts if verdict.at is None]
    blocks: list[Block] = []
    frame = as_frame(ran)
    if (chart := picture(frame, ["claim"], "effect")) is not None:
        facts = "; ".join(f"{verdict.claim.title}: {verdict.outcome}" for verdict in ran)
        blocks.append(
            Figure(
                name,
                specification(chart),
                "Effect and interval of each claim in units of its margin",
                f"Verdict, effect and interval of each claim in units of its margin. {facts}.",
                specification(_narrow(frame)),
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
                "claim": _cut(verdict.claim.title, _TITLE), "source": verdict.claim.source, "verdict": str(verdict.outcome),
                "effect": mean, "low": low, "high": high, "reason": _cut(reason, _REASON), "setting": verdict.setting,
                "paper": "" if decisive is None else _paper(decisive), "why": verdict.reason,
            }
        )  # fmt: skip
    columns = ["claim", "source", "verdict", "effect", "low", "high", "reason", "setting", "paper", "why"]
    return pd.DataFrame(rows, columns=columns)


@figure("Verdicts", "Each claim's effect and interval in units of its margin, the paper's effect, and the verdict")
def picture(frame: pd.DataFrame, by: Sequence[str], measure: str) -> alt.TopLevelMixin | None:
    """All verdicts: a row per claim with its effect and interval in units of its margin, the verdict and the paper's effect."""
    import altair as alt

    key = next(iter(by), "claim")
    if frame.empty or measure not in frame:
        return None
    shown = frame.assign(
        word=[f"{SIGNS[Outcome(verdict)][0]} {verdict}" for verdict in frame["verdict"]],
        low=frame["low"].clip(-_FURTHEST, _FURTHEST),
        high=frame["high"].clip(-_FURTHEST, _FURTHEST),
        effect=frame[measure].clip(-_FURTHEST, _FURTHEST),
    )
    if shown[key].duplicated().any():  # two claims of one title are two rows
        shown[key] = [f"{title} ({number})" for number, title in enumerate(shown[key], 1)]
    known = [outcome for outcome in Outcome if str(outcome) in set(shown["verdict"])]
    scale = alt.Scale(domain=[str(outcome) for outcome in known], range=[SIGNS[outcome][1] for outcome in known])
    color = alt.Color("verdict:N", scale=scale, legend=None)
    order = list(shown[key])
    y = alt.Y(f"{key}:N", sort=order, title=None, axis=alt.Axis(labelLimit=460, ticks=False, domain=False, labelPadding=8))
    bare = alt.Y(f"{key}:N", sort=order, axis=None)
    margins = alt.Scale(type="symlog", constant=1, domain=[-_FURTHEST, _FURTHEST], nice=False)
    x = alt.X("effect:Q", scale=margins, title="effect in margins: beyond 1 the claim, beyond −1 its opposite",
              axis=alt.Axis(values=[-10, -4, -1, 0, 1, 4, 10], format="+d"))  # fmt: skip
    tips = [f"{key}:N", "source:N", "verdict:N", alt.Tooltip(f"{measure}:Q", title="effect in margins"), "setting:N", "why:N"]
    base = alt.Chart(shown)
    zone = alt.Chart(pd.DataFrame({"from": [-1.0], "to": [1.0]})).mark_rect(color="#888888", opacity=0.16)
    zone = zone.encode(x=alt.X("from:Q", scale=margins), x2="to:Q")
    rules = base.mark_rule(strokeWidth=3, clip=True).encode(x=alt.X("low:Q", scale=margins), x2="high:Q", y=y, color=color)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=color, tooltip=tips)
    height = alt.Step(22)
    plot = alt.layer(zone, rules, points).properties(width=320, height=height)
    words = base.mark_text(align="left", fontWeight="bold").encode(y=bare, x=alt.value(0), text="word:N", tooltip=tips)
    panels = [plot, words.properties(width=158, height=height, title="verdict")]
    if (shown["paper"] != "").any():
        paper = base.mark_text(align="left").encode(y=bare, x=alt.value(0), text="paper:N")
        panels.append(paper.properties(width=70, height=height, title="paper"))
    if (shown["reason"] != "").any():
        why = base.mark_text(align="left", fontStyle="italic", color="#8C959F").encode(
            y=bare, x=alt.value(0), text="reason:N", tooltip=tips
        )
        panels.append(why.properties(width=260, height=height, title="why not"))
    return alt.hconcat(*panels, spacing=10)


def _narrow(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """The picture for a narrow screen: the claim over its interval, and the verdict beside it."""
    import altair as alt

    margins = alt.Scale(type="symlog", constant=1, domain=[-_FURTHEST, _FURTHEST], range=[0, 170], nice=False)
    shown = frame.assign(
        title=[_cut(title, 46) for title in frame["claim"]],
        word=[f"{SIGNS[Outcome(verdict)][0]} {verdict}" for verdict in frame["verdict"]],
        top=range(len(frame)),
        middle=[place + 0.5 for place in range(len(frame))],
        **{name: frame[name].clip(-_FURTHEST, _FURTHEST) for name in ("low", "high", "effect")},
    )
    down = alt.Scale(domain=[len(frame) - 0.1, -0.6], nice=False)
    colors = [SIGNS[outcome][1] for outcome in Outcome]
    color = alt.Color("verdict:N", scale=alt.Scale(domain=list(map(str, Outcome)), range=colors), legend=None)
    base = alt.Chart(shown)
    middle = alt.Y("middle:Q", scale=down, axis=None)
    zone = alt.Chart(pd.DataFrame({"from": [-1.0], "to": [1.0]})).mark_rect(color="#888888", opacity=0.16)
    zone = zone.encode(
        x=alt.X(
            "from:Q",
            scale=margins,
            axis=alt.Axis(values=[-4, -1, 0, 1, 4], format="+d", title="effect in margins", titleAnchor="start"),
        ),
        x2="to:Q",
    )
    rules = base.mark_rule(strokeWidth=3, clip=True).encode(x=alt.X("low:Q", scale=margins), x2="high:Q", y=middle, color=color)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x=alt.X("effect:Q", scale=margins), y=middle, color=color)
    titles = base.mark_text(align="left").encode(x=alt.value(0), y=alt.Y("top:Q", scale=down, axis=None), text="title:N")
    words = base.mark_text(align="left", fontWeight="bold").encode(x=alt.value(182), y=middle, text="word:N")
    return alt.layer(zone, rules, points, titles, words).properties(width=330, height=46 * len(frame) + 10)


def about(verdict: Verdict) -> list[Block]:
    """A verdict on an experiment's page, with its comparisons folded; nothing where it has no runs."""
    if verdict.at is None:
        return []
    blocks: list[Block] = [
        VerdictBlock(verdict.claim.title, verdict.claim.source, str(verdict.outcome), verdict.reason, verdict.setting)
    ]
    inner: list[Block] = [_comparisons([verdict])] if verdict.comparisons else []
    inner += [Items(verdict.notes)] if verdict.notes else []
    return [*blocks, Fold("Comparisons behind this verdict", inner)] if inner else blocks


def claims_blocks(verdicts: Sequence[Verdict], stems: Mapping[str, str], name: str = "claims") -> list[Block]:
    """The page of all claims: the sentence, the picture, one line per claim, and every comparison.

    Args:
        verdicts: All of them.
        stems: Experiment -> stem of its page, where it has one.
        name: Stem of the figure's file.
    """
    rows = []
    for verdict in verdicts:
        experiment = verdict.claim.experiment
        stem = stems.get(experiment)
        rows.append(
            [
                Cell([f"{SIGNS[verdict.outcome][0]} {verdict.outcome}"], str(verdict.outcome), _mark(verdict.outcome)),
                word(verdict.claim.title),
                word(verdict.claim.source),
                word(verdict.setting or "–"),
                word(verdict.reason),
                Cell([link(experiment, f"{stem}.md")] if stem else experiment, experiment),
                Cell("–" if verdict.survives is None else "yes" if verdict.survives else "no"),
            ]
        )
    head = ["verdict", "claim", "source", "at", "why", "experiment", "survives 10 % FDR"]
    blocks: list[Block] = [Heading(1, "Claims"), Text(headline(verdicts)), *summary(verdicts, name)]
    blocks += [Heading(2, "Every claim"), Table(head, rows, 7, "Verdict on each claim")]
    if compared := [verdict for verdict in verdicts if verdict.comparisons and verdict.at is not None]:
        blocks += [Heading(2, "Every comparison"), _comparisons(compared)]
    notes = [f"{verdict.claim.title}: {note}" for verdict in verdicts if verdict.at is not None for note in verdict.notes]
    blocks += [Heading(2, "Notes"), Items(notes)] if notes else []
    return blocks


def deciding(verdict: Verdict) -> Comparison | None:
    """The comparison that the verdict rests on: the first with its outcome, the smallest effect where all hold."""
    measured = [comparison for comparison in verdict.comparisons if comparison.effect is not None]
    same = [comparison for comparison in measured if comparison.outcome == verdict.outcome] or measured
    if not same:
        return None
    if verdict.outcome == Outcome.REPRODUCED:
        return min(same, key=lambda comparison: _in_margins(comparison)[0])
    return same[0]


def _comparisons(verdicts: Sequence[Verdict]) -> Table:
    rows = []
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
                    *([word(verdict.claim.title)] if len(verdicts) > 1 else []),
                    word(own.label),
                    Cell([f"{SIGNS[own.outcome][0]} {own.outcome}"], str(own.outcome), _mark(own.outcome)),
                    word(measure.title),
                    effect,
                    Cell(f"{margin} ({own.margin_source})" if own.margin_source else margin, own.margin),
                    Cell(f"{own.look} of {own.seeds}", float(own.look)),
                    Cell("–" if own.p >= 1 else f"{own.p:.2g}", own.p),
                    Cell("–" if own.needed is None else str(own.needed), own.needed),
                    Cell(_paper(own) or "–", own.paper),
                    word(own.reason or "–"),
                ]
            )
    head = [*(["claim"] if len(verdicts) > 1 else []), "comparison", "verdict", "measure", "effect [96.7 %]", "margin"]
    head += ["seeds used", "p", "seeds that would decide", "paper", "why"]
    return Table(head, rows, len(head) - 7, "Comparisons behind the verdicts")


def _in_margins(own: Comparison | None) -> tuple[float, float, float]:
    """Effect and ends of its interval in units of the margin; NaN where there is no effect or margin."""
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


def _mark(outcome: Outcome) -> str:
    return str(outcome).replace(" ", "-")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
