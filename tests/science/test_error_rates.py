"""Rates of false verdicts of every kind of claim, by simulations with the real code at every look."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tinylm_ablate.science.comparison import Decision, Kind, combine, decide
from tinylm_ablate.science.estimate import Estimate, ratio_variance
from tinylm_ablate.science.looks import LOOKS, adjusted, level, nominal
from tinylm_ablate.science.rank import Correlation, Larger, correlation

REPEATS = 20_000
#: Distance of an effect from the margin, as a share of the margin.
OFF = 1e-9
#: Three standard errors of a share of 5 % in this number of repeats.
ROOM = 3 * (0.05 * 0.95 / REPEATS) ** 0.5

Array = NDArray[np.float64]


def estimates(differences: Array) -> list[Estimate]:
    """Return the estimate at each look of differences over seeds, (repeats, 12)."""
    return [Estimate(own.mean(axis=1), own.std(axis=1, ddof=1), n) for n in LOOKS for own in [differences[:, :n]]]


def any_look(decisions: Sequence[Decision], false: Callable[[Decision], Array]) -> tuple[float, float]:
    """Return the share of repeats with a false verdict at the worst look, and at any look."""
    wrong = [np.broadcast_to(false(own), REPEATS) for own in decisions]
    return max(float(own.mean()) for own in wrong), float(np.any(wrong, axis=0).mean())


def false_verdicts(effects: Sequence[float], margin: float) -> Callable[[Decision], Array]:
    """Return the false verdicts of a claim that each effect is beyond the margin. They are close to it, not on it."""
    holds = all(effect > margin for effect in effects)
    turned = any(effect < -margin for effect in effects)
    none = any(abs(effect) < margin for effect in effects)
    return lambda own: (own.reproduced & (not holds)) | (own.reversed & (not turned)) | (own.no_effect & (not none))


def noise(seed: int, comparisons: int, correlation: float) -> Array:
    """Return differences over seeds without effect, (comparisons, repeats, 12), with a common part, as from a reference arm."""
    source = np.random.default_rng(seed)
    shared, own = source.standard_normal((1, REPEATS, 12)), source.standard_normal((comparisons, REPEATS, 12))
    return np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.2, 0.5, 2.0])
def test_one_comparison_errs_in_at_most_5_percent_over_all_looks(margin: float) -> None:
    differences = noise(1, 1, 0.0)[0]
    for share in (-1.5, -1 - OFF, -1 + OFF, 0.0, 0.5, 1 - OFF, 1 + OFF, 1.5):
        effect = share * margin
        found = [decide(own, margin) for own in estimates(differences + effect)]
        worst, overall = any_look(found, false_verdicts([effect], margin))
        assert worst <= overall <= 0.05 + ROOM, (effect, overall)


def test_the_margin_alone_errs_in_almost_10_percent_if_it_is_small() -> None:
    wrong = [(own.above(level()) > 0) | (own.below(level()) < 0) for own in estimates(noise(1, 1, 0.0)[0])]
    assert float(np.any(wrong, axis=0).mean()) > 0.09


def test_an_effect_on_the_margin_uses_up_the_error() -> None:
    """Verdicts are not stricter than stated: an error of half as much would waste half of the seeds."""
    found = [decide(own, 0.5) for own in estimates(noise(2, 1, 0.0)[0] + 0.5)]
    _, overall = any_look(found, false_verdicts([0.5 - OFF], 0.5))
    assert overall > 0.04


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_claim_of_several_comparisons_errs_in_at_most_5_percent(count: int, shared: float) -> None:
    differences = noise(count, count, shared)
    for margin in (0.0, 0.3):
        inside, outside = margin * (1 - OFF), margin * (1 + OFF)
        for effects in (
            [0.0] * count,
            [inside] * count,
            [outside] * count,
            [3.0] * (count - 1) + [inside],
            [3.0] * (count - 1) + [-inside],
            [-inside] * count,
        ):
            by_comparison = [
                [decide(own, margin, "better", count) for own in estimates(differences[place] + effect)]
                for place, effect in enumerate(effects)
            ]
            found = [combine(decisions) for decisions in zip(*by_comparison, strict=True)]
            worst, overall = any_look(found, false_verdicts(effects, margin))
            assert worst <= overall <= 0.05 + ROOM, (margin, effects, overall)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_claims_of_no_difference_err_in_at_most_5_percent(count: int) -> None:
    differences = noise(10 + count, count, 0.5)
    for margin in (0.05, 0.3, 1.0, 2.0):
        for effects in ([0.0] * count, [margin] * count, [0.0] * (count - 1) + [-margin]):
            by_comparison = [
                [decide(own, margin, "same", count) for own in estimates(differences[place] + effect)]
                for place, effect in enumerate(effects)
            ]
            found = [combine(decisions) for decisions in zip(*by_comparison, strict=True)]
            holds = all(abs(effect) < margin for effect in effects)
            # On the margin, both verdicts may be false; they exclude each other.
            _, overall = any_look(found, lambda own, holds=holds: own.reversed if holds else own.reproduced)
            assert overall <= 0.05 + ROOM, (margin, effects, overall)
            _, beyond = any_look(found, lambda own: own.reversed)
            assert beyond <= 0.05 + ROOM, (margin, effects, beyond)


@pytest.mark.parametrize(("kind", "edge"), [("no_worse", -0.4), ("bound", 0.4)])
@pytest.mark.parametrize("count", [1, 3])
def test_claims_with_one_edge_err_in_at_most_5_percent(kind: Kind, edge: float, count: int) -> None:
    differences = noise(20 + count, count, 0.5)
    for effect in (edge - 1e-9, edge, edge + 1e-9):
        by_comparison = [[decide(own, 0.4, kind, count) for own in estimates(own + effect)] for own in differences]
        found = [combine(decisions) for decisions in zip(*by_comparison, strict=True)]
        _, overall = any_look(found, lambda own, effect=effect: own.reproduced if effect <= edge else own.reversed)
        assert overall <= 0.05 + ROOM, (effect, overall)


def test_two_seeds_decide_nothing() -> None:
    assert LOOKS[0] == 3
    assert not decide(Estimate(1000.0, 0.001, 1), 0.1).reproduced


@pytest.mark.parametrize("share", [0.1, 1.0, 10.0])
def test_the_choice_of_documents_is_covered(share: float) -> None:
    """Seeds share the documents, so that this error does not shrink with seeds; 200 documents of unequal size."""
    source = np.random.default_rng(5)
    repeats, documents = 4000, 200
    sizes = source.lognormal(6, 1, size=documents)
    spread = share * source.standard_normal((repeats, documents)) * np.sqrt(documents)
    common = spread * sizes
    choice = common.sum(axis=1) / sizes.sum()
    variances = np.array([ratio_variance(own, sizes)[0] for own in common])
    seeds = source.standard_normal((repeats, 12))
    wrong = []
    for n in LOOKS:
        own = seeds[:, :n]
        found = Estimate(own.mean(axis=1) + choice, own.std(axis=1, ddof=1), n, ((variances, documents - 1.0),))
        decision = decide(found, 0.0)
        wrong.append(decision.reproduced | decision.reversed)
    assert float(np.any(wrong, axis=0).mean()) <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_rank_correlations_err_in_at_most_5_percent(margin: float) -> None:
    """Thirty arms whose quality becomes clearer with seeds; the true correlation is on the margin."""
    from scipy.stats import rankdata

    source = np.random.default_rng(6)
    repeats, arms = 4000, 30
    # Spearman's rho of a bivariate normal with correlation r is 6 / pi * asin(r / 2).
    r = 2 * np.sin(np.pi * margin / 6)
    column = source.standard_normal((repeats, arms))
    quality = r * column + np.sqrt(1 - r * r) * source.standard_normal((repeats, arms))
    seeds = 0.01 * source.standard_normal((12, repeats, arms))
    wrong = []
    for n in LOOKS:
        ranks = [rankdata(own, axis=1) for own in (column, quality + seeds[:n].mean(axis=0))]
        first, second = ((own - own.mean(axis=1, keepdims=True)) / own.std(axis=1, keepdims=True) for own in ranks)
        decision = decide(Correlation((first * second).mean(axis=1), arms), margin)
        wrong.append(decision.reproduced | (decision.reversed if margin == 0 else False))
    assert float(np.any(wrong, axis=0).mean()) <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5


def test_the_larger_of_two_correlations_errs_in_at_most_5_percent() -> None:
    source = np.random.default_rng(7)
    wrong = 0
    for _ in range(60):
        quality = source.standard_normal(30)
        first, second = 0.7 * quality + 0.7 * source.standard_normal((2, 30))
        wrong += bool(decide(Larger(list(first), list(second), list(quality)), 0.0).reproduced)
    assert wrong <= 60 * 0.05 + 3 * (60 * 0.05 * 0.95) ** 0.5


def test_arrays_and_numbers_give_the_same_results() -> None:
    source = np.random.default_rng(8)
    first, second = source.standard_normal((2, 30))
    one = correlation(list(first), list(second))
    assert one.above(0.05) == pytest.approx(Correlation(np.array([one.rho]), 30).above(0.05)[0])


@pytest.mark.parametrize("p", [1e-3, 5e-3, 0.0167, 0.05, 0.1, 0.3, 0.7])
def test_look_adjusted_p_values_are_not_too_small(p: float) -> None:
    from scipy.stats import t

    nominal = np.min(
        [t.sf(own.mean / own.deviation * np.sqrt(own.pairs), own.pairs - 1) for own in estimates(noise(9, 1, 0.0)[0])], axis=0
    )
    share = float((nominal <= p).mean())
    assert share - 3 * (share * (1 - share) / REPEATS) ** 0.5 <= adjusted(p) <= 1.1 * share + 0.001


@pytest.mark.parametrize("count", range(1, 13))
def test_levels_split_the_error(count: int) -> None:
    assert 0.045 <= count * adjusted(level(count)) <= 0.0515


@pytest.mark.parametrize("p", [1e-9, 1e-4, 0.0123, 0.4])
def test_adjusting_is_invertible(p: float) -> None:
    assert nominal(adjusted(p)) == pytest.approx(p)
