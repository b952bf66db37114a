"""Long tables of all runs: curves, documents, questions, measurements along runs, and rows of other measures."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tinylm_ablate.errors import one_line
from tinylm_ablate.frames.flat_rows import DAMAGE, MEASURE_SCHEMA, Row, check, flatten_into, parse

#: Suffixes of metrics that describe another one.
_ABOUT = re.compile(r"/(standard_error|documents|bytes|questions|tokens|shots|requests|cut_requests)$")

#: Points to keep of a loss curve: more than a figure can show.
POINTS = 64

#: Columns of the measures whose items are kept, for the test split, in order to compare runs item by item.
_ITEMS = {
    "bits_per_byte": ["split", "language", "document", "nats", "bytes"],
    "cloze": ["split", "language", "question", "correct"],
}

#: Names of the long frames of some files.
_LONG = {"bits_per_byte": "documents", "cloze": "questions", "curve": "curves"}

#: Characters to keep of an item's name: enough to distinguish thousands.
_ITEM_CHARACTERS = 12


@dataclass
class LongTables:
    """Long tables of all runs, joined once: a frame per run and file would take most of the time of a report."""

    parts: dict[str, list[pa.Table]] = field(default_factory=dict)
    metrics: dict[tuple[str, str], tuple[Path, Row]] = field(default_factory=dict)

    def add(self, table: pa.Table, name: str, run: str) -> None:
        """Add the rows of a run."""
        parts = self.parts.setdefault(name, [])
        owner = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), pa.array([run]))
        table = table.add_column(0, "identity", owner)
        if parts:
            pa.unify_schemas([parts[0].schema, table.schema], promote_options="permissive")  # raises if they cannot be joined
        parts.append(table)

    def add_along(self, folder: Path, run: Row, problems: list[str]) -> None:
        """Add measurements along a run, without errors and sizes: tokens, metric, value.

        Of two measurements of one metric at one point, the newer is used.
        """
        newest: dict[tuple[int, str], tuple[int, float]] = {}
        for path in sorted(folder.glob("points/[0-9]*/measures/*.json")):
            try:
                tokens = int(path.parent.parent.name) * int(run["train.batch_tokens"])
                metrics: Row = {}
                flatten_into("", parse(path, MEASURE_SCHEMA)["metrics"], metrics)
                check(metrics)
                changed = path.stat().st_mtime_ns
            except DAMAGE as error:
                problems.append(f"{path}: cannot be read and is left out: {one_line(error)}")
                continue
            for name, value in metrics.items():
                if not _ABOUT.search(name) and changed >= newest.get((tokens, name), (0, 0.0))[0]:
                    newest[tokens, name] = changed, float(f"{value:.6g}")
        if newest:
            rows = [(tokens, name, value) for (tokens, name), (_, value) in newest.items()]
            columns = [list(column) for column in zip(*rows, strict=True)]
            self.add(pa.table(dict(zip(("tokens", "metric", "value"), columns, strict=True))), "along", folder.name)

    def add_measure(self, path: Path, name: str, run: str, metrics: Row) -> None:
        """Add the rows of a measure, if any."""
        if path.is_file():
            with pq.ParquetFile(path) as file:
                if missing := set(_ITEMS.get(name, ())) - set(file.schema_arrow.names):
                    raise ValueError(f"the column {min(missing)} is missing")
                self.add(file.read(columns=_ITEMS.get(name), use_threads=False), name, run)
            if name in _ITEMS:
                self.metrics[name, run] = path, metrics

    def joined(self, rows: Mapping[str, Row], problems: list[str]) -> dict[str, pd.DataFrame]:
        """Return the long frames by name; items that are inconsistent with their metrics are omitted and reported."""
        found = {}
        for name, parts in sorted(self.parts.items()):
            table = pa.concat_tables(parts, promote_options="permissive").unify_dictionaries().to_pandas()
            table["identity"] = table["identity"].astype(str)
            table = table[table["identity"].isin(rows)]
            if name in _ITEMS:
                table = self._checked(table[table["split"] == "test"], name, rows, problems)
            if len(table):
                found[_LONG.get(name, name)] = table.reset_index(drop=True)
        return found

    def _checked(self, table: pd.DataFrame, name: str, rows: Mapping[str, Row], problems: list[str]) -> pd.DataFrame:
        *_, item, value = columns = _ITEMS[name][:4]
        if name == "bits_per_byte":
            table = table[table["bytes"] > 0]
            # Six digits, since documents are stored in a repository.
            magnitude = 10.0 ** (5 - np.floor(np.log10(table["nats"].abs().clip(lower=1e-300))))
            table = table.assign(nats=np.round(table["nats"] * magnitude) / magnitude)
        size = table["bytes"].astype(float) * math.log(2) if name == "bits_per_byte" else 1.0
        sums = (
            table.assign(value=table[value].astype(float), size=size).groupby(["identity", "language"])[["value", "size"]].sum()
        )
        damaged = set()
        for (run, language), (total, size) in zip(sums.index, sums.to_numpy(), strict=True):
            path, metrics = self.metrics[name, run]
            expected = metrics.get(f"test/{name}/{language}")
            if run not in damaged and (expected is None or abs(expected - total / size) > 1e-4):
                damaged.add(run)
                problems.append(
                    f"{path.with_suffix('.json')}: cannot be used and is left out: its {language} items give {name} "
                    f"{total / size:.5f}, but its metrics say {expected}"
                )
                for key in metrics:
                    rows[run].pop(key, None)
        table = table[~table["identity"].isin(damaged)]
        table = table.assign(**{item: table[item].astype(str).str[:_ITEM_CHARACTERS]})
        return table[["identity", *dict.fromkeys([*columns, *_ITEMS[name]])]]


def thin_curve(path: Path) -> pa.Table:
    """A run's ``curve.jsonl`` as at most ``POINTS`` rows of (tokens, loss).

    Each row is the mean over an equal number of steps, at the tokens of the last one. Incomplete lines are skipped, since a
    power failure can leave one.
    """
    lines = path.read_text(errors="replace").splitlines()
    try:  # all at once takes half of the time
        points = [(int(row["tokens"]), float(row["loss"])) for row in json.loads(f"[{','.join(lines)}]")]
    except (ValueError, KeyError, TypeError):
        points = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                points.append((int(row["tokens"]), float(row["loss"])))
    stretch = max(1, math.ceil(len(points) / POINTS))
    parts = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    means = [float(f"{math.fsum(loss for _, loss in part) / len(part):.5g}") for part in parts]
    return pa.table({"tokens": pa.array([part[-1][0] for part in parts], pa.int64()), "loss": pa.array(means, pa.float64())})


def matrix_std(path: Path) -> pa.Table:
    """Return the standard deviation of each matrix by layer: layer, matrix, initial, trained."""
    rows = json.loads(path.read_text())
    return pa.table(
        {
            "layer": [int(row["layer"]) for row in rows],
            "matrix": [str(row["matrix"]) for row in rows],
            "initial": [float(f"{row['std']:.5g}") for row in rows],
            "trained": [float(f"{row['trained_std']:.5g}") for row in rows],
        }
    )
