"""Quality by batch and by the exponent of the rule from batch to learning rate (Figures 7 and 8), as a heat map."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tinylm_ablate.report.arms import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The word in ``experiment.figures`` that asks for this figure.
NAME = "batch_lr"

_BATCH, _EXPONENT, _METRIC = "train.batch_multiple", "optimizer.scaling.exponent", "test/bits_per_byte/all"


def shown(section: Section, write: Callable[[Figure | None], str | None]) -> list[str]:
    """The heat map in Markdown; nothing where no arm of both axes is finished."""
    path = write(_draw(means_of(section)))
    if path is None:
        return []
    return [
        "### Batch against exponent",
        f"![Bits per byte by batch and exponent, a cell an arm; darker is better]({path})",
    ]


def means_of(section: Section) -> dict[tuple[float, float], float]:
    """Bits per byte on test, mean over seeds, by (batch over the base, exponent)."""
    found = {}
    for arm in section.arms:
        values = list(arm.by_seed(_METRIC).values())
        if values and _BATCH in arm.place and _EXPONENT in arm.place:
            found[float(arm.place[_BATCH]), float(arm.place[_EXPONENT])] = sum(values) / len(values)
    return found


def _draw(means: dict[tuple[float, float], float]) -> Figure | None:
    """A row an exponent, a column a batch; each cell says its number."""
    import numpy as np
    from matplotlib.figure import Figure

    if not means:
        return None
    batches, exponents = sorted({batch for batch, _ in means}), sorted({exponent for _, exponent in means})
    grid = np.array([[means.get((batch, exponent), np.nan) for batch in batches] for exponent in exponents])
    figure = Figure(figsize=(1.6 + 0.9 * len(batches), 1.4 + 0.6 * len(exponents)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for row, column in zip(*np.nonzero(~np.isnan(grid)), strict=True):
        value = grid[row, column]
        colour = "white" if value < middle else "black"
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(batches)), [f"{batch:g}" for batch in batches])
    axes.set_yticks(range(len(exponents)), [f"{exponent:g}" for exponent in exponents])
    axes.set_xlabel("batch over the base")
    axes.set_ylabel("exponent r")
    figure.colorbar(image, label="bits per byte on test")
    return figure
