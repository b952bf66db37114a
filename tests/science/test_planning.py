"""Seeds, tuning, decision accuracy and standard deviations of matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.science.accuracy import accuracy, between_scales
from tinylm_ablate.science.claim_files import parse
from tinylm_ablate.science.looks import LOOKS
from tinylm_ablate.science.matrices import matrix_metrics
from tinylm_ablate.science.seeds import open_questions, seeds_wanted
from tinylm_ablate.science.tuning import FURTHEST, changed_orders, tune

BITS = "test/bits_per_byte/all"


def ordering(*better: str, than: str = "base") -> Any:
    content = {
        "title": "t", "source": "s", "experiment": "table", "arms": {name: {"arm": name} for name in (*better, than)},
        "tests": [{"kind": "ordering", "better": list(better), "than": [than], "metric": BITS, "direction": "less"}],
    }  # fmt: skip
    claim, mistakes = parse("c", content)
    assert not mistakes
    return claim


def test_all_arms_start_with_the_first_look(planted: Any) -> None:
    planted.arm("base", 2.5, (0,))
    assert seeds_wanted(planted.evidence(), [], ["base", "new"]) == {"base": 3, "new": 3}


def test_only_arms_of_open_comparisons_get_seeds(planted: Any) -> None:
    planted.arm("base", 2.5, spread=0.0)
    planted.arm("clear", 2.4, spread=0.0)
    planted.arm("close", 2.49, spread=0.02)
    claims = [ordering("clear"), ordering("close")]
    assert seeds_wanted(planted.evidence(), claims) == {"base": 5, "clear": 3, "close": 5}
    assert seeds_wanted(planted.evidence(), []) == {"base": 5, "clear": 3, "close": 5}


def test_claims_that_end_without_a_decision_are_named_with_the_reason(planted: Any) -> None:
    planted.arm("base", 2.5, range(12), spread=0.0)
    planted.arm("clear", 2.4, range(12), spread=0.0)
    planted.arm("close", 2.499, range(12), spread=0.02)
    (line,) = open_questions(planted.evidence(), [ordering("clear"), ordering("close")])
    assert line.startswith("t: undecided: ") and len(line) > 20
    for row in planted.rows:
        row["tuned"] = "untuned"
    assert all(line.startswith("t: not testable here: ") for line in open_questions(planted.evidence(), [ordering("clear")]))


def test_a_decided_claim_needs_no_more_seeds(planted: Any) -> None:
    planted.arm("base", 2.5, spread=0.0)
    planted.arm("worse", 2.6, spread=0.0)
    planted.arm("close", 2.49, spread=0.02)
    assert set(seeds_wanted(planted.evidence(), [ordering("worse", "close")]).values()) == {3}


def test_the_last_look_and_untestable_claims_need_no_seeds(planted: Any) -> None:
    planted.arm("base", 2.5, range(12), spread=0.02)
    planted.arm("close", 2.49, range(12), spread=0.02)
    assert max(seeds_wanted(planted.evidence(), [ordering("close")]).values()) <= LOOKS[-1]
    for row in planted.rows:
        row["tuned"] = "untuned"
    assert set(seeds_wanted(planted.evidence(), [ordering("close")]).values()) == {3}


def run_tuning(loss: Any) -> Any:
    tried: dict[float, float] = {}
    for _ in range(20):
        found = tune(tried)
        if not found.next:
            return found
        tried |= {factor: loss(factor) for factor in found.next}
    raise AssertionError("tuning does not end")


@given(st.floats(-12, 12))
def test_tuning_ends_at_the_best_factor_or_an_edge(place: float) -> None:
    found = run_tuning(lambda factor: (math.log2(factor) - place) ** 2)
    if abs(place) < 3.4:
        assert found.state == "interior"
        assert abs(math.log2(found.best) - place) <= 0.5 + 1e-9
        losses = list(found.tried.values())
        assert losses[0] > min(losses) <= losses[-1]
    elif abs(place) > 3.6:
        assert found.state == "edge"
        assert found.best == (FURTHEST if place > 0 else 1 / FURTHEST)
    assert set(found.tried) >= {0.5, 1.0, 2.0}


def test_divergence_is_the_worst_loss() -> None:
    found = run_tuning(lambda factor: math.nan if factor > 0.3 else 3.0 + factor)
    assert found.best == 1 / FURTHEST and found.state == "edge"
    assert run_tuning(lambda _: math.inf).best is None
    assert run_tuning(lambda factor: math.inf if factor > 1 else 3 - factor).best == 1.0


def test_how_many_orders_tuning_changes() -> None:
    """At 2 tokens per parameter, the dial's rate suits 9 layers less than 40: measured orders at s32."""
    curves = {"9": {1.0: 2.586, 2.0: 2.528, 4.0: 2.659}, "20": {1.0: 2.55, 2.0: 2.602}, "x": {2.0: 2.0}}
    assert changed_orders(curves) == (1, 1)


