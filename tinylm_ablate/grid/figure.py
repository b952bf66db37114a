"""The picture of a grid: training loss over tokens, a line a cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.files import write_atomic
from tinylm_ablate.report.curves import files


def draw_losses(cells: Sequence[tuple[str, Path]], title: str, path: Path) -> list[Path]:
    """Draw the curves of cells that have one.

    Args:
        cells: Name and ``curve.jsonl`` of each cell.
        title: Over the figure.
        path: Where it goes, without a suffix.

    Returns:
        The files written, SVG and PNG; none where no cell has a curve.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="tokens", ylabel="training loss, nats per token", title=title)
    for name, curve in cells:
        if curve.is_file():
            rows = [json.loads(line) for line in curve.read_text().splitlines()]
            axes.plot([row["tokens"] for row in rows], [row["loss"] for row in rows], label=name, linewidth=1.2)
    if not axes.lines:
        return []
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    paths = []
    for suffix, content in files(figure).items():
        paths.append(path.with_name(f"{path.name}{suffix}"))
        write_atomic(paths[-1], content)
    return paths
