"""Runs that are killed at random moments end with the numbers of an undisturbed run."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import FORKS, TINY, run
from tinylm_ablate.data.corpus import Corpus
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle

KILLS = 20
#: Of a row of the curve and of the metrics: what two runs of one computation need not share.
TIMES = ("seconds", "tokens_per_second")


def _work(overrides: list[str]) -> None:
    run(compose(overrides))


def _killed_until_done(overrides: list[str], draw: random.Random, kills: int) -> int:
    """Start the run again and again; kill each start at a random moment while there are kills left. Returns how many landed."""
    landed = 0
    while True:
        process = FORKS.Process(target=_work, args=(overrides,))
        process.start()
        if landed < kills:
            time.sleep(draw.uniform(0.2, 3.0))
            if process.exitcode is None:
                process.kill()
                landed += 1
        process.join(120)
        if process.exitcode == 0:
            return landed


def _numbers(folder: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return {
        "weights": (folder / "model" / "model.safetensors").read_bytes(),
        "curve": [{key: value for key, value in row.items() if key not in TIMES} for row in rows],
        "metrics": {key: value for key, value in metrics.items() if not key.endswith(TIMES)},
        "measures": {path.stem: json.loads(path.read_text())["metrics"] for path in folder.glob("measures/*.json")},
        "rows": {path.name: path.read_bytes() for path in folder.rglob("*.parquet")},
    }


@pytest.mark.timeout(600)
def test_twenty_kills_change_nothing(small_data: list[str], small_corpus: Corpus, tmp_path: Path) -> None:
    """Across two rounds, within accumulated steps and in the pass that measures batch losses, in fp32."""
    shared = [
        *TINY, *small_data, f"cache_dir={small_corpus.folder.parents[1]}", "train.tokens=5120", "train.micro_batch=1",
        "train.precision=fp32", "rounds.count=2", "rounds.parts=4", "train.checkpoint_minutes=1e-9", "train.log_every=1",
    ]  # fmt: skip
    whole = [*shared, f"runs_dir={tmp_path}/whole"]
    run(compose(whole))
    expected = settle(compose(whole))
    assert expected.previous is not None
    draw, landed, attempt = random.Random(0), 0, 0
    while landed < KILLS:
        attempt += 1
        overrides = [*shared, f"runs_dir={tmp_path}/killed-{attempt}"]
        landed += _killed_until_done(overrides, draw, KILLS - landed)
        for before in (expected, expected.previous):
            after = tmp_path / f"killed-{attempt}" / before.identity
            assert _numbers(after) == _numbers(before.folder)
            assert not [path for path in after.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
        assert (tmp_path / f"killed-{attempt}" / expected.previous.identity / "batch_losses.parquet").exists()
