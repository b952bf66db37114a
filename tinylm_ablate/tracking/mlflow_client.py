"""One experiment of an MLflow store.

MLflow is imported on first use, since that takes seconds: what an SQLite file has of the runs is read without it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from tinylm_ablate.secrets import cut
from tinylm_ablate.tracking.snapshot import CURVE, LOSS, Snapshot

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from tinylm_ablate.config import TrackingConfig

# MLflow's limits per call and value.
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100
_PARAMETER_LENGTH, _TAG_LENGTH, _NAME_LENGTH = 6000, 8000, 250

_SQLITE = "sqlite:///"

#: Folder of artifacts next to a database. Runs refer to it relative to the server, so that both can be moved together.
ARTIFACTS = "mlartifacts"
_RELATIVE = "mlflow-artifacts:"

#: Our tags: the key of a snapshot, its signature, and the last tokens of the curve and the files that were received.
KEY, SIGNATURE, ARRIVED = "tinylm.key", "tinylm.signature", "tinylm.arrived"
_PARENT = "mlflow.parentRunId"

#: Makes MLflow show its pages for training rather than those for prompts.
_KIND = {"mlflow.experimentKind": "custom_model_development"}

#: Longest wait for another process that writes to the store, seconds.
_LONGEST_LOCK = 30.0

#: Key, id, signature and status of an experiment's runs, in MLflow's tables.
_STATES = f"""
    SELECT own.value, r.run_uuid, coalesce(sent.value, ''), r.status FROM tags own JOIN runs r ON r.run_uuid = own.run_uuid
    LEFT JOIN tags sent ON sent.run_uuid = r.run_uuid AND sent.key = '{SIGNATURE}'
    WHERE own.key = '{KEY}' AND r.lifecycle_stage = 'active'
    AND experiment_id = (SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active')
"""

#: Larger models are only referenced on a server, not uploaded.
_LARGEST_MODEL = 64 * 2**20


@cache
def _store(uri: str, artifacts: str | None, experiment: str) -> Store:
    return Store(uri, artifacts, experiment)


def open_store(tracking: TrackingConfig, runs_dir: Path) -> Store:
    """Return the store of a config, without connecting; one per process, since connecting takes a second."""
    uri, artifacts = tracking.uri or f"{_SQLITE}{runs_dir.resolve() / 'mlflow.db'}", tracking.artifacts
    if artifacts is not None and "://" not in artifacts:
        artifacts = Path(artifacts).resolve().as_uri()
    return _store(uri, artifacts, tracking.experiment)


class State(NamedTuple):
    """State of a run in a store: its id, the signature of the last snapshot that was stored completely, and its status."""

    run: str
    signature: str
    status: str

    @classmethod
    def of(cls, run: Run) -> State:
        """Return the state of a run of MLflow."""
        return cls(run.info.run_id, run.data.tags.get(SIGNATURE, ""), run.info.status)


class Store:
    """One experiment.

    Args:
        uri: ``sqlite:///FILE``, another SQLAlchemy address, or ``http(s)://`` of a server.
        artifacts: Location of a new experiment's artifacts; None is a folder next to an SQLite file, or the server's choice.
        experiment: Its name; it is created if it does not exist.
    """

    def __init__(self, uri: str, artifacts: str | None, experiment: str) -> None:
        self.uri, self.artifacts, self.experiment = uri, artifacts, experiment
        self.database = Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
        self._connected: tuple[MlflowClient, str] | None = None
        self._certain: set[str] = set()  # runs of which this process knows what has arrived

    @property
    def client(self) -> MlflowClient:
        """MLflow's client; connects on first use."""
        return self._connect()[0]

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment."""
        return self._connect()[1]

    def runs(self, keys: Collection[str] | None = None) -> dict[str, Run]:
        """Return the store's runs by the key of their snapshot; of duplicates from a race, only the oldest is kept.

        Args:
            keys: The requested keys; None is all.
        """
        if keys is not None and len(keys) > 8:
            everything = self.runs()
            return {key: everything[key] for key in keys if key in everything}
        filters = [f"tags.`{KEY}` LIKE '%'"] if keys is None else [f"tags.`{KEY}` = '{key}'" for key in keys]
        found: dict[str, Run] = {}
        for text in filters:
            for run in self._search(text):
                key = run.data.tags[KEY]
                if key in found:
                    self.client.delete_run(run.info.run_id)
                else:
                    found[key] = run
        return found

    def states(self, keys: Collection[str] | None) -> dict[str, State]:
        """Return the states of runs in the store, by the key of their snapshot.

        Args:
            keys: The requested keys; None is all.
        """
        rows = select(self.database, _STATES, self.experiment) if self.database is not None else None
        found = {key: State(*values) for key, *values in rows or ()}
        if rows is None or len(found) < len(rows):  # not in a file that can be read, or with duplicates, which are removed
            found = {key: State.of(run) for key, run in self.runs(keys).items()}
        return found

    def running(self) -> Iterator[Run]:
        """Return the store's runs that have not ended."""
        return self._search(f"tags.`{KEY}` LIKE '%' AND attributes.status = 'RUNNING'")

    def push(self, snapshot: Snapshot, parent: str | None, lock: Path) -> tuple[str, str]:
        """Make the store's run equal to a snapshot, sending only differences.

        After a kill at any point, the next call completes the run: the signature is set last, and rows are compared with
        those in the store if some may have arrived.

        Args:
            snapshot: The target state.
            parent: The store's id of the run that it is nested in.
            lock: File that a process locks while it creates or completes a run: MLflow checks for a parameter and inserts it
                in two steps, so two processes that complete the same run would conflict.

        Returns:
            The run's id, and the action: "created", "updated", "closed" or "unchanged".
        """
        tags = {_named(key): value[:_TAG_LENGTH] for key, value in snapshot.tags.items()} | {KEY: snapshot.key}
        if parent is not None:
            tags[_PARENT] = parent
        with locked(lock):
            done, run = "updated", self.runs([snapshot.key]).get(snapshot.key)
            if run is None:
                done = "created"
                run = self.client.create_run(
                    self.experiment_id, start_time=snapshot.start, tags=tags, run_name=snapshot.name[:_NAME_LENGTH]
                )
                self._certain.add(run.info.run_id)
            if State.of(run)[1:] == (snapshot.signature, snapshot.status):  # another process has sent it meanwhile
                return run.info.run_id, "unchanged"
            self._send(snapshot, run, tags)
        if done == "updated" and run.info.status == "RUNNING" and snapshot.status != "RUNNING":
            done = "closed"
        return run.info.run_id, done

    def _send(self, snapshot: Snapshot, run: Run, tags: Mapping[str, str]) -> None:
        run_id, has = run.info.run_id, run.data
        self._set_state(snapshot, run)
        self._parameters(run_id, {key: value for key, value in snapshot.parameters.items() if _named(key) not in has.params})
        arrived = _arrived(has.tags.get(ARRIVED, ""))
        certain = run_id in self._certain
        self._certain.discard(run_id)  # until everything has arrived
        tokens, rows = self._curve(snapshot, run, arrived, certain)
        values = [
            (_named(metric), value, _time(snapshot, run, tokens_there), tokens_there)
            for name, (tokens_there, metrics) in snapshot.points.items()
            if name not in arrived["files"]
            for metric, value in metrics.items()
            if certain or tokens_there not in self._steps(run_id, _named(metric))
        ]
        self._metrics(run_id, values)
        changed = {name: value for name, value in snapshot.metrics.items() if not _same(has.metrics.get(_named(name)), value)}
        if changed:
            # At step 0, MLflow draws a bar per run rather than a dot. A value that replaces another must have a later time.
            later = 1 + max(
                (metric.timestamp for metric in has._metric_objs if metric.step == 0), default=run.info.start_time - 1
            )
            self._metrics(run_id, [(_named(name), value, later, 0) for name, value in changed.items()])
        if snapshot.dataset is not None and not (run.inputs and run.inputs.dataset_inputs):
            self._dataset(run_id, snapshot.dataset)
        files = {name: _mark(path) for name, path in snapshot.files.items()}
        for name, path in snapshot.files.items():
            if arrived["files"].get(name) != files[name]:
                self._put(run.info.artifact_uri, name, path, run_id)
        if snapshot.model is not None and not (run.outputs and run.outputs.model_outputs):
            self._model(snapshot, run_id, snapshot.model)
        new = {key: value for key, value in tags.items() if has.tags.get(key) != value}
        new[ARRIVED] = json.dumps({"tokens": tokens, "rows": rows, "files": files})[:_TAG_LENGTH]
        new[SIGNATURE] = snapshot.signature
        self._tags(run_id, new)
        self._certain.add(run_id)

    def _set_state(self, snapshot: Snapshot, run: Run) -> None:
        name = snapshot.name[:_NAME_LENGTH]
        if snapshot.end is not None and (run.info.status, run.info.end_time) != (snapshot.status, snapshot.end):
            self.client.set_terminated(run.info.run_id, snapshot.status, snapshot.end)
        if run.info.run_name != name or (snapshot.end is None and run.info.status != snapshot.status):
            self.client.update_run(run.info.run_id, status=snapshot.status, name=name)

    def _curve(self, snapshot: Snapshot, run: Run, arrived: Mapping[str, Any], certain: bool) -> tuple[int, int]:
        """Send the rows that are not in the store, and record the progress after each part.

        Unless it is ``certain`` what has arrived, rows that the store already has are not sent: a process may have been killed
        after it sent rows and before it recorded that, and a run that resumes records them again with other times. The same
        applies to a run that has ended with more rows than were sent, since one could not be read during training.

        Returns:
            The tokens of the last row in the store, and the number of rows.
        """
        last, sent = int(arrived["tokens"]), int(arrived["rows"])
        run_id, rows = run.info.run_id, [row for row in snapshot.curve if row[0] > last]
        if (rows and not certain) or (snapshot.end is not None and sent + len(rows) != len(snapshot.curve)):
            there = self._steps(run_id, LOSS)
            rows = [row for row in snapshot.curve if row[0] not in there]
            sent = len(snapshot.curve) - len(rows)
        values: list[tuple[str, float, int, int]] = []
        for tokens, row in rows:
            if len(values) + len(row) > _MOST_METRICS:
                self._metrics(run_id, values)
                last = max(last, values[-1][3])
                self._tags(run_id, {ARRIVED: json.dumps({"tokens": last, "rows": sent, "files": arrived["files"]})})
                values = []
            seconds = row.get(f"{CURVE}seconds", 0.0)
            time = run.info.start_time + (round(1000 * seconds) if math.isfinite(seconds) else 0)
            values += [(_named(name), value, time, tokens) for name, value in row.items()]
            sent += 1
        if values:
            self._metrics(run_id, values)
            last = max(last, values[-1][3])
        return last, sent

    def _steps(self, run_id: str, metric: str) -> set[int]:
        """The steps of a metric that the store has."""
        return {point.step for point in self.client.get_metric_history(run_id, metric)}

    def _metrics(self, run_id: str, values: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value if math.isfinite(value) else math.nan, time, step) for name, value, time, step in values]
        for start in range(0, len(metrics), _MOST_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + _MOST_METRICS])

    def _parameters(self, run_id: str, values: Mapping[str, str]) -> None:
        """Log parameters that the run does not have; MLflow does not allow changing one."""
        from mlflow.entities import Param

        new = [Param(_named(key), value[:_PARAMETER_LENGTH]) for key, value in values.items()]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self.client.log_batch(run_id, params=new[start : start + _MOST_PARAMETERS])

    def _tags(self, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def _dataset(self, run_id: str, dataset: tuple[str, str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, digest, source = dataset
        entry = Dataset(name=name[:500], digest=digest, source_type="tinylm_ablate", source=source)
        self.client.log_inputs(run_id, [DatasetInput(entry, [InputTag("mlflow.data.context", "training")])])

    def _model(self, snapshot: Snapshot, run_id: str, folder: Path) -> None:
        """Log the model in the format of MLflow's transformers flavor; large models are only referenced on a server."""
        from mlflow.entities import LoggedModelOutput

        from tinylm_ablate.tracking import model

        logged = self.client.create_logged_model(
            self.experiment_id, name=re.sub(r"[/:.%\"' ]", "_", snapshot.name)[:_NAME_LENGTH], source_run_id=run_id,
            model_type="tinylm_ablate", tags={"folder": f"{folder.parent.name}/{folder.name}"},
        )  # fmt: skip
        files = model.files(folder)
        if (
            local_artifacts(self.database, logged.artifact_location) is None
            and sum(path.stat().st_size for path in files.values()) > _LARGEST_MODEL
        ):
            files = {}
        with tempfile.TemporaryDirectory() as temporary:
            description = Path(temporary) / "MLmodel"
            description.write_text(model.description(folder, logged.model_id, run_id))
            for name, path in (files | {"MLmodel": description}).items():
                self._put(logged.artifact_location, name, path, logged.model_id, of_model=True)
        self.client.finalize_logged_model(logged.model_id, "READY")
        step = snapshot.curve[-1][0] if snapshot.curve else 0
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])

    def _put(self, uri: str, name: str, path: Path, owner: str, of_model: bool = False) -> None:
        """Store a file as an artifact of a run or a model: next to the database, or in MLflow's location."""
        place = name.rpartition("/")[0] or None
        if (root := local_artifacts(self.database, uri)) is not None:
            place_file(path, root / name)
        elif of_model:
            self.client._tracking_client.log_model_artifact(owner, str(path), place)
        else:
            self.client.log_artifact(owner, str(path), place)

    def _search(self, filters: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], filters, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _connect(self) -> tuple[MlflowClient, str]:
        """Return the client and the id of the experiment."""
        if self._connected is None:
            prepare_environment()
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            # Only one process at a time may create or upgrade an SQLite file: its tables cannot be created twice.
            with locked(self.database.with_name(f".{self.database.name}.lock")) if self.database else contextlib.nullcontext():
                if self.database is not None and not self.database.exists():
                    self.database.touch()  # with the mode of the umask; SQLite would allow only its owner
                client = MlflowClient(tracking_uri=self.uri)
                if client.get_experiment_by_name(self.experiment) is None:
                    location = self.artifacts or (f"{_RELATIVE}/" if self.database else None)
                    try:
                        client.create_experiment(self.experiment, artifact_location=location, tags=_KIND)
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


def select(database: Path, query: str, argument: str) -> list[tuple[Any, ...]] | None:
    """Read rows of an SQLite file; None if it does not exist, or cannot be read in this way."""
    try:
        address = f"{database.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, timeout=_LONGEST_LOCK, uri=True)) as store:
            return store.execute(query, (argument,)).fetchall()
    except sqlite3.Error:
        return None


def local_artifacts(database: Path | None, uri: str) -> Path | None:
    """Return the folder of a relative artifact address next to an SQLite file; None for any other address."""
    if database is None or not uri.startswith(_RELATIVE):
        return None
    return database.parent / ARTIFACTS / urlsplit(uri).path.lstrip("/")


def place_file(source: Path, target: Path) -> None:
    """Link a file into the artifacts if the file system can, and otherwise copy it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copy2(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # replacing a file with itself would do nothing


def explain(error: BaseException, uri: str) -> str:
    """Describe why a store rejects a request, in one line without secrets."""
    lines = str(error).strip().splitlines()
    text = _cause(error) or (f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__)
    if (code := status_code(error)) is not None:
        word = "401 Unauthorized: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        reason = word if code == 401 else "403 Forbidden: this user may not write there"
        return cut(f"MLflow at {uri} refuses access ({reason})")
    return cut(f"MLflow at {uri} does not answer ({text})")


def _cause(error: BaseException) -> str | None:
    """Return the operating system's words for what caused an error, as in "Connection refused"."""
    found, cause = None, error.__cause__ or error.__context__
    while cause is not None:
        found = (isinstance(cause, OSError) and cause.strerror) or found
        cause = cause.__cause__ or cause.__context__
    return found


def status_code(error: BaseException) -> int | None:
    """Return 401 or 403 if a server refused access."""
    code = str(getattr(error, "error_code", ""))
    for number, word in ((401, "UNAUTHENTICATED"), (401, "CUSTOMER_UNAUTHORIZED"), (403, "PERMISSION_DENIED")):
        if code == word or re.search(rf"(error code|Error:?|status) {number}\b|\b{number} (Client )?Error", str(error)):
            return number
    return None


def concerns_one_run(error: BaseException) -> bool:
    """Return whether an error affects only one run: an invalid value, a missing file, a run that was just deleted."""
    from mlflow.exceptions import MlflowException

    permanent = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}
    return (isinstance(error, MlflowException) and error.error_code in permanent) or isinstance(
        error, FileNotFoundError | ValueError | KeyError | TypeError
    )


