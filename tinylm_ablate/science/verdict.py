"""One verdict for each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinylm_ablate.science.claim import Claim
from tinylm_ablate.science.comparison import Comparison, Outcome
from tinylm_ablate.science.evidence import Evidence, Setting
from tinylm_ablate.science.trend import Trend


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, at its largest testable scale and budget.

    Attributes:
        claim: The claim; ``claim.ours`` says that it is not the paper's.
        outcome: One of the five.
        reason: Why, in a few words, also for "not testable here".
        setting: Label of the setting that it rests on, never empty where there are runs.
        at: That setting; None without runs.
        comparisons: One per comparison.
        p: Look-adjusted p-value of the verdict; 1 where nothing was tested.
        survives: Whether it survives the false discovery rate over its family; None where nothing was decided.
        trends: One per comparison that has two settings or more.
        notes: Sentences that belong beside it: untuned rates, an effect that shrinks, arms that share one parent.
    """

    claim: Claim
    outcome: Outcome
    reason: str
    setting: str
    at: Setting | None
    comparisons: Sequence[Comparison]
    p: float = 1.0
    survives: bool | None = None
    trends: Sequence[Trend] = ()
    notes: Sequence[str] = ()


def judge(claims: Sequence[Claim], evidence: Mapping[str, Evidence]) -> list[Verdict]:
    """One verdict for each claim, in the order given, with the false discovery rate over the paper's claims and over ours.

    Args:
        claims: What is judged.
        evidence: By the name of the experiment; a claim whose experiment is missing has no finished runs.
    """
    raise NotImplementedError


def count(verdicts: Sequence[Verdict], ours: bool = False) -> dict[Outcome, int]:
    """How many of the paper's claims, or of ours, got each verdict; verdicts without any are left out."""
    raise NotImplementedError
