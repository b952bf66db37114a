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

from tests.helpers import TINY, last_of_each
from tinylm_ablate.leases import Leases

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"),
]


CLUSTER = Path(__file__).with_name("cluster.py")

#: Runs a command with more cores than a node has, and then without; Ray's client does not work in forks.
TWICE = """
import sys
from tests.helpers import run_command
refused = run_command(*sys.argv[1:], "hydra.launcher.cpus=64")
done = run_command(*sys.argv[1:])
print(refused.err, refused.code, "| then |", done.err, done.code)
"""


def test_a_cluster_of_two_nodes_runs_a_grid_and_replaces_a_killed_worker(
    small_data: list[str], small_cache: str, tmp_path: Path
) -> None:
    grid = last_of_each([
        *TINY, *small_data, small_cache, "train.tokens=6400", "train.checkpoint_minutes=0.001", "seeds=3",
        "hydra/launcher=ray", "grid.workers=2", "grid.lease_seconds=2",
    ])  # fmt: skip
    words = [sys.executable, str(CLUSTER), sys.executable, "-c", TWICE, "-m", *grid]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as command:
        victim, deadline = None, time.monotonic() + 300
        while victim is None and command.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            if (tmp_path / "runs" / "claims").is_dir():
                held = Leases(tmp_path / "runs", 60).held()
                victim = next((found.pid for key, found in held.items() if key.startswith("run-") and found.pid > 0), None)
        if victim is not None:
            os.kill(victim, signal.SIGKILL)
        output, _ = command.communicate(timeout=300)
    assert command.returncode == 0 and victim is not None, output
    refused, done = output.split(" | then | ")
    assert refused.endswith("2") and "hydra.launcher.cpus=64" in refused and "allowed: up to 1 cores" in refused, output
    assert done.endswith("0\n") and "2 workers start" in done and "3 done, 0 failed" in done, output
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/metrics.json")]
    assert sorted(record["seed"] for record in records) == [0, 1, 2]
    assert all("hydra/launcher=ray" in record["provenance"]["command"] for record in records)
    assert len(list((tmp_path / "runs").glob("*/measures/bits_per_byte.*.json"))) == 3
    assert not list((tmp_path / "runs" / "claims").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
