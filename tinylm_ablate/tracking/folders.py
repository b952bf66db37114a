"""Files of runs and grids, and the state of a run that follows from them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from tinylm_ablate.files import FINGERPRINT, read_json
from tinylm_ablate.leases import Leases

#: Files of a run to upload, sufficient for a report; the curve only once the run has ended.
RUN_FILES = (
    "settled.json", "config.yaml", "provenance.json", "metrics.json", "curve.jsonl", "matrix_std.json", "error.txt",
    "measures/*.json", "measures/*.parquet", "points/*/measures/*.json",
)  # fmt: skip


class Grid:
    """A grid, read from its file.

    Attributes:
        cells: Identity of each cell's run to the cell's name and overrides.
    """

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        self.path, self.identity = path, path.stem
        self.name, self.title = str(content.get("name") or path.stem), str(content.get("title") or "")
        self.note = str(content.get("note") or "")
        self.axis = [str(key) for key in content.get("axis") or []]
        self.created = path.stat().st_mtime
        self.command, self.is_search = content.get("command"), bool(content.get("search"))
        self.cells = {
            str(cell["identity"]): (
                str(cell.get("name", "")),
                {str(key): str(value) for key, value in dict(cell.get("overrides") or {}).items()},
            )
            for cell in content.get("cells") or []
            if isinstance(cell, dict) and FINGERPRINT.fullmatch(str(cell.get("identity")))
        }

    @property
    def label(self) -> str:
        """Return a name for people: of a grid from the command line, what differs instead of a number."""
        axes = [key for key in self.differing if key != "seed"]
        if self.name != f"grid-{self.identity[:8]}" or not axes:
            return self.name
        return f"{' x '.join(_shortened(axes))} ({self.identity[:8]})"

    @cached_property
    def differing(self) -> list[str]:
        """Return the settings that differ between the cells."""
        keys = dict.fromkeys(key for _, overrides in self.cells.values() for key in overrides)
        return [key for key in keys if len({overrides.get(key) for _, overrides in self.cells.values()}) > 1]

    def arm(self, identity: str) -> str:
        """Return the settings of a cell without its seed, which its replicates share."""
        _, overrides = self.cells[identity]
        return _words({key: value for key, value in overrides.items() if key != "seed"}) or self.name

    @cached_property
    def arms(self) -> dict[str, list[str]]:
        """Return the cells of each arm."""
        found: dict[str, list[str]] = {}
        for identity in self.cells:
            found.setdefault(self.arm(identity), []).append(identity)
        return found


def grids_of(runs_dir: Path) -> list[Grid]:
    """Return all grids in a folder of runs, newest first; other files are ignored."""
    found = []
    for path in (runs_dir / "grids").glob("*.json"):
        if FINGERPRINT.fullmatch(path.stem):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                found.append(_grid(path, path.stat().st_mtime_ns))
    return sorted(found, key=lambda grid: grid.created, reverse=True)


def runs_of(runs_dir: Path) -> list[Path]:
    """Return the folders of all runs that have started."""
    return sorted(path.parent for path in runs_dir.glob("*/settled.json") if FINGERPRINT.fullmatch(path.parent.name))


def needed(folders: Collection[Path]) -> list[Path]:
    """Return the folders together with those of the runs that they are trained from, each once."""
    found: dict[Path, None] = {}

    for folder in folders:
        path = folder / "settled.json"
        with contextlib.suppress(OSError):
            found |= {folder.with_name(identity): None for identity in _ancestors(path, path.stat().st_mtime_ns)}
        found[folder] = None
    return [folder for folder in found if (folder / "settled.json").is_file()]


def live(runs_dir: Path) -> set[str]:
    """Return the runs in training; a worker on another machine counts until its lease was unchanged for a whole lease time."""
    return {key.removeprefix("run-") for key in _leases(runs_dir).held() if key.startswith("run-")}


@cache
def _leases(runs_dir: Path) -> Leases:
    """One per folder and process, since watching is what shows that a lease is dead."""
    return Leases(runs_dir, 60.0)


def status_of(folder: Path, held: Collection[str]) -> str:
    """Return MLflow's name for the state of a run that has started."""
    if (folder / "metrics.json").exists():
        return "FINISHED"
    if folder.name in held:
        return "RUNNING"
    return "FAILED" if (folder / "error.txt").exists() else "KILLED"


