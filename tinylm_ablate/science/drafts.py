"""Comparisons of a claim's tests before their verdicts: arms, effects and seeds, without gates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinylm_ablate.science.claim import Claim, Test
from tinylm_ablate.science.comparison import Decision, Effect, Kind, decide
from tinylm_ablate.science.effects import effect
from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import Setting
from tinylm_ablate.science.looks import look
from tinylm_ablate.science.rank import Correlation, Larger, correlation

_WORDS = {"equivalence": "the same as", "no_worse": "no worse than"}


@dataclass(frozen=True)
class Draft:
    """A comparison before its verdict.

    Attributes:
        test: Its test.
        label: Description of the comparison.
        kind: Kind of decision.
        metrics: The compared columns.
        arms: The compared arms.
        effect: The effect in the direction of the claim; None without seeds.
        seeds: Number of finished seeds.
        look: Number of seeds used.
        margin, margin_source: The smallest effect that matters, and its origin; NaN and "" until it is known.
        paper: The paper's effect, if it prints one.
    """

    test: Test
    label: str
    kind: Kind
    metrics: tuple[str, ...]
    arms: tuple[str, ...]
    effect: Effect | None
    seeds: int
    look: int
    margin: float
    margin_source: str
    paper: float | None

    def decision(self, comparisons: int) -> Decision:
        """Decide the comparison as one of a number; undecided before the first look."""
        if self.effect is None or self.look == 0:
            return Decision(False, False, False)
        return decide(self.effect, self.margin, self.kind, comparisons)


def drafts_of(claim: Claim, test: Test, setting: Setting, arms: Mapping[str, str]) -> tuple[list[Draft], list[str]]:
    """Return the comparisons of one test, and reasons why some are missing."""
    if test.kind == "correlation":
        return _correlations(claim, test, setting)
    pairs = [(first, tuple(others)) for first, others in test.comparisons]
    if test.kind == "rule":
        found = _by_rule(test, setting)
        if isinstance(found, str):
            return [], [found]
        pairs, arms = found, {arm: arm for arm in setting.arms}
    drafts, unmeasured = [], []
    for first, others in pairs:
        names = (first, *others) if test.kind != "rule" else (*others, first)
        metrics = [test.metric.get(name, test.metric.get("", "")) for name in names]
        lacking = [metric for name, metric in zip(names, metrics, strict=True) if not setting.by_seed(arms[name], metric)]
        if lacking:
            unmeasured += [f"{metric} was not measured" for metric in lacking]
            continue
        if test.kind == "rule":
            # The mean of the arms that meet the rule, compared with one that does not.
            weights = [*(test.direction / len(others) for _ in others), -float(test.direction)]
        else:
            weights = [float(test.direction), *(-test.direction / len(others) for _ in others)]
        terms = [(arms[name], metric, weight) for name, metric, weight in zip(names, metrics, weights, strict=True)]
        own, seeds = _effect(setting, terms, test)
        drafts.append(
            Draft(
                test, _label(test, first, others), _kind(test), tuple(dict.fromkeys(metrics)),
                tuple(arms[name] for name in names), own, seeds, _look(own, seeds), math.nan, "",
                claim.paper_effect(test, first, others),
            )
        )  # fmt: skip
    return drafts, unmeasured


def _effect(setting: Setting, terms: Sequence[tuple[str, str, float]], test: Test) -> tuple[Estimate | None, int]:
    if test.bound is None:
        return effect(setting, terms, relative=test.relative, exact=test.exact)
    bound, side = test.bound
    (arm, metric, _) = terms[0]
    own, seeds = effect(setting, [(arm, metric, float(side))], exact=test.exact)
    return (None if own is None else dataclasses.replace(own, mean=own.mean - side * bound)), seeds


def _look(own: Estimate | None, seeds: int) -> int:
    if own is None:
        return 0
    return max(seeds, 1) if own.exact else look(seeds)


def _kind(test: Test) -> Kind:
    kinds: dict[str, Kind] = {"equivalence": "same", "no_worse": "no_worse", "threshold": "bound"}
    return kinds.get(test.kind, "better")


def _by_rule(test: Test, setting: Setting) -> list[tuple[str, tuple[str, ...]]] | str:
    """Return (an arm that does not meet the conditions, those that do), or why there are none."""
    meets: dict[str, bool] = {}
    for arm in setting.arms:
        values = {column: setting.mean(arm, column) for column in test.conditions}
        missing = [column for column, value in values.items() if math.isnan(value)]
        if missing:
            return f"{missing[0]} was not measured for {arm}"
        meets[arm] = all(side * (values[column] - bound) > 0 for column, (bound, side) in test.conditions.items())
    good = tuple(arm for arm, own in meets.items() if own)
    if not good or len(good) == len(meets):
        return f"{'every' if good else 'no'} arm meets {' and '.join(_condition(*own) for own in test.conditions.items())}"
    return [(arm, good) for arm, own in meets.items() if not own]


def _condition(column: str, bound: tuple[float, int]) -> str:
    return f"{column} {'above' if bound[1] > 0 else 'below'} {bound[0]:g}"


def _correlations(claim: Claim, test: Test, setting: Setting) -> tuple[list[Draft], list[str]]:
    metric, columns = test.metric[""], [test.column, *test.largest_of]
    places: dict[str, list[float]] = {column: [] for column in columns}
    quality: list[float] = []
    used: list[str] = []
    for arm in setting.arms:
        values = [setting.mean(arm, metric), *(setting.mean(arm, column) for column in columns)]
        if not any(map(math.isnan, values)):
            used.append(arm)
            quality.append(test.direction * values[0])
            for column, value in zip(columns, values[1:], strict=True):
                places[column].append(value)
    if len(quality) < 4:
        return [], [f"{len(quality)} arms have {metric} and {' and '.join(columns)}: too few for a rank correlation"]
    printed = claim.correlations.get(test.paper_row or "", {}).get(claim.column)
    sign = test.sign or 1
    own = correlation(places[test.column], quality)
    margin = test.margin if test.margin is not None else math.nan
    shown: list[tuple[str, Kind, Correlation | Larger, float, float | None]] = [
        (
            f"{test.column} with quality", "same" if test.sign == 0 else "better", Correlation(sign * own.rho, own.arms),
            margin, None if printed is None else sign * float(printed),
        )
    ]  # fmt: skip
    shown += [
        (f"{test.column} over {other} in size", "better", Larger(places[test.column], places[other], quality), 0.0, None)
        for other in test.largest_of
    ]
    arms = len(quality)
    return [
        Draft(test, label, kind, (metric,), tuple(used), found, arms, arms, margin, "set by the claim", paper)
        for label, kind, found, margin, paper in shown
    ], []


def _label(test: Test, first: str, others: Sequence[str]) -> str:
    if test.bound is not None:
        return f"{first} {_condition('', test.bound).strip()}"
    if test.kind == "rule":
        return f"arms that meet the rule better than {first}"
    second = others[0] if len(others) == 1 else f"the mean of {' and '.join(others)}"
    return f"{first} {_WORDS.get(test.kind, 'better than')} {second}"
