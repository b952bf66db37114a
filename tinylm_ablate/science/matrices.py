"""Standard deviations of matrices after training, as metrics of a run (Figure 11)."""

from __future__ import annotations

import pandas as pd

#: Matrices of each kind.
ATTENTION, FFN = ("q", "k", "v", "out"), ("gate", "up", "down")


def matrix_metrics(deviations: pd.DataFrame) -> dict[str, float]:
    """Metrics of a run's trained matrices.

    Args:
        deviations: Columns layer, matrix, trained_std: one row per matrix and layer.

    Returns:
        ``matrix_std/trained`` is the mean over all of them. ``matrix_std/variation/attention`` and ``…/ffn`` describe their
        variation with depth: the coefficient of variation over layers, averaged over the matrices of that kind.
    """
    found = {"matrix_std/trained": float(deviations["trained_std"].mean())}
    for kind, names in (("attention", ATTENTION), ("ffn", FFN)):
        own = deviations[deviations["matrix"].isin(names)].groupby("matrix")["trained_std"]
        if own.ngroups and own.size().min() > 1:
            found[f"matrix_std/variation/{kind}"] = float((own.std() / own.mean()).mean())
    return found
