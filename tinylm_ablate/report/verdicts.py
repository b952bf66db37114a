"""Verdicts as tables: all of them on a page of their own, and an experiment's own on its page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Sequence

from tinylm_ablate.report import measures
from tinylm_ablate.report.judge import CONTRADICTED, NOT_RUN, REPRODUCED, UNDECIDED, Finding, Interval, Judgement
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.printed import order

#: The order in which verdicts are counted.
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN)

READING = (
    "An effect is counted in the direction of the claim; its 95 % interval is over seeds and documents. Reproduced: the whole "
    "interval is above the smallest effect that matters. Contradicted: the whole interval is below it, so that no effect that "
    "matters is left. Undecided: it lies in the interval. For 'no difference' the interval is to lie within plus and minus "
    "that effect, or outside of it. A claim of several comparisons is reproduced if each is, and contradicted if one is, by an "
    "interval widened for their number (Bonferroni), which is not shown. Each claim stands by itself: one in twenty that do "
    "not hold may get a false verdict. Where an experiment was run at several budgets, the largest counts. The "
    "paper's effects are in its own unit, mostly points of mean accuracy, of single runs: they have no interval."
)


def page(judgements: Sequence[Judgement], pages: Collection[str] = ()) -> str:
    """All verdicts in Markdown; experiments among ``pages`` are linked."""
    return f"{summary(judgements, pages)}\n{comparisons(judgements).replace('# ', '## ', 1)}"


def summary(judgements: Sequence[Judgement], pages: Collection[str] = ()) -> str:
    """A row a claim, those that were not run last; of several budgets the largest counts."""
    counting = [judgement for judgement in ordered(judgements) if not judgement.smaller]
    left = len(judgements) - len(counting)
    more = f" {left} more at smaller budgets are on the pages of their experiments." if left else ""
    return "\n\n".join(
        ["# Verdicts on the paper's claims", f"{counted(judgements)}{more}", overview(counting, pages), READING]
    ) + "\n"  # fmt: skip


def comparisons(judgements: Sequence[Judgement]) -> str:
    """What the verdicts rest on, so far as it was measured."""
    measured = [judgement for judgement in ordered(judgements) if judgement.verdict != NOT_RUN]
    told = evidence(measured, names=True) or "None has been run."
    return f"# The comparisons behind the verdicts\n\n{told}\n\nAll claims, with all digits: [claims.csv](claims.csv).\n"


def ordered(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Verdicts in the order of the experiments, those that were not run last."""
    places = {name: place for place, name in enumerate(order({judgement.claim.experiment for judgement in judgements}))}
    return sorted(judgements, key=lambda own: (own.verdict == NOT_RUN, places[own.claim.experiment], own.claim.name))


