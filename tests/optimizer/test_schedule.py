"""Schedules compared with their closed forms."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.budget import split_rounds
from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.optimizer.schedule import drawn, factor, run_factor, warmup_steps


@cache
def shipped() -> OptimizerConfig:
    return compose([]).optimizer


def optimizer(**changes: Any) -> OptimizerConfig:
    return dataclasses.replace(shipped(), **changes)


@pytest.mark.parametrize(("warmup", "steps"), [(0.03, 30), (0.0, 0), (8192.0, 1), (20000.0, 3), (1e9, 1000)])
def test_warmup_is_a_share_or_tokens(warmup: float, steps: int) -> None:
    assert warmup_steps(optimizer(warmup=warmup), 1000, 8192) == steps


def test_cosine_of_the_paper() -> None:
    config = optimizer()
    assert factor(config, 30, 1000, 30) == pytest.approx(1.0)
    assert factor(config, 515, 1000, 30) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert factor(config, 999, 1000, 30) == pytest.approx(0.1, abs=1e-4)
    assert factor(config, 14, 1000, 30) == pytest.approx(15 / 31)


def test_linear_wsd_and_constant() -> None:
    assert factor(optimizer(schedule="linear"), 500, 1000, 0) == pytest.approx(1 - 0.9 * 0.5)
    assert factor(optimizer(schedule="wsd"), 799, 1000, 0) == 1.0
    assert factor(optimizer(schedule="wsd"), 900, 1000, 0) == pytest.approx(1 - 0.9 * 0.5)
    assert factor(optimizer(schedule="constant"), 999, 1000, 0) == 1.0


@given(st.sampled_from(["cosine", "linear", "wsd", "constant"]), st.integers(1, 400), st.data())
def test_a_rate_rises_only_during_warmup(schedule: str, steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps))
    rates = [factor(optimizer(schedule=schedule), step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_each_round_has_its_own_schedule() -> None:
    config = optimizer(warmup=0.0)
    two = dataclasses.replace(compose(["rounds=two"]).rounds, parts=1)
    laid_out, _ = split_rounds(two, 100)
    assert laid_out is not None
    rates = [run_factor(config, laid_out, step, 1) for step in range(150)]
    assert rates[:100] == [factor(config, step, 100, 0) for step in range(100)]
    assert rates[100:] == [factor(config, step, 50, 0) for step in range(50)]
    line = drawn(config, laid_out, 1, columns=30)
    assert len(line) == 30
    assert line[0] == line[20] == "█"
    assert line[19] == line[29] == "▁"
