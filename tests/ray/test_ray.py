"""A grid on a real Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import TINY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"),
]

SCRIPT = Path(__file__).with_name("run.sh")

#: Runs the command line, and then again as one that asks for more cores than a node has.
TWICE = """
"$@" || exit
! "$@" hydra.launcher.cpus=64 seeds=3
"""


def test_a_grid_runs_on_a_cluster_of_two_nodes(small_data: list[str], tmp_path: Path) -> None:
    grid = [*TINY, *small_data, "train.tokens=25600", "seeds=2", "hydra/launcher=ray", "cache_dir=cache"]
    command = [sys.executable, "-m", "tinylm_ablate", "-m", *grid]
    done = subprocess.run(
        [str(SCRIPT), "bash", "-c", TWICE, "twice", *command],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=230,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 done, 0 failed" in done.stderr
    assert "hydra.launcher.cpus=64" in done.stderr and "allowed: up to 1 cores" in done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/metrics.json")]
    assert sorted(record["seed"] for record in records) == [0, 1]
    assert all("hydra/launcher=ray" in record["provenance"]["command"] for record in records)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "cache"}
