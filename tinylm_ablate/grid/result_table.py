"""Short table at the end of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinylm_ablate.measure.benchmarks import AVERAGES
from tinylm_ablate.measure.harness import LISTS

if TYPE_CHECKING:
    from tinylm_ablate.science.evidence import Evidence
    from tinylm_ablate.science.pairs import Result

#: Mark of a value that may be as good as the best of its column.
WITHIN_NOISE = "≈"


@dataclass(frozen=True)
class _Column:
    """A metric of the table: its name, its head, decimals, and the better direction (0: neither)."""

    metric: str
    head: str
    digits: int
    direction: int


_COLUMNS = (
    _Column("parameters.total", "parameters", 0, 0),
    _Column("test/bits_per_byte/all", "bits per byte, test", 4, -1),
    _Column("test/cloze/all", "cloze, test", 3, 1),
    *(_Column(f"benchmarks/average/{name}", f"average of {len(LISTS[name])} benchmarks", 2, 0) for name in AVERAGES),
    _Column("train/tokens_per_second", "training tokens/s", 0, 0),
)


#: Measures to distinguish arms, of which the first known one is used: 1 if higher is better, -1 if lower is better.
JUDGED = {column.metric: column.direction for column in _COLUMNS if column.direction}


def summary_table(own: Evidence | None, arms: int = 0) -> str:
    """A Markdown table, aligned for a terminal: one row per arm, mean ± standard deviation over its seeds.

    Args:
        own: The finished part; None if nothing is finished.
        arms: Number of arms of the grid, if only the best are in ``own``.

    Returns:
        The table, with a line on possible conclusions; empty if nothing is finished.
    """
    from tabulate import tabulate

    from tinylm_ablate.frames.arms import axis_column
    from tinylm_ablate.science.evidence import Setting
    from tinylm_ablate.science.pairs import best_arms, results

    if own is None:
        return ""
    axis, frame = own.axis, own.runs.drop_duplicates(["arm", "seed"])
    setting = Setting("", math.nan, math.nan, math.nan, (), (), frame, own)
    arms = max(arms, len(setting.arms))
    if (judged := next((name for name in JUDGED if name in frame), None)) is not None:
        setting = best_arms(setting, judged, JUDGED[judged])
        frame = setting.runs
    first = frame.drop_duplicates("arm")
    places = dict(zip(first["arm"], first[[axis_column(key) for key in axis]].to_numpy().tolist(), strict=True))
    shown = [column for column in _COLUMNS if column.metric in frame.columns]
    columns = [results(setting, column.metric, column.direction) for column in shown]
    measured = frame if judged is None else frame[frame[judged].notna()]
    seeds = measured.groupby("arm", sort=False)["seed"].nunique()
    several = bool(seeds.max() > 1)
    lines = [
        [*places[arm], str(seeds.get(arm, 0))]
        + [_cell(found[number], column, several) for found, column in zip(columns, shown, strict=True)]
        for number, arm in enumerate(places)
    ]
    head = [*axis, "seeds", *(column.head for column in shown)]
    align = ["left"] * len(axis) + ["right"] * (1 + len(shown))
    table = tabulate(lines, headers=head, tablefmt="pipe", disable_numparse=True, colalign=align)
    left_out = f"The best {len(places)} of {arms:,} arms; `tinylm-ablate report` has all.\n" if len(places) < arms else ""
    return f"{table}\n\n{left_out}{_conclusion(len(places), several)}".rstrip()


def _cell(result: Result, column: _Column, marked: bool) -> str:
    if not result.values:
        return ""
    text = f"{result.mean:,.{column.digits}f}"
    if column.direction and not math.isnan(result.deviation):
        text += f" ± {result.deviation:,.{column.digits}f}"
    if result.clear and marked:
        return f"**{text}**"
    return f"{text} {WITHIN_NOISE}" if result.within_noise and marked and not result.best else text


def _conclusion(arms: int, several: bool) -> str:
    """State in one sentence what the seeds allow to conclude; empty for a single arm."""
    if arms < 2:
        return ""
    if not several:
        return "One seed: nothing can be concluded from these differences."
    return (
        f"{WITHIN_NOISE} may be as good as the best of its column: the paired t-test over seeds, and over documents where they "
        "are known, finds no difference at 5 % over all looks and pairs (Holm). Bold: every other arm is worse than that."
    )
