"""One comparison of arms and its verdict.

The interval of an effect, in the direction of the claim, is compared with plus and minus the margin:

| kind | reproduced | reversed | no effect that matters |
|---|---|---|---|
| better | above the margin, and zero excluded | below minus the margin, and zero excluded | within the margins |
| same | within the margins | beyond one of them, and zero excluded | (is reproduced) |
| no_worse | above minus the margin | below minus the margin | – |
| bound | above the margin | below the margin | – |

A claim of k comparisons is reproduced if all of them are, which needs no correction (Berger's intersection-union test, 1982).
It fails if one of them fails, so "reversed" and "no effect that matters" use the level of one of k comparisons. Equivalence is
two one-sided tests (Schuirmann, 1987).

The functions work elementwise on arrays of effects, so that simulations in the tests can use them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from tinylm_ablate.science.estimate import Estimate, least_p
from tinylm_ablate.science.looks import LOOKS, ZERO_SHARE, adjusted, level
from tinylm_ablate.science.rank import Correlation, Larger

#: Maximum number of seeds in estimates of how many would decide a comparison.
MOST_SEEDS = 1000

Kind = Literal["better", "same", "no_worse", "bound"]

#: Any quantity with a mean and one-sided bounds.
Effect = Estimate | Correlation | Larger


class Outcome(enum.StrEnum):
    """The five verdicts."""

    REPRODUCED = "reproduced"
    REVERSED = "reversed"
    NO_EFFECT = "no effect that matters"
    UNDECIDED = "undecided"
    NOT_TESTABLE = "not testable here"


class Decision(NamedTuple):
    """Truth of three verdicts, as booleans or arrays; at most one is true."""

    reproduced: Any
    reversed: Any
    no_effect: Any


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim with its verdict.

    Attributes:
        label: Description, such as "deep better than shallow".
        kind: "better" (than others by more than the margin), "same", "no_worse" or "bound" (a metric beyond a number).
        metrics: Columns that are compared; for a correlation, the quality.
        effect: Effect in the direction of the claim, at the look; None if it was not measured.
        margin: The smallest effect that matters; NaN if unknown.
        margin_source: Origin of the margin, such as "5 % more tokens for shallow".
        seeds: Number of common seeds; for a correlation, the number of arms.
        look: Number of seeds used: the largest look up to ``seeds``; 0 below the first.
        outcome: Its verdict.
        reason: Why it is undecided or not testable; otherwise empty.
        p: Look-adjusted p-value of the verdict; 1 if nothing was decided.
        needed: Seeds that would decide it with the same mean and spread; None if more than ``MOST_SEEDS`` or unknown.
        paper: The paper's effect in its unit; None if it states none.
        relative: Whether effects and margins are logarithms of ratios.
        arms: The arms involved, by their label in the runs; empty if unknown.
    """

    label: str
    kind: Kind
    metrics: Sequence[str]
    effect: Effect | None
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
    arms: Sequence[str] = ()

    def interval(self) -> tuple[float, float]:
        """The interval for comparison with the margin: 96.66 %, missed at each look on either side with p 0.0167."""
        if self.effect is None:
            return -np.inf, np.inf
        return self.effect.interval(1 - 2 * level())


def decide(effect: Effect, margin: Any, kind: Kind = "better", comparisons: int = 1) -> Decision:
    """Decide one of ``comparisons`` of a claim at one look.

    Args:
        effect: Effect in the direction of the claim.
        margin: The smallest effect that matters, at least 0.
        kind: Kind of the comparison.
        comparisons: Number of comparisons in the claim.
    """
    own, wide = level(), level(comparisons)
    if kind == "same":
        beyond = _beyond(effect, margin, wide)
        return Decision(
            (effect.above(own) > -margin) & (effect.below(own) < margin), beyond.reproduced | beyond.reversed, False
        )
    if kind == "no_worse":
        return Decision(effect.above(own) > -margin, effect.below(wide) < -margin, False)
    if kind == "bound":
        return Decision(effect.above(own) > margin, effect.below(wide) < margin, False)
    within = (effect.above(wide) > -margin) & (effect.below(wide) < margin)
    return Decision(_beyond(effect, margin, own).reproduced, _beyond(effect, margin, wide).reversed, within)


def _beyond(effect: Effect, margin: Any, p: float) -> Decision:
    """Return whether an effect is above the margin, or below minus the margin, with zero excluded at the stricter level."""
    strict = p * ZERO_SHARE
    return Decision(
        (effect.above(p) > margin) & (effect.above(strict) > 0), (effect.below(p) < -margin) & (effect.below(strict) < 0), False
    )


def combine(decisions: Sequence[Decision]) -> Decision:
    """Combine the verdicts of a claim that requires all of its comparisons to hold."""
    turned = np.any([own.reversed for own in decisions], axis=0)
    none = np.any([own.no_effect for own in decisions], axis=0) & ~turned
    return Decision(np.all([own.reproduced for own in decisions], axis=0), turned, none)


def outcome(decision: Decision) -> Outcome:
    """Return the verdict as an outcome."""
    if decision.reproduced:
        return Outcome.REPRODUCED
    if decision.reversed:
        return Outcome.REVERSED
    return Outcome.NO_EFFECT if decision.no_effect else Outcome.UNDECIDED


def p_value(effect: Effect, margin: float, kind: Kind, comparisons: int, found: Outcome) -> float:
    """Look-adjusted p-value of a verdict: the smallest error over all looks at which it would have been reached."""

    def reached(p: float) -> bool:
        # ``decide`` with all levels scaled so that the nominal level of one comparison is p.
        if kind == "same":
            inside = effect.above(p) > -margin and effect.below(p) < margin
            beyond = _beyond(effect, margin, p)
            return bool(inside if found == Outcome.REPRODUCED else beyond.reproduced or beyond.reversed)
        side = {"no_worse": -margin, "bound": margin}.get(kind)
        if side is not None:
            return bool(effect.above(p) > side if found == Outcome.REPRODUCED else effect.below(p) < side)
        if found == Outcome.NO_EFFECT:
            return bool(effect.above(p) > -margin and effect.below(p) < margin)
        beyond = _beyond(effect, margin, p)
        return bool(beyond.reproduced if found == Outcome.REPRODUCED else beyond.reversed)

    if found not in (Outcome.REPRODUCED, Outcome.REVERSED, Outcome.NO_EFFECT):
        return 1.0
    own = adjusted(least_p(reached))
    return min(1.0, own if found == Outcome.REPRODUCED else comparisons * own)


def seeds_needed(effect: Effect, margin: float, kind: Kind, comparisons: int) -> int | None:
    """Return the fewest seeds that would decide it with the same mean and spread; None if more than ``MOST_SEEDS``.

    Up to the last look, the result is a look; beyond, it is a number of seeds without a look in the protocol.
    """
    if not isinstance(effect, Estimate) or effect.pairs < 2 or effect.exact:
        return None

    def decided(seeds: int) -> bool:
        return outcome(decide(effect.with_seeds(seeds), margin, kind, comparisons)) != Outcome.UNDECIDED

    return fewest(decided)


def fewest(decided: Callable[[int], bool]) -> int | None:
    """Return the first look at which ``decided`` is true, or the fewest seeds beyond; None above ``MOST_SEEDS``."""
    for seeds in LOOKS:
        if decided(seeds):
            return seeds
    if not decided(MOST_SEEDS):
        return None
    low, high = LOOKS[-1], MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high
