"""Arms that need more seeds: those in comparisons that are undecided at their look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tinylm_ablate.science.claim import Claim, Test
from tinylm_ablate.science.comparison import Outcome
from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import Evidence, Setting, settings
from tinylm_ablate.science.looks import LOOKS, next_look
from tinylm_ablate.science.verdict import Verdict, judge_at

#: Metric for comparing arms if no claim is about the experiment.
METRIC = "test/bits_per_byte/all"


def seeds_wanted(evidence: Evidence, claims: Sequence[Claim], arms: Sequence[str] = ()) -> Mapping[str, int]:
    """Return the number of seeds that each arm should have: a look, at least the first.

    Call it again whenever the requested seeds are done, until it requests nothing new. An arm gets more seeds only while a
    claim that involves it is undecided because of an undecided comparison that more seeds could decide. A claim that cannot
    be tested, or that another comparison has decided, requests none. No seeds are added after the last look.

    Args:
        evidence: Finished runs of the grid so far.
        claims: Claims; those about other experiments are ignored. Without any about this one, each arm is compared with the
            first, and the only gate is that the effect of 5 % more tokens and the documents' error are known.
        arms: Labels of all arms, including those without a finished run.
    """
    wanted = dict.fromkeys(arms, LOOKS[0])
    groups = settings(evidence)
    for setting in groups:
        wanted |= {arm: LOOKS[0] for arm in setting.arms if arm not in wanted}
        for verdict in _verdicts(evidence, claims, setting, groups):
            if verdict.outcome != Outcome.UNDECIDED:
                continue
            for compared in verdict.comparisons:
                hopeless = isinstance(compared.effect, Estimate) and compared.needed is None  # documents are too few
                undecided = compared.outcome == Outcome.UNDECIDED and not hopeless
                more = next_look(compared.look) if undecided and compared.arms else None
                for arm in compared.arms if more is not None and compared.look <= LOOKS[-1] else ():
                    wanted[arm] = max(wanted[arm], more or 0)
    return wanted


def open_questions(evidence: Evidence, claims: Sequence[Claim]) -> list[str]:
    """Describe the claims without a decision for which ``seeds_wanted`` requests no more seeds, one line each."""
    groups = settings(evidence)
    return [
        f"{verdict.claim.title}: {verdict.outcome}: {verdict.reason}"
        for setting in groups
        for verdict in _verdicts(evidence, claims, setting, groups)
        if verdict.outcome in (Outcome.UNDECIDED, Outcome.NOT_TESTABLE)
    ]


def _verdicts(evidence: Evidence, claims: Sequence[Claim], setting: Setting, groups: Sequence[Setting]) -> Iterator[Verdict]:
    """Judge the claims about this experiment at one setting; without any, each arm against the first."""
    for claim in [one for one in claims if one.experiment == evidence.experiment] or _against_first(setting.arms):
        yield judge_at(claim, setting, groups)


def _against_first(arms: Sequence[str]) -> list[Claim]:
    """Return claims that each arm is better than the first; "reversed" also decides them."""
    return [
        Claim(
            f"{arm} against {arms[0]}", "", "", "", {"first": {"arm": arms[0]}, "other": {"arm": arm}},
            [Test("ordering", dict.fromkeys(("first", "other"), METRIC), -1, None, [("other", ("first",))])],
            reference="first", gates=(),
        )
        for arm in arms[1:]
    ]  # fmt: skip
