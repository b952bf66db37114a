"""Many workers on one grid: no cell is trained twice, nothing is lost, whoever is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.helpers import TINY

ROOT = Path(__file__).resolve().parents[2]

#: Cells that differ, a little longer than the tiniest, so that workers die in the midst of them.
CELLS = ["arch.depth=1,2", "seeds=3", "train.tokens=9600", "train.checkpoint_minutes=0.002", "train.log_every=1"]


def disturbed(folder: Path, *, seed: int, kills: int, apart: bool, arguments: list[str]) -> dict[str, int]:
    """Run the grid whole, and again with four workers of which some are killed; the exit codes of those that ended."""
    spec = {"seed": seed, "workers": 4, "kills": kills, "pause": [0.2, 2.0], "apart": apart, "arguments": arguments}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.grid.workers", json.dumps(spec)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    logs = "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    codes: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    assert set(codes.values()) == {0}, logs
    return codes


def outcome(folder: Path) -> dict[str, dict[str, float]]:
    """What each run measured, but for how fast it was."""
    return {
        path.parent.name: {
            name: value for name, value in json.loads(path.read_text())["metrics"].items() if "second" not in name
        }
        for path in folder.glob("*/metrics.json")
    }


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True], ids=["one machine", "machines without locks"])
def test_killed_workers_end_with_the_table_of_an_undisturbed_grid(apart: bool, small_data: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *TINY, *small_data, *CELLS, f"cache_dir={tmp_path / 'cache'}", "grid.lease_seconds=2"]
    codes = disturbed(tmp_path, seed=7 + apart, kills=5, apart=apart, arguments=arguments)
    whole, runs = outcome(tmp_path / "whole"), outcome(tmp_path / "runs")
    assert len(whole) == 6 and runs == whole
    for identity in whole:
        one, other = (load_file(tmp_path / name / identity / "model" / "model.safetensors") for name in ("whole", "runs"))
        assert all((one[name] == other[name]).all() for name in one)
        rows = [json.loads(line)["step"] for line in (tmp_path / "runs" / identity / "curve.jsonl").read_text().splitlines()]
        assert rows == list(range(1, 76)), "two trainings wrote to one curve, or steps were lost"
    told = [path.read_text() for path in sorted(tmp_path.glob("worker-*.log"))]
    done = [line.split(":")[0] for text in told for line in text.splitlines() if line.startswith("done  ")]
    assert len(done) == len(set(done)), "a cell was trained twice"
    assert len(told) > len(codes) - 1, "nobody was killed"
    assert not list((tmp_path / "runs" / "claims").iterdir())
