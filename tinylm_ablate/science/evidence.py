"""Data frames for statistics, and groups of comparable runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Columns for the amount of training.
BUDGET = ("train.tokens", "train.tokens_per_parameter", "train.share")

#: Settings of how a run is measured or computed, rather than of the question it answers; init.parent_tokens follows the budget.
_HOW = ("evaluate.", "measure.", "train.precision", "train.device", "init.parent_tokens")

#: Identity of a text.
_TEXT = "text.fingerprint"

#: Prefix of keys that belong to the scale, with the sizes of the paper's 1B shape at that scale.
_SCALE = "scale."


_Of = TypeVar("_Of", "Evidence", "Setting")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def computed_once(function: Callable[Concatenate[_Of, _P], _T]) -> Callable[Concatenate[_Of, _P], _T]:
    """Cache the results of a function of evidence or a setting on that object.

    The other arguments must be hashable, and results must not be changed.
    """

    @functools.wraps(function)
    def once(own: _Of, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        known: dict[Any, _T] = own.__dict__.setdefault("_computed", {})
        key = (function, args, tuple(sorted(kwargs.items())))
        if key not in known:
            known[key] = function(own, *args, **kwargs)
        return known[key]

    return once


@dataclass(frozen=True, eq=False)
class Evidence:
    """Data about the finished runs of one experiment.

    Attributes:
        experiment: Its name.
        axis: Keys that distinguish its arms: dotted configuration keys, config groups such as "init", or "arm"; not "seed".
        runs: One row per cell of a grid with a finished run, and measure setting. Columns:

            - ``identity`` (str), ``grid`` (str, identity of the grid; absent if there is only one grid),
              ``arm`` (str, one label per combination of axis values), ``seed`` (int);
            - ``tokens``, ``steps``, ``parameters.total`` (numbers), ``scale`` (str);
            - ``role``: "arm", or "tuning" for runs that only choose a learning rate; if absent, all are "arm";
            - ``tuned``: "interior", "edge" or "untuned", the result of the arm's tuning; if absent, all are "untuned";
            - one column per key of ``axis`` with the value in the override, such as "8000/s" (for the axis "arm": ``grid.arm``,
              or else ``arm``);
            - one column per setting, with dotted keys, and one per metric, with its flat name.
        keys: Columns that are settings and may distinguish runs; identity, metrics and provenance are not.
        documents: Columns identity, split, language, document, nats, bytes; None if unknown.
        questions: Columns identity, split, language, question, correct; None if unknown.
        curves: Columns identity, tokens, bits (bits per byte); None if unknown.
        along: Columns identity, tokens, metric, value, measured along the runs; None if unknown.
    """

    experiment: str
    axis: Sequence[str]
    runs: pd.DataFrame = field(repr=False)
    keys: Sequence[str] = ()
    documents: pd.DataFrame | None = field(default=None, repr=False)
    questions: pd.DataFrame | None = field(default=None, repr=False)
    curves: pd.DataFrame | None = field(default=None, repr=False)
    along: pd.DataFrame | None = field(default=None, repr=False)

    def items(self, identity: str, column: str) -> Mapping[str, Items]:
        """The items of the test split of a run, by language.

        Args:
            identity: The run.
            column: A column of metrics without its language: "test/bits_per_byte" or "test/cloze".
        """
        if (identity, column) not in self._items:
            none = np.empty(0)
            places, languages, names, values, sizes = self._tests.get(column, ({}, none, none, none, none))
            own = np.asarray(places.get(identity, []), np.intp)
            own = own[np.argsort(names[own], kind="stable")]
            self._items[identity, column] = {
                str(language): Items(tuple(names[chosen]), values[chosen], sizes[chosen])
                for language in sorted(set(languages[own]))
                for chosen in [own[languages[own] == language]]
            }
        return self._items[identity, column]

    @functools.cached_property
    def _items(self) -> dict[tuple[str, str], dict[str, Items]]:
        """Items of the runs that were requested so far."""
        return {}

    @functools.cached_property
    def _tests(self) -> Mapping[str, tuple[Mapping[Any, Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """For each metric: rows of each run in the test split, and the languages, names, values and sizes of all rows."""
        found = {}
        for frame, column, name, value, size in (
            (self.documents, "test/bits_per_byte", "document", "nats", "bytes"),
            (self.questions, "test/cloze", "question", "correct", None),
        ):
            if frame is not None:
                kept = frame[(frame["split"] == "test") & (True if size is None else frame[size] > 0)]
                languages, names = (kept[key].astype(str).to_numpy(object) for key in ("language", name))
                values = kept[value].to_numpy(np.float64) / (math.log(2) if size else 1.0)
                sizes = np.ones(len(kept)) if size is None else kept[size].to_numpy(np.float64)
                found[column] = (kept.groupby("identity").indices, languages, names, values, sizes)
        return found

    @functools.cached_property
    def curve_by_run(self) -> Mapping[str, NDArray[np.float64]]:
        """Identity to (points, 2): tokens and bits, in order."""
        if self.curves is None:
            return {}
        ordered = self.curves.dropna(subset=["bits"]).sort_values("tokens")
        return {str(identity): rows[["tokens", "bits"]].to_numpy(np.float64) for identity, rows in ordered.groupby("identity")}

    @functools.cached_property
    def along_by_run(self) -> Mapping[tuple[str, str], NDArray[np.float64]]:
        """(identity, metric) to (points, 2): tokens and values, in order."""
        if self.along is None:
            return {}
        groups = self.along.sort_values("tokens").groupby(["identity", "metric"], observed=True)
        return {(str(run), str(name)): rows[["tokens", "value"]].to_numpy(np.float64) for (run, name), rows in groups}


@dataclass(frozen=True, eq=False)
class Items:
    """Contributions of held-out items to a metric of one run: bits and bytes of documents, or right answers and 1."""

    names: tuple[str, ...]
    values: NDArray[np.float64] = field(repr=False)
    sizes: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that differ only in arm and seed.

    Attributes:
        scale: Name of the scale; empty if unknown.
        parameters: Median over its runs; NaN if unknown.
        tokens: Maximum over its runs.
        steps: Minimum over its runs.
        others: Settings, except for scale, budget and measurement, that distinguish it: the question it answers.
        how: The remaining settings that distinguish it.
        runs: Its rows: one per arm and seed.
        evidence: The evidence that it is part of.
        doubles: Identities omitted because another run has the same arm and seed.
    """

    scale: str
    parameters: float
    tokens: float
    steps: float
    others: tuple[tuple[str, str], ...]
    how: tuple[tuple[str, str], ...]
    runs: pd.DataFrame = field(repr=False)
    evidence: Evidence = field(repr=False)
    doubles: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Label with scale, tokens, steps and other distinguishing settings; never empty: "s32, 7.5M tokens, 3,637 steps"."""
        parts = [self.scale] if self.scale else []
        parts += [f"{count(self.tokens)} tokens"] if not math.isnan(self.tokens) else []
        parts += [f"{self.steps:,.0f} steps"] if not math.isnan(self.steps) else []
        return ", ".join([*parts, *(f"{key}={value}" for key, value in self.others)]) or "all runs"

    @property
    def arms(self) -> list[str]:
        """Labels of its arms, in the order of the runs."""
        return list(self._places)

    def rows(self, arm: str) -> pd.DataFrame:
        """Return the runs of an arm."""
        return self.runs.iloc[self._places.get(arm, [])]

    def identities(self, arm: str) -> dict[int, str]:
        """Return seed -> identity."""
        return dict(sorted((self._labels[place][1], self._labels[place][2]) for place in self._places.get(arm, [])))

    def by_seed(self, arm: str, metric: str) -> dict[int, float]:
        """Return a metric of an arm by seed, for runs that have it.

        "curve/start" and "curve/end" are computed from curves, and "along/0.5/METRIC" from values measured along the runs.
        """
        if metric in ("curve/start", "curve/end"):
            return {
                seed: _end_of(curve, metric)
                for seed, identity in self.identities(arm).items()
                if (curve := self.evidence.curve_by_run.get(identity)) is not None and len(curve)
            }
        if metric.startswith("along/"):
            share, _, name = metric.removeprefix("along/").partition("/")
            found = self.evidence.along_by_run
            places = ((seed, _at(found.get((identity, name)), float(share))) for seed, identity in self.identities(arm).items())
            return {seed: value for seed, value in places if math.isfinite(value)}
        if metric not in self.runs.columns:
            return {}
        if metric not in self._columns:
            self._columns[metric] = pd.to_numeric(self.runs[metric], errors="coerce").to_numpy(np.float64)
        own = ((self._labels[place][1], float(self._columns[metric][place])) for place in self._places.get(arm, []))
        return dict(sorted(pair for pair in own if math.isfinite(pair[1])))

    def mean(self, arm: str, metric: str) -> float:
        """Mean of a metric over the seeds of an arm; NaN without any."""
        values = list(self.by_seed(arm, metric).values())
        return math.fsum(values) / len(values) if values else math.nan

    @functools.cached_property
    def _labels(self) -> list[tuple[str, int, str]]:
        """Arm, seed and identity of each run; plain values for fast repeated access."""
        columns = (self.runs[name].tolist() for name in ("arm", "seed", "identity"))
        return [(str(arm), int(seed), str(identity)) for arm, seed, identity in zip(*columns, strict=True)]

    @functools.cached_property
    def _places(self) -> dict[str, list[int]]:
        """Label of an arm to the positions of its runs."""
        found: dict[str, list[int]] = {}
        for place, (arm, _, _) in enumerate(self._labels):
            found.setdefault(arm, []).append(place)
        return found

    @functools.cached_property
    def _columns(self) -> dict[str, NDArray[np.float64]]:
        """Return the requested metrics as numbers."""
        return {}


@computed_once
def settings(evidence: Evidence) -> list[Setting]:
    """Return the groups of comparable runs, larger scales and budgets first, without tuning runs.

    A setting separates runs if it varies, is not an axis, does not follow the scale (``_follows``), and is constant within
    each grid. Settings of measurement always separate them.
    """
    runs = evidence.runs
    if "role" in runs.columns:
        runs = runs[runs["role"].fillna("arm") == "arm"]
    if runs.empty:
        return []
    separating = _separating(runs, evidence)
    found: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(runs[separating].itertuples(index=False, name=None)):
        found.setdefault(tuple(map(plain, row)), []).append(place)
    made = [_setting(runs.iloc[places], dict(zip(separating, key, strict=True)), evidence) for key, places in found.items()]
    return sorted(made, key=lambda own: (-_known(own.parameters), -_known(own.tokens), own.label))


def _separating(runs: pd.DataFrame, evidence: Evidence) -> list[str]:
    axis = set(evidence.axis)
    keys = [key for key in dict.fromkeys((*evidence.keys, "scale")) if key in runs.columns and key != "seed"]
    grids = runs["grid"] if "grid" in runs.columns else pd.Series("", index=runs.index)
    dial = [runs[key] for key in keys if key.startswith(_SCALE) and pd.api.types.is_numeric_dtype(runs[key])]
    found = []
    for key in keys:
        if key in axis or any(key.startswith(f"{name}.") for name in axis) or (key == "scale" and "scale.name" in axis):
            continue
        values = runs[key].map(plain)
        if values.nunique(dropna=False) < 2 or (not key.startswith(_SCALE) and _follows(runs[key], dial)):
            continue
        if key.startswith(_HOW) or (values.groupby(grids).nunique(dropna=False) < 2).all():
            found.append(key)
    # The fingerprint separates texts of equal settings; where the settings do, it says nothing more.
    given = [runs[key].map(plain).astype(str) for key in found if key.startswith("data.")]
    if _TEXT in found and given and (runs[_TEXT].groupby(given).nunique() < 2).all():
        found.remove(_TEXT)
    return found


def _follows(values: pd.Series[Any], dial: Sequence[pd.Series[Any]]) -> bool:
    """Return whether a number is the same multiple of one of the scale's values in every run, as the batch usually is."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    return any(bool(np.isclose(ratio, ratio.iloc[0]).all()) for ratio in (values / own for own in dial))


