"""Results in a notebook: the runs as a data frame, and paired tests of arms. Figures are in ``figures``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tinylm_ablate.errors import UserError, listed
from tinylm_ablate.frames.arms import setting_keys
from tinylm_ablate.frames.run_folders import Records, read_runs
from tinylm_ablate.report.figures import labels
from tinylm_ablate.report.measures import direction
from tinylm_ablate.report.reference_data import read_reference
from tinylm_ablate.science.evidence import Evidence, plain, settings
from tinylm_ablate.science.pairs import pairs

BITS = "test/bits_per_byte/all"

#: Long tables of the folders that ``runs`` has read, for the variance over documents.
_READ: dict[str, dict[str, pd.DataFrame]] = {}


def runs(folder: str | Path = "runs") -> pd.DataFrame:
    """Return one row per finished run.

    Columns: "identity", "seed"; settings under their dotted keys ("arch.depth"); "shape.width", "parameters.total", "tokens",
    …; every metric under its name ("test/bits_per_byte/en"); "role", which is "tuning" for runs that only tune an arm, and
    otherwise "arm".

    Args:
        folder: A folder of runs, or of a reference such as "results/reference".

    Raises:
        UserError: The folder does not exist, or cannot be read.
    """
    records = _records(folder)
    tuning = {point["identity"] for grid in records.grids for tuned in grid.tuning for point in tuned["curve"]}
    tuning -= {cell.identity for grid in records.grids for cell in grid.cells}
    frame = records.runs.assign(role=["tuning" if name in tuning else "arm" for name in records.runs["identity"]])
    frame.attrs["folder"] = str(Path(folder).resolve())
    _READ[frame.attrs["folder"]] = records.rows
    return frame


def curves(folder: str | Path = "runs") -> pd.DataFrame:
    """Return the thinned loss curves of a folder: columns identity, tokens, loss (nats per token)."""
    return _records(folder).rows.get("curves", pd.DataFrame(columns=["identity", "tokens", "loss"]))


def along(folder: str | Path = "runs") -> pd.DataFrame:
    """Return measurements along the runs of a folder (``evaluate.every``): columns identity, tokens, metric, value."""
    return _records(folder).rows.get("along", pd.DataFrame(columns=["identity", "tokens", "metric", "value"]))


def compare(frame: pd.DataFrame, by: str | Sequence[str], measure: str = BITS) -> pd.DataFrame:
    """Return paired tests of all pairs of arms: an arm is the runs with equal values of ``by``, paired by seed.

    Tuning runs are left out. Settings that ``by`` does not name, and of which arms have the same several values, separate the
    runs: they are only compared within one of them. Intervals include the variance over held-out documents and questions.

    Args:
        frame: Runs from ``runs``, or some of them.
        by: One or several columns that distinguish the arms.
        measure: The column to compare.

    Returns:
        One row per pair: arm, against, difference (arm minus against) with its 95 % interval (low, high), seeds, p (adjusted
        for looks at 3, 5, 8 and 12 seeds; 1 below three seeds), holm (corrected for all pairs), better (the better arm, or
        "" if it is undecided or not known which direction is better), needed (seeds that would decide it), setting (what
        separates these runs from others).

    Raises:
        UserError: A column is missing, or an arm has several runs of a seed that differ in an unnamed setting.
    """
    keys = [by] if isinstance(by, str) else list(by)
    for name in (*keys, measure, "seed", "identity"):
        if name not in frame:
            raise UserError(f"compare: the runs have no column {name!r}")
    data = frame.drop_duplicates("identity").sort_values(keys, kind="stable")
    if "role" in data:
        data = data[data["role"] != "tuning"]
    data = data.assign(arm=labels(data, keys))
    apart = _separating(data, keys)
    data = data.assign(grid=[str(tuple(map(plain, row))) for row in data[apart].itertuples(index=False)])
    tables = _tables(frame)
    evidence = Evidence("", keys, data, setting_keys(data), tables.get("documents"), tables.get("questions"))
    better, rows = direction(measure), []
    for setting in settings(evidence):
        if setting.doubles:
            raise UserError(_several(data[data["identity"].isin([*setting.doubles, *setting.runs["identity"]])]))
        for pair in pairs(setting, measure):
            low, high = pair.estimate.interval()
            ahead = pair.first if better * pair.estimate.mean > 0 else pair.second
            rows.append(
                {
                    "setting": setting.label, "arm": pair.first, "against": pair.second, "difference": pair.estimate.mean,
                    "low": low, "high": high, "seeds": pair.seeds, "p": pair.p, "holm": pair.holm,
                    "better": ahead if pair.decided and better else "", "needed": pair.needed,
                }
            )  # fmt: skip
    columns = ["setting", "arm", "against", "difference", "low", "high", "seeds", "p", "holm", "better", "needed"]
    return pd.DataFrame(rows, columns=columns)


def _varying(data: pd.DataFrame) -> list[str]:
    """Return the settings in which runs with the same arm and seed differ."""
    groups = data.groupby(["arm", "seed"])
    return [key for key in setting_keys(data) if (groups[key].agg(lambda own: len(set(map(plain, own)))) > 1).any()]


def _separating(data: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Return the varying settings of which several arms have a value; others follow from the arm."""
    found = []
    for key in _varying(data):
        by_arm = [set(values) for _, values in data[key].map(plain).groupby(data["arm"])]
        several = Counter(value for values in by_arm for value in values)
        if key not in keys and (len(by_arm) == 1 or max(several.values()) > 1):
            found.append(key)
    return found


def _several(data: pd.DataFrame) -> str:
    """Describe runs of one arm and seed that differ in something else."""
    (arm, seed), runs = next(group for group in data.groupby(["arm", "seed"]) if len(group[1]) > 1)
    keys = listed(_varying(data), 5) or "no setting"
    return (
        f"compare: arm {arm} has {len(runs)} runs with seed {seed}, which differ in {keys}: select some of the runs, or name "
        "these columns in by"
    )


def _tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the long tables of the folder that the runs are from; none if the frame was made in another way."""
    folder = frame.attrs.get("folder")
    if folder is None:
        return {}
    if folder not in _READ and Path(folder).is_dir():
        _READ[folder] = _records(folder).rows
    return _READ.get(folder, {})


def _records(folder: str | Path) -> Records:
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder of runs")
    return read_reference(path) if (path / "runs.parquet").is_file() else read_runs(path)
