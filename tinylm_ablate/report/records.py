"""Finished runs and grids, read from the folders that hold them.

A run is finished when ``runs/<identity>/metrics.json`` exists. A grid is described by a file in ``runs/grids/``. Whatever is
unfinished or broken is told and left out: a report is made from what there is.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.config import Config, walk
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import canonical_json

if TYPE_CHECKING:
    import pandas as pd

#: The newest layout of ``metrics.json`` that is understood here.
SCHEMA = 1

#: Where the parts of a record go, as the beginning of a column's name. Config and metrics keep their own names.
_PREFIXES = {
    "config": "", "metrics": "", "shape": "shape.", "parameters": "parameters.", "flops_per_token": "flops_per_token.",
    "tokenizer": "vocabulary.", "data": "text.", "init": "origin.", "provenance": "provenance.",
}  # fmt: skip

#: Parts of a record that say nothing about its numbers, or far too much.
_LEFT_OUT = ("text.sources", "text.files", "provenance.packages", "provenance.command", "schema", "grid.", "experiment.")
_LONGEST_LIST = 64

#: Columns with these beginnings hold finite numbers, and so do these columns.
_NUMBERS = ("test/", "validation/", "train/", "forgetting/", "layer_skip/", "decode/", "parameters.", "flops_per_token.")
_NUMBER = frozenset({"tokens", "steps", "learning_rate", "embedding_head_share", "passes"})

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell of a grid: a run, and where it stands on each axis (texts, as on the command line)."""

    identity: str
    overrides: Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """One grid.

    Attributes:
        name: Name of its table; grids of one name are one table.
        title: What it shows.
        axis: Keys that vary, "seed" included.
        paper: Stem of the paper's CSV, or None.
        paper_axis: Columns of that CSV that say which row belongs to a cell.
        cells: In the order of the grid.
        note: What a reader must know beside the table.
        correlate: Columns whose rank correlation with quality is shown.
        figures: More figures, by name.
    """

    name: str
    title: str
    axis: Sequence[str]
    paper: str | None
    paper_axis: Sequence[str]
    cells: Sequence[Cell] = field(repr=False)
    note: str = ""
    correlate: Sequence[str] = ()
    figures: Sequence[str] = ()


def read_rows(runs_dir: Path, problems: list[str] | None = None) -> list[Row]:
    """One flat row a finished run, sorted by identity.

    Args:
        runs_dir: Folder of the runs.
        problems: Gets a line for each run that is unfinished or cannot be read.

    Raises:
        UserError: The folder cannot be read.
    """
    problems = problems if problems is not None else []
    rows = []
    for folder in _entries(runs_dir):
        record = folder / "metrics.json"
        try:
            if record.is_file():
                row = flat_record(_parse(record, SCHEMA))
                check_row({key: text for key, value in row.items() if (text := _cell(value))})
                rows.append(row)
            elif (folder / "config.yaml").is_file():
                problems.append(f"{folder}: {_unfinished(folder)}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{record}: cannot be read and is left out: {_one_line(error)}")
    return sorted(rows, key=lambda row: str(row["identity"]))


def read_records(runs_dir: Path, problems: list[str] | None = None) -> pd.DataFrame:
    """One row a finished run.

    Columns: "identity", "seed"; settings that can change numbers under their dotted keys ("arch.depth"); "shape.width",
    "parameters.total", "tokens", "vocabulary.size", "text.fingerprint", … ; every metric under its name
    ("test/bits_per_byte/en").

    Args:
        runs_dir: Folder of the runs.
        problems: Gets a line for each run that is unfinished or cannot be read.

    Raises:
        UserError: The folder cannot be read.
    """
    return frame(to_csv(read_rows(runs_dir, problems)))


