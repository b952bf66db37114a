"""Records as flat rows, and flat rows as a data frame."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tinylm_ablate.config import NONE, Config
from tinylm_ablate.config_values import walk
from tinylm_ablate.files import canonical_json, read_yaml
from tinylm_ablate.paths import conf_dir

#: Prefixes of columns from each part of a record. Config and metrics keep their own names.
_PREFIXES = {
    "config": "", "metrics": "", "shape": "shape.", "parameters": "parameters.", "flops_per_token": "flops_per_token.",
    "tokenizer": "vocabulary.", "data": "text.", "init": "origin.", "provenance": "provenance.",
}  # fmt: skip

#: Parts of a record that describe its origin rather than its content.
_OMITTED = (
    "text.sources", "text.files", "provenance.packages", "provenance.command", "schema", "grid.", "experiment.", "tracking.",
)  # fmt: skip

#: Maximum length of a list that is kept as a value.
_LONGEST_LIST = 64

#: The supported format of a measure's file.
MEASURE_SCHEMA = 1

Row = dict[str, Any]

#: Errors of reading a damaged file.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


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
    """Return the settings of the shipped ``conf/``, except values that refer to others."""
    known = {key for key, _, rule in walk(Config()) if rule.get("identity") != NONE}
    found: Row = {}

    def read(group: str, name: str) -> None:
        content = read_yaml(conf_dir() / group / f"{name}.yaml")
        for entry in content.pop("defaults", []):
            if isinstance(entry, dict) and not group:
                read(*next(iter(entry.items()))) if not next(iter(entry)).startswith("override") else None
            elif group and entry not in ("_self_", "schema"):
                read(group, entry)
        flatten_into(f"{group}." if group else "", content, found)

    read("", "config")
    return {
        key: value for key, value in found.items() if key in known and not key.startswith("scale.") and "${" not in str(value)
    }


def parse(path: Path, schema: int) -> Mapping[str, Any]:
    """Read a record.

    Raises:
        OSError, ValueError, KeyError, TypeError: The file is missing, damaged, or of another schema.
    """
    content: Mapping[str, Any] = json.loads(path.read_text())
    if int(content["schema"]) != schema:
        raise ValueError(f"schema {content['schema']} is not {schema}, the one that this version reads")
    return content


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
        flatten_into(_PREFIXES.get(key, f"{key}.") if isinstance(value, Mapping) else key, value, row)
    row |= {"identity": record["identity"], "seed": record["seed"]}
    private = _private()
    return {key: value for key, value in row.items() if key not in private and not key.startswith(_OMITTED)}


@functools.cache
def _private() -> frozenset[str]:
    return frozenset(key for key, _, rule in walk(Config()) if rule.get("identity") == NONE) - {"scale.name"}


def flatten_into(key: str, value: Any, row: Row) -> None:
    """Add a value to a flat row; the keys of nested mappings are joined by dots."""
    if isinstance(value, dict):
        prefix = key if not key or key.endswith(".") else f"{key}."
        for name, entry in value.items():
            if type(entry) in (dict, list):
                flatten_into(f"{prefix}{name}", entry, row)
            else:
                row[f"{prefix}{name}"] = entry
    elif not isinstance(value, list) or len(value) <= _LONGEST_LIST:
        row[key] = value


def check(row: Mapping[str, Any]) -> None:
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
