"""The standard deviation of each matrix by layer, before and after training (Figure 11): kept small, and drawn."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.report.arms import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The word in ``experiment.figures`` that asks for this figure, and the folder in the results.
NAME = "matrix_std"

#: Matrix -> layers' initial and final standard deviation.
Deviations = Mapping[str, Sequence[tuple[float, float]]]

#: Okabe and Ito's colours, one for each of the seven matrices and the two of a shortcut.
_COLOURS = {
    "q": "#0072B2", "k": "#56B4E9", "v": "#009E73", "out": "#E69F00", "gate": "#D55E00", "up": "#CC79A7", "down": "#000000",
    "shortcut_down": "#999999", "shortcut_up": "#F0E442",
}  # fmt: skip
_COLUMNS = 4


def compact(path: Path) -> str:
    """A run's ``matrix_std.json`` as CSV: layer, matrix, initial and trained standard deviation with five digits.

    Raises:
        ValueError, KeyError: The file is damaged.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["layer", "matrix", "initial", "trained"])
    for row in json.loads(path.read_text()):
        writer.writerow([int(row["layer"]), row["matrix"], f"{row['std']:.5g}", f"{row['trained_std']:.5g}"])
    return stream.getvalue()


def read(path: Path) -> Deviations | None:
    """What ``compact`` wrote, by matrix in the order of the layers, or None if there is none."""
    if not path.is_file():
        return None
    found: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="") as stream:
        for row in sorted(csv.DictReader(stream), key=lambda row: int(row["layer"])):
            found.setdefault(row["matrix"], []).append((float(row["initial"]), float(row["trained"])))
    return found or None


def draw(section: Section, deviations: Mapping[str, Deviations]) -> Figure | None:
    """One panel an arm: each matrix after training over the layers, means over seeds; the initial weights dashed.

    Args:
        section: The arms.
        deviations: By identity.

    Returns:
        None if no run has them.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    drawn = [
        (arm, found)
        for arm in section.arms
        if (found := [deviations[run.identity] for run in arm.runs.values() if run.identity in deviations])
    ]
    if not drawn:
        return None
    rows = math.ceil(len(drawn) / _COLUMNS)
    columns = min(len(drawn), _COLUMNS)
    figure = Figure(figsize=(1.3 + 2.4 * columns, 0.4 + 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shown: dict[str, str] = {}
    for axes, (arm, found) in zip(panels.flat, drawn, strict=False):
        for matrix, colour in _COLOURS.items():
            own = [run[matrix] for run in found if matrix in run]
            depth = min((len(layers) for layers in own), default=0)
            if not depth:
                continue
            shown[matrix] = colour
            for which, style in ((0, "--"), (1, "-")):
                means = [math.fsum(layers[layer][which] for layers in own) / len(own) for layer in range(depth)]
                axes.plot(range(1, depth + 1), means, style, color=colour, linewidth=1.5 if which else 0.9)
        axes.set_title(" ".join(f"{key}={value}" for key, value in arm.place.items()) or "all runs", fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels.flat[len(drawn) :]:
        axes.remove()
    figure.supxlabel("layer", fontsize=10)
    figure.supylabel("standard deviation", fontsize=10)
    handles = [Line2D([], [], color=colour, label=matrix) for matrix, colour in shown.items()]
    handles.append(Line2D([], [], color="#555555", linestyle="--", linewidth=0.9, label="initial"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    return figure