def arms(small: list[float], large: list[float]) -> pd.DataFrame:
    rows = [
        ("e", f"a{i:02}", setting, value) for setting, own in (("s32", small), ("s16", large)) for i, value in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["experiment", "arm", "setting", "value"])


def test_decision_accuracy_counts_pairs_by_distance() -> None:
    found = accuracy(arms([2.0, 2.004, 2.1], [1.5, 1.49, 1.6]), "s32", "s16")
    assert found.overall.pairs == 3 and found.overall.share == pytest.approx(2 / 3)
    assert math.isnan(found.overall.low)
    by = {own.distance: (own.pairs, own.share) for own in found.by_distance if own.pairs}
    assert by == {(0.0, 0.005): (1, 0.0), (0.05, math.inf): (2, 1.0)}


def test_the_interval_of_decision_accuracy_covers_in_about_95_percent() -> None:
    """The true values of arms correlate between two scales; the true accuracy is the share over very many arms."""
    source = np.random.default_rng(0)
    covariance = [[1.0, 0.8], [0.8, 1.0]]
    truth = 0.5 + math.asin(0.8) / math.pi
    hits = 0
    for _ in range(40):
        drawn = source.multivariate_normal([0, 0], covariance, size=30)
        found = accuracy(arms(list(drawn[:, 0]), list(drawn[:, 1])), "s32", "s16").overall
        hits += found.low <= truth <= found.high
    assert hits >= 40 * 0.95 - 3 * (40 * 0.95 * 0.05) ** 0.5


def test_arms_of_different_experiments_are_no_pair_and_missing_scales_give_none() -> None:
    both = pd.concat([arms([1, 2], [1, 2]), arms([1, 2], [2, 1]).assign(experiment="f")])
    found = accuracy(both, "s32", "s16")
    assert found.overall.pairs == 2 and found.overall.share == 0.5
    nothing = accuracy(both, "s32", "s8")
    assert nothing.overall.pairs == 0 and math.isnan(nothing.overall.share)


def test_scales_are_compared_at_similar_budgets(planted: Any) -> None:
    """At 2 tokens per parameter, the small scale orders the arms wrongly, at 8 correctly; the larger scale was run at 8."""
    for scale, parameters, ratio, order in (("s32", 1e6, 2, -1), ("s32", 1e6, 8, 1), ("s16", 4e6, 8, 1)):
        for place in range(6):
            more = {"scale": scale, "parameters": parameters, "tokens": ratio * parameters, "grid": f"{scale}{ratio}"}
            planted.arm(f"a{place}", 2.5 + 0.02 * order * place, (0,), spread=0.0, **more)
    found = between_scales({"table": planted.evidence()}, BITS, "s32", "s16")
    assert found.overall.pairs == 15 and found.overall.share == 1.0


def test_matrix_metrics() -> None:
    names = ("q", "k", "v", "out", "gate", "up", "down")
    rows = [(layer, name, 0.02 + 0.01 * layer * (name in names[:4])) for layer in range(2) for name in names]
    found = matrix_metrics(pd.DataFrame(rows, columns=["layer", "matrix", "trained_std"]))
    assert found["matrix_std/variation/ffn"] == 0
    assert found["matrix_std/variation/attention"] == pytest.approx(0.01 / 2**0.5 / 0.025)
    assert found["matrix_std/trained"] == pytest.approx((10 * 0.02 + 4 * 0.03) / 14)
