"""``python -m tinylm_ablate.report``: the tables of the runs, written to ``results/``.

The same runs give the same bytes: nothing that is written depends on the time, the machine, or the order of folders.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.report import correlate, curves, weights
from tinylm_ablate.report.arms import Section, sections
from tinylm_ablate.report.collect import RUNS, collect, kept_rows
from tinylm_ablate.report.index import index, other_pages
from tinylm_ablate.report.page import Experiment, comma_separated, page
from tinylm_ablate.report.printed import printed
from tinylm_ablate.report.records import Grid, frame, read_grids, to_csv

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_NOTHING = """nothing to report yet: no finished run in {runs_dir}, and no {kept}.
`make demo` trains a small grid; one of your own is, for instance,
    python -m tinylm_ablate -m arch.depth=20,40 seeds=2"""


def write_report(runs_dir: Path, results: Path) -> tuple[list[Experiment], list[str]]:
    """Take over the runs of ``runs_dir`` and write the tables of all that ``results`` knows.

    Returns:
        The experiments, in alphabetical order, and a line for each thing that was left out.

    Raises:
        UserError: A folder cannot be read or written.
    """
    problems: list[str] = []
    collect(runs_dir, results, problems)
    kept = kept_rows(results)
    if not kept:
        if other_pages(results, []):
            write_atomic(results / "README.md", index([], 0, other_pages(results, [])))
        return [], problems
    records = frame(to_csv(kept[identity] for identity in sorted(kept)))
    named: dict[str, list[Grid]] = {}
    for grid in read_grids(results, problems):
        named.setdefault(grid.name, []).append(grid)
    try:
        experiments = [_write(name, named[name], records, results, problems) for name in sorted(named)]
        pages = other_pages(results, [experiment.name for experiment in experiments])
        write_atomic(results / "README.md", index(experiments, len(records), pages))
    except OSError as error:
        raise UserError(f"{results} cannot be written: {error.strerror}") from error
    return experiments, problems


def _write(name: str, grids: Sequence[Grid], records: pd.DataFrame, results: Path, problems: list[str]) -> Experiment:
    found = sections(grids, records)
    name = _stem(name)
    grid = grids[-1]
    stems = [f"{name}{f'_{number}' if number > 1 else ''}" for number in range(1, len(found) + 1)]
    experiment = Experiment(
        name,
        grid.title,
        grid.note,
        found,
        [printed(grids, [arm.place for arm in section.arms], problems) for section in found],
        [_loss(section, f"{stem}_loss", results) for section, stem in zip(found, stems, strict=True)],
        [_more(section, stem, grid, results) for section, stem in zip(found, stems, strict=True)],
    )
    write_atomic(results / f"{name}.md", page(experiment))
    write_atomic(results / f"{name}.csv", comma_separated(experiment))
    return experiment


def _stem(name: str) -> str:
    """A file's stem for the name of an experiment, which a user may choose freely; never one of the report's own files."""
    stem = re.sub(r"[^\w.+-]+", "_", name).lstrip(".") or "_"
    return f"{stem}_" if stem.lower() in {"runs", "readme"} else stem


def _more(section: Section, stem: str, grid: Grid, results: Path) -> list[str]:
    """What an experiment asks for beside tables and loss curves, in Markdown."""
    parts: list[str] = []
    if grid.correlate:
        parts += correlate.correlations(section, grid.correlate, grid.paper)
        if path := _written(correlate.draw(section, grid.correlate), f"{stem}_correlation", results):
            parts.append(f"![Bits per byte over what varies, a point an arm]({path})")
    if weights.NAME in grid.figures:
        identities = [run.identity for arm in section.arms for run in arm.runs.values()]
        kept = {identity: weights.read(results / weights.NAME / f"{identity}.csv") for identity in identities}
        figure = weights.draw(section, {identity: rows for identity, rows in kept.items() if rows is not None})
        if path := _written(figure, f"{stem}_{weights.NAME}", results):
            parts.append("### Standard deviation of each matrix by layer")
            parts.append(f"![Standard deviation by layer, a panel an arm; after training, and dashed before it]({path})")
    return parts


def _loss(section: Section, stem: str, results: Path) -> str | None:
    """Draw a section's curves; returns the figure's path relative to the page."""
    identities = [run.identity for arm in section.arms for run in arm.runs.values()]
    kept = {name: curves.read(results / "curves" / f"{name}.csv") for name in identities}
    figure = curves.draw(section, {name: curve for name, curve in kept.items() if curve is not None}, section.label)
    return _written(figure, stem, results)


def _written(figure: Figure | None, stem: str, results: Path) -> str | None:
    """Write a figure; returns its path relative to the page."""
    if figure is None:
        return None
    for suffix, content in curves.files(figure).items():
        write_atomic(results / "figures" / f"{stem}{suffix}", content)
    return f"figures/{stem}.svg"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tinylm_ablate.report", description="Write the tables of the runs.")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where to write (default: results)")
    options = parser.parse_args(arguments)
    try:
        experiments, problems = write_report(options.runs_dir, options.results)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not (options.results / RUNS).exists():
        print(_NOTHING.format(runs_dir=options.runs_dir, kept=options.results / RUNS))
        return 0
    for experiment in experiments:
        print(f"{options.results / experiment.name}.md: {experiment.title} ({experiment.runs} runs)")
    print(f"{options.results / 'README.md'}: all tables; {options.results / RUNS}: all runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
