"""Conditions for judging a claim; each function returns reasons against it, or an empty list."""

from __future__ import annotations

import math
from collections.abc import Collection

import pandas as pd

from tinylm_ablate.errors import listed
from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import Setting, plain

#: Minimum number of optimizer steps.
LEAST_STEPS = 500

#: Column with bits per byte of a bigram table counted on the same number of tokens, without its language.
BIGRAMS = "test/bigrams/bits_per_byte"

#: Maximum ratio of the documents' standard error to the margin.
DOCUMENTS_SHARE = 0.25

#: Maximum relative difference of tokens for claims that require equal tokens.
EQUAL_TOKENS = 0.05


def bigrams(setting: Setting, reference: str, language: str = "all") -> list[str]:
    """Require the reference arm to beat a bigram table counted on the same number of tokens."""
    table = setting.mean(reference, f"{BIGRAMS}/{language}")
    own = setting.mean(reference, f"test/bits_per_byte/{language}")
    if math.isnan(table) or math.isnan(own):
        return [f"{reference} was not measured" if math.isnan(own) else "no bigram table was counted on as many tokens"]
    if own < table:
        return []
    return [f"{reference} ({own:.3f} bits/byte) is no better than a bigram table ({table:.3f})"]


def steps(setting: Setting, arms: Collection[str]) -> list[str]:
    """Require enough optimizer steps for every arm."""
    counts = {arm: _least(setting, arm, "steps") for arm in arms}
    few = {arm: count for arm, count in counts.items() if not count >= LEAST_STEPS}
    if not few:
        return []
    arm = min(few, key=lambda name: few[name] if few[name] == few[name] else -1)
    steps = "an unknown number of" if math.isnan(few[arm]) else f"{few[arm]:,.0f}"
    return [f"{arm}: {steps} steps, fewer than {LEAST_STEPS}"]


def tuned(setting: Setting, arms: Collection[str]) -> list[str]:
    """Require that every arm's learning rate is tuned to an interior optimum."""
    states = {arm: _states(setting, arm) for arm in arms}
    untuned = [arm for arm, own in states.items() if own - {"interior", "edge"}]
    edge = [arm for arm, own in states.items() if "edge" in own]
    reasons = []
    if untuned:
        what = "the learning rates" if len(untuned) == len(states) else f"the learning rate of {listed(untuned)}"
        reasons.append(f"{what} {'were' if len(untuned) == len(states) else 'was'} not tuned")
    if edge:
        reasons.append(f"the best learning rate of {listed(edge)} is at an edge of the tried values")
    return reasons


def equal_tokens(setting: Setting, arms: Collection[str]) -> list[str]:
    """Require equal numbers of tokens for all arms."""
    tokens = sorted({value for arm in arms for value in setting.by_seed(arm, "tokens").values()})
    if not tokens or tokens[-1] <= (1 + EQUAL_TOKENS) * tokens[0]:
        return []
    return [f"tokens are not equal: {tokens[0]:,.0f} to {tokens[-1]:,.0f}"]


def documents(effect: Estimate, margin: float) -> list[str]:
    """Require a small standard error over documents relative to the margin, since more seeds cannot reduce it.

    Without a margin, any true difference counts, and its interval already covers the documents.
    """
    error = effect.documents_error
    if margin == 0 or error <= DOCUMENTS_SHARE * margin:
        return []
    return [f"too few documents: their standard error, {error:.4f}, exceeds a quarter of the margin, {margin:.4f}"]


def _least(setting: Setting, arm: str, column: str) -> float:
    values = list(setting.by_seed(arm, column).values())
    return min(values, default=math.nan)


def _states(setting: Setting, arm: str) -> set[str]:
    if "tuned" not in setting.runs.columns:
        return {"untuned"}
    states: pd.Series[str] = setting.rows(arm)["tuned"]
    return {str(plain(state) or "untuned") for state in states}
