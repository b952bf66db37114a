"""A real server on loopback that goes away and comes back, and the page of `make ui`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from tinylm_ablate.tracking import open_tracker, ui


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def wait_until(condition, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@contextmanager
def server(runs_dir, port, database=None):
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database or f"sqlite:///{runs_dir}/mlflow.db",
        "--artifacts-destination", str(runs_dir / "served"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (runs_dir / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, (runs_dir / "server.log").read_text()
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


#: An address of an empty database; ``tests/tracking/postgres.sh COMMAND`` gives one on PostgreSQL.
DATABASE = os.environ.get("TRACKING_DATABASE")


@pytest.mark.slow
@pytest.mark.parametrize(
    "database",
    [
        None,
        pytest.param(DATABASE, marks=pytest.mark.skipif(DATABASE is None, reason="see tests/tracking/postgres.sh")),
    ],
    ids=["sqlite", "postgresql"],
)
def test_a_server_that_is_killed_in_mid_run_gets_everything_later(settings, runs_dir, folder, database):
    port = free_port()
    settings.uri, settings.flush_seconds = f"http://127.0.0.1:{port}", 0.1
    tracker = open_tracker(settings, runs_dir)
    (folder / "config.yaml").write_text("arch: {}")
    with server(runs_dir, port, database):
        grid = tracker.start_grid("grid")
        run = tracker.start_run(folder, "first", grid, {"seed": 0}, {})
        assert not run.id.startswith("unsent-")
        run.log([{"tokens": 1000, "loss": 5.0}])
        time.sleep(0.5)
    # The server is dead. Training goes on, a second run starts, and both end.
    run.log([{"tokens": 2000, "loss": 4.0}])
    wait_until((folder / "tracking_pending.jsonl").exists)
    second_folder = runs_dir / "second"
    second_folder.mkdir()
    second = tracker.start_run(second_folder, "second", grid, {"seed": 1}, {})
    second.log([{"tokens": 1000, "loss": 6.0}])
    run.finish({"test/bits_per_byte/all": 2.0}, [folder / "config.yaml"])
    second.finish({"test/bits_per_byte/all": 3.0}, [])
    tracker.finish_grid(grid, "table")

    with server(runs_dir, port, database):
        assert open_tracker(settings, runs_dir).send_pending() == 3
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=settings.uri)
        experiment = client.get_experiment_by_name(settings.experiment)
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        assert set(runs) == {"grid", "first", "second"}
        assert all(run.info.status == "FINISHED" for run in runs.values())
        losses = client.get_metric_history(runs["first"].info.run_id, "loss")
        assert [(point.step, point.value) for point in losses] == [(1000, 5.0), (2000, 4.0)]
        assert runs["second"].data.tags["mlflow.parentRunId"] == runs["grid"].info.run_id
        assert runs["second"].data.metrics["test/bits_per_byte/all"] == 3.0
        assert [file.path for file in client.list_artifacts(runs["first"].info.run_id)] == ["config.yaml"]
    assert not list(runs_dir.rglob("*tracking_pending.jsonl"))


@pytest.mark.slow
def test_the_page_is_served_until_it_is_ended(tracker, runs_dir, folder):
    tracker.start_run(folder, "run", None, {}, {}).finish({}, [])
    port = free_port()
    command = [sys.executable, "-m", "tinylm_ablate.tracking.ui", "--runs-dir", str(runs_dir), "--port", str(port)]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert page.stdout is not None
        assert f"http://127.0.0.1:{port}" in page.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            assert b"MLflow" in answer.read()
        # While it runs, the port is taken.
        assert ui.main(["--runs-dir", str(runs_dir), "--port", str(port)]) == 2
    finally:
        page.terminate()
    assert page.wait(30) == 0
    wait_until(lambda: not answers(port), 30)


@pytest.mark.slow
def test_processes_that_make_the_store_together_do_not_collide(tmp_path):
    code = """
import sys
from pathlib import Path
from tinylm_ablate.tracking.store import Store
from tinylm_ablate.tracking.tracker import MlflowTracker
runs_dir = Path(sys.argv[1])
folder = runs_dir / sys.argv[2]
folder.mkdir()
store = Store(f"sqlite:///{runs_dir}/mlflow.db", None, "together")
run = MlflowTracker(store, runs_dir, 1).start_run(folder, folder.name, None, {}, {})
run.finish({}, [])
sys.exit(run.id.startswith("unsent-"))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"run{n}"]) for n in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]


def test_the_page_needs_runs(tmp_path, capsys):
    assert ui.main(["--runs-dir", str(tmp_path)]) == 2
    assert "nothing was tracked there yet" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(runs_dir, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ui.main(["--runs-dir", str(runs_dir), "--port", str(port)]) == 2
    assert f"port {port} cannot be used" in capsys.readouterr().err
