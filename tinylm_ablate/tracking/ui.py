"""``python -m tinylm_ablate.tracking.ui``: MLflow's page of the runs, for this machine alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.errors import UserError
from tinylm_ablate.tracking.store import VIEW_TAG

HOST = "127.0.0.1"

#: MLflow's own 5000 belongs to AirPlay on macOS.
PORT = 5001


def serve(runs_dir: Path, port: int) -> int:
    """Serve until Ctrl-C; returns the server's exit code.

    Raises:
        UserError: There is nothing to show, or the port is taken.
    """
    database = runs_dir.resolve() / "mlflow.db"
    if not database.is_file():
        raise UserError(
            f"{database} does not exist: nothing was tracked there yet. `make demo` makes runs; --runs-dir names another folder"
        )
    _check_port(port)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}", "--host", HOST,
        "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    # The job runner, which nothing here uses, takes another 1.5 GB of memory and twice the time to start.
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    print("starting MLflow, which takes some seconds ...", file=sys.stderr, flush=True)
    log = database.with_name("mlflow-ui.log")
    with log.open("w") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        if not _wait_for(server, port):
            raise UserError(f"MLflow did not start:\n{log.read_text()[-2000:].strip()}")
        print(f"{_address(database, port)}  (Ctrl-C ends it)", flush=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        if server.poll() is None:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()


def _address(database: Path, port: int) -> str:
    """The page of runs (MLflow's front page is about something else), in the view of the grid that ended last."""
    page = f"http://{HOST}:{port}"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        newest = store.execute(
            "SELECT experiment_id FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time DESC LIMIT 1"
        ).fetchone()
        if newest is None:
            return page
        page += f"/#/experiments/{newest[0]}/runs?workflowType=machine_learning"
        views = store.execute(
            "SELECT key, value FROM experiment_tags WHERE experiment_id = ? AND key LIKE ?", (newest[0], f"{VIEW_TAG}%")
        ).fetchall()
        if views:
            key, _ = max(views, key=lambda view: json.loads(view[1]).get("updatedAt", 0))
            page += f"&viewStateShareKey={key.removeprefix(VIEW_TAG)}"
    return page


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}): name another one with --port") from None


def _wait_for(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait for the server's first answer; False if it ended before."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tinylm_ablate.tracking.ui", description="Show the runs in MLflow's page.")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port on {HOST} (default: {PORT})")
    options = parser.parse_args(arguments)
    # So that the server ends with us, also where a shell has started us with Ctrl-C ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return serve(options.runs_dir, options.port)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
