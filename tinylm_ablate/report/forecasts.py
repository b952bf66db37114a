"""``forecasts.csv``: forecasts of a scale that was not run, dated and hashed, and judged once it is."""

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

#: What losses are forecast of.
METRIC = "test/bits_per_byte/all"

#: Column of the judged table: the row's words no longer match its hash. It is not part of the file.
EDITED = "edited"

_NUMBERS = ("parameters", "tokens", "forecast", "low", "high", "observed")


def read_forecasts(folder: Path) -> pd.DataFrame:
    """The forecasts that a folder keeps; empty where it keeps none.

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
    """Forecasts with what was measured since, and with the column ``EDITED``."""
    if table.empty:
        return table.assign(**{EDITED: False})
    found = judge_forecasts(table, observed(evidence, [METRIC], verdicts))
    edited = set(changed(table))
    return found.assign(**{EDITED: [place in edited for place in range(len(found))]})


def new_forecasts(
    table: pd.DataFrame, evidence: Mapping[str, Evidence], verdicts: Sequence[Verdict], scale: str, parameters: float,
    tokens: float,
) -> pd.DataFrame:  # fmt: skip
    """``table`` with forecasts of everything that the runs determine at a setting, dated today.

    Experiments that were run there already are left out: a forecast precedes its runs. One in the table is kept as it is.

    Raises:
        UserError: The runs determine nothing there.
    """
    open_ones = {
        name: own
        for name, own in evidence.items()
        if not any(
            group.scale == scale and abs(math.log(tokens / group.tokens)) <= math.log(TOKENS_ALIKE) for group in settings(own)
        )
    }
    made = [found for own in open_ones.values() for found in forecast_losses(own, METRIC, scale, parameters, tokens)]
    asked = [verdict for verdict in verdicts if verdict.claim.experiment in open_ones]
    made += forecast_effects(asked, scale, parameters, tokens)
    if not made:
        raise UserError(
            f"nothing can be forecast for scale {scale}: an experiment that was not run there must have been run at two other "
            "scales, or at two budgets of that scale, with two seeds each"
        )
    return add(None if table.empty else table, made, datetime.datetime.now(datetime.UTC).date().isoformat())


def write_forecasts(table: pd.DataFrame, folder: Path) -> None:
    """Write forecasts; a folder without any gets no file."""
    if len(table):
        text = table[list(COLUMNS)].to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_atomic(folder / FILE, text)
