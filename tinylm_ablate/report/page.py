"""Page of one experiment as a list of blocks: figures, verdicts, table, the paper's numbers, tests, and commands."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinylm_ablate.files import fingerprint
from tinylm_ablate.frames.grid_file import Grid
from tinylm_ablate.frames.run_folders import Records
from tinylm_ablate.report import measures
from tinylm_ablate.report.blocks import Block, Cell, Code, Figure, Fold, Heading, Row, Table, Text
from tinylm_ablate.report.details import DETAILS
from tinylm_ablate.report.drawing import specification
from tinylm_ablate.report.figures import FIGURES
from tinylm_ablate.report.measures import Measure, as_float
from tinylm_ablate.report.page_tables import (
    arms_table,
    beside_the_paper,
    paired_tests,
    places_of,
    primary_measure,
    runs_table,
    validation_and_cost,
    varies,
)
from tinylm_ablate.report.printed import Printed, printed
from tinylm_ablate.report.verdicts import about
from tinylm_ablate.science.evidence import Evidence, Setting, settings
from tinylm_ablate.science.pairs import MOST_ARMS, best_arms
from tinylm_ablate.science.tuning import changed_orders
from tinylm_ablate.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

#: Stems of other files.
_TAKEN = {"readme", "claims", "index", "figures", "reference", "scales"}

#: Descriptions of the result of tuning an arm.
_STATES = {"edge": "at an edge: not testable", "open": "not finished"}


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        stem: Stem of its files, unique whatever the experiment is called.
        title: Its heading.
        blocks: Its blocks.
        arms, seeds, runs: Numbers of arms, seeds and runs.
    """

    stem: str
    title: str
    blocks: Sequence[Block]
    arms: int = 0
    seeds: int = 0
    runs: int = 0


def stem_of(name: str) -> str:
    """Return a file stem for an arbitrary name; different names have different stems, also on case-insensitive systems.

    A plain lower-case name is kept; any other is simplified and gets a fingerprint as a suffix.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_+-]{0,63}", name) and name not in _TAKEN:
        return name
    return f"{re.sub(r'[^a-z0-9_+-]+', '-', name.lower()).strip('-')[:48] or 'page'}-{fingerprint(name)[:8]}"


def experiment_page(
    grids: Sequence[Grid], evidence: Evidence, records: Records, verdicts: Sequence[Verdict], reference: Evidence | None = None
) -> Page:
    """Return the page of the grids with one name.

    Args:
        grids: Those grids.
        evidence: Their finished runs.
        records: Records with their long frames; problems are added.
        verdicts: Those on claims about this experiment.
        reference: The same experiment in the reference, for comparison.
    """
    found = settings(evidence)
    newest = max(grids, key=lambda grid: (grid.created, grid.identity))
    stem = stem_of(newest.name)
    blocks: list[Block] = [Heading(1, newest.title)]
    blocks += [Text(newest.note)] if newest.note else []
    for number, setting in enumerate(found):
        about_it = [block for verdict in verdicts if verdict.setting == setting.label for block in about(verdict)]
        blocks += [
            Heading(2, setting.label),
            *_setting(setting, grids, records, about_it, f"{stem}_{number}" if number else stem),
        ]
    if reference is not None:
        blocks += _reference(reference)
    commands = list(dict.fromkeys(shlex.join(grid.command) for grid in grids if grid.command))
    blocks += [Fold("How it was run", [Code(command) for command in commands])] if commands else []
    arms = [setting.runs for setting in found]
    return Page(
        stem,
        newest.title,
        blocks,
        sum(runs["arm"].nunique() for runs in arms),
        max((int(runs.groupby("arm")["seed"].nunique().max()) for runs in arms), default=0),
        sum(len(runs) for runs in arms),
    )


def _setting(setting: Setting, grids: Sequence[Grid], records: Records, verdicts: Sequence[Block], stem: str) -> list[Block]:
    """Return the blocks of one group of comparable runs."""
    primary = primary_measure(setting)
    all_arms = setting.runs["arm"].nunique()
    setting = best_arms(setting, primary.column, primary.better) if primary is not None else setting
    grid = next((grid for grid in grids if grid.identity in set(setting.runs["grid"])), grids[-1])
    paper = printed(grids, places_of(setting), records.problems)
    blocks = [*_figures(setting, grid, records, primary, paper, stem), *verdicts]
    if all_arms > MOST_ARMS:
        blocks.append(Text(f"The best {MOST_ARMS} of {all_arms:,} arms are shown; all are in the CSV and under Explore."))
    blocks += arms_table(setting, primary)
    for name in grid.figures:
        if name in DETAILS:
            blocks += DETAILS[name](setting, records, primary, paper)
    if grid.correlate:
        blocks += DETAILS["correlation"](setting, records, primary, paper, grid.correlate, grid.paper or "")
    blocks += beside_the_paper(setting, paper, primary)
    blocks += paired_tests(setting, primary)
    blocks += _tuning([grid for grid in grids if grid.identity in set(setting.runs["grid"])], stem)
    blocks.append(Fold("Validation and cost", validation_and_cost(setting)))
    blocks.append(Fold("Runs", runs_table(setting)))
    return blocks


def _figures(
    setting: Setting, grid: Grid, records: Records, primary: Measure | None, paper: Printed | None, stem: str
) -> list[Block]:
    """Return the experiment's figures, the arms and the loss curves, if any."""
    blocks: list[Block] = []
    runs = setting.runs
    measure = primary.column if primary else ""
    wanted = [*(name for name in grid.figures if name in FIGURES), *(["correlation"] if grid.correlate else [])]
    for name in dict.fromkeys([*(["ladder"] if "ladder" in wanted else ["arms"]), *wanted, "along", "loss"]):
        kind = FIGURES[name]
        data = runs.assign(paper=_averages(setting, paper)) if name == "ladder" else runs
        by: Sequence[str] = setting.evidence.axis
        if kind.rows != "runs":
            if (long := records.rows.get(kind.rows)) is None:
                continue
            own = [column for column in long if column == "identity" or column not in runs or "tokens" in long]
            data = runs[["identity", "arm", "seed"]].merge(long[own], on="identity")
        if name == "correlation":
            by = grid.correlate
        elif name == "batch_lr":
            data = _numbers(data, by)
        chart = kind.draw(data, by, "loss" if name == "loss" else measure)
        if chart is not None:
            blocks.append(Figure(f"{stem}_{name}", specification(chart), kind.title, f"{kind.alt}."))
    if any(isinstance(block, Figure) and block.name.endswith("_loss") for block in blocks) and varies(runs, "shape.vocab_size"):
        blocks.append(
            Text("The vocabularies differ, so losses in nats per token cannot be compared between arms; bits per byte can.")
        )
    return blocks


