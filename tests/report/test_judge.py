"""Verdicts on planted data: the truth is known, and so is what may be concluded of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.report.planted import BITS, MOST_FALSE, section, simulated
from tinylm_ablate.report.arms import Arm, Run, Section
from tinylm_ablate.report.claims import _Reader
from tinylm_ablate.report.judge import CONTRADICTED, NOT_RUN, REPRODUCED, UNDECIDED, decide, judge
from tinylm_ablate.report.trend import Correlation

COMMON = {"metric": BITS, "direction": "less"}


def claim(tests, arms=("a", "b", "c"), **more):
    """A claim about arms, given by name or with their overrides."""
    reader = _Reader(Path("claim.yaml"))
    overrides = arms if isinstance(arms, dict) else {name: {"arm": name} for name in arms}
    content = {"title": "T", "source": "S", "experiment": "E", "arms": overrides, "tests": tests}
    found = reader.claim(content | more)
    assert not reader.mistakes and found is not None, reader.mistakes
    return found


def verdict(tests, effects, seeds=4, **noise):
    found = judge(claim(tests, tuple(effects)), [section(np.random.default_rng(1), effects, seeds, **noise)])
    assert len(found) == 1
    return found[0]


ORDERING = [{"kind": "ordering", "better": ["a"], "than": ["b"], "smallest": 0.05, **COMMON}]
CHAIN = [{"kind": "ordering", "order": ["a", "b", "c"], "smallest": 0.05, **COMMON}]
MIDDLE = [{"kind": "middle", "arm": "b", "ends": ["a", "c"], "smallest": 0.05, **COMMON}]
SAME = [{"kind": "equivalence", "arms": ["a", "b", "c"], "smallest": 0.15, **COMMON}]
MOST = [{"kind": "ordering", "better": ["b"], "than_mean_of": ["a", "c"], "smallest": 0.0, **COMMON}]


@pytest.mark.parametrize(
    ("tests", "effects", "expected"),
    [
        (ORDERING, {"a": 0.0, "b": 0.4}, REPRODUCED),
        (ORDERING, {"a": 0.4, "b": 0.0}, CONTRADICTED),
        (ORDERING, {"a": 0.0, "b": 0.05}, UNDECIDED),
        (CHAIN, {"a": 0.0, "b": 0.4, "c": 0.8}, REPRODUCED),
        (CHAIN, {"a": 0.0, "b": 0.8, "c": 0.4}, CONTRADICTED),
        (MIDDLE, {"a": 0.4, "b": 0.0, "c": 0.4}, REPRODUCED),
        (MIDDLE, {"a": 0.4, "b": 0.0, "c": -0.4}, CONTRADICTED),
        (SAME, {"a": 0.0, "b": 0.0, "c": 0.0}, REPRODUCED),
        (SAME, {"a": 0.0, "b": 0.0, "c": 0.6}, CONTRADICTED),
        (SAME, {"a": 0.0, "b": 0.0, "c": 0.15}, UNDECIDED),
        (MOST, {"a": 0.6, "b": 0.1, "c": 0.0}, REPRODUCED),
        (MOST, {"a": 0.6, "b": 0.5, "c": 0.0}, CONTRADICTED),
    ],
)
def test_a_known_effect_has_its_verdict(tests, effects, expected):
    assert verdict(tests, effects).verdict == expected


def test_an_arm_may_be_named_by_true_or_false():
    tests = [{"kind": "ordering", "order": ["tied", "untied"], "smallest": 0.05, **COMMON}]
    told = claim(tests, {"tied": {"arch.tied": True}, "untied": {"arch.tied": False}})
    assert told.arms == {"tied": {"arch.tied": "true"}, "untied": {"arch.tied": "false"}}
    planted = section(np.random.default_rng(1), {"true": 0.0, "false": 0.4}, 4)
    for arm in planted.arms:
        arm.place = {"arch.tied": arm.place["arm"]}
    assert judge(told, [planted])[0].verdict == REPRODUCED


def test_no_effect_is_no_reproduction_and_with_enough_seeds_a_contradiction():
    assert verdict(ORDERING, {"a": 0.0, "b": 0.0}, seeds=2).verdict != REPRODUCED
    assert verdict(ORDERING, {"a": 0.0, "b": 0.0}, seeds=8, document_spread=0.02).verdict == CONTRADICTED


def test_an_effect_too_small_to_matter_is_none():
    small = [{**ORDERING[0], "smallest": 0.2}]
    assert verdict(small, {"a": 0.0, "b": 0.1}, seeds=6, document_spread=0.02).verdict == CONTRADICTED
    no_worse = [{**ORDERING[0], "smallest": -0.1}]
    assert verdict(no_worse, {"a": 0.02, "b": 0.0}, seeds=6, document_spread=0.02).verdict == REPRODUCED


def test_one_seed_concludes_nothing():
    found = verdict(ORDERING, {"a": 0.0, "b": 9.0}, seeds=1)
    assert found.verdict == UNDECIDED and "one seed: nothing can be concluded" in found.reason
    assert found.findings[0].effect is not None and found.findings[0].effect.interval() == (-math.inf, math.inf)


def test_too_few_seeds_are_undecided_and_told_how_many_would_do():
    found = verdict(ORDERING, {"a": 0.0, "b": 0.15}, seeds=2, seed_spread=0.03, document_spread=0.05)
    assert found.verdict == UNDECIDED
    (finding,) = found.findings
    assert finding.units == 2 and finding.needed is not None and 2 < finding.needed < 30
    assert verdict(ORDERING, {"a": 0.0, "b": 0.15}, seeds=30, seed_spread=0.03, document_spread=0.05).verdict == REPRODUCED


@pytest.mark.parametrize("effects", [{"a": 0.1, "b": 0.05, "c": 0.0}, {"a": 0.0, "b": 0.12, "c": 0.24}])
def test_more_seeds_than_there_are_would_decide_what_is_undecided(effects):
    """Also for a contradiction among several comparisons, which takes a wider interval than the one that is shown."""
    open_ = 0
    for seed in range(40):
        (found,) = judge(claim(CHAIN), [section(np.random.default_rng(seed), effects, 3, 0.03, 0.05)])
        for finding in found.findings:
            if finding.verdict == UNDECIDED and finding.needed is not None:
                open_ += 1
                assert finding.needed > 3
    assert open_ > 5


def test_what_has_not_run_has_no_verdict():
    assert [found.verdict for found in judge(claim(CHAIN), [])] == [NOT_RUN]
    partly = section(np.random.default_rng(1), {"a": 0.0, "b": 0.4}, 4)
    (found,) = judge(claim(CHAIN), [partly])
    assert found.verdict == NOT_RUN and "arm=c" in found.reason
    other = [{**ORDERING[0], "metric": "decode/tokens_per_second"}]
    (found,) = judge(claim(other), [partly])
    assert found.verdict == NOT_RUN and "decode/tokens_per_second was not measured" in found.reason


def test_each_setting_that_has_the_arms_has_a_verdict():
    source = np.random.default_rng(1)
    settings = [
        section(source, {"a": 0.0, "b": 0.4}, 4, label="scale.name=s16"),
        section(source, {"a": 0.4, "b": 0.0}, 4, label="scale.name=s32"),
        section(source, {"a": 0.0}, 4, label="scale.name=s8"),
    ]
    found = judge(claim(ORDERING), settings)
    assert [(own.setting, own.verdict) for own in found] == [("scale.name=s16", REPRODUCED), ("scale.name=s32", CONTRADICTED)]


def arm(place, rows):
    return Arm(place, {seed: Run(f"{place}-{seed}", seed, row) for seed, row in enumerate(rows)})


def test_columns_of_one_run_are_compared():
    tests = [
        {
            "kind": "ordering", "better": ["early"], "than": ["late"], "direction": "more", "smallest": 0.0,
            "metric": {"early": "forgetting/part_1", "late": "forgetting/part_8"},
        }
    ]  # fmt: skip
    rows = [{"forgetting/part_1": 3.0 + 0.01 * n, "forgetting/part_8": 2.9 + 0.012 * n} for n in range(3)]
    own = claim(tests, arms={"early": {"n": "1"}, "late": {"n": "1"}})
    (found,) = judge(own, [Section("", ["n"], [arm({"n": "1"}, rows), arm({"n": "2"}, rows)])])
    assert found.verdict == REPRODUCED and found.findings[0].effect.mean == pytest.approx(0.098)


def test_counts_need_one_seed_and_a_bound_is_a_bound():
    place = {"tokenizer.vocab_size": "48000/s"}
    own = Section("", list(place), [arm(place, [{"coverage": 97.9, "share": 18.0}])])
    test = {"kind": "threshold", "arm": "m", "direction": "more", "smallest": 0, "exact": True}
    for bounds, expected in (
        ([{"metric": "coverage", "above": 90}, {"metric": "share", "below": 20}], REPRODUCED),
        ([{"metric": "coverage", "above": 90}, {"metric": "share", "below": 10}], CONTRADICTED),
    ):
        tests = [{**test, **bound} for bound in bounds]
        (found,) = judge(claim(tests, arms={"m": place}), [own])
        assert found.verdict == expected


@pytest.mark.parametrize(("wanted", "tokens", "expected"), [
    (True, 980, REPRODUCED), (True, 700, UNDECIDED), (False, 700, REPRODUCED)
])  # fmt: skip
def test_unequal_tokens_decide_nothing_about_equal_ones(wanted, tokens, expected):
    arms = [
        arm({"arm": name}, [{BITS: bits + seed / 100, "tokens": own} for seed in range(3)])
        for name, bits, own in (("a", 2.0, 1000), ("b", 3.0, tokens))
    ]
    (found,) = judge(claim([{**ORDERING[0], "equal_tokens": wanted}], ("a", "b")), [Section("", ["arm"], arms)])
    assert found.verdict == found.findings[0].verdict == expected
    if expected == UNDECIDED:
        assert found.reason == "a over b: not of equal tokens, but of 700 and 1,000"


def test_ratios_are_compared_as_ratios():
    arms = [arm({"arm": name}, [{"speed": speed}]) for name, speed in (("a", 50.0), ("b", 100.0))]
    test = {
        "kind": "ordering",
        "better": ["a"],
        "than": ["b"],
        "metric": "speed",
        "direction": "less",
        "exact": True,
        "relative": True,
    }
    for smallest, expected in ((0.9, REPRODUCED), (1.1, CONTRADICTED)):
        (found,) = judge(claim([{**test, "smallest": smallest}], ("a", "b")), [Section("", ["arm"], arms)])
        assert found.verdict == expected


def shapes(quality, count=30):
    source = np.random.default_rng(3)
    arms = []
    for n, depth in enumerate(source.permutation(count)):
        rows = [{BITS: quality(float(depth), source), "shape.depth": float(depth), "other": float(source.integers(100))}]
        arms.append(arm({"n": str(n)}, rows))
    return Section("", ["n"], arms)


TREND = {"kind": "trend", "column": "shape.depth", "largest_of": ["other"], "smallest": 0, **COMMON}


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (lambda depth, source: 3 - 0.02 * depth + source.normal(0, 0.05), REPRODUCED),
        (lambda depth, source: 3 + 0.02 * depth + source.normal(0, 0.05), CONTRADICTED),
        (lambda _, source: 3 + source.normal(0, 0.05), UNDECIDED),
    ],
)
def test_a_trend_has_its_verdict(quality, expected):
    (found,) = judge(claim([TREND], ()), [shapes(quality)])
    assert found.verdict == expected


def test_a_trend_over_few_arms_is_undecided():
    (found,) = judge(claim([TREND], ()), [shapes(lambda depth, _: 3 - depth, 3)])
    assert found.verdict == UNDECIDED


def test_the_papers_own_effect_is_computed_from_its_table():
    paper = {
        "table": "table01_tokenizer",
        "key": "vocab_size",
        "column": "average",
        "rows": {"a": 48000, "b": 8000, "c": 100883},
    }
    own = claim([{"kind": "middle", "arm": "a", "ends": ["b", "c"], "smallest": 0.01, **COMMON}], paper=paper)
    assert [finding.paper for finding in judge(own, [])[0].findings] == pytest.approx([41.19 - 37.94, 41.19 - 40.40])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_at_most_five_percent_of_verdicts_are_false(seeds):
    """1,000 simulations each: without an effect "reproduced" is false, and at the smallest effect that matters any verdict."""
    # The truth is 0.05 for "c" over "a" and "c" over "b" (fewer bits being better), and 0 for "b" over "a".
    _, found = simulated(np.random.default_rng(21), [0.05, 0.05, 0.0], seeds)
    false = {
        "at the bound": sum(decide(own, 0.05) != UNDECIDED for own in found[0, 2]),
        "without effect": sum(decide(own, 0.02) == REPRODUCED for own in found[0, 1]),
        "equal at the bound": sum(decide(own, 0.05, equivalence=True) != UNDECIDED for own in found[0, 2]),
        "of several": 0,
    }
    for first, second in zip(found[0, 2], found[1, 2], strict=True):
        several = {decide(first, 0.05, count=2), decide(second, 0.05, count=2)}
        false["of several"] += CONTRADICTED in several or several == {REPRODUCED}
    assert false["without effect"] <= 50
    assert max(false.values()) <= MOST_FALSE, false


@pytest.mark.parametrize("arms", [5, 10, 30])
def test_a_trend_is_not_found_where_there_is_none(arms):
    """10,000 simulations: no verdict but undecided where quality has nothing to do with the column."""
    ranks = np.random.default_rng(22).permuted(np.tile(np.arange(arms), (10_000, 1)), axis=1)
    rho = 1 - 6 * ((ranks - np.arange(arms)) ** 2).sum(axis=1) / (arms * (arms**2 - 1))
    false = sum(decide(Correlation(float(value), arms), 0.0) != UNDECIDED for value in rho)
    assert false <= 500
