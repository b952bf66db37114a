"""Records of measures in the folders of runs: ``measures/<name>.<fingerprint of the settings>.json``.

The rows of a record are in a Parquet file with the same stem. A record is written last and atomically: a measure is done when
its record exists, and it is never rewritten.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import RunFailed, UserError
from tinylm_ablate.files import fingerprint, write_atomic
from tinylm_ablate.measure.subject import Result, Settings
from tinylm_ablate.provenance import provenance

#: Version of the format of a record.
SCHEMA = 1

Record = dict[str, Any]


def stem(name: str, settings: Settings) -> str:
    """Return the name of a record's files, without suffixes."""
    return _stem(name, json.dumps(dict(settings)))


@functools.cache  # a grid of ten thousand cells has three of them
def _stem(name: str, settings: str) -> str:
    return f"{name}.{fingerprint(json.loads(settings))}"


def record_path(folder: Path, stem: str) -> Path:
    """Return the file of a record of the run in ``folder``."""
    return folder / "measures" / f"{stem}.json"


def write_record(folder: Path, name: str, settings: Settings, result: Result, seconds: float) -> None:
    """Write a record with its rows to a run's folder, rows first.

    Raises:
        RunFailed: A metric is not a finite number; nothing was written.
    """
    broken = [f"{key} is {value}" for key, value in result.metrics.items() if not math.isfinite(value)]
    if broken:
        raise RunFailed(f"{name} of {folder}: {', '.join(broken)}; the weights may have diverged")
    path = record_path(folder, stem(name, settings))
    if result.rows:
        write_parquet(path.with_suffix(".parquet"), result.rows)
    content = {
        "schema": SCHEMA,
        "measure": name,
        "settings": dict(settings),
        "metrics": result.metrics,
        "seconds": seconds,
        "provenance": provenance(),
    }
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False))


def read_record(folder: Path, stem: str) -> Record | None:
    """Read a record of the run in ``folder``; None if it was not measured.

    Raises:
        UserError: The file is damaged, or of another version.
    """
    path = record_path(folder, stem)
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        raise UserError(f"{path}: the record is damaged; remove it to measure it again")
    if record.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: the record has schema {record.get('schema')}, but this version reads {SCHEMA}; "
            "remove it to measure it again"
        )
    return record


def read_rows(folder: Path, stem: str) -> list[dict[str, Any]]:
    """Read the rows of a record, if any.

    Raises:
        UserError: The file is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    path = record_path(folder, stem).with_suffix(".parquet")
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: damaged ({error}); remove it and its .json file to measure it again") from error
    return rows


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows to a Parquet file atomically; missing values are null."""
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    columns = dict.fromkeys(column for row in rows for column in row)  # from_pylist would use only those of the first row
    pyarrow.parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in columns}), sink)
    write_atomic(path, sink.getvalue().to_pybytes())
