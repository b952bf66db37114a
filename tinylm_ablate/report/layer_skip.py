"""Quality with adjacent layers skipped, by position (Figures 5 and 12): kept small, drawn and tabulated."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.files import write_atomic
from tinylm_ablate.report.arms import Arm, Section
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.measures import CHANCE, Measure
from tinylm_ablate.report.statistics import mean_and_deviation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The word in ``experiment.figures`` that asks for this figure, and the folder in the results.
NAME = "layer_skip"

_HEAD = ["skipped", "first", "loss", "bits_per_byte", "cloze"]
_MEASURES = (Measure("bits_per_byte", "bits/byte", "bits", -1), Measure("cloze", "cloze %", "share", 1))
_COLOURS = {1: "#0072B2", 2: "#E69F00", 3: "#D55E00"}

#: (layers skipped, first of them) -> measure -> value; (0, 0) is the whole model.
Skips = Mapping[tuple[int, int], Mapping[str, float]]


@dataclass(frozen=True)
class _Measured:
    """What the seeds of an arm came to."""

    arm: Arm
    runs: Sequence[Skips]

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.arm.place.items()) or "all runs"

    @property
    def counts(self) -> list[int]:
        return sorted({skipped for run in self.runs for skipped, _ in run if skipped})

    def places(self, skipped: int) -> list[int]:
        return sorted({first for run in self.runs for count, first in run if count == skipped})

    def values(self, place: tuple[int, int], measure: Measure) -> list[float]:
        return [run[place][measure.column] for run in self.runs if measure.column in run.get(place, {})]


def collect(folder: Path, results: Path, problems: list[str]) -> None:
    """Take over a run's ``layer_skip.parquet``, if it has one, as ``results/layer_skip/<identity>.csv``.

    Args:
        folder: Of the run.
        results: Folder of the results.
        problems: Gets a line if the file cannot be read.
    """
    path = folder / "layer_skip.parquet"
    if not path.is_file():
        return
    try:
        write_atomic(results / NAME / f"{folder.name}.csv", compact(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{path}: cannot be read and is left out: {error}")


def compact(path: Path) -> str:
    """A run's ``layer_skip.parquet`` as CSV with six digits.

    Raises:
        OSError, ValueError, KeyError, TypeError: The file is damaged.
    """
    import pandas as pd

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_HEAD)
    for row in pd.read_parquet(path)[_HEAD].itertuples(index=False):
        numbers = (float("nan") if value is None else float(value) for value in row[2:])
        writer.writerow([int(row[0]), int(row[1]), *("" if math.isnan(number) else f"{number:.6g}" for number in numbers)])
    return stream.getvalue()


def read(path: Path) -> Skips | None:
    """What ``compact`` wrote, or None if there is none."""
    if not path.is_file():
        return None
    with path.open(newline="") as stream:
        return {
            (int(row["skipped"]), int(row["first"])): {name: float(row[name]) for name in _HEAD[2:] if row[name]}
            for row in csv.DictReader(stream)
        }


def shown(section: Section, results: Path, write: Callable[[Figure | None], str | None]) -> list[str]:
    """Figure and tables in Markdown; nothing where no arm has such measurements.

    Args:
        section: The arms.
        results: Folder of the results.
        write: Writes a figure, and returns its path relative to the page.
    """
    arms = _measured(section, results)
    path = write(_draw(arms))
    if path is None:
        return []
    from tinylm_ablate.measure.layer_skip import MAX_BYTES, MAX_QUESTIONS

    return [
        "### Layers skipped at inference",
        f"![Bits per byte and cloze accuracy by the first skipped layer, a line for each number of skipped layers]({path})",
        f"Of each language, the first {MAX_BYTES:,} bytes of validation text and {MAX_QUESTIONS} cloze questions at most, the "
        f"same for all positions; guessing gives a cloze of {100 * CHANCE:.0f} %. Layers count from 0.",
        *_tables(arms),
    ]


def _measured(section: Section, results: Path) -> list[_Measured]:
    """The arms that have such measurements."""
    found = []
    for arm in section.arms:
        runs = [read(results / NAME / f"{run.identity}.csv") for _, run in sorted(arm.runs.items())]
        if any(runs):
            found.append(_Measured(arm, [run for run in runs if run]))
    return found


def _draw(arms: Sequence[_Measured]) -> Figure | None:
    """A column an arm, a row a measure: its mean over the seeds by the first skipped layer, with a band from the lowest to the
    highest seed; a line for each number of skipped layers, and the whole model dashed. None without arms."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = [measure for measure in _MEASURES if any(arm.values((0, 0), measure) for arm in arms)]
    if not shown:
        return None
    figure = Figure(figsize=(1.6 + 3.2 * len(arms), 0.6 + 2.5 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), len(arms), sharex="col", sharey="row", squeeze=False)
    for row, measure in zip(panels, shown, strict=True):
        for axes, arm in zip(row, arms, strict=True):
            for skipped in arm.counts:
                values = {first: found for first in arm.places(skipped) if (found := arm.values((skipped, first), measure))}
                colour = _COLOURS.get(skipped, "#999999")
                scaled = {first: [_scale(measure) * value for value in found] for first, found in values.items()}
                means = [math.fsum(found) / len(found) for found in scaled.values()]
                label = f"{skipped} {'layer' if skipped == 1 else 'layers'}"
                axes.plot(list(scaled), means, color=colour, label=label, linewidth=1.5, marker=".", markersize=4)
                if len(arm.runs) > 1:
                    lows, highs = ([end(found) for found in scaled.values()] for end in (min, max))
                    axes.fill_between(list(scaled), lows, highs, color=colour, alpha=0.2, linewidth=0)
            whole, _ = mean_and_deviation(arm.values((0, 0), measure))
            axes.axhline(_scale(measure) * whole, color="#000000", linestyle="--", linewidth=0.9, label="none")
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if measure.kind == "bits":
                axes.set_yscale("log")
        row[0].set_ylabel(measure.title)
    for axes, arm in zip(panels[0], arms, strict=True):
        axes.set_title(arm.label, fontsize=10)
    figure.supxlabel("first skipped layer, from 0", fontsize=10)
    most = max(arms, key=lambda arm: len(arm.counts))
    handles, labels = panels[0][list(arms).index(most)].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False, title="skipped", title_fontsize=8)
    return figure


