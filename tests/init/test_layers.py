"""The choice of layers."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.errors import UserError
from tinylm_ablate.init.layer_choice import choose_layers, parse_layers, spread

depths = st.integers(1, 60)


@given(parent=depths, child=depths, first=st.integers(0, 5), last=st.integers(0, 5), rule=st.sampled_from(["middle", "even"]))
def test_any_choice_is_ordered_and_complete(parent: int, child: int, first: int, last: int, rule: str) -> None:
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


def test_a_list_is_used_unchanged() -> None:
    choice = choose_layers(6, 4, 3, 3, [0, 2, 2, 5])
    assert (choice.layers, choice.rule, choice.repeated) == ((0, 2, 2, 5), "list", {2: 2})


@pytest.mark.parametrize(
    ("listed", "message"),
    [([0, 1], "has 2 layers"), ([0, 1, 9], "[9] are not among"), ([2, 1, 0], "ascending"), ([-1, 0, 1], "[-1]")],
)
def test_a_list_that_does_not_fit_is_refused(listed: list[int], message: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_layers(6, 3, 0, 0, listed)
    assert message in str(caught.value)


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="depths"):
        choose_layers(0, 3, 0, 0)
    with pytest.raises(UserError, match=r"init\.layers=best: allowed: middle, even, importance"):
        choose_layers(3, 3, 0, 0, "best")
    with pytest.raises(ValueError, match="needs the costs of 3 layers"):
        choose_layers(3, 2, 0, 0, "importance", [1.0, 2.0])


@given(costs=st.lists(st.floats(-1, 5), min_size=1, max_size=40), data=st.data())
def test_importance_drops_the_layers_that_cost_least(costs: list[float], data: st.DataObject) -> None:
    depth = len(costs)
    child = data.draw(st.integers(1, depth))
    first = data.draw(st.integers(0, child))
    last = data.draw(st.integers(0, child - first))
    choice = choose_layers(depth, child, first, last, "importance", costs)
    assert len(choice.layers) == len(set(choice.layers)) == child
    assert list(choice.layers) == sorted(choice.layers)
    ends = {*range(first), *range(depth - last, depth)}
    assert ends <= set(choice.layers)
    free = set(choice.layers) - ends
    assert all(costs[kept] >= costs[gone] for kept in free for gone in choice.dropped)
    assert choice.costs == (tuple(costs) if child < depth else None)
    assert choice.record()["kept"] == list(choice.layers)


def test_importance_by_hand() -> None:
    choice = choose_layers(6, 3, 1, 1, "importance", [0.0, 0.4, 0.1, 0.3, 0.2, 0.0])
    assert choice.layers == (0, 1, 5)
    assert choice.record() == {
        "rule": "importance", "words": choice.words, "kept": [0, 1, 5], "dropped": [2, 3, 4], "repeated": {},
        "skipping_costs": [0.0, 0.4, 0.1, 0.3, 0.2, 0.0],
    }  # fmt: skip
    assert choose_layers(6, 3, 0, 0, "importance", [1.0] * 6).layers == (0, 1, 2)
    # A deeper child repeats layers as with "middle"; nothing is measured for it.
    assert choose_layers(4, 6, 1, 1, "importance").layers == choose_layers(4, 6, 1, 1, "middle").layers


@pytest.mark.parametrize(
    ("text", "layers"),
    [("0-3,7,9-11", (0, 1, 2, 3, 7, 9, 10, 11)), ("5", (5,)), (" 1 - 2 , 4 ", (1, 2, 4)), ("0,0,1", (0, 0, 1))],
)
def test_a_list_is_written_with_ranges(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text) == layers
    assert choose_layers(12, len(layers), 3, 1, text).layers == layers


@pytest.mark.parametrize("text", ["", "middel", "1-", "-3", "1;2", "1,,2", "0.5"])
def test_invalid_lists_are_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=r"init\.layers=.*allowed: middle, even, importance, or the parent's layers as '0-3,7,9-11'"
    ):
        parse_layers(text)


@pytest.mark.parametrize(
    ("layers", "child", "message"),
    [
        ("middle", 3, None), ("importance", 3, None), ("even", 1, None), ("0-2", 3, None),
        ("importance", 1, "init.keep_first=1, init.keep_last=1: together 2, more than the child's 1 layers"),
        ("0-3", 3, "init.layers=0,1,2,3: it has 4 layers, but the child has 3 (arch.depth)"),
        ("best", 3, "init.layers=best: allowed"),
    ],
)  # fmt: skip
def test_mistakes_of_a_choice_are_reported(layers: str, child: int, message: str | None) -> None:
    with nullcontext() if message is None else pytest.raises(UserError, match=f"^{re.escape(message)}"):
        choose_layers(6, child, 1, 1, layers, [0.0] * 6)
