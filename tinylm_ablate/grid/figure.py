"""The picture of a grid: training loss over tokens, one line per cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.report.figures import FIGURES, save


def draw_losses(cells: Sequence[tuple[str, Path]], path: Path) -> list[Path]:
    """Draw the curves of cells that have one.

    Args:
        cells: Name and ``curve.jsonl`` of each cell.
        path: Where it goes, without a suffix.

    Returns:
        The files written, SVG and PNG; none where no cell has a curve.
    """
    import pandas as pd

    from tinylm_ablate.report.records import thin

    parts = [thin(curve).assign(identity=name, arm=name) for name, curve in cells if curve.is_file()]
    chart = FIGURES["loss"].draw(pd.concat(parts), [], "loss") if parts else None
    return [] if chart is None else save(chart, path)
