"""Tracking that never stops a training: what cannot be sent is kept on disk and sent later.

A store may be away for a while, locked, or gone. Everything is therefore queued (``outbox``), sent by a thread in batches, and
written to ``tracking_pending.jsonl`` in the run's folder as long as the store does not answer. The next command sends what it
finds there.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.errors import ConfigError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.tracking.check import tracking_mistakes
from tinylm_ablate.tracking.outbox import UNSENT, Outbox
from tinylm_ablate.tracking.store import MOST_METRICS, ParentMissing, Store, store

if TYPE_CHECKING:
    from tinylm_ablate.config import TrackingConfig

PENDING = "tracking_pending.jsonl"

#: Which run of the store a folder belongs to, so that a training that goes on goes on there too.
_LINK = "tracking.json"

#: Files of a finished run that are kept with it, all that a report is made from.
RUN_FILES = (
    "config.yaml", "metrics.json", "curve.jsonl", "documents.parquet", "questions.parquet", "matrix_std.json",
    "layer_skip.parquet",
)  # fmt: skip

#: What a grid's view shows beside the parameters that differ; the first one ranks.
_VIEW_METRICS = ("test/bits_per_byte/all", "validation/bits_per_byte/all", "test/cloze/all", "train/tokens_per_second")

#: Longest wait between two attempts to reach a store; well below ``outbox.ABANDONED_SECONDS``.
_LONGEST_WAIT = 300.0

_log = logging.getLogger("tinylm_ablate")


class TrackedRun:
    """One run while it is tracked; this one goes nowhere."""

    @property
    def id(self) -> str | None:
        """What the store calls it; None without a store."""
        return None

    def log(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Queue points of curves: each row has "tokens" (its place on the axis) and values; "step" is left out."""

    def finish(
        self, metrics: Mapping[str, float], artifacts: Iterable[Path], status: str = "FINISHED", tokens: int | None = None
    ) -> None:
        """End the run.

        Args:
            metrics: Results.
            artifacts: Files to keep with the run; those that do not exist are left out.
            status: "FINISHED", "FAILED" or "KILLED".
            tokens: Where the results stand on the axis; by default at the last point that was logged.
        """


class Tracker:
    """Tracking; this one goes nowhere (``tracking=none``)."""

    def start_grid(
        self, name: str, description: str = "", tags: Mapping[str, str] | None = None, identity: str | None = None
    ) -> str | None:
        """Open the run that the cells of a grid are nested in; returns its id for their ``parent``.

        A grid that was tracked before under the same ``identity`` goes on in the same run.
        """

    def finish_grid(
        self,
        grid: str | None,
        table: str,
        figures: Iterable[Path] = (),
        status: str = "FINISHED",
        columns: Sequence[str] = (),
    ) -> None:
        """Close it with its table (Markdown), which becomes its description, and figures.

        ``columns`` are parameters that differ between the cells: the page of runs gets a view with them as columns.
        """

    def start_run(
        self, folder: Path, name: str, parent: str | None, parameters: Mapping[str, Any], tags: Mapping[str, str]
    ) -> TrackedRun:
        """Open a run, or go on with the one that ``folder`` was tracked as.

        Args:
            folder: The run's folder.
            name: Readable name.
            parent: Id of a grid, from ``start_grid``.
            parameters: Dotted keys to values; those that differ between runs can be shown as columns.
            tags: More keys to values, to search by.
        """
        del folder, name, parent, parameters, tags
        return TrackedRun()

    def amend(self, folder: Path, metrics: Mapping[str, float], tokens: int) -> None:
        """Add to a run that has ended: results that were measured later, and its files anew. Nothing where it is not tracked.

        Args:
            folder: The run's folder.
            metrics: All of its results.
            tokens: Where they stand on the axis.
        """

    def send_pending(self) -> int:
        """Send what earlier commands could not; returns the number of runs that are now complete."""
        return 0

    def close(self) -> None:
        """Send or keep whatever is queued."""


def open_tracker(tracking: TrackingConfig, runs_dir: Path) -> Tracker:
    """The tracker of a config. Nothing is reached, or even imported, before the first run is started.

    Raises:
        ConfigError: ``tracking.uri`` is of a kind that MLflow no longer takes.
    """
    if tracking.kind == "none":
        return Tracker()
    if mistakes := tracking_mistakes(tracking):
        raise ConfigError(mistakes)
    folder = runs_dir.resolve()
    uri, artifacts = tracking.uri, tracking.artifacts
    if uri is None:
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        artifacts = artifacts or str(folder / "mlartifacts")
    elif uri.startswith("sqlite:///") and artifacts is None:
        artifacts = str(folder / "mlartifacts")
    if artifacts is not None and "://" not in artifacts:
        artifacts = Path(artifacts).resolve().as_uri()
    return MlflowTracker(store(uri, artifacts, tracking.experiment), runs_dir, tracking.flush_seconds)


