"""Verdicts on planted runs, and mistakes that the protocol prevents."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinylm_ablate.science.claim import Claim
from tinylm_ablate.science.claim_files import parse
from tinylm_ablate.science.comparison import Outcome
from tinylm_ablate.science.evidence import Evidence, settings
from tinylm_ablate.science.pairs import pairs, results
from tinylm_ablate.science.verdict import Verdict, judge

BITS = "test/bits_per_byte/all"


def claim(*tests: dict[str, Any], arms: Mapping[str, str] | None = None, **more: Any) -> Claim:
    """Return a claim with these tests; ``arms`` maps names to labels."""
    own = {"base": "base", "new": "new"} if arms is None else arms
    usual = {"kind": "ordering", "better": ["new"], "than": ["base"]}
    content: dict[str, Any] = {
        "title": "New is better", "source": "Section 1", "experiment": "table",
        "arms": {name: {"arm": label} for name, label in own.items()},
        "tests": [{"metric": BITS, "direction": "less", **test} for test in tests or (usual,)],
    }  # fmt: skip
    found, mistakes = parse("claim", content | more)
    assert not mistakes and found is not None, mistakes
    return found


def one(planted: Any, own: Claim | None = None, **evidence: Any) -> Verdict:
    (found,) = judge([own or claim()], {"table": planted.evidence(**evidence)})
    return found


@pytest.mark.parametrize(
    ("effect", "outcome"),
    [(0.05, Outcome.REPRODUCED), (-0.05, Outcome.REVERSED), (0.0, Outcome.NO_EFFECT), (0.0098, Outcome.UNDECIDED)],
)
def test_the_five_verdicts(planted: Any, effect: float, outcome: Outcome) -> None:
    planted.arm("base", 2.5)
    planted.arm("new", 2.5 - effect)
    found = one(planted)
    assert found.outcome == outcome
    (compared,) = found.comparisons
    assert compared.margin == pytest.approx(0.2 * math.log(1.05), rel=1e-6)
    assert compared.look == 3
    assert (found.p <= 0.05) == (outcome != Outcome.UNDECIDED)
    assert found.survives == (None if outcome == Outcome.UNDECIDED else True)
    assert found.setting == "s32, 8M tokens, 3,900 steps"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bigrams": 2.4}, "no better than a bigram table"),
        ({"bigrams": None}, "no bigram table"),
        ({"steps": 499}, "499 steps, fewer than 500"),
        ({"tuned": "untuned"}, "learning rates were not tuned"),
        ({"tuned": None}, "learning rates were not tuned"),
        ({"tuned": "edge"}, "at an edge"),
        ({"documents": False}, "scores per document are missing"),
    ],
)
def test_the_gate(planted: Any, change: dict[str, Any], reason: str) -> None:
    planted.arm("base", 2.5, **change)
    planted.arm("new", 2.4, **change)
    found = one(planted)
    assert found.outcome == Outcome.NOT_TESTABLE
    assert reason in found.reason
    assert found.comparisons[0].outcome == Outcome.NOT_TESTABLE


@pytest.mark.parametrize(
    ("effect", "spread", "outcome"),
    [(0.01, 0.0, Outcome.NOT_TESTABLE), (0.1, 0.0, Outcome.REPRODUCED), (0.1, 0.06, Outcome.UNDECIDED)],
)
def test_too_few_documents_are_testable_only_if_the_effect_is_clear(
    planted: Any, effect: float, spread: float, outcome: Outcome
) -> None:
    """Or if more seeds would make it clear, which only their spread prevents."""
    planted.arm("base", 2.5)
    planted.arm("new", 2.5 - effect, spread=spread)
    for frame in planted.documents[3:]:
        frame["nats"] += np.random.default_rng(1).standard_normal(len(frame)) * 100
    found = one(planted)
    assert found.outcome == outcome
    assert ("too few documents" in found.reason) == (outcome == Outcome.NOT_TESTABLE)
    assert ("would decide it" in found.reason) == (outcome == Outcome.UNDECIDED)


def test_without_a_margin_an_effect_near_zero_is_undecided(planted: Any) -> None:
    """No number of documents has an error of a quarter of zero, and more seeds may still decide."""
    planted.arm("base", 2.5)
    planted.arm("new", 2.5)
    test = {"kind": "ordering", "better": ["new"], "than": ["base"], "margin": 0}
    assert one(planted, claim(test)).outcome == Outcome.UNDECIDED


def test_without_an_effect_of_tokens_there_is_no_margin(planted: Any) -> None:
    planted.arm("base", 2.5)
    planted.arm("new", 2.4)
    for curve in planted.curves:
        curve["bits"] = 2.5
    found = one(planted)
    assert found.outcome == Outcome.NOT_TESTABLE
    assert "5 % more tokens" in found.reason


def test_the_margin_comes_from_annealed_losses_where_there_are_two_budgets(planted: Any) -> None:
    for tokens, bits in ((4e6, 2.6), (8e6, 2.5)):
        planted.arm("base", bits, tokens=tokens, spread=0.0, grid=str(tokens))
        planted.arm("new", bits - 0.1, tokens=tokens, spread=0.0, grid=str(tokens))
    (compared,) = one(planted).comparisons
    assert compared.margin == pytest.approx(0.1 / math.log(2) * math.log(1.05))
    assert "two budgets" in compared.margin_source


def test_a_claim_has_one_verdict_at_its_largest_testable_budget(planted: Any) -> None:
    """Settings of measurement, precision, and the parent's budget do not change the question of a claim."""
    for place, (tokens, effect) in enumerate(((2e6, 0.08), (4e6, 0.06), (8e6, 0.04), (16e6, 0.03))):
        how = {
            "evaluate.max_bytes": 1000 * place, "evaluate.cloze_questions": place, "init.parent_tokens": tokens / 2,
            "train.precision": f"p{place}",
        }  # fmt: skip
        # The largest budget was not tuned.
        tuned = "untuned" if tokens == 16e6 else "interior"
        planted.arm("base", 2.5, tokens=tokens, grid=str(place), settings=how, tuned=tuned)
        planted.arm("new", 2.5 - effect, tokens=tokens, grid=str(place), settings=how, tuned=tuned)
    found = judge([claim()], {"table": planted.evidence(keys=("train.tokens", *how))})
    assert [own.setting for own in found] == ["s32, 8M tokens, 3,900 steps"]
    (trend,) = found[0].trends
    assert [point.tokens for point in trend.points] == [2e6, 4e6, 8e6]
    assert trend.course == "shrinks"
    assert trend.by_tokens is not None and trend.by_tokens.mean == pytest.approx(-0.02 / math.log(2), abs=0.005)
    assert any("shrinks with budget" in note for note in found[0].notes)


