"""Claims held against runs: reproduced, contradicted or undecided.

An effect is counted in the direction that the claim says, and its 95 % interval (see ``statistics``) is held against the
smallest effect that matters:

- the whole interval is above it: **reproduced**;
- the whole interval is below it: **contradicted**, since an effect that matters is ruled out, be there a small one, none, or
  the opposite;
- it lies in the interval: **undecided**.

For "no difference" the interval is to lie within, or outside of, plus and minus that effect (two one-sided tests, Schuirmann
1987). A claim of several comparisons is reproduced if each is: no correction is needed, since one that does not hold must slip
through (Berger's intersection-union test, 1982). It is contradicted if one is, with Bonferroni's correction for their number.
Either way a false verdict comes in at most 5 % of cases, which ``tests/report/test_judge.py`` simulates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tinylm_ablate.report import trend
from tinylm_ablate.report.arms import Arm, Section
from tinylm_ablate.report.claims import Claim, Test
from tinylm_ablate.report.documents import estimate
from tinylm_ablate.report.printed import number
from tinylm_ablate.report.statistics import Estimate, mean_and_deviation

REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN = "reproduced", "contradicted", "undecided", "not run"

_CONFIDENCE = 0.95

#: Tokens of two arms are equal within this share, where a claim is about equal tokens.
_EQUAL_TOKENS = 0.05


class Interval(Protocol):
    """An effect with intervals: an ``Estimate``, or a correlation."""

    @property
    def mean(self) -> float:
        """The effect."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Its ends."""


@dataclass(frozen=True)
class Finding:
    """One comparison of a claim.

    Attributes:
        test: What it belongs to.
        label: What is compared.
        columns: In which columns.
        effect: In the claim's direction, or None if it was not measured.
        units: Seeds, or arms of a trend.
        needed: Seeds that would decide it, if it is not; None if none would.
        paper: The paper's own effect in its unit, or None; the logarithm of a ratio where the test is relative.
        verdict: One of the four.
        tokens: The different numbers of tokens that the arms were trained on, where the test wants equal ones; otherwise empty.
    """

    test: Test
    label: str
    columns: Sequence[str]
    effect: Interval | None
    units: int
    needed: int | None
    paper: float | None
    verdict: str
    tokens: Sequence[float] = ()


@dataclass(frozen=True)
class Judgement:
    """What became of a claim.

    Attributes:
        claim: The claim.
        setting: Label of the section that it was held against; empty where the experiment has but one.
        verdict: One of the four.
        reason: Why, in a few words.
        findings: One a comparison.
        smaller: Whether there is one of the same claim and settings at a larger budget, which counts in its place.
    """

    claim: Claim
    setting: str
    verdict: str
    reason: str
    findings: Sequence[Finding]
    smaller: bool = False


def judge(claim: Claim, sections: Sequence[Section]) -> list[Judgement]:
    """A claim against each section of its experiment that has its arms; one "not run" if none has.

    Args:
        claim: The claim.
        sections: Of the claim's experiment, larger budgets first; empty if it has not been run.
    """
    judged = [_against(claim, section) for section in sections]
    ran: list[Judgement] = []
    asked = set()
    for section, judgement in zip(sections, judged, strict=True):
        if judgement.verdict != NOT_RUN:
            ran.append(dataclasses.replace(judgement, smaller=section.question in asked))
            asked.add(section.question)
    if ran or judged:
        return ran or judged[:1]
    findings = [finding for test in claim.tests for finding in _unmeasured(claim, test)]
    return [Judgement(claim, "", NOT_RUN, f"{claim.experiment} has no finished runs", findings)]


