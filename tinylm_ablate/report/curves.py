"""Loss curves: thinned so that they can be kept in a repository, and drawn as means over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinylm_ablate.errors import UserError
from tinylm_ablate.report.arms import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

#: Points that are kept of a curve: more than a figure of this width shows.
POINTS = 64

#: Okabe and Ito's colours, which most people tell apart, without the yellow that is hard to see on white; then line styles.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", ":", "-.")

#: Most arms whose legend stands beside the curves, and the columns of a larger one below them.
_BESIDE, _LEGEND_COLUMNS = 12, 2


def thin(path: Path) -> str:
    """A run's ``curve.jsonl`` as CSV (tokens, loss) of at most ``POINTS`` rows.

    Each is the mean over a stretch of equally many rows, at its last number of tokens. A line cut short by a power cut is
    left out.
    """
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            rows.append((int(row["tokens"]), float(row["loss"])))
        except (ValueError, KeyError, TypeError):
            continue
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["tokens", "loss"])
    stretch = max(1, math.ceil(len(rows) / POINTS))
    for start in range(0, len(rows), stretch):
        part = rows[start : start + stretch]
        writer.writerow([part[-1][0], f"{math.fsum(loss for _, loss in part) / len(part):.5g}"])
    return stream.getvalue()


def read(path: Path) -> Curve | None:
    """Tokens and losses of a thinned curve, or None if there is none.

    Raises:
        UserError: The file has other columns, or cells that are no numbers.
    """
    if not path.is_file():
        return None
    try:
        with path.open(newline="") as stream:
            rows = [(float(row["tokens"]), float(row["loss"])) for row in csv.DictReader(stream)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no curve with the columns tokens and loss ({error}): restore it, or delete it") from None
    if not rows:
        return None
    tokens, losses = np.array(rows).T
    return tokens, losses


def draw(section: Section, curves: Mapping[str, Curve], title: str) -> Figure | None:
    """Training loss over tokens: for each arm the mean over its seeds, and a band from the lowest to the highest seed.

    Args:
        section: The arms.
        curves: Curves by identity.
        title: Over the figure.

    Returns:
        None if no run has a curve.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = [
        (arm, found)
        for arm in section.arms
        if (found := [curves[run.identity] for run in arm.runs.values() if run.identity in curves])
    ]
    if not drawn:
        return None
    # Many arms have their legend below, in columns, and a figure that is taller by it.
    rows = math.ceil(len(drawn) / _LEGEND_COLUMNS) if len(drawn) > _BESIDE else 0
    figure = Figure(figsize=(7.5, 4.2 + 0.2 * rows), layout="constrained")
    axes = figure.add_subplot()
    for index, (arm, found) in enumerate(drawn):
        colour, style = _COLOURS[index % len(_COLOURS)], _STYLES[index // len(_COLOURS) % len(_STYLES)]
        tokens, losses = together(found)
        label = " ".join(f"{key}={value}" for key, value in arm.place.items()) or "all runs"
        axes.plot(tokens, losses.mean(axis=0), label=label, linewidth=1.6, color=colour, linestyle=style)
        if len(losses) > 1:
            axes.fill_between(tokens, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("tokens")
    axes.set_ylabel("training loss (nats a token)")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    # The first points, before anything is learned, would squeeze all that is to be compared into a corner.
    lowest = min(float(losses.min()) for _, found in drawn for _, losses in found)
    tails = [losses[len(losses) // 8 :] for _, found in drawn for _, losses in found]
    highest = max(float(losses.max()) for losses in tails)
    margin = 0.05 * (highest - lowest) or 0.1
    axes.set_ylim(lowest - margin, highest + margin)
    if rows:
        figure.legend(loc="outside lower center", ncols=_LEGEND_COLUMNS, fontsize=7, frameon=False)
    else:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def together(curves: Sequence[Curve]) -> Curve:
    """Several curves at the same numbers of tokens (those of the shortest curve): tokens (n,), losses (curves, n)."""
    tokens = min((tokens for tokens, _ in curves), key=lambda tokens: (tokens[-1], len(tokens)))
    return tokens, np.array([np.interp(tokens, own, losses) for own, losses in curves])


def files(figure: Figure) -> dict[str, bytes]:
    """A figure as {".svg": …, ".png": …}, the same bytes for the same figure."""
    import matplotlib

    contents = {}
    with matplotlib.rc_context({"svg.hashsalt": "tinylm_ablate", "svg.fonttype": "none"}):
        for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
            stream = io.BytesIO()
            figure.savefig(stream, format=suffix[1:], dpi=140, metadata=metadata, facecolor="white")
            contents[suffix] = stream.getvalue()
    return contents
