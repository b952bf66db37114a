from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.report.planted import BITS, MOST_FALSE, section, simulated
from tinylm_ablate.report.documents import Scores, estimate, sums
from tinylm_ablate.report.statistics import (
    Estimate,
    contrast,
    hierarchical_bootstrap,
    holm,
    mean_and_deviation,
    ratio_variance,
)

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
    assert contrast([{0: 1.0}, {1: 2.0}], (1, -1)) is None
    single = contrast([{0: 1.0, 1: 1.0}, {1: 2.0, 2: 2.0}], (1, -1))
    assert single is not None and single.interval() == (-math.inf, math.inf)
    assert single.p_value() == 1.0 and single.seeds_to_decide(1.0) is None


@given(values, st.integers(0, 2**31))
def test_interval_and_p_value_are_scipys(sample, seed):
    other = np.random.default_rng(seed).normal(1, 0.3, len(sample))
    found = contrast([dict(enumerate(sample)), dict(enumerate(other.tolist()))], (1, -1))
    assert found is not None
    expected = scipy.stats.ttest_rel(sample, other)
    interval = expected.confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert found.p_value() == pytest.approx(expected.pvalue, rel=1e-6, abs=2e-12)


def test_a_weighted_sum_of_arms_is_scipys_over_its_sums():
    source = np.random.default_rng(3)
    first, second, third = (source.normal(0, 1, 6) for _ in range(3))
    arms = [dict(enumerate(arm.tolist())) for arm in (first, second, third)]
    found = contrast(arms, (1, -0.5, -0.5))
    expected = scipy.stats.ttest_1samp(first - (second + third) / 2, 0.3)
    assert found is not None and found.p_value(0.3) == pytest.approx(expected.pvalue, rel=1e-6)


def test_only_common_seeds_are_paired():
    found = contrast([{0: 1.0, 1: 2.0, 5: 100.0}, {0: 0.5, 1: 1.4, 7: -100.0}], (1, -1))
    assert found is not None and found.mean == pytest.approx(0.55) and found.pairs == 2


def test_documents_widen_an_interval_by_their_own_quantile():
    t = scipy.stats.t.ppf
    found = Estimate(1.0, 0.3, 3, ((0.04, 50), (0.01, 20)))
    expected = t(0.975, 2) ** 2 * 0.09 / 3 + t(0.975, 50) ** 2 * 0.04 + t(0.975, 20) ** 2 * 0.01
    assert found.reach() == pytest.approx(math.sqrt(expected))
    assert found.reach(1 - found.p_value()) == pytest.approx(1.0, rel=1e-6)


def test_the_variance_over_documents_is_that_of_their_ratio():
    """Against the bootstrap over documents, which makes none of the delta method's approximations."""
    source = np.random.default_rng(5)
    sizes = source.integers(200, 2000, 200).astype(float)
    own = sizes * source.normal(0.1, 0.3, 200)
    variance, free = ratio_variance(own, sizes)
    drawn = source.integers(200, size=(20_000, 200))
    ratios = own[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert free == 199 and math.sqrt(variance) == pytest.approx(ratios.std(), rel=0.03)


def test_the_bootstrap_is_scipys_where_only_seeds_vary():
    source = np.random.default_rng(2)
    seeds = source.normal(1, 0.5, 12)
    low, high = hierarchical_bootstrap([(np.repeat(seeds[:, None], 30, axis=1), np.ones(30))], resamples=20_000)
    expected = scipy.stats.bootstrap(
        (seeds,), np.mean, method="percentile", n_resamples=20_000, random_state=1
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert (low, high) == hierarchical_bootstrap([(np.repeat(seeds[:, None], 30, axis=1), np.ones(30))], resamples=20_000)


def test_the_bootstrap_is_scipys_where_only_documents_vary():
    source = np.random.default_rng(4)
    own = source.normal(1, 0.5, 60)
    low, high = hierarchical_bootstrap([(np.repeat(own[None], 3, axis=0), np.ones(60))], resamples=20_000)
    expected = scipy.stats.bootstrap(
        (own,), np.mean, method="percentile", n_resamples=20_000, random_state=1
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_his_procedure_rejects(p_values):
    """Step by step as in his paper: from the smallest p-value on, until one is not below 0.05 / (how many are left)."""
    adjusted = holm(p_values)
    expected = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] * (len(p_values) - rank) >= 0.05:
            break
        expected.add(index)
    assert {index for index, p in enumerate(adjusted) if p < 0.05} == expected
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))


