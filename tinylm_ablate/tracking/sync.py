"""``sync``: updates the trackers from the folders of the runs; it can be repeated at any time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.errors import ConfigError, first_line
from tinylm_ablate.secrets import cut
from tinylm_ablate.tracking import loggers
from tinylm_ablate.tracking.arm_summary import grid_snapshots
from tinylm_ablate.tracking.folders import Grid, grids_of, live, needed, runs_of, status_of
from tinylm_ablate.tracking.mlflow_client import Store, concerns_one_run, explain, locked, open_store
from tinylm_ablate.tracking.settings import tracking_mistakes
from tinylm_ablate.tracking.snapshot import Snapshot, signature_of, snapshot_of
from tinylm_ablate.tracking.views import save_view

if TYPE_CHECKING:
    from mlflow.entities import Run

    from tinylm_ablate.config import TrackingConfig

_log = logging.getLogger("tinylm_ablate")

_WORDS = {"created": "created", "updated": "updated", "closed": "closed", "unchanged": "up to date"}


@dataclass
class SyncReport:
    """Result of a sync.

    Attributes:
        counts: Runs and grids by action: "created", "updated", "closed" (it was running in the store) or "unchanged".
        problems: One line per problem; the next sync tries again.
    """

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.counts[key]} {word}" for key, word in _WORDS.items() if self.counts.get(key))
        return "\n".join([*([f"MLflow: {counts}"] if counts else []), *self.problems])


def sync(
    tracking: TrackingConfig,
    runs_dir: Path,
    grids: Collection[str] | None = None,
    folders: Collection[Path] | None = None,
) -> SyncReport:
    """Update the trackers from the files of runs and grids: create, complete, close and repair what differs.

    It does not raise if a store is unavailable or rejects a request: the report has the problem, and the next sync retries.

    Args:
        tracking: The trackers.
        runs_dir: Folder of the runs.
        grids: Identities of the grids to sync, with all their runs; None is every grid unless ``folders`` is given.
        folders: Folders of runs to sync, with the grids that include them; None is every run unless ``grids`` is given.

    Raises:
        ConfigError: The group ``tracking`` has mistakes.
    """
    if mistakes := tracking_mistakes(tracking):
        raise ConfigError(mistakes)
    report = sync_mlflow(tracking, runs_dir, grids, folders, live(runs_dir))
    if tracking.loggers:
        report.problems += loggers.export(tracking.loggers, runs_dir, _chosen(runs_dir, grids, folders)[1])
    return report


def sync_mlflow(
    tracking: TrackingConfig,
    runs_dir: Path,
    grids: Collection[str] | None,
    folders: Collection[Path] | None,
    held: Collection[str],
    only_runs: bool = False,
) -> SyncReport:
    """Run ``sync`` for MLflow only; ``held`` are the active runs, and ``only_runs`` skips grids."""
    report = SyncReport()
    if tracking.kind == "none":
        return report
    try:
        chosen, paths = _chosen(runs_dir, grids, folders)
        if chosen or paths:
            _sync(open_store(tracking, runs_dir), runs_dir, [] if only_runs else chosen, paths, held, report)
    except Exception as error:  # from MLflow or its libraries: a later sync sends the files
        _log.debug("tracking", exc_info=True)
        address = tracking.uri or f"sqlite:///{runs_dir / 'mlflow.db'}"
        report.problems.append(f"{explain(error, address)}; the next command sends the missing data")
    return report


def _chosen(runs_dir: Path, grids: Collection[str] | None, folders: Collection[Path] | None) -> tuple[list[Grid], list[Path]]:
    """Return the grids and folders to sync."""
    known = grids_of(runs_dir)
    if grids is None and folders is None:
        return known, needed(runs_of(runs_dir))
    chosen = {grid.identity for grid in known if grid.identity in (grids or ())}
    cells = [runs_dir / identity for grid in known if grid.identity in chosen for identity in grid.cells]
    paths = needed([*(runs_dir / folder.name for folder in folders or ()), *cells])
    names = {path.name for path in paths}
    return [grid for grid in known if grid.identity in chosen or names & grid.cells.keys()], paths


def _sync(
    store: Store,
    runs_dir: Path,
    grids: Sequence[Grid],
    folders: Sequence[Path],
    held: Collection[str],
    report: SyncReport,
) -> None:
    members = _memberships(grids_of(runs_dir), runs_dir)
    lock = runs_dir / ".tracking.lock"
    whole = {grid.identity: grid_snapshots(grid, runs_dir, held) for grid in grids}
    nests = [members.get(folder.name, [])[:1] for folder in folders]
    keys = {snapshot.key for snapshots in whole.values() for snapshot in snapshots} | {folder.name for folder in folders}
    own = store.database == runs_dir.resolve() / "mlflow.db"  # another store may also have runs of other folders
    states = store.states(None if own else keys | {grid.identity for nest in nests for grid in nest})
    ids = {key: state.run for key, state in states.items()}

    def count(action: str) -> None:
        report.counts[action] = report.counts.get(action, 0) + 1

    def current(key: str, signature: str, status: str) -> bool:
        return key in states and states[key][1:] == (signature, status)

    def push(snapshot: Snapshot) -> None:
        if current(snapshot.key, snapshot.signature, snapshot.status):
            count("unchanged")
            return
        try:
            ids[snapshot.key], done = store.push(snapshot, ids.get(snapshot.parent or ""), lock)
        except Exception as error:
            if not concerns_one_run(error):
                raise
            report.problems.append(cut(f"MLflow refuses a part of {snapshot.name}: {first_line(error)[:300]}"))
            return
        count(done)

    for grid, snapshots in ((grid, whole[grid.identity]) for grid in reversed(grids)):
        if not current(grid.identity, snapshots[0].signature, snapshots[0].status):
            with locked(lock):  # like ``push``: MLflow looks for a tag and inserts it in two steps
                save_view(store, grid, replicates=len(snapshots) > 1)
        for snapshot in snapshots:
            push(snapshot)
    for folder in folders:
        mine = members.get(folder.name, [])
        if current(folder.name, signature_of(folder, mine, held), status_of(folder, held)):
            count("unchanged")
            continue
        try:
            snapshot = snapshot_of(folder, mine, held)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            report.problems.append(cut(f"{folder}: skipped: {first_line(error)[:300]}"))
            continue
        push(snapshot)
    if own and any(state.status == "RUNNING" for state in states.values()):
        for run in store.running():
            if not any((runs_dir / place).exists() for place in _places(run)):
                store.client.set_terminated(run.info.run_id, "KILLED")
                count("closed")


def _places(run: Run) -> list[str]:
    """Return the files of a run in the store, relative to the folder of runs."""
    grids = [key.removeprefix("grid.") for key in run.data.tags if key.startswith("grid.")]
    identity = run.data.tags.get("identity")
    return [f"{identity}/settled.json"] if identity else [f"grids/{grid}.json" for grid in grids]


def _memberships(grids: Iterable[Grid], runs_dir: Path) -> dict[str, list[Grid]]:
    """Return the grids that include each run, as a cell or as a need of a cell, in order."""
    found: dict[str, list[Grid]] = {}
    for grid in grids:
        names = [*grid.cells, *(folder.name for folder in needed([runs_dir / identity for identity in grid.cells]))]
        for name in dict.fromkeys(names):
            found.setdefault(name, []).append(grid)
    return found