def test_each_measure_has_its_own_trend(planted: Any) -> None:
    for tokens, effect in ((2e6, 0.08), (4e6, 0.04)):
        planted.arm("base", 2.5, tokens=tokens, grid=str(tokens))
        planted.arm("new", 2.5 - effect, tokens=tokens, grid=str(tokens))
    for row in planted.rows:
        row["other"] = 2 * row[BITS]
    (found,) = judge(
        [claim(*({"kind": "ordering", "better": ["new"], "than": ["base"], "metric": own} for own in (BITS, "other")))],
        {"table": planted.evidence()},
    )
    assert [trend.label for trend in found.trends] == [f"new better than base ({name})" for name in (BITS, "other")]
    assert all([point.tokens for point in trend.points] == [2e6, 4e6] for trend in found.trends)
    slopes = [trend.by_tokens.mean for trend in found.trends if trend.by_tokens]
    assert slopes[1] == pytest.approx(2 * slopes[0])


def test_other_settings_are_not_budgets(planted: Any) -> None:
    for place, name in enumerate(("adamw", "muon")):
        planted.arm("base", 2.5, grid=name, settings={"optimizer.name": name}, tokens=(place + 1) * 4e6)
        planted.arm("new", 2.4, grid=name, settings={"optimizer.name": name}, tokens=(place + 1) * 4e6)
    found = one(planted, keys=("train.tokens", "optimizer.name"))
    assert found.setting == "s32, 8M tokens, 3,900 steps, optimizer.name=muon"
    assert not found.trends


