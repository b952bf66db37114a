"""Results in a notebook: the runs as a data frame, and paired tests of arms. Figures are in ``figures``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tinylm_ablate.errors import UserError
from tinylm_ablate.frames.arms import setting_keys
from tinylm_ablate.frames.run_folders import Records, read_runs
from tinylm_ablate.report.figures import labels
from tinylm_ablate.report.measures import by_name
from tinylm_ablate.report.reference_data import read_reference
from tinylm_ablate.science.evidence import Evidence, settings
from tinylm_ablate.science.pairs import pairs

BITS = "test/bits_per_byte/all"


def runs(folder: str | Path = "runs") -> pd.DataFrame:
    """Return one row per finished run.

    Columns: "identity", "seed"; settings under their dotted keys ("arch.depth"); "shape.width", "parameters.total", "tokens",
    …; every metric under its name ("test/bits_per_byte/en").

    Args:
        folder: A folder of runs, or of a reference such as "results/reference".

    Raises:
        UserError: The folder does not exist, or cannot be read.
    """
    return _records(folder).runs


def curves(folder: str | Path = "runs") -> pd.DataFrame:
    """Return the thinned loss curves of a folder: columns identity, tokens, loss (nats per token)."""
    return _records(folder).rows.get("curves", pd.DataFrame(columns=["identity", "tokens", "loss"]))


def along(folder: str | Path = "runs") -> pd.DataFrame:
    """Return measurements along the runs of a folder (``evaluate.every``): columns identity, tokens, metric, value."""
    return _records(folder).rows.get("along", pd.DataFrame(columns=["identity", "tokens", "metric", "value"]))


def compare(frame: pd.DataFrame, by: str | Sequence[str], measure: str = BITS) -> pd.DataFrame:
    """Return paired tests of all pairs of arms: an arm is the runs with equal values of ``by``, paired by seed.

    Args:
        frame: Runs from ``runs``, or some of them.
        by: One or several columns that distinguish the arms.
        measure: The column to compare.

    Returns:
        One row per pair: arm, against, difference (arm minus against) with its 95 % interval (low, high), seeds, p (adjusted
        for looks at 3, 5, 8 and 12 seeds; 1 below three seeds), holm (corrected for all pairs), better (the better arm, or
        "" if undecided), needed (seeds that would decide it). Runs that differ in another setting are only compared
        within that setting (column "setting").

    Raises:
        UserError: A column is missing.
    """
    keys = [by] if isinstance(by, str) else list(by)
    for name in (*keys, measure, "seed", "identity"):
        if name not in frame:
            raise UserError(f"compare: the runs have no column {name!r}")
    data = frame.sort_values(keys, kind="stable")
    data = data.assign(arm=labels(data, keys))
    rows = []
    for setting in settings(Evidence("", keys, data, setting_keys(data))):
        for pair in pairs(setting, measure):
            low, high = pair.estimate.interval()
            ahead = pair.first if by_name(measure, 0).better * pair.estimate.mean > 0 else pair.second
            rows.append(
                {
                    "setting": setting.label, "arm": pair.first, "against": pair.second, "difference": pair.estimate.mean,
                    "low": low, "high": high, "seeds": pair.seeds, "p": pair.p, "holm": pair.holm,
                    "better": ahead if pair.decided else "", "needed": pair.needed,
                }
            )  # fmt: skip
    columns = ["setting", "arm", "against", "difference", "low", "high", "seeds", "p", "holm", "better", "needed"]
    return pd.DataFrame(rows, columns=columns)


def _records(folder: str | Path) -> Records:
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder of runs")
    return read_reference(path) if (path / "runs.parquet").is_file() else read_runs(path)