def _setting(rows: pd.DataFrame, found: Mapping[str, Any], evidence: Evidence) -> Setting:
    rows = rows.drop_duplicates(["arm", "seed", "identity"])
    doubled = rows.duplicated(["arm", "seed"])
    others = {
        key: _word(value) for key, value in found.items() if key != "scale" and not key.startswith((_SCALE, *_HOW, *BUDGET))
    }
    how = {key: _word(value) for key, value in found.items() if key.startswith(_HOW)}

    def number(column: str, reduce: str) -> float:
        if column not in rows.columns:
            return math.nan
        return float(getattr(pd.to_numeric(rows[column], errors="coerce"), reduce)())

    scale = _word(plain(rows["scale"].iloc[0])) if "scale" in rows.columns else ""
    return Setting(
        "" if scale == "null" else scale, number("parameters.total", "median"), number("tokens", "max"), number("steps", "min"),
        tuple(sorted(others.items())), tuple(sorted(how.items())), rows[~doubled], evidence,
        tuple(rows[doubled]["identity"].astype(str)),
    )  # fmt: skip


def matches(row: Mapping[str, Any], overrides: Mapping[str, str]) -> bool:
    """Return whether a run has these overrides; the notation of numbers does not matter, but "8000/s" is not 8000."""
    return all(any(_same(own, value) for own in _values(row, key)) for key, value in overrides.items())


