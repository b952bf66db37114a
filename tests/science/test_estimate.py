"""Intervals and p-values compared with scipy, and the variance over documents with the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm_ablate.science.effects import effect
from tinylm_ablate.science.estimate import Estimate, ratio_variance
from tinylm_ablate.science.evidence import settings as settings_of
from tinylm_ablate.science.family import holm, survivors


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=12), st.floats(-3, 3))
@settings(max_examples=50, deadline=None)
def test_with_seeds_alone_the_interval_is_a_t_test(values: list[float], bound: float) -> None:
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    if deviation < 1e-3:
        return
    own = Estimate(mean, deviation, len(values))
    low, high = own.interval(0.9)
    expected = scipy.stats.ttest_1samp(values, bound)
    assert (low, high) == pytest.approx(tuple(scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)), rel=1e-6)
    for found, side in ((own.p_above(bound), "greater"), (own.p_below(bound), "less")):
        p = scipy.stats.ttest_1samp(values, bound, alternative=side).pvalue
        assert found == pytest.approx(max(p, 1e-12), rel=1e-3, abs=1e-9), (side, expected)


def test_documents_widen_the_interval_whatever_the_seeds() -> None:
    seeds = Estimate(0.0, 0.01, 3)
    both = Estimate(0.0, 0.01, 3, ((0.0004, 399.0),))
    assert both.documents_error == 0.02
    assert both.reach(0.025) == pytest.approx(np.hypot(seeds.reach(0.025), 0.02 * scipy.stats.t.isf(0.025, 399)))
    assert both.with_seeds(1000).reach(0.025) > 0.039


def test_the_variance_of_a_ratio_equals_the_bootstrap() -> None:
    source = np.random.default_rng(0)
    sizes = source.lognormal(6, 1, 300)
    values = (0.1 + source.standard_normal(300)) * sizes
    drawn = source.integers(300, size=(20_000, 300))
    resampled = values[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert ratio_variance(values, sizes)[0] == pytest.approx(resampled.var(), rel=0.05)


def test_documents_are_paired_within_an_effect(planted) -> None:
    planted.arm("base", 2.5)
    planted.arm("new", 2.4)
    (setting,) = settings_of(planted.evidence())
    metric = "test/bits_per_byte/all"
    paired, seeds = effect(setting, [("new", metric, 1.0), ("base", metric, -1.0)])
    alone, _ = effect(setting, [("new", metric, 1.0)])
    assert seeds == 3 and paired is not None and alone is not None
    assert alone.documents_error == pytest.approx(1 / 400**0.5, rel=0.1)
    assert paired.documents_error < 1e-9


def test_different_documents_are_not_paired(planted) -> None:
    planted.arm("base", 2.5)
    planted.arm("new", 2.4)
    planted.documents[4] = planted.documents[4].iloc[1:]
    (setting,) = settings_of(planted.evidence())
    metric = "test/bits_per_byte/all"
    found, _ = effect(setting, [("new", metric, 1.0), ("base", metric, -1.0)])
    assert found is not None and not found.documents


def test_corrections_against_scipy() -> None:
    ps = list(np.random.default_rng(1).random(40) ** 3)
    adjusted = scipy.stats.false_discovery_control(ps)
    assert survivors(ps) == [p <= 0.10 for p in adjusted]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert survivors([]) == []
