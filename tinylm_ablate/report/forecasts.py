"""``forecasts.csv``: forecasts for scales that were not run, dated and hashed, and judged once they are run."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.science.evidence import Evidence, settings
from tinylm_ablate.science.forecast import (
    COLUMNS,
    TOKENS_ALIKE,
    add,
    changed,
    forecast_effects,
    forecast_losses,
    judge_forecasts,
    observed,
)
from tinylm_ablate.science.verdict import Verdict

FILE = "forecasts.csv"

#: Metric of loss forecasts.
METRIC = "test/bits_per_byte/all"

#: Column of the judged table: whether the row no longer matches its hash. It is not part of the file.
EDITED = "edited"

_NUMBERS = ("parameters", "tokens", "forecast", "low", "high", "observed")


def read_forecasts(folder: Path) -> pd.DataFrame:
    """Read the forecasts in a folder, if any.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)[list(COLUMNS)]
        return table.assign(**{name: pd.to_numeric(table[name].replace("", None)).astype(float) for name in _NUMBERS})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from the repository") from None


def judged(table: pd.DataFrame, evidence: Mapping[str, Evidence], verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Add later measurements and the column ``EDITED`` to forecasts."""
    if table.empty:
        return table.assign(**{EDITED: False})
    found = judge_forecasts(table, observed(evidence, [METRIC], verdicts))
    edited = set(changed(table))
    return found.assign(**{EDITED: [place in edited for place in range(len(found))]})


def new_forecasts(
    table: pd.DataFrame, evidence: Mapping[str, Evidence], verdicts: Sequence[Verdict], scale: str, parameters: float,
    tokens: float,
) -> pd.DataFrame:  # fmt: skip
    """Add forecasts of everything that the runs determine at a setting to ``table``, dated today.

    Experiments that were already run there are omitted: a forecast must precede its runs. Existing forecasts are kept.

    Raises:
        UserError: The runs determine no forecast there.
    """
    open_ones = {
        name: own
        for name, own in evidence.items()
        if not any(
            group.scale == scale and abs(math.log(tokens / group.tokens)) <= math.log(TOKENS_ALIKE) for group in settings(own)
        )
    }
    made = [found for own in open_ones.values() for found in forecast_losses(own, METRIC, scale, parameters, tokens)]
    concerned = [verdict for verdict in verdicts if verdict.claim.experiment in open_ones]
    made += forecast_effects(concerned, scale, parameters, tokens)
    if not made:
        raise UserError(
            f"nothing can be forecast for scale {scale}: an experiment that was not run there must have been run at two other "
            "scales, or at two budgets of that scale, with two seeds each"
        )
    return add(None if table.empty else table, made, datetime.datetime.now(datetime.UTC).date().isoformat())


def write_forecasts(table: pd.DataFrame, folder: Path) -> None:
    """Write forecasts; without any, no file is written."""
    if len(table):
        text = table[list(COLUMNS)].to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_atomic(folder / FILE, text)
