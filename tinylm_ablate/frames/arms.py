"""From records to what statistics read: the runs of each experiment with their arms, and the paper's row for each arm."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tinylm_ablate import progress
from tinylm_ablate.config import NONE, Config, walk
from tinylm_ablate.frames.folders import SEED, Grid, Records, as_text, label, measured, read_runs
from tinylm_ablate.science.evidence import Evidence
from tinylm_ablate.science.matrices import matrix_metrics
from tinylm_ablate.science.pairs import MOST_ARMS

#: Runs are compared where their text was scored alike. How something else was measured concerns that alone, and much of it
#: follows from the run: bigrams are counted on its tokens, and what was forgotten has the parts that it was trained in.
_SCORED = ("measure.bits_per_byte.", "measure.cloze.")

#: Speeds compare on one machine and by one protocol.
_SPEED, _PROTOCOL = "decode/", "measure.decoding_speed."


def evidence(records: Records) -> dict[str, Evidence]:
    """The finished runs of each experiment, by name; experiments without any are left out.

    Grids of one name are one experiment: the same with more seeds, another arm, scale or budget. A run's place on an axis that
    its own grid did not have is what its config says.
    """
    named: dict[str, list[Grid]] = {}
    for grid in records.grids:
        named.setdefault(grid.name, []).append(grid)
    by_identity = _with_matrices(_with_edges(records), records).set_index("identity", drop=False)
    documents, questions = records.rows.get("documents"), records.rows.get("questions")
    curves = _bits(records)
    found = {}
    for name, grids in named.items():
        runs = _runs(grids, by_identity)
        if runs.empty:
            continue
        runs = _one_protocol(name, runs, records.problems)
        known = set(runs["identity"])

        def own(table: pd.DataFrame | None, known: set[str] = known) -> pd.DataFrame | None:
            return None if table is None else table[table["identity"].isin(known)]

        keys = setting_keys(runs)
        found[name] = Evidence(name, axes(grids), runs, keys, own(documents), own(questions), own(curves))
    return found


def evidence_of(runs_dir: Path, grid: Grid, damaged: list[str] | None = None) -> Evidence | None:
    """The finished part of one grid; None while nothing is. Files that cannot be read are reported, and left out; ``damaged``
    gets a line for each."""
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
    """The keys that distinguish the arms of some grids."""
    return list(dict.fromkeys(key for grid in grids for key in grid.axis if key != SEED))


def axis_column(key: str) -> str:
    """The column of an axis; "arm" is the label of the whole place."""
    return "grid.arm" if key == "arm" else key


def claim_keys() -> set[str]:
    """Every key that a claim may name an arm by: settings, config groups, and "arm"."""
    known = {key for key, _, _ in walk(Config())}
    return known | {key.split(".")[0] for key in known if "." in key} | {"arm"}


def setting_keys(runs: pd.DataFrame) -> list[str]:
    """The columns that are settings: of the config, of how a run was measured, and which text it was trained on."""
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
    """One row per cell with a finished run: its columns, its grid, its place on each axis and its arm."""
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
    # One block of objects instead of a hundred text columns: statistics select rows thousands of times.
    return joined.astype(dict.fromkeys(joined.select_dtypes(["string", "str"]), object)).copy()


def _defaults(runs: pd.DataFrame, key: str) -> list[str]:
    """Value of each run on an axis that its own grid did not have."""
    values = runs[key] if key in runs else runs.get(f"{key}.name", pd.Series("", index=runs.index))
    return ["" if value is None or value != value else as_text(value) for value in values.tolist()]


def _one_protocol(name: str, runs: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """The runs with speeds of decoding where they were measured as most of them were."""
    keys = [key for key in runs if str(key).startswith(_PROTOCOL)]
    speeds = [key for key in runs if str(key).startswith(_SPEED)]
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
    """The loss curves with the column bits: bits per byte of the training text."""
    curves = records.rows.get("curves")
    if curves is None:
        return None
    names = [name for name in records.runs if str(name).startswith("vocabulary.bytes_per_token.")]
    if not names:
        return curves
    per_token = records.runs.set_index("identity")[names].mean(axis="columns")
    return curves.assign(bits=curves["loss"] / math.log(2) / curves["identity"].map(per_token))


def _with_edges(records: Records) -> pd.DataFrame:
    """The runs with ``layer_skip/1/bits_per_byte/first``, ``/last`` and ``/between`` (the mean over the layers between): bits
    per byte of validation text without that layer. Runs of fewer than three layers have none."""
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
    """The runs with the metrics of their trained matrices (``matrix_metrics``)."""
    weights = records.rows.get("matrix_std")
    if weights is None:
        return runs
    by_run = weights.rename(columns={"trained": "trained_std"}).groupby("identity")
    found = {identity: matrix_metrics(own) for identity, own in by_run}
    names = sorted({name for metrics in found.values() for name in metrics})
    return runs.assign(**{name: runs["identity"].map({key: own.get(name) for key, own in found.items()}) for name in names})
