"""Numbers of seeds at which comparisons are judged, fixed in advance, and the error allowed at each look.

Adding seeds until a comparison is decided raises the rate of false verdicts from 5 % to 20 %. Comparisons are therefore judged
only at fixed numbers of seeds (a group sequential design with one nominal p-value for all looks: S. J. Pocock, Biometrika 64,
1977). The constants below were calibrated by simulating the paired t-test at these looks (``tests/science/test_error_rates.py``
repeats it): a single comparison with an effect equal to the margin is falsely decided in 4.9 % of cases over all four looks.

**Why zero is tested in addition to the margin.** If the margin is small relative to the spread over seeds, an effect between
plus and minus the margin can be falsely called "reproduced" or "reversed", and the two errors add up to 9.9 % with the margin
alone. Each direction must therefore also exclude zero, at a stricter level; the sum is then at most 4.9 % for any effect
and any margin.
"""

from __future__ import annotations

import numpy as np

#: Seeds at which a comparison is judged.
LOOKS = (3, 5, 8, 12)

#: One-sided p-values at each look for one of 1, 2, 3, 4 comparisons: t = 5.33, 3.18, 2.64, 2.43 for the first.
_LEVELS = (0.0167, 0.0078, 0.0050, 0.0037)

#: The stricter level at which an effect must exclude zero, as a share of the level at which it must exclude the margin.
ZERO_SHARE = 0.0065 / 0.0167

#: Nominal p-value -> probability of one at least as small at any of the looks (2 million simulations, rounded up).
_ANY_LOOK = (
    (1e-4, 3.85e-4), (3e-4, 1.18e-3), (1e-3, 3.7e-3), (3e-3, 0.0104), (5e-3, 0.0167), (7.8e-3, 0.0251), (0.0167, 0.0499),
    (0.03, 0.0835), (0.05, 0.129), (0.1, 0.227), (0.2, 0.387), (0.3, 0.519), (0.5, 0.731), (0.7, 0.887), (0.8, 0.944),
    (0.9, 0.984), (1.0, 1.0),
)  # fmt: skip


def look(seeds: int) -> int:
    """Return the largest look up to ``seeds``, or 0."""
    return max((n for n in LOOKS if n <= seeds), default=0)


def next_look(seeds: int) -> int | None:
    """Return the smallest look above ``seeds``; None after the last."""
    return min((n for n in LOOKS if n > seeds), default=None)


def level(comparisons: int = 1) -> float:
    """One-sided p-value below which one of ``comparisons`` comparisons is decided at any look.

    With k comparisons, the opposite of a claim is declared if one of them shows it, so each has a k-th of the error.
    Above four, the levels follow the same power of k.
    """
    if comparisons <= len(_LEVELS):
        return _LEVELS[max(comparisons, 1) - 1]
    return float(_LEVELS[0] / comparisons**1.09)


def adjusted(p: float) -> float:
    """Look-adjusted p-value: the probability of a nominal one-sided p-value this small at any of the looks."""
    if p <= _ANY_LOOK[0][0]:
        return p * _ANY_LOOK[0][1] / _ANY_LOOK[0][0]
    own, overall = np.log(_ANY_LOOK).T
    return float(np.exp(np.interp(np.log(p), own, overall)))


def nominal(overall: float) -> float:
    """Nominal p-value at one look for the look-adjusted one ``overall``: the inverse of ``adjusted``."""
    if overall <= _ANY_LOOK[0][1]:
        return overall * _ANY_LOOK[0][0] / _ANY_LOOK[0][1]
    own, known = np.log(_ANY_LOOK).T
    return float(np.exp(np.interp(np.log(overall), known, own)))