def test_a_text_that_its_settings_distinguish_is_named_by_them(planted: Any) -> None:
    for source, text in (("large", "abc"), ("default", "def")):
        planted.arm("base", 2.5, grid=source, settings={"data.source": source, "text.fingerprint": text})
    labels = [own.label for own in settings(planted.evidence(keys=("data.source", "text.fingerprint")))]
    assert [label.partition("steps, ")[2] for label in labels] == ["data.source=default", "data.source=large"]
    planted.arm("base", 2.5, grid="changed", settings={"data.source": "large", "text.fingerprint": "ghi"})
    labels = [own.label for own in settings(planted.evidence(keys=("data.source", "text.fingerprint")))]
    assert labels[1].endswith("data.source=large, text.fingerprint=abc")


@pytest.mark.parametrize(("seeds", "used"), [(2, 0), (3, 3), (4, 3), (7, 5), (11, 8), (20, 12)])
def test_only_looks_fixed_in_advance_decide(planted: Any, seeds: int, used: int) -> None:
    planted.arm("base", 2.5, range(seeds))
    planted.arm("new", 2.4, range(seeds))
    found = one(planted)
    assert found.comparisons[0].look == used
    assert found.comparisons[0].seeds == seeds
    assert (found.outcome == Outcome.UNDECIDED) == (used == 0)
    if used:
        assert found.comparisons[0].effect is not None and found.comparisons[0].effect.pairs == used  # type: ignore[union-attr]
    else:
        assert "2 of the 3 seeds" in found.reason


def test_recorded_standard_errors_are_part_of_the_interval(planted: Any) -> None:
    """Figure 9's parts are different texts, each with an error that all seeds share."""
    part = {"forgetting/part_1": 4.0, "forgetting/part_8": 3.98, "forgetting/part_1/se": 0.03, "forgetting/part_8/se": 0.04}
    planted.arm("base", 2.5, range(3), **part)
    for row in planted.rows:
        row["forgetting/part_1"] += 0.001 * row["seed"]
    test = {
        "kind": "ordering", "better": ["early"], "than": ["late"], "direction": "more", "margin": 0.005,
        "metric": {"early": "forgetting/part_1", "late": "forgetting/part_8"},
    }  # fmt: skip
    found = one(planted, claim(test, arms={"early": "base", "late": "base"}))
    (compared,) = found.comparisons
    low, high = compared.effect.interval(0.95)  # type: ignore[union-attr]
    assert (high - low) / 2 > 1.96 * 0.05
    assert found.outcome == Outcome.NOT_TESTABLE
    assert "too few documents" in found.reason


def test_unequal_tokens_are_not_testable_and_no_number_of_seeds_is_promised(planted: Any) -> None:
    planted.arm("base", 2.5, tokens=8e6)
    planted.arm("new", 2.4, tokens=9e6)
    for row in planted.rows:
        row["train.tokens"] = 8e6
    found = one(planted, claim({"kind": "ordering", "better": ["new"], "than": ["base"], "equal_tokens": True}))
    assert found.outcome == Outcome.NOT_TESTABLE
    assert "tokens are not equal: 8,000,000 to 9,000,000" in found.reason
    assert found.comparisons[0].needed is None and "seeds" not in found.reason


