"""``python -m tinylm_ablate.tracking.ui``: serves MLflow's page of the newest grid on this machine."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.config import TrackingConfig
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import read_yaml
from tinylm_ablate.paths import conf_dir
from tinylm_ablate.tracking.folders import runs_of
from tinylm_ablate.tracking.mlflow_client import ARTIFACTS, KEY, select
from tinylm_ablate.tracking.sync import sync
from tinylm_ablate.tracking.views import VIEW_TAG

HOST = "127.0.0.1"

#: MLflow's default port, 5000, is used by AirPlay on macOS.
PORT = 5001


def serve(runs_dir: Path, port: int) -> int:
    """Sync the folder's own database and serve it until Ctrl-C; returns the server's exit code.

    Raises:
        UserError: There is nothing to show, or the port is in use.
    """
    database = runs_dir.resolve() / "mlflow.db"
    if not database.is_file() and not runs_of(runs_dir):
        raise UserError(f"{runs_dir} has no runs. `make demo` creates some; --runs-dir selects another folder")
    _check_port(port)
    print("starting MLflow, which takes a few seconds ...", file=sys.stderr, flush=True)
    print(sync(_tracking(database), database.parent), file=sys.stderr, flush=True)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}", "--host", HOST,
        "--port", str(port), "--workers", "1", "--artifacts-destination", str(database.with_name(ARTIFACTS)),
    ]  # fmt: skip
    # The job runner, which is not used here, takes another 1.5 GB of memory and doubles the start-up time.
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
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


def _tracking(database: Path) -> TrackingConfig:
    """Return the settings for the folder's own database: the defaults, with the experiment used last."""
    shipped = read_yaml(conf_dir() / "tracking" / "mlflow.yaml")
    settings = TrackingConfig(**{key: value for key, value in shipped.items() if key != "defaults"})
    newest = "SELECT e.name FROM runs r JOIN experiments e USING (experiment_id) JOIN tags t USING (run_uuid) WHERE t.key = ?"
    for (name,) in select(database, f"{newest} ORDER BY r.start_time DESC LIMIT 1", KEY) or ():
        settings.experiment = name
    return settings


def _address(database: Path, port: int) -> str:
    """Return the page of the newest grid, or of all runs if there is none, instead of MLflow's front page."""
    page = f"http://{HOST}:{port}"
    views = select(database, "SELECT experiment_id, key, value FROM experiment_tags WHERE key LIKE ?", f"{VIEW_TAG}%") or ()
    grids = [(json.loads(value).get("createdAt", 0), number, key) for number, key, value in views if "-" not in key]
    newest = "SELECT experiment_id FROM runs r JOIN tags t USING (run_uuid) WHERE t.key = ? ORDER BY r.start_time DESC LIMIT 1"
    if grids:
        _, number, key = max(grids)
        return (
            f"{page}/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey={key.removeprefix(VIEW_TAG)}"
        )
    for (number,) in select(database, newest, KEY) or ():
        page += f"/#/experiments/{number}/runs?workflowType=machine_learning"
    return page


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}): choose another one with --port") from None


def _wait_for(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait for the server's first response; False if it ended before."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="tinylm-ablate ui", description="Show the runs in MLflow's page.")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port on {HOST} (default: {PORT})")
    options = parser.parse_args(arguments)
    # So that the server ends with this process, even if a shell started it with Ctrl-C ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return serve(options.runs_dir, options.port)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