def _tables(arms: Sequence[_Measured]) -> list[str]:
    """For each arm a table of all positions, in Markdown."""
    parts = []
    for arm in arms:
        columns = [(skipped, measure) for measure in _MEASURES for skipped in arm.counts if arm.values((0, 0), measure)]
        head = ["first skipped layer", *(f"{measure.title}, {skipped} skipped" for skipped, measure in columns)]
        rows = [["none skipped", *(_cell(arm.values((0, 0), measure), measure) for _, measure in columns)]]
        rows += [
            [str(first), *(_cell(arm.values((skipped, first), measure), measure) for skipped, measure in columns)]
            for first in arm.places(1)
        ]
        seeds = len(arm.runs)
        parts += [f"**{arm.label}**, {seeds} {'seed' if seeds == 1 else 'seeds'}:", table(head, rows, words=1), _cheapest(arm)]
    return parts


def _cheapest(arm: _Measured) -> str:
    """Where skipping costs least and most, in a line."""
    measure = _MEASURES[0]
    facts = []
    for skipped in arm.counts:
        means = {
            first: math.fsum(values) / len(values)
            for first in arm.places(skipped)
            if (values := arm.values((skipped, first), measure))
        }
        if means:
            least, most = min(means, key=lambda first: means[first]), max(means, key=lambda first: means[first])
            whole, _ = mean_and_deviation(arm.values((0, 0), measure))
            facts.append(
                f"{skipped}: least at layer {least} ({measure.signed(means[least] - whole)}), most at layer {most} "
                f"({measure.signed(means[most] - whole)})"
            )
    return f"What skipping adds to bits/byte, by the number of layers: {'; '.join(facts)}." if facts else ""


def _cell(values: Sequence[float], measure: Measure) -> str:
    mean, deviation = mean_and_deviation(values)
    return measure.text(mean) + ("" if math.isnan(deviation) else f" ± {measure.text(deviation)}")


def _scale(measure: Measure) -> float:
    return 100.0 if measure.kind == "share" else 1.0
