"""What a report is made from, kept small enough for a repository: ``results/runs.csv``, ``results/grids/``,
``results/curves/``, ``results/documents/``, ``results/matrix_std/``, ``results/layer_skip/``. It grows by the runs that are
found and never shrinks, so that a report can be made again from a clone that has no runs."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.report import documents, layer_skip, weights
from tinylm_ablate.report.curves import thin
from tinylm_ablate.report.records import Row, check_rows, parse_grid, read_rows, to_csv

RUNS = "runs.csv"


def collect(runs_dir: Path, results: Path, problems: list[str]) -> None:
    """Take over the finished runs of ``runs_dir``, and the grids that have any.

    Args:
        runs_dir: Folder of the runs; it may be missing.
        results: Folder of the results; it is made if there is something to keep.
        problems: Gets a line for each run, grid or curve that is unfinished or cannot be read.

    Raises:
        UserError: One of the folders cannot be read or written.
    """
    fresh = read_rows(runs_dir, problems)
    if not fresh:
        return
    try:
        rows = kept_rows(results)
        rows.update({str(row["identity"]): row for row in fresh})
        write_atomic(results / RUNS, to_csv(rows[identity] for identity in sorted(rows)))
        members, weighed = _collect_grids(runs_dir, results, rows.keys(), problems)
        for row in progress.bar(fresh, description="reading runs", unit="run"):
            curve = runs_dir / str(row["identity"]) / "curve.jsonl"
            if str(row["identity"]) in members and curve.is_file():
                write_atomic(results / "curves" / f"{row['identity']}.csv", thin(curve))
                _collect_documents(curve.parent, row, results, problems)
                layer_skip.collect(curve.parent, results, problems)
            deviations = curve.with_name("matrix_std.json")
            if str(row["identity"]) in weighed and deviations.is_file():
                try:
                    write_atomic(results / weights.NAME / f"{row['identity']}.csv", weights.compact(deviations))
                except (ValueError, KeyError, TypeError) as error:
                    problems.append(f"{deviations}: cannot be read and is left out: {error}")
    except OSError as error:
        raise UserError(f"{results} cannot be written: {error.strerror}") from error


def _collect_documents(folder: Path, row: Row, results: Path, problems: list[str]) -> None:
    """Take over what each document came to in a run, if it is there and agrees with the run's record."""
    identity = str(row["identity"])
    try:
        found = documents.compact(folder, row)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{folder}: its documents cannot be used, so its intervals cover seeds alone: {error}")
        return
    if found is not None:
        items, listed, values = found
        path = results / documents.NAME / f"items-{items}.csv"
        if not path.is_file():
            write_atomic(path, listed)
        write_atomic(results / documents.NAME / f"{identity}.json", values)


def kept_rows(results: Path) -> dict[str, Row]:
    """The rows of ``runs.csv``, as texts, by identity."""
    path = results / RUNS
    if not path.exists():
        return {}
    try:
        with path.open(newline="") as stream:
            # Empty cells are left out: a column may be another run's.
            rows = [{key: value for key, value in row.items() if value != ""} for row in csv.DictReader(stream)]
        check_rows(rows)
    except (OSError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or delete it and run the report again") from None
    return {row["identity"]: dict(row) for row in rows}


def _collect_grids(runs_dir: Path, results: Path, identities: Iterable[str], problems: list[str]) -> tuple[set[str], set[str]]:
    """Copy the grids with finished runs; returns the runs that are in one, and those whose weights' deviations are drawn."""
    finished = set(identities)
    members: set[str] = set()
    weighed: set[str] = set()
    for path in sorted(runs_dir.glob("grids/*.json")):
        try:
            grid = parse_grid(path)
            text = path.read_text()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{path}: cannot be read and is left out: {error}")
            continue
        missing = [cell for cell in grid.cells if cell.identity not in finished]
        if missing:
            problems.append(f"{grid.name}: {len(missing)} of {len(grid.cells)} cells are not finished")
        if len(missing) < len(grid.cells):
            write_atomic(results / "grids" / path.name, text)
            members |= {cell.identity for cell in grid.cells}
            if weights.NAME in grid.figures:
                weighed |= {cell.identity for cell in grid.cells}
    return members, weighed