def counted(judgements: Sequence[Judgement]) -> str:
    """How many there are of each verdict, in a line; of several budgets the largest counts."""
    found = [judgement.verdict for judgement in judgements if not judgement.smaller]
    return ", ".join(f"{found.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in found) + "."


def overview(judgements: Sequence[Judgement], pages: Collection[str]) -> str:
    """A claim a row."""
    settings = any(judgement.setting for judgement in judgements)
    head = ["claim", "verdict", "because", *(["setting"] if settings else []), "source", "experiment"]
    rows = []
    for judgement in judgements:
        claim = judgement.claim
        setting = [judgement.setting] if settings else []
        place = _linked(claim.experiment, pages)
        rows.append([claim.title, judgement.verdict, judgement.reason, *setting, claim.source, place])
    return table(head, rows, len(head))


def evidence(judgements: Sequence[Judgement], names: bool = False) -> str:
    """A comparison a row; with ``names`` those of several experiments, which are told."""
    settings = names and any(judgement.setting for judgement in judgements)
    lead = [*(["claim"] if names else []), *(["setting"] if settings else []), "compared", "measure", "verdict"]
    head = [*lead, "effect [95 %]", "smallest that matters", "the paper's effect", "seeds or arms", "seeds that would decide"]
    rows = []
    for judgement in judgements:
        first = [*([judgement.claim.name] if names else []), *([judgement.setting] if settings else [])]
        for finding in judgement.findings:
            words = [*first, finding.label, _measure(finding), finding.verdict]
            numbers = [_effect(finding), _smallest(finding), _paper(judgement, finding)]
            rows.append([*words, *numbers, str(finding.units) if finding.units else "–", _needed(finding)])
    return table(head, rows, len(lead)) if rows else ""


def own(judgements: Sequence[Judgement]) -> list[str]:
    """The verdicts on the claims about one section, in Markdown; empty without claims."""
    if not judgements:
        return []
    parts = ["### Verdicts"]
    for judgement in judgements:
        note = f" {judgement.claim.note}" if judgement.claim.note else ""
        smaller = " The verdict at a larger budget counts in place of this one." if judgement.smaller else ""
        parts.append(
            f"{judgement.claim.title} ({judgement.claim.source}): {_strong(judgement.verdict)}, {judgement.reason}."
            f"{smaller}{_arms(judgement)}{note}"
        )
        parts.append(evidence([judgement]))
    return parts


def comma_separated(judgements: Sequence[Judgement]) -> str:
    """A comparison a row, with all digits; effects of relative tests are logarithms of ratios."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "claim", "experiment", "setting", "claim_verdict", "compared", "metric", "kind", "verdict", "effect", "low", "high",
            "smallest", "paper_effect", "units", "seeds_needed", "larger_budget_counts",
        ]
    )  # fmt: skip
    for judgement in judgements:
        for finding in judgement.findings:
            ends = (math.nan, math.nan) if finding.effect is None else finding.effect.interval()
            numbers = [math.nan if finding.effect is None else finding.effect.mean, *ends, finding.test.margin, finding.paper]
            writer.writerow(
                [
                    judgement.claim.name, judgement.claim.experiment, judgement.setting, judgement.verdict, finding.label,
                    " ".join(finding.columns), finding.test.kind, finding.verdict,
                    *("" if n is None or not math.isfinite(n) else f"{n:.10g}" for n in numbers), finding.units,
                    finding.needed or "", str(judgement.smaller).lower(),
                ]
            )  # fmt: skip
    return stream.getvalue()


def _arms(judgement: Judgement) -> str:
    """Which arms a claim speaks of, where their names do not say it."""
    told = [
        f"{name} is `{' '.join(f'{key}={value}' for key, value in overrides.items())}`"
        for name, overrides in judgement.claim.arms.items()
        if list(overrides.values()) != [name]
    ]
    return f" Here {', '.join(told)}." if told else ""


def _linked(name: str, pages: Collection[str]) -> str:
    return f"[{name}]({name}.md)" if name in pages else name


def _strong(verdict: str) -> str:
    return f"**{verdict}**" if verdict in (REPRODUCED, CONTRADICTED) else verdict


def _measure(finding: Finding) -> str:
    if finding.test.kind == "trend":
        return f"Spearman's ρ with {measures.named(finding.columns[0])}"
    return " and ".join(map(measures.named, finding.columns))


def _signed(finding: Finding, value: float) -> str:
    if not math.isfinite(value):
        return f"{'+' if value > 0 else '−'}∞"
    if finding.test.relative:
        value = 100 * math.expm1(value)
        return f"{'+' if value >= 0 else '−'}{abs(value):.1f} %"
    if finding.test.kind == "trend":
        return f"{'+' if value >= 0 else '−'}{abs(value):.3f}"
    return measures.by_name(finding.columns[0], finding.test.better).signed(value)


def _effect(finding: Finding) -> str:
    effect: Interval | None = finding.effect
    if effect is None:
        return "–"
    low, high = effect.interval()
    if low == high:
        return _signed(finding, effect.mean)
    if not math.isfinite(low):
        why = "too few arms" if finding.test.kind == "trend" else "one seed"
        return f"{_signed(finding, effect.mean)} [{why}: no interval]"
    return f"{_signed(finding, effect.mean)} [{_signed(finding, low)}, {_signed(finding, high)}]"


def _smallest(finding: Finding) -> str:
    text = _signed(finding, finding.test.margin)
    return f"±{text[1:]}" if finding.test.kind == "equivalence" else text


def _paper(judgement: Judgement, finding: Finding) -> str:
    if finding.paper is None:
        return "–"
    if finding.test.relative or finding.test.kind == "trend":
        return _signed(finding, finding.paper)
    column = finding.test.paper_column or judgement.claim.column
    unit = " points" if column == "average" else ""
    return f"{'+' if finding.paper >= 0 else '−'}{abs(finding.paper):.2f}{unit}"


def _needed(finding: Finding) -> str:
    if finding.verdict != UNDECIDED or finding.units < 2 or finding.test.kind == "trend":
        return "–"
    return "no number up to 1,000" if finding.needed is None else f"about {finding.needed}"