def _against(claim: Claim, section: Section) -> Judgement:
    count = sum(max(1, len(test.comparisons)) + len(test.largest_of) for test in claim.tests)
    findings: list[Finding] = []
    absent: dict[str, None] = {}
    unmeasured: dict[str, None] = {}
    for test in claim.tests:
        own: list[Finding] = []
        if test.kind == "trend":
            own = _trend(claim, test, section, count)
            if not own:
                unmeasured |= {test.metric[""]: None, test.column: None}
        else:
            arms = {name: find(section, claim.arms[name]) for name in test.metric}
            present = {name: arm for name, arm in arms.items() if arm is not None}
            absent |= {_place(claim.arms[name]): None for name in arms if name not in present}
            lacking = {test.metric[name]: None for name, arm in present.items() if not arm.by_seed(test.metric[name])}
            unmeasured |= lacking
            if len(present) == len(arms) and not lacking:
                own = _compared(claim, test, present, count)
        findings += own or _unmeasured(claim, test)
    reasons = [f"no finished run, or no single arm, with {'; '.join(absent)}"] if absent else []
    reasons += [f"{' and '.join(unmeasured)} was not measured"] if unmeasured else []
    if reasons:
        return Judgement(claim, section.label, NOT_RUN, "; ".join(reasons), findings)
    verdicts = [finding.verdict for finding in findings]
    if CONTRADICTED in verdicts:
        return Judgement(claim, section.label, CONTRADICTED, f"does not hold: {_of(findings, CONTRADICTED)}", findings)
    if UNDECIDED not in verdicts:
        return Judgement(claim, section.label, REPRODUCED, "each comparison holds", findings)
    open_ = [finding for finding in findings if finding.verdict == UNDECIDED]
    uneven = next((finding for finding in open_ if finding.tokens), None)
    if uneven is not None:
        told = " and ".join(f"{tokens:,.0f}" for tokens in uneven.tokens)
        return Judgement(claim, section.label, UNDECIDED, f"{uneven.label}: not of equal tokens, but of {told}", findings)
    single = any(finding.units < 2 for finding in open_)
    reason = "one seed: nothing can be concluded" if single else f"open: {_of(findings, UNDECIDED)}"
    return Judgement(claim, section.label, UNDECIDED, reason, findings)


def _of(findings: Sequence[Finding], verdict: str) -> str:
    found = [finding.label for finding in findings if finding.verdict == verdict]
    return f"{'; '.join(found[:3])}{f'; and {len(found) - 3} more' if len(found) > 3 else ''}"


def find(section: Section, overrides: Mapping[str, str]) -> Arm | None:
    """The arm with these overrides that has runs. Of several with the same runs the first; None if several differ."""
    found = [arm for arm in section.arms if arm.runs and all(_is(arm, key, value) for key, value in overrides.items())]
    runs = {tuple(sorted(run.identity for run in arm.runs.values())) for arm in found}
    return found[0] if len(runs) == 1 else None


def _is(arm: Arm, key: str, value: str) -> bool:
    if key in arm.place:
        own = arm.place[key]
    else:
        known = arm.common(key)
        own = "null" if known is None else str(known)
    own, value = own.strip(), value.strip()
    if own == value or {own, value} in ({"True", "true"}, {"False", "false"}):
        return True
    first, second = number(own), number(value)
    return first is not None and first == second and ("/" in own) == ("/" in value)


def _compared(claim: Claim, test: Test, arms: Mapping[str, Arm], count: int) -> list[Finding]:
    findings = []
    for first, others in test.comparisons:
        names = [first, *others]
        label, columns = _label(test, first, others), _columns(test, first, others)
        values = [_values(arms[name], test.metric[name], test.relative) for name in names]
        weights = [float(test.better), *(-test.better / len(others) for _ in others)]
        if test.bound is not None:
            bound, side = test.bound
            values, weights = [{seed: side * (value - bound) for seed, value in values[0].items()}], [1.0]
        if test.exact:
            mean = math.fsum(w * mean_and_deviation(list(own.values()))[0] for w, own in zip(weights, values, strict=True))
            found: Estimate | None = Estimate(mean, 0.0, min(len(own) for own in values), exact=True)
        else:
            known = len(columns) == 1 and not test.relative
            scores = [arms[name].scores() if known else {} for name in names]
            found = estimate(values, scores, weights, columns[0])
        paper = _paper(claim, test, first, others)
        if found is None:
            findings.append(Finding(test, label, columns, None, 0, None, paper, UNDECIDED))
            continue
        tokens = _unequal_tokens([arms[name] for name in names]) if test.equal_tokens else []
        verdict = UNDECIDED if tokens else decide(found, test.margin, test.kind == "equivalence", count)
        needed = _needed(found, test, count) if verdict == UNDECIDED and not tokens else None
        findings.append(Finding(test, label, columns, found, found.pairs, needed, paper, verdict, tokens))
    return findings


