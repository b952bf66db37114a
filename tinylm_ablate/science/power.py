"""Power analysis before a grid is run: how often an effect is detected, and the number of seeds needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinylm_ablate.science.comparison import decide
from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.looks import LOOKS

_REPEATS = 20_000


@dataclass(frozen=True)
class Power:
    """Power of one comparison.

    Attributes:
        reproduced, reversed, no_effect: Share of cases with this result; each case stops at the first look that decides it.
        seeds: Mean number of seeds per arm.
    """

    reproduced: float
    reversed: float
    no_effect: float
    seeds: float


def power(effect: float, spread: float, margin: float) -> Power:
    """Power of a single comparison with sequential seeds, by simulating the real code, without documents.

    Args:
        effect: The true effect, in the direction of the claim.
        spread: Standard deviation over seeds of the paired difference.
        margin: The smallest effect that matters, in the same unit.
    """
    differences = effect + spread * np.random.default_rng(0).standard_normal((_REPEATS, LOOKS[-1]))
    open_ = np.ones(_REPEATS, dtype=bool)
    shares = np.zeros(3)
    seeds = np.full(_REPEATS, LOOKS[-1])
    for n in LOOKS:
        own = differences[:, :n]
        found = decide(Estimate(own.mean(axis=1), own.std(axis=1, ddof=1), n), margin, "better", 1)
        for place, verdict in enumerate(found):
            ended = open_ & verdict
            shares[place] += ended.mean()
            seeds[ended] = n
        open_ &= ~np.any(np.broadcast_arrays(*found), axis=0)
    return Power(float(shares[0]), float(shares[1]), float(shares[2]), float(seeds.mean()))


def table(spreads: tuple[float, ...], effects: tuple[float, ...], margin: float) -> list[list[str]]:
    """Return one row per spread: for each effect, the share that is decided correctly, with the mean number of seeds."""
    rows = []
    for spread in spreads:
        found = [power(effect, spread, margin) for effect in effects]
        rightly = [own.reproduced if effect > margin else own.no_effect for own, effect in zip(found, effects, strict=True)]
        rows.append(
            [f"{spread:.3f}", *(f"{100 * share:.0f} % ({own.seeds:.1f})" for share, own in zip(rightly, found, strict=True))]
        )
    return rows
