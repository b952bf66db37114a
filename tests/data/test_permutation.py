from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.data.permutation import Permutation

SIZES = st.integers(1, 5000)
KEYS = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 10), st.integers(0, 2**40))


@given(SIZES, KEYS)
def test_every_item_occurs_once(size: int, key: tuple[int, ...]) -> None:
    items = Permutation(size, key)(np.arange(size))
    assert sorted(items.tolist()) == list(range(size))


@given(st.integers(1, 2**62), KEYS, st.data())
def test_single_positions_equal_positions_in_an_array(size: int, key: tuple[int, ...], data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    together = Permutation(size, key)(positions)
    assert (together >= 0).all() and (together < size).all()
    assert [int(Permutation(size, key)(positions[i : i + 1])[0]) for i in range(len(positions))] == together.tolist()
    assert len(np.unique(together)) == len(np.unique(positions))


def test_order_is_pinned() -> None:
    # The order is part of a run's identity: if it changes, older records belong to other runs.
    assert Permutation(10, (1, 2, 3))(np.arange(10)).tolist() == [0, 7, 5, 6, 9, 4, 3, 8, 1, 2]


@pytest.mark.parametrize("size", [2, 7, 100, 257, 4096])
def test_each_item_is_at_each_place_equally_often(size: int) -> None:
    # 2000 keys: each item is first about 2000/size times, and chi-square per degree of freedom is about 1.
    draws = np.array([Permutation(size, (key, 0, 0))(np.array([0, size - 1])) for key in range(2000)])
    for place in range(2):
        groups = np.bincount(draws[:, place] * min(size, 64) // size, minlength=min(size, 64))
        expected = np.bincount(np.arange(size) * min(size, 64) // size) * 2000 / size
        chi_square = ((groups - expected) ** 2 / expected).sum()
        freedom = len(groups) - 1
        assert chi_square < freedom + 6 * np.sqrt(2 * freedom)


def test_neighbors_are_separated() -> None:
    items = Permutation(100_000, (0, 0, 0))(np.arange(100_000))
    steps = np.abs(np.diff(items))
    # The mean distance of two random places of n is n/3.
    assert 0.32 < steps.mean() / 100_000 < 0.35
    assert abs(np.corrcoef(np.arange(100_000), items)[0, 1]) < 0.02


def test_the_shape_is_kept_and_a_size_of_zero_is_refused() -> None:
    assert Permutation(50, (0,))(np.arange(12).reshape(3, 4)).shape == (3, 4)
    assert Permutation(1, (0,))(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]
    assert Permutation(5, (0,))(np.array([], dtype=np.int64)).size == 0
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, (0,))
