"""A grid on a real Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import TINY
from tinylm_ablate.leases import Leases

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"),
]

SCRIPT = Path(__file__).with_name("run.sh")

#: Runs the command line, and then again with more cores than a node has.
TWICE = """
"$@" || exit
! "$@" hydra.launcher.cpus=64 seeds=4
"""


def test_a_cluster_of_two_nodes_runs_a_grid_and_replaces_a_killed_worker(small_data: list[str], tmp_path: Path) -> None:
    grid = [
        *TINY, *small_data, "train.tokens=64000", "train.checkpoint_minutes=0.001", "seeds=3", "hydra/launcher=ray",
        "grid.workers=2", "grid.lease_seconds=2", "cache_dir=cache",
    ]  # fmt: skip
    words = [str(SCRIPT), "bash", "-c", TWICE, "twice", sys.executable, "-m", "tinylm_ablate", "-m", *grid]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as cluster:  # fmt: skip
        victim, deadline = None, time.monotonic() + 300
        while victim is None and cluster.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            if (tmp_path / "runs" / "claims").is_dir():
                held = Leases(tmp_path / "runs", 60).held()
                victim = next((holder.pid for key, holder in held.items() if key.startswith("run-")), None)
        if victim is not None:
            os.kill(victim, signal.SIGKILL)
        out, err = cluster.communicate(timeout=300)
    assert cluster.returncode == 0, out + err
    assert victim is not None and "2 workers start" in err and "3 done, 0 failed" in err
    assert "hydra.launcher.cpus=64" in err and "allowed: up to 1 cores" in err
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/metrics.json")]
    assert sorted(record["seed"] for record in records) == [0, 1, 2]
    assert all("hydra/launcher=ray" in record["provenance"]["command"] for record in records)
    assert len(list((tmp_path / "runs").glob("*/measures/bits_per_byte.*.json"))) == 3
    assert not list((tmp_path / "runs" / "claims").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "cache"}