def files_of(folder: Path, ended: bool) -> Iterator[tuple[str, Path]]:
    """Return the ``RUN_FILES`` that exist, by their names relative to the folder."""
    for pattern in RUN_FILES:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.name.startswith(".") and (ended or path.name != "curve.jsonl"):
                yield path.relative_to(folder).as_posix(), path


def results_of(folder: Path) -> dict[str, float]:
    """Return results of training and of measures; of two measurements of a metric, the later one is used."""
    found: dict[str, float] = {}
    for path in (folder / "metrics.json", *sorted((folder / "measures").glob("*.json"), key=lambda path: stat_of(path)[1])):
        with contextlib.suppress(OSError):
            found |= _metrics(path, path.stat().st_mtime_ns)
    return found


def points_of(folder: Path) -> dict[str, tuple[int, dict[str, float]]]:
    """Measurements along a run: optimizer steps and metrics of each record, by its name below the folder."""
    found = {}
    for path in sorted(folder.glob("points/[0-9]*/measures/*.json")):
        with contextlib.suppress(OSError, ValueError):
            metrics = _metrics(path, path.stat().st_mtime_ns)
            found[path.relative_to(folder).as_posix()] = (int(path.parent.parent.name), metrics)
    return found


def curve_of(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Read the rows of a curve, ascending: tokens and values. Incomplete or damaged lines are ignored."""
    rows: dict[int, dict[str, float]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
                tokens = int(row["tokens"])
            except (ValueError, TypeError, KeyError):
                continue
            rows[tokens] = {
                str(name): float(value)
                for name, value in row.items()
                if name not in {"step", "tokens"} and isinstance(value, int | float)
            }
    return sorted(rows.items())


def stat_of(path: Path) -> tuple[int, int]:
    """Return size and modification time, seconds: both survive a move, and a copy with times."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, int(found.st_mtime)


def milliseconds(path: Path) -> int:
    """Return the modification time of a file, milliseconds since 1970."""
    return int(1000 * path.stat().st_mtime)


def _words(overrides: Mapping[str, str]) -> str:
    """Format overrides for people."""
    return " ".join(f"{name}={value}" for name, value in zip(_shortened(list(overrides)), overrides.values(), strict=True))


def _shortened(keys: Sequence[str]) -> list[str]:
    """Return only the last part of each key if it is unambiguous."""
    short = [key.rpartition(".")[2] for key in keys]
    return [name if short.count(name) == 1 else key for name, key in zip(short, keys, strict=True)]


# Runs are read repeatedly while a grid trains, so results are cached until a file changes.


@lru_cache(maxsize=65536)
def _ancestors(path: Path, changed: int) -> tuple[str, ...]:
    """Return the runs that a run is trained from, in order of training, from its ``settled.json``."""
    del changed
    found: list[str] = []

    def add(settled: dict[str, Any]) -> None:
        for name in ("previous", "parent"):
            if isinstance(before := settled.get(name), dict):
                add(before)
                found.append(str(before.get("identity")))

    add(read_json(path))
    return tuple(found)


@lru_cache(maxsize=65536)
def _metrics(path: Path, changed: int) -> dict[str, float]:
    """Return the metrics of a record."""
    del changed
    metrics = read_json(path).get("metrics")
    items = metrics.items() if isinstance(metrics, dict) else ()
    return {str(name): float(value) for name, value in items if isinstance(value, int | float)}


@lru_cache(maxsize=1024)
def _grid(path: Path, changed: int) -> Grid:
    del changed
    return Grid(path)
