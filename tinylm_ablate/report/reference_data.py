"""The reference: this project's published runs, in a format that is small enough for a repository.

``runs.parquet`` has one row per run, ``curves.parquet`` thinned loss curves, ``documents.parquet`` and ``questions.parquet``
the result of each held-out document and cloze question, and other measures have their own file; ``grids.json`` lists the runs
of each table. Pages are generated only from these files.
"""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.frames.flat_rows import frame, shipped
from tinylm_ablate.frames.grid_file import identity, parse_grid
from tinylm_ablate.frames.run_folders import Records

#: Result by which a run that was trained again is recognized.
_LOSS = "train/loss"

_RUNS, _GRIDS = "runs.parquet", "grids.json"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def is_reference(folder: Path) -> bool:
    """Return whether a folder has a reference's data."""
    return (folder / _RUNS).is_file()


def read_reference(folder: Path) -> Records:
    """Read the records in a folder, if any.

    Raises:
        UserError: A file is damaged.
    """
    if not is_reference(folder):
        return Records(frame([]))
    path = folder / _RUNS
    try:
        table = pd.read_parquet(path)
        rows = [{key: None if value != value else value for key, value in row.items()} for row in _plain(table)]
        for row in rows:
            identity(row["identity"])
        path = folder / _GRIDS
        grids = [parse_grid(grid) for grid in json.loads(path.read_text())]
        long = {}
        for path in sorted(folder.glob("*.parquet")):
            if path.name != _RUNS:
                long[path.stem] = pd.read_parquet(path)
    except _DAMAGE as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from the repository") from None
    return Records(frame(rows), grids, long)


def write_reference(records: Records, folder: Path) -> None:
    """Write records as the reference, with the same bytes for the same records.

    Keeps only runs of grids, and only the rows that pages use: loss curves, documents, and measures and weights in a grid's
    figures.

    Raises:
        OSError: The folder cannot be written.
    """
    finished = set(records.runs["identity"])
    grids = [grid for grid in records.grids if any(cell.identity in finished for cell in grid.cells)]
    drawn: dict[str, set[str]] = {}
    for grid in grids:
        for name in ("curves", "along", "documents", "questions", *grid.figures):
            drawn.setdefault(name, set()).update(cell.identity for cell in grid.cells)
    members = drawn.get("curves", set())
    runs = records.runs[records.runs["identity"].isin(members)].sort_values("identity")
    empty = [name for name in runs.columns if runs[name].isna().all() and shipped().get(name) is None]
    write_atomic(folder / _RUNS, _parquet(runs.drop(columns=empty)))
    for name, table in records.rows.items():
        kept = table if name == "models" and name in drawn else table[table["identity"].isin(drawn.get(name, set()))]
        if len(kept):
            write_atomic(folder / f"{name}.parquet", _parquet(kept.sort_values("identity", kind="stable")))
    content = [dataclasses.asdict(grid) for grid in sorted(grids, key=lambda grid: (grid.name, grid.identity))]
    write_atomic(folder / _GRIDS, json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n")


def merged(old: Records, new: Records) -> Records:
    """Merge records; a run or grid in ``new`` replaces that with the same identity in ``old``, unless it was trained again.

    Then the first result counts: to train a run again until its result is better would bias every verdict, and repetitions
    differ, since other processors and versions round differently.
    """
    losses = {row["identity"]: str(row.get(_LOSS)) for row in _plain(old.runs)}
    fresh = [row for row in _plain(new.runs) if losses.get(row["identity"], str(row.get(_LOSS))) == str(row.get(_LOSS))]
    names = {row["identity"] for row in fresh}
    again = sorted(set(new.runs["identity"]) - names)
    kept = [row for row in _plain(old.runs) if row["identity"] not in names]
    rows = [{key: None if value != value else value for key, value in row.items()} for row in [*kept, *fresh]]
    grids = {grid.identity: grid for grid in [*old.grids, *new.grids]}
    long = {}
    for name in {**old.rows, **new.rows}:
        parts = [old.rows[name][~old.rows[name]["identity"].isin(names)]] if name in old.rows else []
        parts += [new.rows[name][~new.rows[name]["identity"].isin(again)]] if name in new.rows else []
        long[name] = pd.concat(parts, ignore_index=True)
    repeated = f"trained again: {', '.join(again)}; the results in the reference stay"
    problems = [*old.problems, *new.problems, *([repeated] if again else [])]
    return Records(frame(rows), list(grids.values()), long, [*old.searches, *new.searches], problems)


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows with Python values; missing ones are None or NaN."""
    converted = table.astype(object).where(table.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in converted.to_dict("records")]


def _parquet(table: pd.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    # Without pandas' metadata, which includes its version, the same table has the same bytes.
    content = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(content, stream, compression="zstd", compression_level=9)
    return stream.getvalue()
