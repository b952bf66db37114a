"""The paper's numbers, and the row for each arm."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tinylm_ablate.frames.grid_file import Grid
from tinylm_ablate.report.measures import number

FOLDER = Path(__file__).parent / "paper"

#: The experiment to show first.
LADDER = "figure01_ladder"

#: Maximum relative difference to the closest row, since the paper's sizes are rounded (its rate "2.77" is 2.714 or 8/3).
_TOLERANCE = 0.04


@dataclass(frozen=True)
class Printed:
    """A table of the paper.

    Attributes:
        name: Stem of its CSV.
        columns: Columns with results, as texts.
        rows: One per requested arm: its results, or None if the paper has no such row.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, str] | None]


def printed(grids: Sequence[Grid], places: Sequence[Mapping[str, str]], problems: list[str]) -> Printed | None:
    """Return the paper's rows for arms.

    A column of ``paper_axis`` belongs to the axis whose last part has its name ("depth" to "arch.depth"), and otherwise to the
    axis at the same position. Sizes written as "N/s" are the paper's N.

    Args:
        grids: Grids with one name; the last one with a table of the paper is used.
        places: Values of each arm on the axes.
        problems: Receives a line if the table does not exist.
    """
    named = [grid for grid in grids if grid.paper and grid.paper_axis]
    if not named:
        return None
    grid = named[-1]
    name = (grid.paper or "").removesuffix(".csv")
    table = rows_of(name)
    if not table:
        problems.append(f"experiment {grid.name}: experiment.paper={grid.paper} is not one of the paper's tables")
        return None
    missing = [column for column in grid.paper_axis if column not in table[0]]
    if missing:
        problems.append(f"experiment {grid.name}: experiment.paper_axis names {', '.join(missing)}, which {name}.csv lacks")
        return None
    axis = [key for key in grid.axis if key != "seed"]
    keys = {
        column: next((key for key in axis if key.split(".")[-1] == column), axis[min(position, len(axis) - 1)] if axis else "")
        for position, column in enumerate(grid.paper_axis)
    }
    columns = [column for column in table[0] if column not in grid.paper_axis]
    found = [_row(table, {column: place.get(key, "") for column, key in keys.items()}) for place in places]
    return Printed(name, columns, [None if row is None else {c: row[c] for c in columns} for row in found])


@functools.cache
def printed_tables() -> dict[str, pd.DataFrame]:
    """Return every table of the paper by name, with all columns as text."""
    return {path.stem: pd.read_csv(path, dtype=str, keep_default_na=False) for path in sorted(FOLDER.glob("*.csv"))}


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a table of the paper, if it exists."""
    table = printed_tables().get(name)
    return [] if table is None else [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def order(names: Iterable[str]) -> list[str]:
    """Sort experiments: the ladder, the paper's tables, its other figures, and other experiments."""

    def place(name: str) -> tuple[int, str]:
        rank = 0 if name == LADDER else 1 if name.startswith("table") else 2 if name.startswith("figure") else 3
        return rank, name

    return sorted(names, key=place)


def _row(table: Sequence[Mapping[str, str]], wanted: Mapping[str, str]) -> Mapping[str, str] | None:
    distances = [
        (max(_distance(row[column], value) for column, value in wanted.items()), index) for index, row in enumerate(table)
    ]
    distance, index = min(distances)
    return table[index] if distance <= _TOLERANCE else None


def _distance(printed_value: str, value: str) -> float:
    """Return the relative distance of two numbers; 0 or infinity for words."""
    first, second = number(printed_value), number(value)
    if first is None or second is None:
        return 0.0 if printed_value.strip().lower() == value.strip().lower() else float("inf")
    return abs(first - second) / max(abs(first), abs(second)) if first != second else 0.0
