"""The choice of layers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.errors import UserError
from tinylm_ablate.init.layers import choose_layers, spread

depths = st.integers(1, 60)


@given(parent=depths, child=depths, first=st.integers(0, 5), last=st.integers(0, 5), rule=st.sampled_from(["middle", "even"]))
def test_any_choice_is_ordered_and_whole(parent: int, child: int, first: int, last: int, rule: str) -> None:
    if rule == "middle" and child < parent and first + last > child:
        with pytest.raises(UserError, match=r"init\.keep_first"):
            choose_layers(parent, child, first, last, rule)
        return
    choice = choose_layers(parent, child, first, last, rule)
    assert len(choice.layers) == child
    assert list(choice.layers) == sorted(choice.layers)
    assert set(choice.layers) <= set(range(parent))
    assert set(choice.dropped) == set(range(parent)) - set(choice.layers)
    if child == parent:
        assert choice.layers == tuple(range(parent))
    if child <= parent:
        assert not choice.repeated
    else:
        assert not choice.dropped


@given(parent=depths, child=depths, first=st.integers(0, 5), last=st.integers(0, 5))
def test_the_ends_are_kept_once(parent: int, child: int, first: int, last: int) -> None:
    if first + last >= min(parent, child):
        return
    layers = choose_layers(parent, child, first, last).layers
    assert layers[:first] == tuple(range(first))
    assert layers[child - last :] == tuple(range(parent - last, parent))
    counts = Counter(layers)
    assert all(counts[layer] == 1 for layer in [*range(first), *range(parent - last, parent)])
    uses = [counts[layer] for layer in range(first, parent - last)]
    assert max(uses) - min(uses) <= 1


@given(count=depths, wanted=depths)
def test_spread_is_symmetric_up_to_a_step(count: int, wanted: int) -> None:
    indices = spread(count, wanted)
    mirrored = [count - 1 - index for index in reversed(indices)]
    assert all(abs(a - b) <= 1 for a, b in zip(indices, mirrored, strict=True))


def test_the_papers_depths() -> None:
    assert choose_layers(29, 21, 3, 1).layers == (
        0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 16, 18, 19, 21, 22, 24, 25, 27, 28,
    )  # fmt: skip
    grown = choose_layers(29, 40, 3, 1)
    assert grown.layers[:4] == (0, 1, 2, 3)
    assert grown.layers[-1] == 28
    assert sum(grown.repeated.values()) - len(grown.repeated) == 11
    assert "11 are repetitions" in grown.words


def test_growth_without_intermediate_layers_repeats_all() -> None:
    assert choose_layers(3, 6, 3, 1).layers == (0, 0, 1, 1, 2, 2)


def test_a_list_is_taken_as_it_is() -> None:
    choice = choose_layers(6, 4, 3, 3, [0, 2, 2, 5])
    assert (choice.layers, choice.rule, choice.repeated) == ((0, 2, 2, 5), "list", {2: 2})


@pytest.mark.parametrize(
    ("listed", "told"),
    [([0, 1], "names 2 layers"), ([0, 1, 9], "[9] are not among"), ([2, 1, 0], "ascending"), ([-1, 0, 1], "[-1]")],
)
def test_a_list_that_does_not_fit_is_refused(listed: list[int], told: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_layers(6, 3, 0, 0, listed)
    assert told in str(caught.value)


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="depths"):
        choose_layers(0, 3, 0, 0)
    with pytest.raises(ValueError, match="unknown rule"):
        choose_layers(3, 3, 0, 0, "best")
