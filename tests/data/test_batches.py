from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.data.batches import Batches
from tinylm_ablate.errors import UserError


def row(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.uint16)


@given(st.integers(2, 3000), st.integers(1, 64), st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_an_epoch_contains_every_window_once(length: int, context: int, seed: int, round_: int) -> None:
    if length <= context:
        return
    batches = Batches(row(length), context, seed, round_)
    assert batches.epoch_windows == (length - 1) // context
    assert batches.tokens == batches.epoch_windows * context
    for epoch in range(2):
        positions = np.arange(batches.epoch_windows) + epoch * batches.epoch_windows
        assert sorted(batches.windows(positions).tolist()) == list(range(0, batches.tokens, context))


def test_windows_are_adjacent_and_share_one_token() -> None:
    batches = Batches(row(100), 8, seed=0, round=0)
    inputs = batches.inputs(np.arange(batches.epoch_windows))
    assert inputs.dtype == np.int64 and inputs.shape == (12, 9)
    order = np.argsort(inputs[:, 0])
    assert (inputs[order] == np.arange(12)[:, None] * 8 + np.arange(9)).all()
    # Every token except the first and a remainder shorter than a window is a target once.
    assert sorted(inputs[:, 1:].ravel().tolist()) == list(range(1, 97))


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40))
def test_random_access_equals_iteration(positions: list[int]) -> None:
    batches = Batches(row(1000), 10, seed=3, round=1)
    everything = batches.windows(np.arange(10_001))
    assert (batches.windows(np.array(positions)) == everything[positions]).all()
    assert (Batches(row(1000), 10, seed=3, round=1).inputs(np.array(positions)) == batches.inputs(np.array(positions))).all()


def test_seed_round_and_epoch_each_change_the_order() -> None:
    orders = {
        tuple(Batches(row(2001), 10, seed, round_).windows(np.arange(200) + 200 * epoch).tolist())
        for seed in (0, 1)
        for round_ in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 8


def test_a_text_of_one_window_and_one_that_is_too_short() -> None:
    assert Batches(row(9), 8, 0, 0).inputs(np.array([0, 5])).tolist() == [list(range(9))] * 2
    with pytest.raises(UserError, match=r"train\.context_length=8: the text has 8 tokens, and one sequence takes 9"):
        Batches(row(8), 8, 0, 0)
    with pytest.raises(UserError, match="has 0 tokens"):
        Batches(row(0), 8, 0, 0)


def test_memory_mapped_tokens(tmp_path) -> None:
    row(500).tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype="<u2", mode="r")
    positions = np.array([7, 3, 60])
    assert (Batches(mapped, 16, 5, 0).inputs(positions) == Batches(row(500), 16, 5, 0).inputs(positions)).all()