def _unequal_tokens(arms: Sequence[Arm]) -> list[float]:
    """The different numbers of tokens of some arms, from the least on; none where they are equal."""
    tokens = sorted({value for arm in arms for value in arm.by_seed("tokens").values()})
    return tokens if tokens and tokens[-1] > (1 + _EQUAL_TOKENS) * tokens[0] else []


def _needed(found: Estimate, test: Test, count: int) -> int | None:
    """Seeds that would decide it for the side on which it lies now, each with its own confidence (see ``decide``)."""
    equivalence = test.kind == "equivalence"
    beyond = (abs(found.mean) if equivalence else found.mean) - test.margin
    contradicts = (beyond > 0) == equivalence
    return found.seeds_to_decide(abs(beyond), 1 - (1 - _CONFIDENCE) / count if contradicts else _CONFIDENCE)


def decide(effect: Interval, smallest: float, equivalence: bool = False, count: int = 1) -> str:
    """The verdict on one of ``count`` comparisons."""
    low, high = effect.interval(_CONFIDENCE)
    wide_low, wide_high = effect.interval(1 - (1 - _CONFIDENCE) / count)
    if equivalence:
        if -smallest < low and high < smallest:
            return REPRODUCED
        return CONTRADICTED if wide_low > smallest or wide_high < -smallest else UNDECIDED
    if low > smallest:
        return REPRODUCED
    return CONTRADICTED if wide_high < smallest else UNDECIDED


def _values(arm: Arm, column: str, relative: bool) -> dict[int, float]:
    values = arm.by_seed(column)
    return {seed: math.log(value) for seed, value in values.items() if value > 0} if relative else values


def _trend(claim: Claim, test: Test, section: Section, count: int) -> list[Finding]:
    """Findings of a trend; none if it was not measured."""
    columns = [test.column, *test.largest_of]
    places, quality = trend.points(section, columns, test.metric[""], test.better)
    if len(quality) < 3:
        return []
    paper = claim.correlations.get(test.paper_row or "", {}).get(claim.column)
    own = trend.correlation(places[test.column], quality)
    found: list[tuple[str, Interval, float | None, float]] = [
        (f"{test.column} with quality", own, None if paper is None else float(paper), test.smallest)
    ]
    for other in test.largest_of:
        larger = trend.Larger(places[test.column], places[other], quality)
        found.append((f"size for {test.column} over {other}", larger, None, 0.0))
    return [
        Finding(
            test, label, list(test.metric.values()), effect, len(quality), None, printed, decide(effect, smallest, count=count)
        )
        for label, effect, printed, smallest in found
    ]


def _unmeasured(claim: Claim, test: Test) -> list[Finding]:
    if test.kind == "trend":
        paper = claim.correlations.get(test.paper_row or "", {}).get(claim.column)
        printed = None if paper is None else float(paper)
        return [Finding(test, f"{test.column} with quality", list(test.metric.values()), None, 0, None, printed, NOT_RUN)]
    return [
        Finding(
            test, _label(test, first, others), _columns(test, first, others), None, 0, None, _paper(claim, test, first, others),
            NOT_RUN,
        )
        for first, others in test.comparisons
    ]  # fmt: skip


def _columns(test: Test, first: str, others: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(test.metric[name] for name in (first, *others)))


def _paper(claim: Claim, test: Test, first: str, others: Sequence[str]) -> float | None:
    column = test.paper_column or claim.column
    try:
        own, *rest = (float(claim.printed[name][column]) for name in (first, *others))
    except (KeyError, ValueError):
        return None
    if test.bound is not None:
        return test.bound[1] * (own - test.bound[0])
    mean = math.fsum(rest) / len(rest)
    return test.paper_better * (math.log(own / mean) if test.relative else own - mean)


def _label(test: Test, first: str, others: Sequence[str]) -> str:
    if test.bound is not None:
        return f"{first} {'above' if test.bound[1] > 0 else 'below'} {test.bound[0]:g}"
    second = others[0] if len(others) == 1 else f"the mean of {' and '.join(others)}"
    return f"{first} {'as' if test.kind == 'equivalence' else 'over'} {second}"


def _place(overrides: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in overrides.items()) or "any arm"
