"""Tracking of real runs: kills leave nothing wrong in MLflow, and passwords are written nowhere."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.helpers import TINY, Command, run_command

PASSWORD, BUCKET = "queen0fHearts-7", "cheshire-cat-bucket"


def arguments(small_data: list[str], cache: Path) -> list[str]:
    return [*small_data, *(entry for entry in TINY if entry != "tracking=none"), f"cache_dir={cache}"]


@pytest.mark.slow
def test_a_grid_that_is_killed_and_repeated_is_whole_in_mlflow(small_data: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    grid = [*arguments(small_data, tmp_path / "cache"), "arch.depth=1,2", "train.tokens=64000", "train.log_every=1"]
    command = ["-m", *grid, "tracking.flush_seconds=0.2", "train.checkpoint_minutes=0.001"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")

    def runs() -> dict[str, tuple[str, list[int]]]:
        """Status and steps of the loss of each run."""
        found = {}
        experiment = client.get_experiment_by_name("tinylm_ablate")
        for run in client.search_runs([experiment.experiment_id]) if experiment is not None else []:
            points = client.get_metric_history(run.info.run_id, "curve/loss") if "identity" in run.data.tags else []
            found[str(run.info.run_name)] = (run.info.status, sorted(point.step for point in points))
        return found

    for sign in (signal.SIGKILL, signal.SIGTERM):
        with Command(*command, folder=tmp_path) as process:
            deadline, before = time.monotonic() + 300, sum(len(steps) for _, steps in runs().values())
            while sum(len(steps) for _, steps in runs().values()) < before + 20:
                assert time.monotonic() < deadline and (process.running() or process.wait().text == "")
                time.sleep(0.1)
            os.kill(process.pid, sign)
            process.wait()
        assert "RUNNING" in {status for status, _ in runs().values()} or sign == signal.SIGTERM
    assert "RUNNING" not in {status for status, _ in runs().values()}
    done = run_command(*command, folder=tmp_path)
    assert done.code == 0, done.text
    assert sorted(status for status, _ in runs().values()) == ["FINISHED"] * 3
    cells = [steps for _, steps in runs().values() if steps]
    assert cells == [list(range(128, 64001, 128))] * 2
    # The same once more: nothing changes.
    before_again = runs()
    done = run_command("mode=sync", folder=tmp_path)
    assert done.out == "MLflow: 3 up to date\n", done.text
    assert runs() == before_again


@pytest.mark.slow
def test_a_password_is_written_nowhere(small_data: list[str], tmp_path: Path) -> None:
    address = f"http://alice:{PASSWORD}@127.0.0.1:1"  # nobody answers there
    grid = [*arguments(small_data, tmp_path / "cache"), "arch.depth=1,2", f"tracking.uri='{address}'"]
    grid.append(r"experiment.note='of ${oc.env:TEAM_BUCKET}'")
    environment = {"TEAM_BUCKET": BUCKET, "HF_TOKEN": "hf_" + "q7" * 20}
    with Command("-m", *grid, folder=tmp_path, environment=environment) as command:
        done = command.wait()
    assert done.code == 0, done.text
    assert "does not answer" in done.err
    (described,) = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "grids").glob("*.json")]
    assert "127.0.0.1" in described["title"]
    written = {str(path): path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert len(written) > 10
    written |= {"stdout": done.out.encode(), "stderr": done.err.encode()}
    for secret in (PASSWORD, "alice", BUCKET, environment["HF_TOKEN"]):
        assert [name for name, content in written.items() if secret.encode() in content] == []
    (folder,) = {path.parent for path in (tmp_path / "runs").glob("*/config.yaml") if "depth: 1\n" in path.read_text()}
    assert "${oc.env:TEAM_BUCKET}" in (folder / "config.yaml").read_text()
