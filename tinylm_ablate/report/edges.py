"""What a run comes to without its first layer, its last, or one between them, as columns that claims can name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.report import layer_skip

if TYPE_CHECKING:
    import pandas as pd

_COLUMN = "layer_skip/1/bits_per_byte/"


def with_edges(records: pd.DataFrame, results: Path) -> pd.DataFrame:
    """The records with ``layer_skip/1/bits_per_byte/first``, ``/last`` and ``/between`` (the mean over the layers between),
    bits a byte of validation text with that layer skipped. Runs of fewer than three layers, or without such measurements, have
    none.

    Args:
        records: A row a finished run.
        results: Folder of the results, with ``layer_skip/<identity>.csv``.
    """
    found = [_edges(results / layer_skip.NAME / f"{identity}.csv") for identity in records["identity"]]
    if not any(found):
        return records
    return records.copy().assign(
        **{f"{_COLUMN}{name}": [own.get(name, math.nan) for own in found] for name in ("first", "last", "between")}
    )


def _edges(path: Path) -> dict[str, float]:
    measured = layer_skip.read(path) or {}
    bits = [own["bits_per_byte"] for (skipped, _), own in sorted(measured.items()) if skipped == 1 and "bits_per_byte" in own]
    if len(bits) < 3:
        return {}
    return {"first": bits[0], "last": bits[-1], "between": math.fsum(bits[1:-1]) / (len(bits) - 2)}
