"""Finished runs as data frames, read from their folders.

A run is finished if ``runs/<identity>/metrics.json`` exists; its measurements are in ``measures/``. Unfinished or damaged runs
are reported and omitted, without affecting others.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tinylm_ablate import progress
from tinylm_ablate.config import NONE, Config, walk
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import canonical_json
from tinylm_ablate.measure.benchmarks import averages
from tinylm_ablate.paths import conf_dir

#: The axis to average over.
SEED = "seed"

#: The newest supported formats of ``metrics.json`` and of a measure's file.
RECORD_SCHEMA, MEASURE_SCHEMA = 2, 1

#: Pattern of identities, which are used as file names, so that records cannot contain anything else.
_IDENTITY = re.compile(r"[0-9a-f]{16}")
_MEASURE = re.compile(r"([a-z][a-z0-9_]*)\.([0-9a-f]{4,64})")

#: Prefixes of columns from each part of a record. Config and metrics keep their own names.
_PREFIXES = {
    "config": "", "metrics": "", "shape": "shape.", "parameters": "parameters.", "flops_per_token": "flops_per_token.",
    "tokenizer": "vocabulary.", "data": "text.", "init": "origin.", "provenance": "provenance.",
}  # fmt: skip

#: Parts of a record that describe its origin rather than its content.
_LEFT_OUT = (
    "text.sources", "text.files", "provenance.packages", "provenance.command", "schema", "grid.", "experiment.", "tracking.",
)  # fmt: skip
_LONGEST_LIST = 64

#: Suffixes of metrics that describe another one.
_ABOUT = re.compile(r"/(standard_error|documents|bytes|questions|tokens|shots|requests|cut_requests)$")

#: Points to keep of a loss curve: more than a figure can show.
POINTS = 64

#: Settings that do not distinguish runs: those that identify a measure's record, and the tokens of bigrams (from the budget).
_WHICH = ("task", "shipped", "weights", "tokens")

#: Columns of the measures whose items are kept, for the test split, in order to compare runs item by item.
_ITEMS = {
    "bits_per_byte": ["split", "language", "document", "nats", "bytes"],
    "cloze": ["split", "language", "question", "correct"],
}

#: Names of the long frames of some files.
_LONG = {"bits_per_byte": "documents", "cloze": "questions", "curve": "curves"}

#: Characters to keep of an item's name: enough to distinguish thousands.
_ITEM_CHARACTERS = 12

Row = dict[str, Any]
_T = TypeVar("_T")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    Attributes:
        identity: The run.
        overrides: Its value on each axis, as text.
        measures: Stems of the files of its measures.
        tuned: Result of the tuning of its arm: "interior", "edge" or "untuned".
    """

    identity: str
    overrides: Mapping[str, str]
    measures: Sequence[str] = ()
    tuned: str = "untuned"

    @property
    def arm(self) -> str:
        """The label of its arm."""
        return label(self.overrides)


def alone(identity: str) -> Grid:
    """Return a single run as a grid of one cell."""
    return Grid(identity, "", "", "", ["run"], None, [], [], [], [], "", [Cell(identity, {"run": identity})])


def label(place: Mapping[str, str]) -> str:
    """Label of an arm: its values on the axes except the seed, with long numbers shortened: 2.6666666666666665 is 2.667."""
    return ", ".join(short(value) for key, value in place.items() if key != SEED) or "all runs"


def short(text: str) -> str:
    """Shorten long numbers in an axis value."""
    try:
        return f"{float(text):.4g}" if len(text) > 8 else text
    except ValueError:
        return text