def prepare_environment() -> None:
    """Set variables that MLflow reads on import, unless the user has: no log lines, no bars, no telemetry, short timeouts."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # By default, MLflow retries for several minutes before it reports that a server is unavailable.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock of the operating system on a file; nothing where the folder has no locks, or its holder seems suspended."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        until = time.monotonic() + _LONGEST_LOCK
        while time.monotonic() < until:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            except OSError:  # no locks here
                pass
            break
        yield


def _named(name: str) -> str:
    """Convert to a name that MLflow allows: letters, digits and _ - . : / and spaces."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:_NAME_LENGTH]


def _same(old: float | None, new: float) -> bool:
    return old is not None and (old == new or (math.isnan(old) and not math.isfinite(new)))


def _time(snapshot: Snapshot, run: Run, tokens: int) -> int:
    """Return the time at which a run had seen a number of tokens, from its curve, milliseconds since 1970."""
    seconds = [row.get(f"{CURVE}seconds", 0.0) for place, row in snapshot.curve if place <= tokens]
    return int(run.info.start_time) + (round(1000 * seconds[-1]) if seconds and math.isfinite(seconds[-1]) else 0)


def _mark(path: Path) -> str:
    """Return size and time of a file in short form; both survive a move."""
    found = path.stat()
    return f"{found.st_size:x}.{int(found.st_mtime):x}"


def _arrived(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        found = json.loads(text)
        return {"tokens": int(found["tokens"]), "rows": int(found.get("rows", 0)), "files": dict(found["files"])}
    return {"tokens": -1, "rows": 0, "files": {}}
