"""The short table at the end of a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinylm_ablate.execute.perform import results as results_of
from tinylm_ablate.grid.findings import document_rows
from tinylm_ablate.measure.benchmarks import AVERAGES
from tinylm_ablate.measure.harness import LISTS
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from tinylm_ablate.science.pairs import Result

#: Marks a value that may be as good as the best of its column.
WITHIN_NOISE = "≈"


@dataclass(frozen=True)
class _Column:
    """A metric of the table: its name, its head, digits after the point, and which way is better (0: neither)."""

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


def summary_table(cells: Sequence[tuple[Mapping[str, str], Settled]]) -> str:
    """A Markdown table, aligned for a terminal: one row per arm, mean ± standard deviation over its seeds.

    Args:
        cells: Values on the axes ("seed" among them if it is one), and the run; unfinished ones are left out.

    Returns:
        The table, with a line on what may be concluded from it; empty where nothing is finished.
    """
    import pandas as pd
    from tabulate import tabulate

    from tinylm_ablate.science.evidence import Evidence, Setting
    from tinylm_ablate.science.pairs import results

    found = [(place, results_of(run), run) for place, run in cells]
    rows = [(place, record, document_rows(run)) for place, record, run in found if record is not None]
    if not rows:
        return ""
    axis = list(dict.fromkeys(key for place, _, _ in rows for key in place if key != "seed"))
    places: dict[str, Mapping[str, str]] = {}
    runs, documents = [], []
    for place, record, scored in rows:
        arm = " ".join(f"{key}={place.get(key, '')}" for key in axis)
        places[arm] = place
        about = {"identity": record["identity"], "arm": arm, "seed": record["seed"], "grid": "this"}
        runs.append(about | {"parameters.total": record["parameters"]["total"]} | dict(record["metrics"]))
        documents += [{"identity": record["identity"], **row} for row in scored]
    frame = pd.DataFrame(runs).drop_duplicates(["arm", "seed"])
    evidence = Evidence("grid", axis, frame, (), pd.DataFrame(documents) if documents else None)
    setting = Setting("", math.nan, math.nan, math.nan, (), (), frame, evidence)
    shown = [column for column in _COLUMNS if column.metric in frame.columns]
    columns = [results(setting, column.metric, column.direction) for column in shown]
    seeds = frame.groupby("arm", sort=False)["seed"].nunique()
    several = bool(seeds.max() > 1)
    lines = [
        [*(places[arm].get(key, "") for key in axis), str(seeds[arm])]
        + [_cell(found[number], column, several) for found, column in zip(columns, shown, strict=True)]
        for number, arm in enumerate(places)
    ]
    head = [*axis, "seeds", *(column.head for column in shown)]
    align = ["left"] * len(axis) + ["right"] * (1 + len(shown))
    table = tabulate(lines, headers=head, tablefmt="pipe", disable_numparse=True, colalign=align)
    return f"{table}\n\n{_conclusion(len(places), several)}".rstrip()


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
    """One sentence on what the seeds allow to conclude; empty for a single arm."""
    if arms < 2:
        return ""
    if not several:
        return "One seed: nothing can be concluded from these differences."
    return (
        f"{WITHIN_NOISE} may be as good as the best of its column: the paired t-test over seeds, and over documents where they "
        "are known, finds no difference at 5 % over all looks and pairs (Holm). Bold: every other arm is worse than that."
    )