@dataclass(frozen=True)
class Grid:
    """One grid, read from its file.

    Attributes:
        identity: Its identity.
        name: Name of the experiment; grids with one name share a page.
        title: Title of the table.
        note: Note for readers, shown with the table.
        axis: Keys that vary, including "seed".
        paper: Stem of the paper's CSV, or None.
        paper_axis: Columns of that CSV that identify an arm.
        correlate: Columns whose rank correlation with quality is shown.
        figures: Names of further figures.
        tuning: The tuning curves of its arms: mappings with arm, key, best factor, state, and curve (factor, loss, identity).
        command: The command line that ran it.
        created: Time of creation in ISO format; newest first on the page.
        cells: Cells in the order of the grid.
    """

    identity: str
    name: str
    title: str
    note: str
    axis: Sequence[str]
    paper: str | None
    paper_axis: Sequence[str]
    correlate: Sequence[str]
    figures: Sequence[str]
    command: Sequence[str]
    created: str
    cells: Sequence[Cell] = field(repr=False)
    tuning: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


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
    tables = _Tables()
    for folder in progress.bar(_folders(runs_dir, None if only is None else wanted), description="reading runs", unit="run"):
        try:
            found.append(_run(folder, wanted.get(folder.name, set()), tables, problems))
        except FileNotFoundError:
            if (folder / "config.yaml").is_file():
                problems.append(f"{folder}: {_unfinished(folder)}")
        except _DAMAGE as error:
            problems.append(f"{folder / 'metrics.json'}: cannot be read and is left out: {_one_line(error)}")
    known = {row["identity"]: row for row in found}
    long = tables.joined(known, problems)
    for grid in grids:
        missing = sum(cell.identity not in known for cell in grid.cells)
        problems += [f"{grid.name}: {missing} of {len(grid.cells)} cells are not finished"] if missing else []
    searches = [] if only is not None else list(_readable(sorted(runs_dir.glob("search/*.json")), _search, problems))
    models = pd.DataFrame() if only is not None else _models(runs_dir, problems)
    long |= {"models": models} if len(models) else {}
    return Records(frame(found), grids, long, searches, problems)


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Convert flat rows to a data frame: identity and seed first, then the other columns in alphabetical order.

    A column has numbers, booleans or texts. A column with both numbers and words, such as ``arch.width``, has texts. Settings
    that are missing in records of older versions have their defaults, which do not change what these computed.
    """
    first = ["identity", "seed"]
    names = first + sorted({key for row in rows for key in row} - set(first))
    defaults = shipped()
    return pd.DataFrame({name: _column([row.get(name, defaults.get(name)) for row in rows]) for name in names})


@functools.cache
def shipped() -> Row:
    """Settings of the shipped ``conf/``, but for values that refer to others."""
    known = {key for key, _, rule in walk(Config()) if rule.get("identity") != NONE}
    found: Row = {}

    def read(group: str, name: str) -> None:
        content = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text())
        for entry in content.pop("defaults", []):
            if isinstance(entry, dict) and not group:
                read(*next(iter(entry.items()))) if not next(iter(entry)).startswith("override") else None
            elif group and entry not in ("_self_", "schema"):
                read(group, entry)
        _flatten(f"{group}." if group else "", content, found)

    read("", "config")
    return {
        key: value for key, value in found.items() if key in known and not key.startswith("scale.") and "${" not in str(value)
    }


def parse_grid(content: Mapping[str, Any]) -> Grid:
    """A grid from the content of its file.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: It is damaged.
    """
    cells = [
        Cell(
            identity(cell["identity"]),
            {str(key): str(value) for key, value in cell["overrides"].items()},
            [stem for stem in map(str, cell.get("measures") or []) if _MEASURE.fullmatch(stem)],
            str(cell.get("tuned") or "untuned"),
        )
        for cell in content["cells"]
    ]
    lists = {key: [str(word) for word in content.get(key) or []] for key in ("axis", "paper_axis", "correlate", "figures")}
    paper = content.get("paper")
    # Grids identify an arm by keys and values, tables by its label.
    arms = {" ".join(f"{key}={value}" for key, value in cell.overrides.items() if key != SEED): cell.arm for cell in cells}
    return Grid(
        identity(content["identity"]),
        str(content["name"]),
        str(content["title"]),
        str(content.get("note") or ""),
        paper=None if paper is None else str(paper),
        command=[str(word) for word in content.get("command") or []],
        created=str(content.get("created") or ""),
        cells=cells,
        tuning=[_tuning(entry, arms) for entry in content.get("tuning") or []],
        **lists,
    )


def _tuning(entry: Mapping[str, Any], arms: Mapping[str, str]) -> dict[str, Any]:
    """The tuning curve of one arm, under its label; a factor that diverged has no loss."""
    curve = [
        {
            "factor": float(point["factor"]), "loss": None if point["loss"] is None else float(point["loss"]),
            "identity": identity(point["identity"]),
        }
        for point in entry["curve"]
    ]  # fmt: skip
    best = None if entry["best"] is None else float(entry["best"])
    arm = arms.get(str(entry["arm"]), str(entry["arm"]))
    return {"arm": arm, "key": str(entry["key"]), "best": best, "state": str(entry["state"]), "curve": curve}


def identity(text: Any) -> str:
    """Check an identity that is used as a file name.

    Raises:
        ValueError: It is not an identity, such as "../../../x".
    """
    if not isinstance(text, str) or not _IDENTITY.fullmatch(text):
        raise ValueError(f"identity={text!r} is not sixteen hexadecimal digits")
    return text


def _run(folder: Path, wanted: set[str], tables: _Tables, problems: list[str]) -> Row:
    """Return one finished run as a flat row, and add its long tables to ``tables``."""
    record = _parse(folder / "metrics.json", RECORD_SCHEMA)
    if identity(record["identity"]) != folder.name:
        raise ValueError(f"identity={record['identity']} is not the name of its folder")
    row = flatten(record)
    _check(row)
    for name, read in (("curve.jsonl", thin_curve), ("matrix_std.json", _matrix_std)):
        try:
            tables.add(read(folder / name), name.split(".")[0], folder.name)
        except FileNotFoundError:
            continue
        except _DAMAGE as error:
            problems.append(f"{folder / name}: cannot be read and is left out: {_one_line(error)}")
    tables.add_along(folder, row, problems)
    for name, paths in _measures(folder, wanted, problems).items():
        taken: dict[str, Path] = {}
        for path in paths:
            try:
                measured = _parse(path, MEASURE_SCHEMA)
                own: Row = {}
                _flatten("", measured["metrics"], own)
                _check(own)
                if before := next((taken[key] for key in own if key in taken), None):
                    if before.stem not in wanted or path.stem in wanted:  # no grid selects one of them
                        problems.append(
                            f"{folder}: different measurements of {name}; {before.name} is used, {path.name} is not"
                        )
                    continue
                found = dict.fromkeys(own, path)
                if name != "benchmarks":  # runs with and without scores may be compared by everything else
                    settings = {key: value for key, value in (measured.get("settings") or {}).items() if key not in _WHICH}
                    _flatten(f"measure.{name}.", settings, own)
                tables.add_measure(path.with_suffix(".parquet"), name, folder.name, own)
                taken |= found
            except _DAMAGE as error:
                problems.append(f"{path}: cannot be read and is left out: {_one_line(error)}")
                continue
            row |= own
    return row | averages(row)


def measured(folder: Path, stems: Sequence[str], problems: list[str]) -> Row:
    """The metrics of some records of a run; one that cannot be read is reported, and one that is missing is not."""
    found: Row = {}
    for path in (folder / "measures" / f"{stem}.json" for stem in stems):
        try:
            _flatten("", _parse(path, MEASURE_SCHEMA)["metrics"], found)
        except FileNotFoundError:
            continue
        except _DAMAGE as error:
            problems.append(f"{path}: cannot be read and is left out: {_one_line(error)}")
    return found


def _measures(folder: Path, wanted: set[str], problems: list[str]) -> dict[str, list[Path]]:
    """Return the records of each measure: first those that a grid names, then the last by name.

    If two have the same metric, the first is used.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "measures").glob("*.json"), reverse=True):
        if match := _MEASURE.fullmatch(path.stem):
            found.setdefault(match[1], []).append(path)
        else:
            problems.append(f"{path}: is not named <measure>.<fingerprint>.json and is left out")
    return {name: sorted(paths, key=lambda path: path.stem not in wanted) for name, paths in sorted(found.items())}