def test_arms_with_the_same_runs_are_compared_once(planted: Any) -> None:
    """At the base batch, all exponents are the same run per seed: one arm to a correction, not several."""
    planted.arm("a", 2.5)
    planted.arm("b", 2.45)
    same = [row | {"arm": name} for name in ("c", "d") for row in planted.rows[:3]]
    planted.rows += same
    (setting,) = settings(planted.evidence())
    assert [(pair.first, pair.second) for pair in pairs(setting, BITS)] == [("a", "b")]
    assert pairs(setting, BITS)[0].holm == pairs(setting, BITS)[0].p
    found = {own.arm: own for own in results(setting, BITS, -1)}
    assert found["b"].clear and found["b"].best
    assert found["a"].difference is not None and found["c"].difference == found["a"].difference


def test_the_best_of_two_equal_arms_is_not_clear(planted: Any) -> None:
    planted.arm("a", 2.5, spread=0.02)
    planted.arm("b", 2.495, spread=0.02)
    (setting,) = settings(planted.evidence())
    found = results(setting, BITS, -1)
    assert not any(own.clear for own in found)
    assert sum(own.within_noise for own in found) == 1


def test_missing_arms_and_metrics_are_named(planted: Any) -> None:
    planted.arm("base", 2.5)
    assert one(planted).reason == "no finished run has arm=new"
    planted.arm("new", 2.4)
    several = dataclasses.replace(claim(), arms={"base": {"arm": "base"}, "new": {"train.tokens": "8000000"}})
    assert one(planted, several).reason == "several arms have train.tokens=8000000"
    found = one(planted, claim({"kind": "ordering", "better": ["new"], "than": ["base"], "metric": "test/cloze/all"}))
    assert found.outcome == Outcome.NOT_TESTABLE and "test/cloze/all was not measured" in found.reason
    (found,) = judge([claim()], {})
    assert found.reason == "table has no finished runs"


def test_a_claim_fails_if_one_comparison_does(planted: Any) -> None:
    planted.arm("base", 2.5)
    planted.arm("new", 2.4)
    planted.arm("newer", 2.6)
    own = claim(
        {"kind": "ordering", "better": ["new", "newer"], "than": ["base"]},
        arms={"base": "base", "new": "new", "newer": "newer"},
    )
    found = one(planted, own)
    assert found.outcome == Outcome.REVERSED
    assert found.reason == "the opposite of: newer better than base"
    assert [compared.outcome for compared in found.comparisons] == [Outcome.REPRODUCED, Outcome.REVERSED]


def test_a_rule_is_tested_by_the_arms_that_meet_it(planted: Any) -> None:
    for arm, bits, coverage, share in (
        ("8k", 2.6, 78, 3),
        ("32k", 2.5, 94, 12),
        ("48k", 2.49, 98, 18),
        ("100k", 2.55, 100, 38),
    ):
        planted.arm(arm, bits, coverage=coverage, share=share)
    rule = {"kind": "rule", "conditions": {"coverage": {"above": 90}, "share": {"below": 20}}}
    found = one(planted, claim(rule, arms={}))
    assert found.outcome == Outcome.REPRODUCED
    assert [compared.label for compared in found.comparisons] == [
        "arms that meet the rule better than 8k",
        "arms that meet the rule better than 100k",
    ]
    nobody = {"kind": "rule", "conditions": {"coverage": {"above": 101}}}
    assert "no arm meets coverage above 101" in one(planted, claim(nobody, arms={})).reason


def test_rank_correlations(planted: Any) -> None:
    source = np.random.default_rng(3)
    for place in range(30):
        planted.arm(f"a{place:02}", 2.8 - 0.01 * place + 0.01 * source.standard_normal(), depth=place, width=source.random())
    up = {"kind": "correlation", "column": "depth", "sign": 1, "margin": 0.2, "largest_of": ["width"]}
    found = one(planted, claim(up, arms={}))
    assert found.outcome == Outcome.REPRODUCED
    assert found.comparisons[0].seeds == 30
    down = {"kind": "correlation", "column": "depth", "sign": -1, "margin": 0.2}
    assert one(planted, claim(down, arms={})).outcome == Outcome.REVERSED