def read_grids(runs_dir: Path, problems: list[str] | None = None) -> list[Grid]:
    """The grids described in ``runs_dir/grids``, in the order of their file names."""
    problems = problems if problems is not None else []
    grids = []
    for path in sorted(runs_dir.glob("grids/*.json")):
        try:
            grids.append(parse_grid(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{path}: cannot be read and is left out: {_one_line(error)}")
    return grids


def parse_grid(path: Path) -> Grid:
    """One grid's file."""
    content = json.loads(path.read_text())
    cells = [
        Cell(str(cell["identity"]), {str(key): str(value) for key, value in cell["overrides"].items()})
        for cell in content["cells"]
    ]
    lists = ([str(key) for key in content.get(name) or []] for name in ("axis", "paper_axis", "correlate", "figures"))
    axis, paper_axis, correlate, figures = lists
    paper, note = content.get("paper"), str(content.get("note") or "")
    name, title = str(content["name"]), str(content["title"])
    return Grid(name, title, axis, None if paper is None else str(paper), paper_axis, cells, note, correlate, figures)


def flat_record(record: Mapping[str, Any]) -> Row:
    """A record as one row; see ``read_records``.

    Settings that cannot change a number are left out: where folders are is nobody else's business, and an address of a
    tracking server may hold a password.

    Raises:
        ValueError: A part that every record has is missing.
    """
    for key in ("identity", "seed", "config", "metrics"):
        if key not in record:
            raise ValueError(f"{key!r} is missing")
    row: Row = {}
    for key, value in record.items():
        _flatten(_PREFIXES.get(key, f"{key}.") if isinstance(value, Mapping) else key, value, row)
    idle = {key for key, _, rule in walk(Config()) if rule.get("identity") == "none"} - {"scale.name"}
    return {key: value for key, value in row.items() if key not in idle and not key.startswith(_LEFT_OUT)}


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV: identity and seed first, the other columns in alphabetical order. Rows may differ in their columns."""
    rows = list(rows)
    first = ["identity", "seed"]
    columns = first + sorted({key for row in rows for key in row} - set(first))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def check_rows(rows: Sequence[Mapping[str, str]]) -> None:
    """The schema of ``runs.csv``: each row is sound by itself (see ``check_row``) and has an identity of its own.

    Args:
        rows: As texts, without empty cells.

    Raises:
        ValueError: Naming the first line and column that break it.
    """
    known: set[str] = set()
    for line, row in enumerate(rows, 2):
        if None in row:
            raise ValueError(f"line {line}: more cells than columns")
        try:
            check_row(row)
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from None
        if row["identity"] in known:
            raise ValueError(f"line {line}: identity={row['identity']} stands in an earlier line too")
        known.add(row["identity"])


def check_row(row: Mapping[str, str]) -> None:
    """The schema of one run: an identity, a whole seed, and finite numbers where numbers belong.

    Raises:
        ValueError: Naming the first column that breaks it.
    """
    for key in ("identity", "seed"):
        if key not in row:
            raise ValueError(f"{key} is missing")
    for key, value in row.items():
        if key == "seed" and not value.removeprefix("-").isdecimal():
            raise ValueError(f"seed={value} is no whole number")
        if (key.startswith(_NUMBERS) or key in _NUMBER) and not _is_number(value):
            raise ValueError(f"{key}={value} is no finite number")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def readable(row: Mapping[str, str]) -> str:
    """A row of ``runs.csv`` for a reader: JSON with a line for each column."""

    def value(key: str, text: str) -> Any:
        if key == "identity" or key.endswith("fingerprint"):
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text

    content = {key: value(key, row[key]) for key in ("identity", "seed", *sorted(row.keys() - {"identity", "seed"}))}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def frame(text: str) -> pd.DataFrame:
    """The data frame of a CSV from ``to_csv``. Everything a report says is computed from such text, so that it is the same
    whether it comes from runs or from the CSV that was kept of them."""
    import pandas as pd

    columns = next(csv.reader(io.StringIO(text)))
    return pd.read_csv(
        io.StringIO(text), keep_default_na=False, na_values=["", "nan"],
        dtype={name: str for name in columns if name == "identity" or name.endswith("fingerprint")},
    )  # fmt: skip


def _entries(runs_dir: Path) -> list[Path]:
    try:
        return sorted(path for path in runs_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{runs_dir} cannot be read as a folder of runs: {error.strerror}") from None


def _parse(path: Path, schema: int) -> Mapping[str, Any]:
    record = json.loads(path.read_text())
    if int(record["schema"]) > schema:
        raise ValueError(f"schema {record['schema']} is newer than this program's {schema}")
    content: Mapping[str, Any] = record
    return content


def _unfinished(folder: Path) -> str:
    """What is known about a run without a record."""
    error = folder / "error.txt"
    if error.is_file():
        lines = error.read_text(errors="replace").strip().splitlines()
        return f"failed: {lines[-1] if lines else 'no message'}"
    return "not finished; the command that started it goes on with it"


def _flatten(key: str, value: Any, row: Row) -> None:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            # A key that ends in a dot, or is empty, is a prefix already.
            _flatten(f"{key}{name}" if not key or key.endswith(".") else f"{key}.{name}", entry, row)
    elif not isinstance(value, list) or len(value) <= _LONGEST_LIST:
        row[key] = value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else canonical_json(value)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