class _MlflowRun(TrackedRun):
    def __init__(self, tracker: MlflowTracker, outbox: Outbox, tokens: int = 0) -> None:
        self._tracker, self._outbox, self._tokens = tracker, outbox, tokens

    @property
    def id(self) -> str:
        return self._outbox.id

    def log(self, rows: Iterable[Mapping[str, float]]) -> None:
        for row in rows:
            self._tokens = int(row["tokens"])
            self._add({name: value for name, value in row.items() if name not in {"tokens", "step"}})
        self._tracker.start_sending()

    def finish(
        self, metrics: Mapping[str, float], artifacts: Iterable[Path], status: str = "FINISHED", tokens: int | None = None
    ) -> None:
        self._tokens = self._tokens if tokens is None else tokens
        self.add(metrics, artifacts)
        self._outbox.add("close", status=status)
        self._tracker.end(self._outbox)

    def add(self, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> None:
        """Queue results and files; those that do not exist are left out."""
        values = list(metrics.items())
        for start in range(0, len(values), MOST_METRICS):
            self._add(dict(values[start : start + MOST_METRICS]))
        for path in artifacts:
            if path.is_file():
                self._outbox.add("artifact", path=str(path.resolve()))

    def _add(self, values: Mapping[str, Any]) -> None:
        if numbers := _numbers(values):
            self._outbox.add("metrics", tokens=self._tokens, values=numbers)


class MlflowTracker(Tracker):
    """Tracking in MLflow.

    Args:
        store: Where to.
        runs_dir: Folder of the runs; what a grid could not send is kept in ``runs_dir/grids``.
        flush_seconds: Time between two batches, and before the second attempt when the store does not answer; later
            attempts wait twice as long each, up to five minutes.
    """

    def __init__(self, store: Store, runs_dir: Path, flush_seconds: float) -> None:
        self._store, self._runs_dir, self._flush_seconds = store, runs_dir, flush_seconds
        self._open: dict[str, Outbox] = {}
        self._titles: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._wait = 0.0
        self._try_at = 0.0

    def start_grid(
        self, name: str, description: str = "", tags: Mapping[str, str] | None = None, identity: str | None = None
    ) -> str | None:
        link = None if identity is None else self._runs_dir / "grids" / f"{identity}.tracking"
        outbox = self._linked(link) if link is not None else None
        if outbox is None:
            outbox = Outbox(self._runs_dir / "grids" / PENDING)
        outbox.file = outbox.file.with_name(f"{outbox.key}.{PENDING}")
        self._begin(outbox, name, None, description, {}, tags or {})
        self._titles[outbox.key] = f"{name}: {description}" if description else name
        if link is not None:
            self._write_link(link, outbox)
        return outbox.id

    def finish_grid(
        self,
        grid: str | None,
        table: str,
        figures: Iterable[Path] = (),
        status: str = "FINISHED",
        columns: Sequence[str] = (),
    ) -> None:
        outbox = next((box for box in self._open.values() if grid in (box.run_id, box.key)), None)
        if outbox is None:
            return
        title = self._titles.pop(outbox.key, "")
        outbox.add("tag", key="mlflow.note.content", value=f"{title}\n\n{table}")
        outbox.add("text", name="table.md", content=table)
        for path in figures:
            if path.is_file():
                outbox.add("artifact", path=str(path.resolve()))
        if columns:
            key = outbox.key.removeprefix(UNSENT).strip("-")
            outbox.add("view", name=title[:80], key=key, parameters=list(columns), metrics=list(_VIEW_METRICS))
        outbox.add("close", status=status)
        self.end(outbox)

    def start_run(
        self, folder: Path, name: str, parent: str | None, parameters: Mapping[str, Any], tags: Mapping[str, str]
    ) -> TrackedRun:
        outbox = self._earlier(folder)
        self._begin(outbox, name, parent, "", parameters, tags)
        self._write_link(folder / _LINK, outbox)
        return _MlflowRun(self, outbox)

    def amend(self, folder: Path, metrics: Mapping[str, float], tokens: int) -> None:
        outbox = self._earlier(folder)
        if outbox.run_id is None and not len(outbox):
            return
        if not self._open:
            atexit.register(self.close)
        self._open[outbox.key] = outbox
        run = _MlflowRun(self, outbox, tokens)
        run.add(metrics, [folder / name for name in RUN_FILES])
        self.end(outbox)

    def send_pending(self) -> int:
        files = [*self._runs_dir.glob(f"grids/*.{PENDING}"), *self._runs_dir.glob(f"*/{PENDING}")]
        sent = 0
        for file in files:
            try:
                if any(box.file == file for box in self._open.values()) or not Outbox.abandoned(file):
                    continue
                outbox = Outbox.read(file)
            except FileNotFoundError:
                continue  # another process has just sent it
            except (OSError, ValueError) as error:
                _log.warning("%s cannot be read and is left alone: %s", file, error)
                continue
            outbox.ended = True
            if not self._send(outbox, replay=True):
                break
            sent += not len(outbox)
        return sent

    def close(self) -> None:
        for outbox in list(self._open.values()):
            self.end(outbox)

    def start_sending(self) -> None:
        """Start the thread that sends, if there is none."""
        if self._thread is None or not self._thread.is_alive():
            self._stop.clear()
            self._thread = threading.Thread(target=self._send_on, name="tracking", daemon=True)
            self._thread.start()

    def end(self, outbox: Outbox) -> None:
        """Send all that is left of a run, or keep it in its file."""
        outbox.ended = True
        self._send(outbox)
        if len(outbox):
            _log.warning("what MLflow has not got of this run is kept in %s; the next command sends it", outbox.file)
        self._open.pop(outbox.key, None)
        if not self._open:
            self._stop.set()
            atexit.unregister(self.close)

    def _begin(
        self, outbox: Outbox, name: str, parent: str | None, note: str, parameters: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        outbox.ended = False
        plain = {key: value if isinstance(value, str | int | float | None) else str(value) for key, value in parameters.items()}
        outbox.add("open", name=name, parent=parent, note=note, tags=dict(tags))
        if plain:
            outbox.add("parameters", values=plain)
        if not self._open:
            atexit.register(self.close)
        self._open[outbox.key] = outbox
        if self._send(outbox) and parent is None:
            # A store that answers may have missed something earlier; the cells of a grid leave that to the grid.
            self.send_pending()
        if len(outbox):
            self.start_sending()

    def _earlier(self, folder: Path) -> Outbox:
        """What an earlier session of the run in ``folder`` left, or a new outbox."""
        if (folder / PENDING).exists():
            with contextlib.suppress(ValueError, OSError):
                return Outbox.read(folder / PENDING)
        linked = self._linked(folder / _LINK)
        return Outbox(folder / PENDING) if linked is None else linked  # an outbox with nothing in it is false

    def _write_link(self, path: Path, outbox: Outbox) -> None:
        write_atomic(path, json.dumps({"uri": self._store.uri, "key": outbox.key, "run_id": outbox.run_id}, indent=1))

    def _linked(self, path: Path) -> Outbox | None:
        """The run of this store that a link names."""
        with contextlib.suppress(ValueError, OSError, KeyError):
            link = json.loads(path.read_text())
            if link["uri"] == self._store.uri:
                return Outbox(path.parent / PENDING, link["key"], link["run_id"])
        return None

    def _send_on(self) -> None:
        while not self._stop.wait(self._flush_seconds):
            if time.monotonic() >= self._try_at:
                for outbox in list(self._open.values()):
                    if not self._send(outbox):
                        break

    def _send(self, outbox: Outbox, replay: bool = False) -> bool:
        """Send what is queued; False if the store does not take it now, and then it is kept in the file."""
        with outbox.sending:
            while operations := outbox.next(MOST_METRICS):
                try:
                    self._send_some(outbox, operations, replay)
                except ParentMissing:
                    outbox.keep()
                    return True  # the store is there, and the parent's turn will come
                except Exception as error:
                    if not self._store.permanent(error):
                        self._failed(outbox, error)
                        return False
                    _log.warning("MLflow refuses a part of run %s, which is left out: %s", outbox.id, _first_line(error))
                    if outbox.run_id is None:
                        outbox.drop(len(outbox))
                        break
                outbox.drop(len(operations))
            outbox.keep()
        if self._wait:
            _log.warning("MLflow answers again")
            self._wait = self._try_at = 0.0
        return True

    def _send_some(self, outbox: Outbox, operations: Sequence[dict[str, Any]], replay: bool) -> None:
        operation = operations[0]
        if operation["do"] == "open":
            look = replay or self._wait > 0 or outbox.run_id is not None or outbox.file.exists()
            parent_file = self._runs_dir / "grids" / f"{operation['parent']}.{PENDING}"
            outbox.run_id = self._store.open(
                operation, outbox.key, outbox.run_id, look=look, orphan=replay and not parent_file.exists()
            )
        else:
            assert outbox.run_id is not None
            self._store.send(outbox.run_id, operations)

    def _failed(self, outbox: Outbox, error: Exception) -> None:
        if not self._wait:
            _log.warning(
                "MLflow at %s does not answer (%s). Training goes on; what it misses is kept in %s and sent later",
                self._store.uri,
                _first_line(error),
                outbox.file,
            )
        self._wait = min(_LONGEST_WAIT, 2 * self._wait or self._flush_seconds)
        self._try_at = time.monotonic() + self._wait
        try:
            outbox.keep()
        except OSError as disk:
            _log.warning("%s cannot be written: %s", outbox.file, disk)


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    """The values that are numbers; one that is not finite is None, which JSON has."""
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