def _models(runs_dir: Path, problems: list[str]) -> pd.DataFrame:
    """Return one row per external model: identity, name, parameters, and its metrics."""
    rows = []
    for path in sorted((runs_dir / "models").glob("*/model.json")):
        try:
            about = _parse(path, 1)
            row: Row = {
                "identity": identity(path.parent.name),
                "name": str(about["name"]),
                "parameters": int(about["parameters"]),
            }
            metrics: Row = {}
            for paths in _measures(path.parent, set(), problems).values():
                for record in reversed(paths):
                    _flatten("", _parse(record, MEASURE_SCHEMA)["metrics"], metrics)
            _check(metrics)
        except _DAMAGE as error:
            problems.append(f"{path}: cannot be read and is left out: {_one_line(error)}")
            continue
        rows.append(row | metrics | averages(metrics))
    return pd.DataFrame(rows)


@dataclass
class _Tables:
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
                _flatten("", _parse(path, MEASURE_SCHEMA)["metrics"], metrics)
                _check(metrics)
                changed = path.stat().st_mtime_ns
            except _DAMAGE as error:
                problems.append(f"{path}: cannot be read and is left out: {_one_line(error)}")
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


def _matrix_std(path: Path) -> pa.Table:
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


def flatten(record: Mapping[str, Any]) -> Row:
    """Return a record as one flat row, without settings that cannot change results: folders and addresses are private.

    Raises:
        ValueError: A part that every record has is missing.
    """
    for key in ("identity", "seed", "config", "metrics"):
        if key not in record:
            raise ValueError(f"{key!r} is missing")
    row: Row = {}
    for key, value in record.items():
        _flatten(_PREFIXES.get(key, f"{key}.") if isinstance(value, Mapping) else key, value, row)
    row |= {"identity": record["identity"], "seed": record["seed"]}
    private = _private()
    return {key: value for key, value in row.items() if key not in private and not key.startswith(_LEFT_OUT)}


