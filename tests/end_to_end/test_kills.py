"""Runs that are killed at random moments end with the results of an undisturbed run."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.execute.outcomes import litter, outcome
from tests.helpers import FORKS, TINY, run
from tinylm_ablate.config import Config
from tinylm_ablate.data.corpus import Corpus
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle

KILLS = 20


def _killed_until_done(config: Config, draw: random.Random, kills: int) -> int:
    """Start the run repeatedly and kill it at random moments while kills are left; return the number of successful kills."""
    landed = 0
    while True:
        process = FORKS.Process(target=run, args=(config,))
        process.start()
        if landed < kills:
            time.sleep(draw.uniform(0.1, 0.8))
            if process.exitcode is None:
                process.kill()
                landed += 1
        process.join(120)
        if process.exitcode == 0:
            return landed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_change_no_result(small_data: list[str], small_corpus: Corpus, tmp_path: Path) -> None:
    """In two rounds, within accumulated steps, and in the pass that measures batch losses, in fp32."""
    shared = [
        *TINY, *small_data, f"cache_dir={small_corpus.folder.parents[1]}", "train.tokens=5120", "train.micro_batch=1",
        "train.precision=fp32", "rounds.count=2", "rounds.parts=4", "train.checkpoint_minutes=1e-9", "train.log_every=1",
        "evaluate.every=0.1", "train.keep_checkpoints=[0.25,0.9]",
    ]  # fmt: skip
    whole = [*shared, f"runs_dir={tmp_path}/whole"]
    run(compose(whole))
    expected = settle(compose(whole))
    assert expected.previous is not None
    outcomes = outcome(tmp_path / "whole")
    assert "batch_losses.parquet" in outcomes[expected.previous.identity]
    draw, landed, attempt = random.Random(0), 0, 0
    while landed < KILLS:
        attempt += 1
        runs = tmp_path / f"killed-{attempt}"
        landed += _killed_until_done(compose([*shared, f"runs_dir={runs}"]), draw, KILLS - landed)
        assert outcome(runs) == outcomes
        assert not litter(runs)
