"""Drawing batches by their loss."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_budget import rounds
from tinylm_ablate.rounds.draw import Drawn, draw, effective_share


def losses_of(steps: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    return 3 + spread * np.random.default_rng(seed).standard_normal(steps)


def in_part(drawn: Drawn, first: int, after: int) -> list[int]:
    return sorted(int(batch) for batch in drawn.batches if first <= batch < after)


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 300), st.sampled_from(["loss", "uniform", "top", "none"]), st.floats(0.2, 1), st.integers(0, 9))
def test_each_part_contributes_its_share_without_repetition(steps: int, rule: str, rate: float, seed: int) -> None:
    laid_out = rounds(steps, rule=rule, sampling_rate=rate)
    drawn = draw(laid_out, losses_of(steps), seed)
    assert len(set(drawn.batches.tolist())) == len(drawn.batches) == laid_out.later
    edges = np.cumsum([0, *laid_out.parts])
    assert [len(in_part(drawn, a, b)) for a, b in itertools.pairwise(edges)] == list(laid_out.drawn)
    assert np.array_equal(draw(laid_out, losses_of(steps), seed).batches, drawn.batches)


def test_top_selects_the_highest() -> None:
    laid_out, losses = rounds(40, rule="top", parts=4), losses_of(40)
    drawn = draw(laid_out, losses, 0)
    for part in range(4):
        highest = sorted(10 * part + np.argsort(losses[10 * part : 10 * part + 10])[-5:])
        assert in_part(drawn, 10 * part, 10 * part + 10) == highest


def test_by_loss_follows_softmax_without_replacement() -> None:
    """Compared with torch.multinomial, as in the paper's code, over many seeds."""
    import torch

    laid_out = rounds(6, parts=1, rule="loss", temperature=0.7)
    losses = np.array([1.0, 2.0, 2.5, 0.5, 3.0, 1.5])
    repeats = 4000
    counts = np.zeros(6)
    for seed in range(repeats):
        counts[draw(laid_out, losses, seed).batches] += 1
    p = torch.softmax(torch.tensor(losses) / 0.7, 0).expand(repeats, -1)
    torch.manual_seed(0)
    expected = torch.bincount(torch.multinomial(p, 3, replacement=False).flatten(), minlength=6).numpy()
    assert np.abs(counts - expected).max() < 5 * np.sqrt(repeats / 2)
    assert counts.argmax() == 4
    assert counts.argmin() == 3


def test_equal_losses_are_drawn_evenly_and_reported_so() -> None:
    laid_out = rounds(80, rule="loss")
    flat = draw(laid_out, np.full(80, 2.5), 3)
    even = draw(dataclasses.replace(laid_out, rule="uniform"), None, 3)
    assert np.array_equal(flat.batches, even.batches)
    assert flat.record["parts"][0]["effective_share"] == pytest.approx(1)
    assert "effective_share" not in even.record["parts"][0]


def test_effective_share() -> None:
    assert effective_share(np.array([0.0, 0.0, 50.0, 0.0]), 1.0) == pytest.approx(0.25)
    assert effective_share(np.array([0.0, np.log(3.0)]), 1.0) == pytest.approx(1 / (0.25**2 + 0.75**2) / 2)
    assert effective_share(np.array([1000.0, 1001.0]), 1e9) == pytest.approx(1)


def test_the_order_is_new_and_the_same_for_rules_that_draw_alike() -> None:
    laid_out = rounds(40, rule="none")
    drawn = draw(laid_out, None, 0)
    assert sorted(drawn.batches) == list(range(40))
    assert list(drawn.batches) != list(range(40))
    assert not np.array_equal(drawn.batches, draw(laid_out, None, 1).batches)
