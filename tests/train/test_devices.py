"""One run on two processes: same results as one process, and no leftovers."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import TINY, run_command
from tests.train.test_fit import curve, decoder_of, ignore, same, weights
from tinylm_ablate.errors import ConfigError, Interrupted, RunFailed
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.devices import share
from tinylm_ablate.train.fit import fit


def on_two(settled: Settled, strategy: str = "ddp") -> Settled:
    train = dataclasses.replace(settled.config.train, devices=2, strategy=strategy)
    return dataclasses.replace(settled, config=dataclasses.replace(settled.config, train=train))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_of_one_and_go_on_where_they_were_stopped(
    strategy: str, settled: Settled, tokens: np.ndarray, tmp_path: Path
) -> None:
    alone = decoder_of(settled)
    fit(alone, tokens, settled, tmp_path / "alone", ignore)

    def stop(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == 5:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped at step 5 of 12"):
        fit(decoder_of(settled), tokens, on_two(settled, strategy), tmp_path / "two", stop)
    together = decoder_of(settled)
    fit(together, tokens, on_two(settled, strategy), tmp_path / "two", ignore)
    assert [row[0] for row in curve(tmp_path / "two")] == list(range(1, 13))
    assert np.allclose(curve(tmp_path / "two"), curve(tmp_path / "alone"), rtol=1e-5)
    one, two = weights(alone), weights(together)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    assert type(together) is type(alone), "the model is whole again"
    if strategy == "ddp":
        whole = decoder_of(settled)
        fit(whole, tokens, on_two(settled), tmp_path / "whole", ignore)
        assert same(weights(whole), two), "a run that resumes equals the run that never stopped"


def test_a_process_that_dies_is_reported(settled: Settled, tokens: np.ndarray, tmp_path: Path) -> None:
    def kill(rows: list[dict[str, float]]) -> None:
        if rows[-1]["step"] == 3:
            (other,) = multiprocessing.active_children()
            os.kill(other.pid or 0, signal.SIGKILL)

    with pytest.raises(RunFailed, match="the process of device 1"):
        fit(decoder_of(settled), tokens, on_two(settled), tmp_path, kill)


def test_a_batch_is_the_same_on_any_number_of_devices(tmp_path: Path) -> None:
    base = [*TINY, f"runs_dir={tmp_path}", "train.batch_tokens=768", "train.tokens=768"]  # 24 sequences
    one = settle(compose(base))
    for devices in (2, 3, 8, 24):
        many = settle(compose([*base, f"train.devices={devices}"]))
        assert many.identity == one.identity
        each = share(many)
        assert devices * each.micro_batch * each.accumulation == 24
    halved = settle(compose([*base, "train.devices=2", "train.micro_batch=2"]))
    assert (share(halved).micro_batch, share(halved).accumulation) == (2, 6)
    with pytest.raises(ConfigError, match=r"train.devices=5: allowed: a divisor of the 24 sequences of a batch"):
        settle(compose([*base, "train.devices=5"]))
    with pytest.raises(ConfigError, match=r"train.strategy=fsdp: allowed with optimizer=adamw"):
        settle(compose([*base, "train.devices=2", "train.strategy=fsdp", "optimizer=muon"]))


@pytest.mark.slow
def test_a_grid_of_runs_on_two_processes_leaves_no_stray_folders(small_data: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *TINY, *small_data, "train.devices=2", "seeds=2", "runs_dir=runs", "cache_dir=cache"]
    done = run_command(*arguments, folder=tmp_path)
    assert done.code == 0, done.text
    assert "2 done, 0 failed" in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "cache"}
    folders = {path.name for path in (tmp_path / "runs").iterdir()} - {"claims", "grids"}
    assert len(folders) == 2 and len(list((tmp_path / "runs").glob("*/metrics.json"))) == 2
