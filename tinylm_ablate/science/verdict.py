"""Verdicts: one per claim, at its largest testable scale and budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinylm_ablate.errors import listed
from tinylm_ablate.science import gate
from tinylm_ablate.science.claim import Claim
from tinylm_ablate.science.comparison import (
    Comparison,
    Outcome,
    combine,
    outcome,
    p_value,
    seeds_needed,
)
from tinylm_ablate.science.drafts import Draft, drafts_of
from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import Evidence, Setting, matches, settings
from tinylm_ablate.science.family import survivors
from tinylm_ablate.science.looks import LOOKS
from tinylm_ablate.science.margin import token_margin
from tinylm_ablate.science.trend import Course, Point, Trend, trend

_DECIDED = (Outcome.REPRODUCED, Outcome.REVERSED, Outcome.NO_EFFECT)

#: Metrics over held-out items, whose choice must be part of intervals.
_OVER_ITEMS = ("test/bits_per_byte/", "test/cloze/")


@dataclass(frozen=True)
class Verdict:
    """Outcome of a claim, at its largest testable scale and budget.

    Attributes:
        claim: The claim; ``claim.ours`` marks claims that are not the paper's.
        outcome: One of the five verdicts.
        reason: Short explanation, also for "not testable here".
        setting: Label of the setting that it is based on; never empty if there are runs.
        at: That setting; None without runs.
        comparisons: The comparisons that it is based on.
        p: Look-adjusted p-value of the verdict; 1 if nothing was decided.
        survives: Whether it survives control of the false discovery rate over its family; None if nothing was decided.
        trends: One per comparison that was tested at two or more settings.
        notes: Sentences to show with it.
    """

    claim: Claim
    outcome: Outcome
    reason: str
    setting: str = ""
    at: Setting | None = None
    comparisons: Sequence[Comparison] = ()
    p: float = 1.0
    survives: bool | None = None
    trends: Sequence[Trend] = ()
    notes: Sequence[str] = ()


def judge(claims: Sequence[Claim], evidence: Mapping[str, Evidence]) -> list[Verdict]:
    """Return one verdict per claim, in the given order.

    The false discovery rate of 10 % is controlled separately over the paper's claims and over ours.

    Args:
        claims: The claims.
        evidence: By the name of the experiment; a claim whose experiment is missing has no finished runs.
    """
    groups = {name: settings(own) for name, own in evidence.items()}
    found = [_verdict(claim, groups.get(claim.experiment, [])) for claim in claims]
    for ours in (False, True):
        family = [place for place, own in enumerate(found) if own.claim.ours == ours and own.outcome != Outcome.NOT_TESTABLE]
        for place, survives in zip(family, survivors([found[place].p for place in family]), strict=True):
            if found[place].outcome in _DECIDED:
                found[place] = dataclasses.replace(found[place], survives=survives)
    return found


def judge_at(claim: Claim, setting: Setting, groups: Sequence[Setting]) -> Verdict:
    """Judge a claim at one setting, without trends and family.

    Args:
        claim: The claim.
        setting: The setting.
        groups: All settings of the experiment, for margins in tokens.
    """
    base = Verdict(claim, Outcome.NOT_TESTABLE, "", setting.label, setting)
    arms = {name: find(setting, overrides) for name, overrides in claim.arms.items()}
    used = dict.fromkeys(name for test in claim.tests for first, others in test.comparisons for name in (first, *others))
    absent = dict.fromkeys(_absent(setting, claim.arms[name]) for name in used if arms[name] is None)
    if absent:
        return dataclasses.replace(base, reason="; ".join(absent))
    present = {name: arm for name, arm in arms.items() if arm is not None}
    drafts: list[Draft] = []
    reasons: dict[str, None] = {}
    for test in claim.tests:
        own, why = drafts_of(claim, test, setting, present)
        drafts += own
        reasons |= dict.fromkeys(why)
    drafts = [_with_margin(draft, claim, setting, groups, present) for draft in drafts]
    reasons |= dict.fromkeys(_gates(claim, setting, drafts, present))
    comparisons = [_compared(draft, len(drafts), bool(reasons)) for draft in drafts]
    if reasons:
        return dataclasses.replace(base, reason="; ".join(reasons), comparisons=comparisons)
    found = outcome(combine([draft.decision(len(drafts)) for draft in drafts])) if drafts else Outcome.UNDECIDED
    if found == Outcome.UNDECIDED and (few := _few_documents(drafts)):
        barred = [_compared(draft, len(drafts), True) for draft in drafts]
        return dataclasses.replace(base, reason="; ".join(few), comparisons=barred)
    ps = [own.p for own in comparisons if own.outcome == found]
    p = 1.0 if found not in _DECIDED else max(ps) if found == Outcome.REPRODUCED else min(ps)
    return dataclasses.replace(base, outcome=found, reason=_reason(found, comparisons), comparisons=comparisons, p=p)


def find(setting: Setting, overrides: Mapping[str, str]) -> str | None:
    """Return the arm with these overrides. Of several with the same runs, the first; None if they differ."""
    found = _matching(setting, overrides)
    runs = {tuple(setting.identities(arm).values()) for arm in found}
    return found[0] if len(runs) == 1 else None


def _matching(setting: Setting, overrides: Mapping[str, str]) -> list[str]:
    wanted = {"arm", "grid.arm", *overrides, *(f"{key}.name" for key in overrides)}
    rows = setting.runs[[column for column in setting.runs.columns if column in wanted]].to_dict("records")
    return list(dict.fromkeys(str(row["arm"]) for row in rows if matches({str(k): v for k, v in row.items()}, overrides)))


def _absent(setting: Setting, overrides: Mapping[str, str]) -> str:
    """Explain why ``find`` returns no arm."""
    written = " ".join(f"{key}={value}" for key, value in overrides.items()) or "{}"
    return f"several arms have {written}" if _matching(setting, overrides) else f"no finished run has {written}"


def _verdict(claim: Claim, groups: Sequence[Setting]) -> Verdict:
    if not groups:
        return Verdict(claim, Outcome.NOT_TESTABLE, f"{claim.experiment} has no finished runs", notes=_notes(claim, []))
    judged = [judge_at(claim, setting, groups) for setting in groups]
    testable = [own for own in judged if own.outcome != Outcome.NOT_TESTABLE]
    looked = [own for own in testable if any(compared.look for compared in own.comparisons)]
    measured = [own for own in judged if own.comparisons]
    best = (looked or testable or measured or judged)[0]
    trends = _trends(best, looked)
    return dataclasses.replace(best, trends=trends, notes=_notes(claim, trends))


def _with_margin(draft: Draft, claim: Claim, setting: Setting, groups: Sequence[Setting], arms: Mapping[str, str]) -> Draft:
    if draft.margin_source:
        return draft
    if draft.test.margin is not None:
        return dataclasses.replace(draft, margin=draft.test.margin, margin_source="set by the claim")
    reference = arms.get(claim.reference, draft.arms[0])
    margin, source = token_margin(setting, groups, reference, draft.metrics[-1])
    return dataclasses.replace(draft, margin=margin, margin_source=source)


def _gates(claim: Claim, setting: Setting, drafts: Sequence[Draft], arms: Mapping[str, str]) -> list[str]:
    taking_part = list(dict.fromkeys(arm for draft in drafts for arm in draft.arms))
    metrics = [metric for draft in drafts for metric in draft.metrics if metric.startswith("test/bits_per_byte/")]
    reference = arms.get(claim.reference) or _best(setting, taking_part)
    reasons: list[str] = []
    if "bigrams" in claim.gates and reference:
        reasons += gate.bigrams(setting, reference, metrics[0].rpartition("/")[2] if metrics else "all")
    if "steps" in claim.gates:
        reasons += gate.steps(setting, taking_part)
    if "tuned" in claim.gates:
        reasons += gate.tuned(setting, taking_part)
    for draft in drafts:
        if draft.test.equal_tokens:
            reasons += gate.equal_tokens(setting, draft.arms)
        if draft.look == 0 or not isinstance(draft.effect, Estimate):
            continue
        if math.isnan(draft.margin):
            reasons.append(draft.margin_source)
        elif not draft.effect.exact:
            expected = not draft.test.relative and any(metric.startswith(_OVER_ITEMS) for metric in draft.metrics)
            if expected and not draft.effect.documents:
                reasons.append("scores per document are missing, or the arms were measured on different documents")
    return reasons


def _few_documents(drafts: Sequence[Draft]) -> list[str]:
    """Return the undecided comparisons that seeds cannot decide. Decided ones remain, since intervals include documents."""
    found: dict[str, None] = {}
    for draft in drafts:
        open_ = draft.look > 0 and outcome(draft.decision(len(drafts))) == Outcome.UNDECIDED
        if not open_ or not isinstance(draft.effect, Estimate):
            continue
        few = gate.documents(draft.effect, draft.margin)
        if few and seeds_needed(draft.effect, draft.margin, draft.kind, len(drafts)) is None:
            found |= dict.fromkeys(few)
    return list(found)


def _best(setting: Setting, arms: Sequence[str]) -> str:
    """Return the reference for a claim without one, such as a correlation: the median arm by bits per byte."""
    known = sorted((setting.mean(arm, "test/bits_per_byte/all"), arm) for arm in arms)
    known = [pair for pair in known if not math.isnan(pair[0])]
    return known[len(known) // 2][1] if known else ""


def _compared(draft: Draft, comparisons: int, barred: bool) -> Comparison:
    decided = outcome(draft.decision(comparisons))
    found = Outcome.NOT_TESTABLE if barred else decided
    reason, needed, p = "", None, 1.0
    if found == Outcome.UNDECIDED:
        reason, needed = _open(draft, comparisons)
    elif found in _DECIDED and draft.effect is not None:
        p = p_value(draft.effect, draft.margin, draft.kind, comparisons, found)
    return Comparison(
        draft.label, draft.kind, draft.metrics, draft.effect, draft.margin, draft.margin_source, draft.seeds, draft.look, found,
        reason, p, needed, draft.paper, draft.test.relative, draft.arms,
    )  # fmt: skip


def _open(draft: Draft, comparisons: int) -> tuple[str, int | None]:
    """Explain why a comparison is undecided, and estimate the number of seeds that would decide it."""
    if not isinstance(draft.effect, Estimate):
        return f"undecided with {draft.seeds} arms", None
    if draft.look == 0:
        return f"{draft.seeds} of the {LOOKS[0]} seeds that the first look requires", LOOKS[0]
    needed = seeds_needed(draft.effect, draft.margin, draft.kind, comparisons)
    at = f"undecided with {draft.look} seeds"
    if needed is None:
        return f"{at}; more seeds would not decide it, because of its documents or its closeness to the margin", None
    if needed > LOOKS[-1]:
        return f"{at}; about {needed} would decide it, more than the {LOOKS[-1]} at the last look", needed
    return f"{at}; about {needed} would decide it", needed


def _reason(found: Outcome, comparisons: Sequence[Comparison]) -> str:
    if found == Outcome.REPRODUCED:
        return "it holds" if len(comparisons) == 1 else f"all {len(comparisons)} comparisons hold"
    own = [compared for compared in comparisons if compared.outcome == found]
    if found == Outcome.UNDECIDED:
        return listed([f"{compared.label}: {compared.reason}" for compared in own])
    labels = listed([compared.label for compared in own])
    return f"the opposite of: {labels}" if found == Outcome.REVERSED else f"{labels}: within the margin"


def _trends(best: Verdict, tested: Sequence[Verdict]) -> list[Trend]:
    """Return trends of each comparison over settings at which the claim was tested and that answer the same question."""
    at = best.at
    same = [own for own in tested if own.at is not None and at is not None and own.at.others == at.others]
    found = []
    for compared in best.comparisons:
        points = [
            Point(own.at.scale, own.at.parameters, own.at.tokens, own.at.label, other.effect)
            for own in same
            for other in own.comparisons
            if own.at is not None and isinstance(other.effect, Estimate)
            if (other.label, other.kind, other.metrics) == (compared.label, compared.kind, compared.metrics)
        ]
        if len(points) > 1:
            twice = sum(other.label == compared.label for other in best.comparisons) > 1
            label = f"{compared.label} ({', '.join(compared.metrics)})" if twice else compared.label
            found.append(trend(label, points, 0.0 if math.isnan(compared.margin) else compared.margin))
    return found


def _notes(claim: Claim, trends: Sequence[Trend]) -> list[str]:
    notes = [f"{own.label}: {own.text}." for own in trends if own.course != Course.UNKNOWN]
    if "tuned" not in claim.gates and any(not test.exact for test in claim.tests):
        notes.append("This claim does not require tuned learning rates.")
    return [*notes, *([claim.note] if claim.note else [])]