def _tuning(grids: Sequence[Grid], stem: str) -> list[Block]:
    """Return the tuned settings of each arm; an arm in two grids was tuned in the same way."""
    import pandas as pd

    entries = list({(entry["arm"], entry["key"]): entry for grid in grids for entry in grid.tuning}.values())
    points = [{"arm": entry["arm"], "key": entry["key"], **point} for entry in entries for point in entry["curve"]]
    if not points:
        return []
    rows: list[Row] = [
        [
            entry["arm"], entry["key"], _STATES.get(entry["state"], entry["state"]),
            Cell("–" if entry["best"] is None else f"{entry['best']:g}", entry["best"]), len(entry["curve"]),
        ]
        for entry in entries
    ]  # fmt: skip
    blocks: list[Block] = [Table(["arm", "setting", "optimum", "best factor", "tried"], rows, 3, "Tuned settings")]
    chart = FIGURES["tuning"].draw(pd.DataFrame(points).dropna(), ["factor"], "loss")
    if chart is not None:
        kind = FIGURES["tuning"]
        blocks.insert(0, Figure(f"{stem}_tuning", specification(chart), kind.title, f"{kind.alt}."))
    return [Fold("How the arms were tuned", [*blocks, *_changed_by_tuning(entries)])]


def _changed_by_tuning(entries: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Describe how many pairs of arms would have another order with the default value of each tuned setting."""
    curves: dict[str, dict[str, dict[float, float]]] = {}
    for entry in entries:
        curve = {point["factor"]: math.nan if point["loss"] is None else point["loss"] for point in entry["curve"]}
        curves.setdefault(entry["key"], {})[entry["arm"]] = curve
    notes = []
    for key, by_arm in curves.items():
        changes, pairs = changed_orders(by_arm)
        if pairs:
            found = f"{changes} of {pairs} pairs" if changes else "no pair"
            end = ", so an untuned comparison would have ranked them differently" if changes else ""
            notes.append(f"Tuning {key} changes the order of {found} of arms on the tuning seed{end}.")
    return [Text(text) for text in notes]


def _reference(reference: Evidence) -> list[Block]:
    """Return the reference's results for the same experiment, at its largest setting."""
    found = settings(reference)
    if not found:
        return []
    primary = primary_measure(found[0])
    setting = best_arms(found[0], primary.column, primary.better) if primary is not None else found[0]
    blocks = [block for block in arms_table(setting, primary) if isinstance(block, Table)]
    return [Fold(f"The same experiment in the reference: {setting.label}", blocks)]


def _averages(setting: Setting, paper: Printed | None) -> list[float]:
    """Return the paper's mean accuracy for the arm of each run; NaN if it states none."""
    rows = paper.rows if paper is not None else [None] * len(setting.arms)
    known = {arm: as_float((row or {}).get("average")) for arm, row in zip(setting.arms, rows, strict=True)}
    return [known[arm] for arm in setting.runs["arm"]]


def _numbers(data: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Convert axes to numbers if all of their values are."""
    found = {key: data[key].map(measures.number) for key in keys if key in data}
    return data.assign(**{key: values for key, values in found.items() if values.notna().all()})
