"""A real server on loopback that becomes unavailable and available again, and the page of ``make ui``."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.helpers import FORKS, Command
from tests.tracking.conftest import GRID, RUNS
from tests.tracking.test_sync import View, losses
from tinylm_ablate.tracking import follow, sync, ui


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


def serve(arguments: list[str], log: Path) -> None:
    """Run ``mlflow server`` in this process, including what it would start two new interpreters for."""
    os.environ.update({"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"})
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    import mlflow.server
    import uvicorn
    from mlflow.cli import cli

    def here(command: list[str], extra_env: dict[str, str], **_: object) -> None:
        os.environ.update(extra_env)
        uvicorn.main(command[command.index("uvicorn") + 1 :])

    mlflow.server._exec_cmd = here
    cli(["server", *arguments])


@contextmanager
def server(runs_dir, port, database=None):
    arguments = [
        "--backend-store-uri", database or f"sqlite:///{runs_dir}/mlflow.db", "--artifacts-destination",
        str(runs_dir / "served"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    process = FORKS.Process(target=serve, args=(arguments, runs_dir / "server.log"))
    process.start()
    try:
        wait_until(lambda: answers(port) or not process.is_alive())
        assert process.is_alive(), (runs_dir / "server.log").read_text()
        yield
    finally:
        process.kill()
        process.join()


#: Address of an empty database; ``tests/tracking/postgres.sh COMMAND`` provides one on PostgreSQL.
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
def test_a_server_killed_during_a_run_receives_everything_later(settings, folders, caplog, database):
    port = free_port()
    settings.uri, settings.flush_seconds = f"http://127.0.0.1:{port}", 0.1
    folders.grid(GRID, {RUNS[0]: {"seed": "0"}, RUNS[1]: {"seed": "1"}})
    view = View(settings.uri)
    follower = follow(settings, folders.path)
    with server(folders.path, port, database):
        follower.add(folders.start(RUNS[0], seed=0))
        folders.train(RUNS[0], 1, 10)
        wait_until(lambda: view.experiment is not None and view.runs() and view.curve(RUNS[0]) == losses(1, 10))
        assert {run.info.status for run in view.runs()} == {"RUNNING"}
    # The server is dead. Training continues, a second run starts, and both end.
    folders.train(RUNS[0], 11, 20)
    wait_until(lambda: "does not answer" in caplog.text)
    follower.add(folders.start(RUNS[1], seed=1))
    folders.train(RUNS[1], 1, 20)
    for run in RUNS[:2]:
        folders.finish(run)
        follower.done(folders.path / run)
    follower.close()
    assert caplog.text.count("does not answer") == 1
    report = sync(settings, folders.path)
    assert "does not answer (Connection refused)" in str(report) and not report.counts

    with server(folders.path, port, database):
        report = sync(settings, folders.path)
        assert report.problems == []
        assert {run.info.status for run in view.runs()} == {"FINISHED"}
        assert len(view.runs()) == 4  # the grid, its cells, and their mean
        for run in RUNS[:2]:
            assert view.curve(run) == losses(1, 20)
            assert view.run(run).data.tags["mlflow.parentRunId"] == view.run(GRID).info.run_id
            names = [file.path for file in view.client.list_artifacts(view.run(run).info.run_id)]
            assert {"config.yaml", "metrics.json", "measures"} <= set(names)
        assert sync(settings, folders.path).counts == {"unchanged": 4}


class Refusing(BaseHTTPRequestHandler):
    """A server that requires a password."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="mlflow"')
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


def test_a_refused_password_is_reported_and_not_shown(settings, folders):
    folders.start(RUNS[0])
    with HTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        settings.uri = f"http://alice:wonderland@127.0.0.1:{refusing.server_port}"
        report = sync(settings, folders.path)
        refusing.shutdown()
    assert "refuses access (401 Unauthorized: set MLFLOW_TRACKING_USERNAME" in str(report)
    assert "wonderland" not in str(report) and "alice" not in str(report)


@pytest.mark.slow
def test_the_page_is_served_until_it_is_ended(replicated, tmp_path):
    runs_dir = replicated.path
    port = free_port()
    with Command("ui", "--runs-dir", str(runs_dir), "--port", str(port), folder=tmp_path) as page:
        wait_until(lambda: "(Ctrl-C ends it)" in page.output() or not page.running())
        assert f"http://127.0.0.1:{port}" in page.output() and f"viewStateShareKey={GRID}" in page.output()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            assert b"MLflow" in answer.read()
        # The artifacts are next to the database, and the server finds them.
        from mlflow import MlflowClient

        client = MlflowClient(f"http://127.0.0.1:{port}")
        experiment = client.get_experiment_by_name("tinylm_ablate").experiment_id
        (run,) = client.search_runs([experiment], f"tags.identity = '{RUNS[0]}'")
        assert "metrics.json" in [file.path for file in client.list_artifacts(run.info.run_id)]
        # While it runs, the port is in use.
        assert ui.main(["--runs-dir", str(runs_dir), "--port", str(port)]) == 2
        os.kill(page.pid, signal.SIGTERM)
        assert page.wait().code == 0
    wait_until(lambda: not answers(port))


def test_the_page_needs_runs(tmp_path, capsys):
    assert ui.main(["--runs-dir", str(tmp_path)]) == 2
    assert "has no runs" in capsys.readouterr().err


def test_a_taken_port_is_reported(replicated, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ui.main(["--runs-dir", str(replicated.path), "--port", str(port)]) == 2
    assert f"port {port} cannot be used" in capsys.readouterr().err