def test_the_false_discovery_rate_is_over_a_family(planted: Any) -> None:
    """Among many open claims, one that just passes its own look does not survive."""
    planted.arm("base", 2.5, spread=0.0)
    planted.arm("new", 2.4, spread=0.0)
    for row in planted.rows[3:]:
        row[BITS] = 2.5 - 0.00976 - 0.01 - 0.0029 * (row["seed"] - 1)
    planted.documents = [frame.assign(nats=100.0) for frame in planted.documents]
    just = one(planted)
    assert just.outcome == Outcome.REPRODUCED and just.survives and 0.02 < just.p <= 0.05
    own = claim({"kind": "ordering", "better": ["new"], "than": ["base"], "margin": 0.0199})
    found = judge([claim(), *[own] * 9], {"table": planted.evidence()})
    assert [kind.outcome for kind in found[1:]] == [Outcome.UNDECIDED] * 9
    assert found[0].survives is False


def test_tuning_runs_are_ignored(planted: Any) -> None:
    planted.arm("base", 2.5, role="arm")
    planted.arm("base", 9.0, (7,), role="tuning")
    planted.arm("new", 2.4, role="arm")
    (setting,) = settings(planted.evidence())
    assert sorted(setting.identities("base")) == [0, 1, 2]


def test_exact_counts_need_no_seeds(planted: Any) -> None:
    planted.arm("base", 2.5, (0,), share=21.0)
    planted.arm("new", 2.5, (1,), share=18.0)
    below = {"kind": "threshold", "arm": "new", "below": 20, "metric": "share", "margin": 0, "exact": True}
    assert one(planted, claim(below, gates=[])).outcome == Outcome.REPRODUCED
    below["arm"] = "base"
    assert one(planted, claim(below, gates=[])).outcome == Outcome.REVERSED


@pytest.mark.parametrize(
    ("halfway", "outcome"), [(2.42, Outcome.REPRODUCED), (2.48, Outcome.REVERSED), (None, Outcome.NOT_TESTABLE)]
)
def test_gains_along_a_run(planted: Any, halfway: float | None, outcome: Outcome) -> None:
    """The second half of the run gains 0.1 in total; the claim is about which half of it gains more."""
    planted.arm("base", 2.5)
    planted.arm("new", 2.4)
    rows = []
    for row in planted.rows:
        places = {1.0: row[BITS]} if row["arm"] == "base" else {0.7: halfway, 0.8: halfway, 1.0: row[BITS]}
        rows += [
            {"identity": row["identity"], "tokens": 8e6 * place, "metric": BITS, "value": v} for place, v in places.items()
        ]
    evidence = dataclasses.replace(planted.evidence(), along=pd.DataFrame(rows).dropna() if halfway else None)
    own = claim(
        {
            "kind": "ordering", "better": ["middle"], "than_mean_of": ["base", "new"], "margin": 0,
            "metric": {"middle": f"along/0.75/{BITS}", "base": f"along/1/{BITS}", "new": f"along/1/{BITS}"},
        },
        arms={"base": "base", "new": "new", "middle": "new"},
    )  # fmt: skip
    (found,) = judge([own], {"table": evidence})
    assert found.outcome == outcome, found.reason
    (setting,) = settings(evidence)
    if halfway:
        assert set(setting.by_seed("new", f"along/0.75/{BITS}").values()) == {halfway}
        last = setting.by_seed("new", BITS)
        assert setting.by_seed("new", f"along/0.9/{BITS}") == pytest.approx({s: (halfway + last[s]) / 2 for s in last})
        assert not setting.by_seed("new", f"along/0.5/{BITS}"), "before the first point"
    else:
        assert "was not measured" in found.reason


def test_frames_without_optional_columns_are_read() -> None:
    frame = pd.DataFrame({"identity": ["a", "b"], "arm": ["x", "y"], "seed": [0, 0]})
    (setting,) = settings(Evidence("e", ("arm",), frame))
    assert setting.label == "all runs"
    assert math.isnan(setting.mean("x", BITS))
