"""One comparison of arms and its verdict."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.rank import Correlation


class Outcome(enum.StrEnum):
    """The five verdicts."""

    REPRODUCED = "reproduced"
    REVERSED = "reversed"
    NO_EFFECT = "no effect that matters"
    UNDECIDED = "undecided"
    NOT_TESTABLE = "not testable here"


Kind = Literal["better", "same", "no_worse", "bound", "rank"]


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim, or of a table, with its verdict.

    Attributes:
        label: What is compared, such as "deep better than shallow".
        kind: "better" (than others by more than the margin), "same", "no_worse", "bound" (a metric beyond a number) or "rank".
        metrics: Columns that are compared.
        effect: In the direction of the claim, at the look; None where it was not measured.
        margin: The smallest effect that matters; NaN where it is unknown.
        margin_source: How the margin was found, such as "5 % more tokens for base".
        seeds: Common seeds that were run (arms, for "rank").
        look: Seeds that were used: the largest look that they suffice for; 0 below the first.
        outcome: Its verdict.
        reason: Why it is undecided or not testable; empty otherwise.
        p: Look-adjusted p-value of the verdict; 1 where nothing was tested.
        needed: Seeds that would decide it if mean and spread stay; None if more than ``MOST_SEEDS`` or unknown.
        paper: The paper's own effect in its own unit; None where it prints none.
        relative: Effects and margins are logarithms of ratios.
    """

    label: str
    kind: Kind
    metrics: Sequence[str]
    effect: Estimate | Correlation | None
    margin: float
    margin_source: str
    seeds: int
    look: int
    outcome: Outcome
    reason: str = ""
    p: float = 1.0
    needed: int | None = None
    paper: float | None = None
    relative: bool = False

    def interval(self) -> tuple[float, float]:
        """The interval that is held against the margin at each look: 96.66 %, one-sided p 0.0167 at either end."""
        raise NotImplementedError
