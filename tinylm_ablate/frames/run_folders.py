"""Finished runs as data frames, read from their folders.

A run is finished if ``runs/<identity>/metrics.json`` exists; its measurements are in ``measures/``. Unfinished or damaged runs
are reported and omitted, without affecting others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError, one_line
from tinylm_ablate.frames.flat_rows import DAMAGE, MEASURE_SCHEMA, Row, check, flatten, flatten_into, frame, parse
from tinylm_ablate.frames.grid_file import MEASURE_STEM, Grid, identity, parse_grid
from tinylm_ablate.frames.long_tables import LongTables, matrix_std, thin_curve
from tinylm_ablate.measure.benchmarks import averages

#: The supported format of ``metrics.json``.
RECORD_SCHEMA = 2

#: Settings that do not distinguish runs: those that identify a measure's record, and the tokens of bigrams (from the budget).
_WHICH = ("task", "shipped", "weights", "tokens")

_T = TypeVar("_T")


@dataclass
class Records:
    """All data for a report.

    Attributes:
        runs: One row per finished run.
        grids: Every grid, in the order of its file name.
        rows: Long frames by name, each with a column "identity": "curves", "along", "documents", "questions", "matrix_std",
            one for each other measure that has rows, and "models", the scores of external models.
        searches: The description of each search.
        problems: One line for each omitted item.
    """

    runs: pd.DataFrame
    grids: list[Grid] = field(default_factory=list)
    rows: dict[str, pd.DataFrame] = field(default_factory=dict)
    searches: list[Mapping[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_runs(runs_dir: Path, only: Grid | None = None) -> Records:
    """Read everything in a folder of runs.

    Args:
        runs_dir: The folder; it may be missing.
        only: A grid: read only it and its runs.

    Raises:
        UserError: The folder cannot be read.
    """
    problems: list[str] = []
    grids = list(_readable(sorted(runs_dir.glob("grids/*.json")), _grid, problems)) if only is None else [only]
    wanted: dict[str, set[str]] = {}
    for grid in grids:
        for cell in grid.cells:
            wanted.setdefault(cell.identity, set()).update(cell.measures)
    found: list[Row] = []
    tables = LongTables()
    for folder in progress.bar(_folders(runs_dir, None if only is None else wanted), description="reading runs", unit="run"):
        try:
            found.append(_run(folder, wanted.get(folder.name, set()), tables, problems))
        except FileNotFoundError:
            if (folder / "config.yaml").is_file():
                problems.append(f"{folder}: {_unfinished(folder)}")
        except DAMAGE as error:
            problems.append(f"{folder / 'metrics.json'}: cannot be read and is left out: {one_line(error)}")
    known = {row["identity"]: row for row in found}
    long = tables.joined(known, problems)
    for grid in grids:
        missing = sum(cell.identity not in known for cell in grid.cells)
        problems += [f"{grid.name}: {missing} of {len(grid.cells)} cells are not finished"] if missing else []
    searches = [] if only is not None else list(_readable(sorted(runs_dir.glob("search/*.json")), _search, problems))
    models = pd.DataFrame() if only is not None else _models(runs_dir, problems)
    long |= {"models": models} if len(models) else {}
    return Records(frame(found), grids, long, searches, problems)


def _run(folder: Path, wanted: set[str], tables: LongTables, problems: list[str]) -> Row:
    """Return one finished run as a flat row, and add its long tables to ``tables``."""
    record = parse(folder / "metrics.json", RECORD_SCHEMA)
    if identity(record["identity"]) != folder.name:
        raise ValueError(f"identity={record['identity']} is not the name of its folder")
    row = flatten(record)
    check(row)
    for name, read in (("curve.jsonl", thin_curve), ("matrix_std.json", matrix_std)):
        try:
            tables.add(read(folder / name), name.split(".")[0], folder.name)
        except FileNotFoundError:
            continue
        except DAMAGE as error:
            problems.append(f"{folder / name}: cannot be read and is left out: {one_line(error)}")
    tables.add_along(folder, row, problems)
    for name, paths in _measures(folder, wanted, problems).items():
        taken: dict[str, Path] = {}
        for path in paths:
            try:
                measured = parse(path, MEASURE_SCHEMA)
                own: Row = {}
                flatten_into("", measured["metrics"], own)
                check(own)
                if before := next((taken[key] for key in own if key in taken), None):
                    if before.stem not in wanted or path.stem in wanted:  # no grid selects one of them
                        problems.append(
                            f"{folder}: different measurements of {name}; {before.name} is used, {path.name} is not"
                        )
                    continue
                found = dict.fromkeys(own, path)
                if name != "benchmarks":  # runs with and without scores may be compared by everything else
                    settings = {key: value for key, value in (measured.get("settings") or {}).items() if key not in _WHICH}
                    flatten_into(f"measure.{name}.", settings, own)
                tables.add_measure(path.with_suffix(".parquet"), name, folder.name, own)
                taken |= found
            except DAMAGE as error:
                problems.append(
                    f"{path}: cannot be read and is left out: {one_line(error)}. Without it, the grid measures again"
                )
                continue
            row |= own
    return row | averages(row)


def measured(folder: Path, stems: Sequence[str], problems: list[str]) -> Row:
    """The metrics of some records of a run; one that cannot be read is reported, and one that is missing is not."""
    found: Row = {}
    for path in (folder / "measures" / f"{stem}.json" for stem in stems):
        try:
            flatten_into("", parse(path, MEASURE_SCHEMA)["metrics"], found)
        except FileNotFoundError:
            continue
        except DAMAGE as error:
            problems.append(f"{path}: cannot be read and is left out: {one_line(error)}")
    return found


def _measures(folder: Path, wanted: set[str], problems: list[str]) -> dict[str, list[Path]]:
    """Return the records of each measure: first those that a grid names, then the last by name.

    If two have the same metric, the first is used.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "measures").glob("*.json"), reverse=True):
        if match := MEASURE_STEM.fullmatch(path.stem):
            found.setdefault(match[1], []).append(path)
        else:
            problems.append(f"{path}: is not named <measure>.<fingerprint>.json and is left out")
    return {name: sorted(paths, key=lambda path: path.stem not in wanted) for name, paths in sorted(found.items())}