def test_seeds_that_would_decide_are_the_fewest():
    found = Estimate(0.05, 0.04, 2, ((1e-4, 80),))
    needed = found.seeds_to_decide(0.05)
    assert needed is not None
    assert found.reach(seeds=needed) < 0.05 <= found.reach(seeds=needed - 1)
    # Documents alone leave it open: 1.99 * 0.03 is more than 0.05.
    assert Estimate(0.05, 0.04, 2, ((9e-4, 80),)).seeds_to_decide(0.05) is None
    assert Estimate(0.05, 0.0, 5).seeds_to_decide(0.0) is None


#: Deviation over seeds, and over documents: seeds alone matter; both; documents above all.
NOISE = ((0.02, 0.05), (0.02, 0.2), (0.005, 0.2))


def test_simulations_say_what_the_report_would_say_of_their_data():
    """What is simulated all at once below goes the report's own way here, from each document's bits on."""
    (bits, sizes), found = simulated(np.random.default_rng(10), [0.0, 0.0], 3, count=20)
    for number in range(20):
        values, scores = [], []
        for arm in bits[number]:
            parts = [
                {("bits_per_byte", name): (own * size * math.log(2), size)
                 for name, own, size in zip(("en", "zh"), seed, sizes[number], strict=True)}
                for seed in arm
            ]  # fmt: skip
            means = [np.mean([own.sum() / size.sum() for own, size in groups.values()]) / math.log(2) for groups in parts]
            values.append(dict(enumerate(map(float, means))))
            scores.append({seed: Scores("items", groups) for seed, groups in enumerate(parts)})
        told = estimate(values, scores, (1, -1), BITS)
        assert told is not None
        assert told.interval() == pytest.approx(found[0, 1][number].interval(), rel=1e-9)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("noise", NOISE)
def test_no_effect_is_found_where_there_is_none(seeds, noise):
    """1,000 simulations without a difference but in the seeds and documents that happened to be drawn."""
    _, found = simulated(np.random.default_rng(11), [0.0, 0.0], seeds, *noise)
    false = sum(own.low > 0 or own.high < 0 for own in found[0, 1])
    assert false <= MOST_FALSE
    if noise == NOISE[2]:  # why documents count: seeds share them, so that they do not show in the spread over seeds
        alone = [dataclasses.replace(own, documents=()) for own in found[0, 1]]
        assert sum(own.low > 0 or own.high < 0 for own in alone) > 150


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_table_without_effects_has_a_mark_in_five_percent_of_cases_at_most(seeds):
    """1,000 tables of four arms: after Holm's correction hardly one has any pair that differs."""
    _, found = simulated(np.random.default_rng(13), [0.0] * 4, seeds, 0.02, 0.05)

    def differ(number, confidence):
        return any(abs(own[number].mean) > own[number].reach(confidence) for own in found.values())

    # Holm rejects something if and only if the smallest of six p-values is below 0.05 / 6.
    corrected = [differ(number, 1 - 0.05 / 6) for number in range(1000)]
    for number in range(20):
        assert corrected[number] == (min(holm([own[number].p_value() for own in found.values()])) < 0.05)
    assert sum(corrected) <= MOST_FALSE < sum(differ(number, 0.95) for number in range(1000))


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.35), (3, 0.2), (5, 0.12)])
def test_a_bootstrap_over_few_seeds_finds_what_is_not_there(seeds, least):
    """Why no verdict rests on it: far more than 5 % of its intervals leave zero out where nothing differs but the seeds."""
    source = np.random.default_rng(12)
    false = 0
    for _ in range(300):
        arms = section(source, {"a": 0.0, "b": 0.0}, seeds, 0.02, 0.0, 20).arms
        parts = sums([arm.by_seed(BITS) for arm in arms], [arm.scores() for arm in arms], (1, -1), BITS)
        low, high = hierarchical_bootstrap(parts, 300)
        false += low > 0 or high < 0
    assert false / 300 > least
