"""The smallest effect that matters: the effect of 5 % more tokens on the reference arm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinylm_ablate.science.evidence import Setting

#: Increase in tokens that defines an effect that matters.
SHARE = 0.05


def token_margin(setting: Setting, others: Sequence[Setting], arm: str, metric: str) -> tuple[float, str]:
    """Return the margin in bits per byte, and its origin; NaN if it cannot be determined.

    It is the slope of the arm's annealed losses in log tokens, from this budget to the next smaller one (or the next larger one
    if this is the smallest); with one budget, the slope of its training curve over the last quarter of its tokens. The curve
    includes the decay of the learning rate, so its slope is steeper.

    Args:
        setting: The setting of the claim.
        others: All settings of the experiment; those with the same scale and question are used.
        arm: The reference arm.
        metric: The compared column.
    """
    own = setting.mean(arm, metric)
    budgets = [
        other for other in others
        if other.scale == setting.scale and other.others == setting.others and other.how == setting.how
        and abs(other.tokens / setting.tokens - 1) > SHARE and not math.isnan(other.mean(arm, metric))
    ]  # fmt: skip
    # Closest first, smaller before larger.
    budgets.sort(key=lambda other: (other.tokens > setting.tokens, abs(math.log(other.tokens / setting.tokens))))
    for other in budgets:
        slope = (other.mean(arm, metric) - own) / math.log(setting.tokens / other.tokens)
        if slope > 0:
            return slope * math.log1p(SHARE), f"5 % more tokens for {arm}, from its losses at two budgets"
    curves = setting.evidence.curve_by_run
    slopes = []
    for identity in setting.identities(arm).values():
        curve = curves.get(identity)
        last = curve[curve[:, 0] >= 0.75 * curve[-1, 0]] if curve is not None else None
        if last is not None and len(last) >= 3:
            slopes.append(-float(np.polyfit(np.log(last[:, 0]), last[:, 1], 1)[0]))
    slope = math.fsum(slopes) / len(slopes) if slopes else math.nan
    if slope > 0:
        return slope * math.log1p(SHARE), f"5 % more tokens for {arm}, from the last quarter of its curve"
    return math.nan, f"the effect of 5 % more tokens on {arm} is unknown: it has one budget and no falling curve"