def _models(runs_dir: Path, problems: list[str]) -> pd.DataFrame:
    """Return one row per external model: identity, name, parameters, and its metrics."""
    rows = []
    for path in sorted((runs_dir / "models").glob("*/model.json")):
        try:
            about = parse(path, 1)
            row: Row = {
                "identity": identity(path.parent.name),
                "name": str(about["name"]),
                "parameters": int(about["parameters"]),
            }
            metrics: Row = {}
            for paths in _measures(path.parent, set(), problems).values():
                for record in reversed(paths):
                    flatten_into("", parse(record, MEASURE_SCHEMA)["metrics"], metrics)
            check(metrics)
        except DAMAGE as error:
            problems.append(f"{path}: cannot be read and is left out: {one_line(error)}")
            continue
        rows.append(row | metrics | averages(metrics))
    return pd.DataFrame(rows)


def _grid(path: Path) -> Grid:
    return parse_grid(json.loads(path.read_text()))


def _search(path: Path) -> Mapping[str, Any]:
    return parse(path, 1)


def _readable(paths: Sequence[Path], read: Callable[[Path], _T], problems: list[str]) -> Iterator[_T]:
    """Read files; unreadable ones are reported."""
    for path in paths:
        try:
            yield read(path)
        except DAMAGE as error:
            problems.append(f"{path}: cannot be read and is left out: {one_line(error)}")


def _folders(runs_dir: Path, chosen: Collection[str] | None) -> list[Path]:
    try:
        if chosen is not None:
            return [runs_dir / name for name in sorted(chosen) if (runs_dir / name).is_dir()]
        return sorted(path for path in runs_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{runs_dir} cannot be read as a folder of runs: {error.strerror}") from None


def _unfinished(folder: Path) -> str:
    """Describe the state of a run without a record."""
    error = folder / "error.txt"
    if error.is_file():
        lines = error.read_text(errors="replace").strip().splitlines()
        return f"failed: {lines[-1] if lines else 'no message'}"
    return "not finished; the command that started it resumes it"
