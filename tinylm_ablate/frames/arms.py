"""Conversion of records to evidence for statistics: the runs of each experiment with their arms."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tinylm_ablate import progress
from tinylm_ablate.config import NONE, Config
from tinylm_ablate.config_values import walk
from tinylm_ablate.frames.flat_rows import as_text
from tinylm_ablate.frames.grid_file import SEED, Grid, label
from tinylm_ablate.frames.run_folders import Records, measured, read_runs
from tinylm_ablate.science.evidence import Evidence
from tinylm_ablate.science.matrices import matrix_metrics
from tinylm_ablate.science.pairs import MOST_ARMS

#: Runs are compared if their text was scored in the same way. Settings of other measures affect only those, and many follow
#: from the run: bigrams are counted on its tokens, and forgetting has the parts of its training.
_SCORED = ("measure.bits_per_byte.", "measure.cloze.")

#: Speeds are comparable on one machine and with one protocol: key of the protocol, and its metrics.
_SPEEDS = {
    "measure.decoding_speed.": ("decode/tokens_per_second",),
    "measure.exported_speed.": ("decode/own/", "decode/llama_cpp/"),
}


def evidence(records: Records) -> dict[str, Evidence]:
    """Return the finished runs of each experiment, by name; experiments without any are omitted.

    Grids with one name are one experiment: the same with more seeds, another arm, scale or budget. For an axis that its own
    grid did not have, a run's config gives its value.
    """
    named: dict[str, list[Grid]] = {}
    for grid in records.grids:
        named.setdefault(grid.name, []).append(grid)
    by_identity = _with_matrices(_with_edges(records), records).set_index("identity", drop=False)
    documents, questions = records.rows.get("documents"), records.rows.get("questions")
    curves, along = _bits(records), records.rows.get("along")
    found = {}
    for name, grids in named.items():
        runs = _runs(grids, by_identity)
        if runs.empty:
            continue
        for protocol, speeds in _SPEEDS.items():
            runs = _one_protocol(name, runs, protocol, speeds, records.problems)
        known = set(runs["identity"])

        def own(table: pd.DataFrame | None, known: set[str] = known) -> pd.DataFrame | None:
            return None if table is None else table[table["identity"].isin(known)]

        keys = setting_keys(runs)
        found[name] = Evidence(name, axes(grids), runs, keys, own(documents), own(questions), own(curves), own(along))
    return found


def evidence_of(runs_dir: Path, grid: Grid, damaged: list[str] | None = None) -> Evidence | None:
    """Return the finished part of one grid, or None.

    Unreadable files are reported and omitted; ``damaged`` receives a line for each.
    """
    records = read_runs(runs_dir, grid)
    for problem in records.problems:
        if "cannot be read" in problem:
            print(problem, file=sys.stderr)
            if damaged is not None:
                damaged.append(problem)
    return next(iter(evidence(records).values()), None)


def best_arms_of(runs_dir: Path, grid: Grid, metrics: Mapping[str, int], damaged: list[str]) -> Grid:
    """The grid with its best arms only, where it has more than a table shows; only records of its measures are read for that.

    Args:
        runs_dir: Folder of the runs.
        grid: The grid.
        metrics: What arms are judged by, 1 where more is better and -1 where less is; the first that is known counts.
        damaged: Gets a line for each file that cannot be read.
    """
    if len({cell.arm for cell in grid.cells}) <= MOST_ARMS:
        return grid
    known = {stem.partition(".")[0] for cell in grid.cells for stem in cell.measures}
    metric = next((name for name in metrics if name.split("/")[1] in known), None)
    if metric is None:
        return grid
    arms, values = [], []
    for cell in progress.bar(grid.cells, description="reading runs", unit="run"):
        stems = [stem for stem in cell.measures if stem.partition(".")[0] == metric.split("/")[1]]
        arms.append(cell.arm)
        values.append(measured(runs_dir / cell.identity, stems, damaged).get(metric, math.nan))
    means = pd.Series(values, dtype=float).groupby(arms).mean()
    best = set((metrics[metric] * means).nlargest(MOST_ARMS).index)
    return dataclasses.replace(grid, cells=[cell for cell in grid.cells if cell.arm in best])


def axes(grids: Sequence[Grid]) -> list[str]:
    """Return the keys that distinguish the arms of some grids."""
    return list(dict.fromkeys(key for grid in grids for key in grid.axis if key != SEED))


def axis_column(key: str) -> str:
    """Return the column of an axis; "arm" is the label of all axis values."""
    return "grid.arm" if key == "arm" else key


def claim_keys() -> set[str]:
    """Return every key that a claim may use for arms: settings, config groups, and "arm"."""
    known = {key for key, _, _ in walk(Config())}
    return known | {key.split(".")[0] for key in known if "." in key} | {"arm"}


def setting_keys(runs: pd.DataFrame) -> list[str]:
    """Return the columns that are settings: of the config, of measures, and the identity of the corpus."""
    known = {key for key, _, rule in walk(Config()) if rule.get("identity") != NONE} - {SEED}
    groups = {key.split(".")[0] for key in known if "." in key}
    return [
        str(name)
        for name in runs
        if name in known
        or name == "text.fingerprint"
        or str(name).startswith(_SCORED)
        or ("." in str(name) and str(name).split(".")[0] in groups)
    ]


def _runs(grids: Sequence[Grid], by_identity: pd.DataFrame) -> pd.DataFrame:
    """One row per cell with a finished run: its columns, its grid, its axis values and its arm."""
    keys = axes(grids)
    cells = [(grid, cell) for grid in grids for cell in grid.cells if cell.identity in by_identity.index]
    runs = by_identity.loc[[cell.identity for _, cell in cells]].reset_index(drop=True)
    runs = runs.dropna(axis="columns", how="all")
    places = {
        key: [
            given if (given := cell.overrides.get(key)) is not None else default
            for (_, cell), default in zip(cells, _defaults(runs, key), strict=True)
        ]
        for key in keys
    }
    added = {
        "grid": [grid.identity for grid, _ in cells],
        "tuned": [cell.tuned for _, cell in cells],
        "scale": runs.get("scale.name", ""),
        "arm": [label(dict(zip(keys, place, strict=True))) for place in zip(*places.values(), strict=True)] or label({}),
        **{axis_column(key): words for key, words in places.items()},
    }
    kept = runs.drop(columns=[key for key in added if key in runs])
    joined = pd.concat([kept, pd.DataFrame(added, index=runs.index)], axis="columns")
    # One block of objects instead of a hundred text columns, since statistics select rows thousands of times.
    return joined.astype(dict.fromkeys(joined.select_dtypes(["string", "str"]), object)).copy()


def _defaults(runs: pd.DataFrame, key: str) -> list[str]:
    """Return the value of each run on an axis that its own grid did not have."""
    values = runs[key] if key in runs else runs.get(f"{key}.name", pd.Series("", index=runs.index))
    return ["" if value is None or value != value else as_text(value) for value in values.tolist()]


def _one_protocol(name: str, runs: pd.DataFrame, protocol: str, prefixes: tuple[str, ...], problems: list[str]) -> pd.DataFrame:
    """Keep decoding speeds only of runs that were measured like most of them."""
    keys = [key for key in runs if str(key).startswith(protocol)]
    speeds = [key for key in runs if str(key).startswith(prefixes)]
    if not keys or not speeds:
        return runs
    known = runs[speeds].notna().any(axis="columns")
    protocols = runs.loc[known, keys].astype(str).agg(", ".join, axis="columns")
    other = protocols[protocols != protocols.mode().iloc[0]]
    if other.empty:
        return runs
    problems.append(f"{name}: {len(other)} speeds of decoding were measured by another protocol or machine than most")
    runs = runs.copy()
    runs.loc[other.index, speeds] = math.nan
    return runs


def _bits(records: Records) -> pd.DataFrame | None:
    """Add the column bits, bits per byte of the training text, to the loss curves."""
    curves = records.rows.get("curves")
    if curves is None:
        return None
    names = [name for name in records.runs if str(name).startswith("vocabulary.bytes_per_token.")]
    if not names:
        return curves
    per_token = records.runs.set_index("identity")[names].mean(axis="columns")
    return curves.assign(bits=curves["loss"] / math.log(2) / curves["identity"].map(per_token))


def _with_edges(records: Records) -> pd.DataFrame:
    """Add ``layer_skip/1/bits_per_byte/first``, ``/last`` and ``/between`` (the mean over the layers between).

    These are bits per byte of validation text without that layer. Runs of fewer than three layers have none.
    """
    skipped = records.rows.get("layer_skip")
    if skipped is None:
        return records.runs
    single = skipped[skipped["skipped"] == 1].dropna(subset=["bits_per_byte"]).sort_values("first")
    found = {}
    for name, own in single.groupby("identity"):
        bits = own["bits_per_byte"].to_list()
        if len(bits) > 2:
            found[name] = (bits[0], bits[-1], math.fsum(bits[1:-1]) / (len(bits) - 2))
    edges = {
        f"layer_skip/1/bits_per_byte/{which}": records.runs["identity"].map({name: ends[place] for name, ends in found.items()})
        for place, which in enumerate(("first", "last", "between"))
    }
    return records.runs.assign(**edges) if found else records.runs


def _with_matrices(runs: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Add the metrics of trained matrices (``matrix_metrics``)."""
    weights = records.rows.get("matrix_std")
    if weights is None:
        return runs
    by_run = weights.rename(columns={"trained": "trained_std"}).groupby("identity")
    found = {identity: matrix_metrics(own) for identity, own in by_run}
    names = sorted({name for metrics in found.values() for name in metrics})
    return runs.assign(**{name: runs["identity"].map({key: own.get(name) for key, own in found.items()}) for name in names})
