"""Background thread that syncs runs in training to the trackers."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tinylm_ablate.tracking.folders import live
from tinylm_ablate.tracking.loggers import Live
from tinylm_ablate.tracking.sync import sync_mlflow

if TYPE_CHECKING:
    from tinylm_ablate.config import TrackingConfig

#: Maximum time between attempts to reach a store, seconds.
_LONGEST_PAUSE = 300.0

#: Maximum time that ``close`` waits for the last attempt, seconds; the next sync sends what is missing then.
_PATIENCE = 30.0

_log = logging.getLogger("tinylm_ablate")


def follow(tracking: TrackingConfig, runs_dir: Path) -> Follower:
    """Create the follower for the runs that this process trains; it connects and imports nothing before ``add``."""
    return Follower(tracking, runs_dir)


class Follower:
    """Syncs the folders of the runs in training every ``tracking.flush_seconds``, in its own thread.

    Methods never raise errors of a tracker, and only ``close`` waits for one. It can be used as a context manager.
    """

    def __init__(self, tracking: TrackingConfig, runs_dir: Path) -> None:
        self._tracking, self._runs_dir = tracking, Path(runs_dir)
        self._running: dict[str, Path] = {}
        self._ended: dict[str, Path] = {}
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stop = False
        self._pause, self._next = 0.0, 0.0
        self._synced: set[str] = set()
        self._live = Live(tracking.loggers, self._runs_dir)

    def add(self, folder: Path) -> None:
        """Follow a run from now on; ``settled.json`` may not exist yet."""
        if self._tracking.kind == "none" and not self._tracking.loggers:
            return
        with self._change:
            self._running[folder.name] = folder
            self._ended.pop(folder.name, None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()

    def done(self, folder: Path) -> None:
        """Mark a run as ended, successfully or not; its folder is now final."""
        with self._change:
            if self._running.pop(folder.name, None) is not None:
                self._ended[folder.name] = folder
                self._change.notify()

    def close(self) -> None:
        """End all runs, and wait for the last sync, but not indefinitely."""
        with self._change:
            self._ended |= self._running
            self._running.clear()
            self._stop = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                _log.warning("the tracker is slow; the next command sends the missing data")

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        stop = False
        while not stop:
            with self._change:
                if not (self._stop or self._ended):
                    self._change.wait(self._tracking.flush_seconds)
                stop, running, ended = self._stop, dict(self._running), dict(self._ended)
                self._ended.clear()
            try:
                self._live.write(running.values(), ended.values())
                self._sync(running, ended)
            except Exception as error:  # must not affect training
                _log.warning("tracking: %s: %s", type(error).__name__, error)

    def _sync(self, running: dict[str, Path], ended: dict[str, Path]) -> None:
        if not (running or ended) or time.monotonic() < self._next:
            return
        held = (live(self._runs_dir) | running.keys()) - ended.keys()
        folders = [folder for folder in (*running.values(), *ended.values()) if (folder / "settled.json").exists()]
        same = not ended and self._synced == running.keys()  # in this case no grid has changed
        report = sync_mlflow(self._tracking, self._runs_dir, None, folders, held, only_runs=same)
        self._synced = set() if report.problems else {folder.name for folder in folders} & running.keys()
        if report.problems:
            if not self._pause:
                _log.warning("%s. Training continues", report.problems[0])
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause or self._tracking.flush_seconds)
            self._next = time.monotonic() + self._pause
        elif self._pause:
            _log.warning("MLflow is available again")
            self._pause = self._next = 0.0
