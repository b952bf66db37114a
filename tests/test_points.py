"""Intermediate points at which a run is kept and measured, and branches."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import TINY
from tinylm_ablate import points
from tinylm_ablate.budget import Rounds, branch_off, split_rounds
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.optimizer.schedule import run_factor
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.batch_order import learning_rate

#: A constant rate with a warm-up in tokens.
CONFIG = compose([*TINY, "optimizer.schedule=constant"])
OPTIMIZER, ROUNDS = CONFIG.optimizer, CONFIG.rounds


def rounds_of(steps: int) -> Rounds:
    found, mistakes = split_rounds(ROUNDS, steps)
    assert found is not None, mistakes
    return found


def settled(*overrides: str) -> Settled:
    return settle(compose(["runs_dir=nowhere", *TINY, "train.tokens=5120", *overrides]))


@given(st.floats(1e-3, 1.0), st.integers(0, 50), st.integers(51, 5000), st.sampled_from([1, 128, 4096]))
def test_points_are_within_the_run_and_the_last_is_its_end(every: float, first: int, steps: int, batch: int) -> None:
    found = points.evaluated(every, first, steps, batch)
    assert found == sorted(set(found)) and found[-1] == steps and found[0] > first
    assert found == points.evaluated(every * steps * batch if every * steps * batch > 1 else every, first, steps, batch)
    distance = every * steps
    assert all(abs(step - distance * round(step / distance)) <= 0.5 + 1e-6 or distance < 1 for step in found[:-1])


@pytest.mark.parametrize(
    ("override", "expected"),
    [("[0.25,0.5]", [10, 20]), ("[0.5,2560,1]", [20, 40]), ("[1280.0]", [10]), ("[]", []), ("[0.0001]", [1])],
)
def test_shares_and_tokens(override: str, expected: list[int]) -> None:
    assert points.kept(settled(f"train.keep_checkpoints={override}")) == expected


@pytest.mark.parametrize(
    "override",
    ["evaluate.every=0.1", "evaluate.every_bytes=100", "evaluate.every_measures=[cloze]", "train.keep_checkpoints=[0.5]"],
)
def test_measuring_points_does_not_change_the_identity(override: str) -> None:
    assert settled(override).identity == settled().identity


def test_each_of_two_rounds_keeps_its_own_points() -> None:
    two = settled("rounds=two", "rounds.parts=4", "train.keep_checkpoints=[0.1,0.5,0.9]")
    assert two.previous is not None and (two.previous.steps, two.steps) == (40, 60)
    assert (points.kept(two.previous), points.kept(two)) == ([6, 30], [54])


def test_a_parent_is_not_measured_during_training() -> None:
    shape = ["init.parent_depth=3", "init.parent_width=32", "init.parent_ffn_width=48", "init.keep_first=1", "init.keep_last=1"]
    child = settled("init=inherit", *shape, "evaluate.every=0.1", "train.keep_checkpoints=[0.5]")
    assert child.parent is not None and points.evaluated_steps(child)
    assert points.evaluated_steps(child.parent) == points.kept(child.parent) == []


def test_a_branch_is_a_separate_run_that_continues_another() -> None:
    branch, plain = settled("train.anneal_from=0.5"), settled()
    assert branch.identity != plain.identity
    assert branch.previous is not None and branch.previous.identity == plain.identity
    assert points.kept(branch.previous) == [20]
    assert branch.rounds.start == 20 and branch.steps == 25 and branch.tokens == 25 * 128
    assert branch.identity != settled("train.anneal_from=0.6").identity
    assert settled("train.anneal_from=2560").identity == branch.identity
    assert settled("train.anneal_from=0.5", "optimizer.decay_share=0.4").steps == 33


def test_a_branch_and_its_run_each_keep_their_own_points() -> None:
    branch = settled("train.anneal_from=0.5", "train.keep_checkpoints=[0.2,0.88,3000]")
    assert branch.previous is not None and (branch.previous.steps, branch.rounds.start, branch.steps) == (40, 20, 25)
    assert (points.kept(branch.previous), points.kept(branch)) == ([5, 20], [22, 23])
    assert branch.identity == settled("train.anneal_from=0.5").identity
    with pytest.raises(ConfigError, match="3840; allowed: shares of the budget"):  # step 30 precedes the branch
        settled("train.anneal_from=0.5", "train.keep_checkpoints=[3840]")


@given(st.integers(1, 3000), st.floats(0.01, 0.9), st.integers(1, 500))
def test_a_branch_of_a_constant_rate_has_the_rates_of_wsd(branch: int, share: float, warmup: int) -> None:
    """Compared with the schedule wsd of a run with the branch's steps."""
    trunk = rounds_of(4000)
    found = branch_off(trunk, branch, share)
    optimizer = dataclasses.replace(OPTIMIZER, warmup=float(128 * min(warmup, branch)), decay_share=share)
    wsd = dataclasses.replace(optimizer, schedule="wsd")
    assert found.start == branch and found.steps > branch
    for step in {0, warmup, branch - 1, branch, branch + 1, (branch + found.steps) // 2, found.steps - 1} & set(
        range(found.steps)
    ):
        assert run_factor(optimizer, found, step, 128) == run_factor(wsd, rounds_of(found.steps), step, 128)


def test_the_rate_of_a_cosine_decreases_from_its_value() -> None:
    branch, plain = settled("train.anneal_from=0.5"), settled()
    rates = [learning_rate(branch, step) for step in range(20, 25)]
    assert rates[0] == learning_rate(plain, 20)
    steps = [before - after for before, after in itertools.pairwise(rates)]
    assert steps == pytest.approx([steps[0]] * 4) and rates[-1] - steps[0] == pytest.approx(0.1 * plain.learning_rate)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.keep_checkpoints=[0.5,-1]", r"train.keep_checkpoints=\[0.5, -1.0\]: -1; allowed: shares of the budget"),
        ("train.keep_checkpoints=[1e9]", "1e.09; allowed: shares"),
        ("evaluate.measures=[bits,cloze]", r"evaluate.measures=\['bits', 'cloze'\]: bits; allowed: .*bigrams.*cloze"),
        ("evaluate.every=0", "evaluate.every=0.0: allowed: a number above 0"),
        ("evaluate.every=1e-9", "evaluate.every=1e-09: allowed: at most 1,000 measurements per run"),
        ("evaluate.every_measures=[bits]", r"evaluate.every_measures=\['bits'\]: bits; allowed: .*bits_per_byte.*cloze"),
        ("train.anneal_from=1e9", "train.anneal_from=1e.09: step 7,812,500 of 40; allowed: up to step 40"),
        ("optimizer.decay_share=1", "optimizer.decay_share=1: allowed with train.anneal_from: below 1"),
        ("rounds=two", "train.anneal_from=0.5: allowed with rounds.count=1"),
        ("optimizer.schedule=wsd optimizer.decay_share=0.6", "step 20 of 40; allowed: up to step 16, where the decay"),
    ],
)
def test_mistakes_are_named(override: str, words: str) -> None:
    more = [] if override.startswith(("train.", "evaluate.")) else ["train.anneal_from=0.5", "rounds.parts=4"]
    with pytest.raises(ConfigError, match=words):
        settled("evaluate.every=0.5", *more, *override.split())