@functools.cache
def _private() -> frozenset[str]:
    return frozenset(key for key, _, rule in walk(Config()) if rule.get("identity") == NONE) - {"scale.name"}


def _flatten(key: str, value: Any, row: Row) -> None:
    if isinstance(value, dict):
        prefix = key if not key or key.endswith(".") else f"{key}."
        for name, entry in value.items():
            if type(entry) in (dict, list):
                _flatten(f"{prefix}{name}", entry, row)
            else:
                row[f"{prefix}{name}"] = entry
    elif not isinstance(value, list) or len(value) <= _LONGEST_LIST:
        row[key] = value


def _check(row: Mapping[str, Any]) -> None:
    """Raise ValueError unless the seed is a whole number and every number is finite."""
    if "seed" in row and (isinstance(row["seed"], bool) or not isinstance(row["seed"], int)):
        raise ValueError(f"seed={row['seed']!r} is not a whole number")
    for key, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value} is not a finite number")
        if "/" in key and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{key}={value!r} is not a number")


def _column(values: Sequence[Any]) -> pd.Series[Any]:
    """Convert the values of one column to one type; missing values are None."""
    kinds = set(map(type, values))
    if kinds <= {bool, type(None)}:
        return pd.Series(values, dtype="bool" if kinds == {bool} else "boolean")
    if kinds <= {int, float, type(None)}:
        whole = kinds == {int} and max(map(abs, values)) < 2**63
        return pd.Series(values, dtype="int64" if whole else "float64")
    if not kinds <= {str, type(None)}:
        values = [None if value is None else as_text(value) for value in values]
    return pd.Series(values, dtype="str")


def as_text(value: Any) -> str:
    """Format a value as on a command line: 20.0 is "20", a list is JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else canonical_json(value)


def _grid(path: Path) -> Grid:
    return parse_grid(json.loads(path.read_text()))


def _search(path: Path) -> Mapping[str, Any]:
    return _parse(path, 1)


def _readable(paths: Sequence[Path], read: Callable[[Path], _T], problems: list[str]) -> Iterator[_T]:
    """Read files; unreadable ones are reported."""
    for path in paths:
        try:
            yield read(path)
        except _DAMAGE as error:
            problems.append(f"{path}: cannot be read and is left out: {_one_line(error)}")


def _folders(runs_dir: Path, chosen: Collection[str] | None) -> list[Path]:
    try:
        if chosen is not None:
            return [runs_dir / name for name in sorted(chosen) if (runs_dir / name).is_dir()]
        return sorted(path for path in runs_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{runs_dir} cannot be read as a folder of runs: {error.strerror}") from None


def _parse(path: Path, schema: int) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(path.read_text())
    if int(content["schema"]) != schema:
        raise ValueError(f"schema {content['schema']} is not {schema}, the one that this version reads")
    return content


def _unfinished(folder: Path) -> str:
    """Describe the state of a run without a record."""
    error = folder / "error.txt"
    if error.is_file():
        lines = error.read_text(errors="replace").strip().splitlines()
        return f"failed: {lines[-1] if lines else 'no message'}"
    return "not finished; the command that started it resumes it"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