def _values(row: Mapping[str, Any], key: str) -> list[str]:
    """Return a run's value for a key.

    For "arm", this is its value on that axis or its label; for a config group that is not an axis, the group's name.
    """
    if key == "arm":
        return [_word(plain(row.get("grid.arm"))), _word(plain(row.get("arm")))]
    value = plain(row.get(key))
    return [_word(plain(row.get(f"{key}.name")) if value is None else value)]


def _same(own: str, value: str) -> bool:
    own, value = own.strip(), value.strip()
    if own == value or own.lower() == value.lower() in ("true", "false"):
        return True
    try:
        return "/" not in own + value and float(own) == float(value)
    except ValueError:
        return False


def plain(value: Any) -> Any:
    """Normalize a value for comparison: missing values are None, and 20.0 is 20."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return tuple(value) if isinstance(value, list) else value


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _end_of(curve: NDArray[np.float64], which: str) -> float:
    """Mean of the first fiftieth, or of the last twentieth, of a curve by tokens; at least one point."""
    tokens, bits = curve[:, 0], curve[:, 1]
    if which == "curve/start":
        return float(bits[: max(1, int((tokens <= tokens[-1] / 50).sum()))].mean())
    return float(bits[tokens >= 0.95 * tokens[-1]].mean())


def _at(points: NDArray[np.float64] | None, share: float) -> float:
    """The value at a share of the tokens of the last point, linear between points; NaN before the first one, or without any."""
    if points is None:
        return math.nan
    tokens, values = points[:, 0], points[:, 1]
    place = share * tokens[-1]
    return float(np.interp(place, tokens, values)) if tokens[0] <= place else math.nan


def count(value: float) -> str:
    """Format a count of parameters or tokens: 7.5M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
