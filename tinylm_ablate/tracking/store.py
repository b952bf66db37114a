"""Our operations in MLflow's client API. MLflow is imported at the first use, since that takes seconds."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.tracking.outbox import UNSENT, Operation

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's limits of one call and one value.
MOST_METRICS = 1000
_MOST_PARAMETERS = 100
_PARAMETER_LENGTH = 6000
_TAG_LENGTH = 8000

_SQLITE = "sqlite:///"

#: Tags of ours: the key that a run has before the store knows it, and MLflow's own for nesting and description.
_KEY, _PARENT, _NOTE = "tinylm.key", "mlflow.parentRunId", "mlflow.note.content"

#: What MLflow's page calls a saved view, followed by its key.
VIEW_TAG = "mlflow.sharedViewState."

#: Errors that come again however often one tries.
_PERMANENT = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}


class ParentMissing(Exception):
    """The run that a run is to be nested in has not reached the store yet."""


@cache
def store(uri: str, artifacts: str | None, experiment: str) -> Store:
    """The store of an address; one a process, since connecting takes a second."""
    return Store(uri, artifacts, experiment)


class Store:
    """One experiment of one MLflow store.

    Args:
        uri: ``sqlite:///FILE``, another SQLAlchemy address, or ``http(s)://`` of a server.
        artifacts: Where a new experiment keeps its artifacts; None leaves it to the server.
        experiment: Its name; it is made if it is not there.
    """

    def __init__(self, uri: str, artifacts: str | None, experiment: str) -> None:
        self.uri, self.artifacts, self.experiment = uri, artifacts, experiment
        self._connected: tuple[MlflowClient, str] | None = None

    def open(self, operation: Operation, key: str, run_id: str | None, *, look: bool, orphan: bool) -> str:
        """Create a run, or set an existing one to running; returns the store's id.

        Args:
            operation: The operation "open".
            key: Our name of the run.
            run_id: Its id if it exists.
            look: Whether the run may exist under ``key``: an earlier attempt may have arrived without an answer.
            orphan: Whether to create the run un-nested if its parent is not there.
        """
        client, experiment_id = self._connect()
        found = run_id if run_id is not None and self._exists(run_id) else None
        if found is None and look:
            found = self.find(key)
        if found is None:
            tags = {_KEY: key, **{name: str(value)[:_TAG_LENGTH] for name, value in operation["tags"].items()}}
            parent = self._parent(operation["parent"], orphan)
            if parent is not None:
                tags[_PARENT] = parent
            if operation["note"]:
                tags[_NOTE] = operation["note"][:_TAG_LENGTH]
            run = client.create_run(experiment_id, start_time=operation["time"], tags=tags, run_name=operation["name"])
            found = str(run.info.run_id)
        else:
            client.update_run(found, status="RUNNING", name=operation["name"])
            if (parent := self._parent(operation["parent"], orphan)) is not None:
                client.set_tag(found, _PARENT, parent)
        return found

    def send(self, run_id: str, operations: Sequence[Operation]) -> None:
        """Send operations other than "open"; several only if all are "metrics"."""
        client, _ = self._connect()
        operation = operations[0]
        match operation["do"]:
            case "metrics":
                self._metrics(run_id, operations)
            case "parameters":
                self._parameters(run_id, operation["values"])
            case "text":
                client.log_text(run_id, operation["content"], operation["name"])
            case "artifact":
                client.log_artifact(run_id, operation["path"])
            case "tag":
                client.set_tag(run_id, operation["key"], operation["value"][:_TAG_LENGTH])
            case "view":
                self._save_view(client, operation)
            case "close":
                client.set_terminated(run_id, operation["status"], operation["time"])
            case unknown:
                raise FileNotFoundError(f"tracking operation {unknown!r} is unknown")

    def _save_view(self, client: MlflowClient, operation: Operation) -> None:
        """Save a view of the page of runs: these columns, best first. It stands in the page's menu "Views".

        The form of the tag is MLflow's own affair (read off 3.17), so a version that has another shows its usual columns.
        """
        state = {
            "searchFilter": "",
            "orderByKey": f"metrics.`{operation['metrics'][0]}`",
            "orderByAsc": True,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "selectedColumns": [
                *(f"params.`{name}`" for name in operation["parameters"]),
                *(f"metrics.`{name}`" for name in operation["metrics"]),
            ],
        }
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        view = {
            "name": operation["name"],
            "createdAt": operation["time"],
            "updatedAt": operation["time"],
            "state": f"deflate;{packed}",
        }
        _, experiment_id = self._connect()
        client.set_experiment_tag(experiment_id, f"{VIEW_TAG}{operation['key']}", json.dumps(view))

    def find(self, key: str) -> str | None:
        """The store's id of the run that we named ``key``."""
        client, experiment_id = self._connect()
        runs = client.search_runs([experiment_id], filter_string=f"tags.`{_KEY}` = '{key}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    @staticmethod
    def permanent(error: Exception) -> bool:
        """Whether sending the same again is bound to fail: the run was deleted, a file is gone, a value is not allowed."""
        return isinstance(error, FileNotFoundError) or getattr(error, "error_code", None) in _PERMANENT

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        client, _ = self._connect()
        if run_id.startswith(UNSENT):
            return False
        try:
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _parent(self, parent: str | None, orphan: bool) -> str | None:
        if parent is None or not parent.startswith(UNSENT):
            return parent
        found = self.find(parent)
        if found is None and not orphan:
            raise ParentMissing(parent)
        return found

    def _parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        """Log what the run does not have yet: MLflow refuses to change a parameter, and a run that goes on may be told
        again what cannot change its numbers (another number of threads, another folder)."""
        from mlflow.entities import Param

        client, _ = self._connect()
        values = {_named(key): "null" if value is None else str(value) for key, value in parameters.items()}
        known = client.get_run(run_id).data.params
        new = [Param(key, value[:_PARAMETER_LENGTH]) for key, value in values.items() if key not in known]
        for start in range(0, len(new), _MOST_PARAMETERS):
            client.log_batch(run_id, params=new[start : start + _MOST_PARAMETERS])
        if any(len(value) > _PARAMETER_LENGTH for value in values.values()):
            client.log_dict(run_id, values, "parameters.json")

    def _metrics(self, run_id: str, operations: Sequence[Operation]) -> None:
        from mlflow.entities import Metric

        client, _ = self._connect()
        metrics = [
            Metric(_named(name), value if value is not None else math.nan, operation["time"], operation["tokens"])
            for operation in operations
            for name, value in operation["values"].items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])

    def _connect(self) -> tuple[MlflowClient, str]:
        """The client and the id of the experiment."""
        if self._connected is None:
            prepare_environment()
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            with _alone(self.uri):
                client = MlflowClient(tracking_uri=self.uri)
                if client.get_experiment_by_name(self.experiment) is None:
                    try:
                        client.create_experiment(self.experiment, artifact_location=self.artifacts)
                    except MlflowException as error:
                        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                            raise
                experiment = client.get_experiment_by_name(self.experiment)
            if experiment is None or experiment.lifecycle_stage != "active":
                raise RuntimeError(
                    f"experiment {self.experiment!r} was deleted in MLflow: restore it, or set tracking.experiment"
                )
            self._connected = client, str(experiment.experiment_id)
        return self._connected


def _named(name: str) -> str:
    """A name that MLflow takes: letters, digits and _ - . : / and spaces."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def prepare_environment() -> None:
    """Set what MLflow reads when it is imported, unless the user has set it: no log lines, no bar for each file,
    no telemetry, short waits."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default MLflow tries for several minutes before it says that a server is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let one process at a time make or upgrade an sqlite file: its tables cannot be made twice."""
    if not uri.startswith(_SQLITE):
        yield
        return
    import fcntl

    path = Path(uri.removeprefix(_SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
