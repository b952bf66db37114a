"""Beginning and end of rounds."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import TINY
from tinylm_ablate.budget import Rounds, part_sizes, split_rounds
from tinylm_ablate.config import RoundsConfig
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle


@cache
def shipped() -> RoundsConfig:
    return compose(["rounds=two"]).rounds


def rounds(steps: int, **changes: Any) -> Rounds:
    laid_out, mistakes = split_rounds(dataclasses.replace(shipped(), **changes), steps)
    assert not mistakes
    assert laid_out is not None
    return laid_out


@given(st.integers(1, 5000), st.integers(1, 64))
def test_parts_are_equal_and_complete(steps: int, parts: int) -> None:
    sizes = part_sizes(steps, min(parts, steps))
    assert sum(sizes) == steps
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(8, 5000), st.floats(0.2, 1), st.integers(2, 5))
def test_two_rounds_equal_a_longer_one_in_steps(steps: int, rate: float, count: int) -> None:
    laid_out = rounds(steps, sampling_rate=rate, count=count)
    assert laid_out.later == int(rate * steps + 1e-6)
    assert all(0 <= drawn <= size for drawn, size in zip(laid_out.drawn, laid_out.parts, strict=True))
    assert laid_out.steps == steps + (count - 1) * laid_out.later
    assert laid_out.before().steps == laid_out.start


def test_the_learning_rate_of_later_rounds() -> None:
    assert [rounds(100, schedule="rewarm").place(step) for step in (0, 99, 100, 149)] == [
        (0, 100),
        (99, 100),
        (0, 50),
        (49, 50),
    ]
    assert [rounds(100, schedule="constant").place(step) for step in (0, 99, 100, 149)] == [
        (0, 100),
        (99, 100),
        (99, 100),
        (99, 100),
    ]
    assert [rounds(100, schedule="continue").place(step) for step in (0, 99, 100)] == [(0, 150), (99, 150), (100, 150)]
    three = rounds(100, schedule="continue", count=3)
    assert three.before().place(120) == three.place(120) == (120, 200)


def test_arms_share_what_they_have_in_common() -> None:
    def run(*overrides: str) -> Any:
        return settle(compose([*TINY, "train.tokens=2560", *overrides]))

    one, two, three = run(), run("rounds.count=2"), run("rounds.count=3")
    assert two.previous.identity == one.identity
    assert three.previous.identity == two.identity
    assert run("rounds.count=2", "rounds.sampling_rate=0").identity == one.identity
    assert run("rounds.count=2", "rounds.rule=uniform").identity != two.identity
    whole = [
        run("rounds.count=2", "rounds.sampling_rate=1", f"rounds.rule={rule}").identity for rule in ("loss", "uniform", "none")
    ]
    assert len(set(whole)) == 1
    assert run("rounds.temperature=2", "rounds.rule=top", "rounds.schedule=constant").identity == one.identity  # one round
    constant = run("rounds.count=2", "rounds.schedule=constant")
    assert constant.previous.identity == one.identity
    assert constant.previous.keep_state
    assert run("rounds.count=2", "rounds.schedule=continue").previous.identity != one.identity  # another schedule
    assert two.tokens == one.tokens * 3 // 2


def test_impossible_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rounds.parts=8: allowed: at most the first round's 4 batches"):
        settle(compose([*TINY, "rounds.count=2"]))
    with pytest.raises(ConfigError, match=r"rounds.sampling_rate=0.01: draws none of 20 batches in 8 parts; allowed: 0 "):
        settle(compose([*TINY, "train.tokens=2560", "rounds.count=2", "rounds.sampling_rate=0.01"]))
