"""Conditions that must hold before a claim is judged; each function returns reasons against it, empty where it passes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import pandas as pd

from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import Setting, plain

#: Fewer optimizer steps than this are no training.
LEAST_STEPS = 500

#: Bits per byte of a table of bigrams counted on as many tokens: the column of each run, without its language.
BIGRAMS = "test/bigrams/bits_per_byte"

#: The documents' standard error may be at most this share of the margin.
DOCUMENTS_SHARE = 0.25

#: Tokens of two arms are equal within this share, where a claim is about equal tokens.
EQUAL_TOKENS = 0.05


def bigrams(setting: Setting, reference: str, language: str = "all") -> list[str]:
    """The reference arm must be better than a table of bigrams counted on as many tokens."""
    table = setting.mean(reference, f"{BIGRAMS}/{language}")
    own = setting.mean(reference, f"test/bits_per_byte/{language}")
    if math.isnan(table) or math.isnan(own):
        return ["no table of bigrams was counted on as many tokens" if math.isnan(table) else f"{reference} was not measured"]
    if own < table:
        return []
    return [f"{reference} ({own:.3f} bits/byte) is no better than a table of bigrams ({table:.3f})"]


def steps(setting: Setting, arms: Collection[str]) -> list[str]:
    """Every arm must have enough optimizer steps."""
    counts = {arm: _least(setting, arm, "steps") for arm in arms}
    few = {arm: count for arm, count in counts.items() if not count >= LEAST_STEPS}
    if not few:
        return []
    arm = min(few, key=lambda name: few[name] if few[name] == few[name] else -1)
    steps = "an unknown number of" if math.isnan(few[arm]) else f"{few[arm]:,.0f}"
    return [f"{arm}: {steps} steps, fewer than {LEAST_STEPS}"]


def tuned(setting: Setting, arms: Collection[str]) -> list[str]:
    """Every arm's learning rate must be tuned to an interior optimum."""
    states = {arm: _states(setting, arm) for arm in arms}
    untuned = [arm for arm, own in states.items() if own - {"interior", "edge"}]
    edge = [arm for arm, own in states.items() if "edge" in own]
    reasons = []
    if untuned:
        what = "the learning rates" if len(untuned) == len(states) else f"the learning rate of {listed(untuned)}"
        reasons.append(f"{what} {'were' if len(untuned) == len(states) else 'was'} not tuned")
    if edge:
        reasons.append(f"the best learning rate of {listed(edge)} is at an edge of those tried")
    return reasons


def equal_tokens(setting: Setting, arms: Collection[str]) -> list[str]:
    """Arms must have seen equally many tokens."""
    tokens = sorted({value for arm in arms for value in setting.by_seed(arm, "tokens").values()})
    if not tokens or tokens[-1] <= (1 + EQUAL_TOKENS) * tokens[0]:
        return []
    return [f"tokens are not equal: {tokens[0]:,.0f} to {tokens[-1]:,.0f}"]


def documents(effect: Estimate, margin: float) -> list[str]:
    """The documents' standard error must be small against the margin, or seeds cannot decide what is open."""
    error = effect.documents_error
    if error <= DOCUMENTS_SHARE * margin:
        return []
    return [f"too few documents: their standard error of {error:.4f} is over a quarter of the margin of {margin:.4f}"]


def listed(names: Sequence[str]) -> str:
    """Up to three names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _least(setting: Setting, arm: str, column: str) -> float:
    values = list(setting.by_seed(arm, column).values())
    return min(values, default=math.nan)


def _states(setting: Setting, arm: str) -> set[str]:
    if "tuned" not in setting.runs.columns:
        return {"untuned"}
    states: pd.Series[str] = setting.rows(arm)["tuned"]
    return {str(plain(state) or "untuned") for state in states}
