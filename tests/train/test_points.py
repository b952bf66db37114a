"""Intermediate models: of single runs, stacks, and stopped runs."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.test_fit import curve, decoder_of, ignore, same, weights
from tests.train.test_stack import run
from tinylm_ablate.errors import Interrupted
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.fit import fit
from tinylm_ablate.train.member import Checkpoint, Member, Start
from tinylm_ablate.train.stack import train_stack

POINTS = frozenset({3, 7, 20})


class Keeper:
    """Copies its arguments."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.states: dict[int, Checkpoint] = {}

    def __call__(self, weights: Mapping[str, Tensor], state: Checkpoint) -> None:
        self.weights[state.step] = {name: value.detach().clone() for name, value in weights.items()}
        self.states[state.step] = state


def trained(settled: Settled, tokens: np.ndarray, folder: Path) -> Keeper:
    keeper = Keeper()
    fit(decoder_of(settled), tokens, settled, folder, ignore, None, POINTS, keeper)
    return keeper


@pytest.mark.parametrize("name", ["adamw", "schedule_free"])
def test_a_model_on_the_way_is_that_of_a_run_that_ends_there(name: str, tokens: np.ndarray, tmp_path: Path) -> None:
    """With a constant rate, the shorter run is the same computation; its weights are those to use a model with."""
    common = [f"optimizer={name}", "optimizer.schedule=constant", "optimizer.warmup=256", "optimizer.scaling.base_lr=0.003"]
    long = run(tmp_path, *common, steps=20)
    keeper = trained(long, tokens, tmp_path / "long")
    assert set(keeper.weights) == POINTS
    for step in POINTS:
        short = decoder_of(run(tmp_path, *common, steps=step))
        fit(short, tokens, run(tmp_path, *common, steps=step), tmp_path / str(step), ignore)
        assert same(weights(short), keeper.weights[step])


def test_in_a_stack_as_alone(tokens: np.ndarray, tmp_path: Path) -> None:
    """Members with other points, or with none, train together."""
    pair = [run(tmp_path, f"seed={seed}", "optimizer=schedule_free", steps=20) for seed in range(3)]
    keepers = [Keeper() for _ in pair]
    wanted = [POINTS, frozenset({2, 20}), frozenset()]
    members = [
        Member(decoder_of(each), tokens, each, tmp_path / str(index), ignore, Start(), wanted[index], keepers[index])
        for index, each in enumerate(pair)
    ]
    outcomes = train_stack(members)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for index, (each, keeper) in enumerate(zip(pair, keepers, strict=True)):
        assert set(keeper.weights) == wanted[index]
        alone = Keeper()
        fit(decoder := decoder_of(each), tokens, each, tmp_path / "alone" / str(index), ignore, None, wanted[index], alone)
        assert all(same(alone.weights[step], keeper.weights[step]) for step in wanted[index])
        assert same(weights(decoder), weights(members[index].decoder))
        assert curve(tmp_path / "alone" / str(index)) == curve(tmp_path / str(index))


@pytest.mark.parametrize("stop_at", [6, 7, 8])
def test_a_run_that_resumes_has_all_points(stop_at: int, tokens: np.ndarray, tmp_path: Path) -> None:
    settled = run(tmp_path, "train.log_every=1", steps=20)
    whole = trained(settled, tokens, tmp_path / "whole")

    def stop(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == stop_at:
            signal.raise_signal(signal.SIGTERM)

    first, second = Keeper(), Keeper()
    with pytest.raises(Interrupted):
        fit(decoder_of(settled), tokens, settled, tmp_path / "parts", stop, None, POINTS, first)
    fit(decoder_of(settled), tokens, settled, tmp_path / "parts", ignore, None, POINTS, second)
    assert not set(first.weights) & set(second.weights)
    found = first.weights | second.weights
    assert set(found) == POINTS and all(same(found[step], whole.weights[step]) for step in POINTS)


def test_what_a_point_gives_is_the_state_to_resume_from(tokens: np.ndarray, tmp_path: Path) -> None:
    from tinylm_ablate.train import checkpoint

    settled = run(tmp_path, steps=20)
    whole = decoder_of(settled)
    keeper = Keeper()
    folder = tmp_path / "other"

    def keep(weights: Mapping[str, Tensor], state: Checkpoint) -> None:
        keeper(weights, state)
        if state.step == 7:
            checkpoint.save(folder / "checkpoint", state)

    fit(whole, tokens, settled, tmp_path / "whole", ignore, None, POINTS, keep)
    again = decoder_of(settled)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    fit(again, tokens, settled, folder, ignore)
    assert same(weights(whole), weights(again))
    assert curve(folder) == curve(tmp_path / "whole")
