from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.report.statistics import mean_and_deviation, paired_difference

values = st.lists(st.floats(0.5, 3.0), min_size=2, max_size=8)


@given(values)
def test_mean_and_deviation_are_those_of_the_standard_library(sample):
    mean, deviation = mean_and_deviation(sample)
    assert mean == pytest.approx(statistics.fmean(sample))
    assert deviation == pytest.approx(statistics.stdev(sample), abs=1e-12)


def test_too_few_values_have_no_spread():
    assert mean_and_deviation([2.0])[0] == 2.0
    assert math.isnan(mean_and_deviation([2.0])[1])
    assert all(math.isnan(value) for value in mean_and_deviation([]))
    assert paired_difference({0: 1.0}, {0: 2.0}) is None
    assert paired_difference({0: 1.0, 1: 1.0}, {1: 2.0, 2: 2.0}) is None


@given(values, st.integers(0, 2**31))
def test_the_interval_is_scipys(sample, seed):
    other = np.random.default_rng(seed).normal(1, 0.3, len(sample))
    difference = paired_difference(dict(enumerate(sample)), dict(enumerate(other.tolist())))
    assert difference is not None
    expected = scipy.stats.ttest_rel(sample, other).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


def test_only_common_seeds_are_paired():
    first, second = {0: 1.0, 1: 2.0, 5: 100.0}, {0: 0.5, 1: 1.4, 7: -100.0}
    difference = paired_difference(first, second)
    assert difference is not None
    assert difference.mean == pytest.approx(0.55)
    assert difference.pairs == 2


def test_the_interval_covers_no_effect_as_often_as_it_says():
    source = np.random.default_rng(0)
    decided = 0
    for _ in range(2000):
        noise = source.normal(0, 1, (2, 3))
        difference = paired_difference(dict(enumerate(noise[0].tolist())), dict(enumerate(noise[1].tolist())))
        assert difference is not None
        decided += difference.decided
    assert 0.035 < decided / 2000 < 0.065
