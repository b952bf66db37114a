"""``python -m tinylm_ablate.report``: the tables of the runs, written to ``results/``.

The same runs give the same bytes: nothing that is written depends on the time, the machine, or the order of folders.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.paths import conf_dir
from tinylm_ablate.report import (
    batch_lr,
    convergence,
    correlate,
    curves,
    documents,
    forgetting,
    ladder,
    latex,
    layer_skip,
    mlflow_store,
    site,
    verdicts,
    weights,
)
from tinylm_ablate.report.arms import Section, sections
from tinylm_ablate.report.claims import read_claims
from tinylm_ablate.report.collect import RUNS, collect, kept_rows
from tinylm_ablate.report.edges import with_edges
from tinylm_ablate.report.index import OWN, index, intro, other_pages
from tinylm_ablate.report.judge import Judgement, judge
from tinylm_ablate.report.page import Experiment, comma_separated, page
from tinylm_ablate.report.printed import Printed, order, printed
from tinylm_ablate.report.records import Grid, frame, read_grids, readable, to_csv
from tinylm_ablate.report.searches import write_searches

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_NOTHING = """nothing to report yet: no finished run in {runs_dir}, and no {kept}.
`make demo` trains a small grid; one of your own is, for instance,
    python -m tinylm_ablate -m arch.depth=20,40 seeds=2"""


def write_report(runs_dir: Path, results: Path, claims: Path | None = None) -> tuple[list[Experiment], list[str]]:
    """Take over the runs of ``runs_dir`` and write the tables of all that ``results`` knows.

    Args:
        runs_dir: Folder of the runs.
        results: Folder of the results.
        claims: Folder of a user's own claims, beside those of the paper.

    Returns:
        The experiments, the ladder first, then the paper's tables and figures, then others; and a line for each thing that was
        left out.

    Raises:
        UserError: A folder cannot be read or written, what is kept in ``results`` is damaged, or a claim has mistakes.
    """
    listed = read_claims(claims)
    problems: list[str] = []
    collect(runs_dir, results, problems)
    write_searches(runs_dir, results, problems)
    kept = kept_rows(results)
    if not kept:
        if other_pages(results, []):
            write_atomic(results / "README.md", index([], 0, other_pages(results, [])))
        return [], problems
    records = with_edges(frame(to_csv(kept[identity] for identity in sorted(kept))), results)
    named: dict[str, list[Grid]] = {}
    for grid in read_grids(results, problems):
        named.setdefault(grid.name, []).append(grid)
    scores = documents.read(results, sorted(kept))
    try:
        found = {name: sections(grids, records, scores) for name, grids in named.items()}
        judged = {claim.name: judge(claim, found.get(claim.experiment, [])) for claim in listed}
        experiments = [
            _experiment(name, named[name], found[name], judged, results, problems)
            for name in progress.bar(order(named), description="tables", unit="table")
        ]
        for identity in sorted(kept):
            write_atomic(results / "records" / f"{identity}.json", readable(kept[identity]))
        _write_pages(experiments, [judgement for own in judged.values() for judgement in own], records, results)
    except OSError as error:
        raise UserError(f"{results} cannot be written: {error.strerror}") from error
    return experiments, problems


def _experiment(
    name: str,
    grids: Sequence[Grid],
    found: Sequence[Section],
    judged: Mapping[str, Sequence[Judgement]],
    results: Path,
    problems: list[str],
) -> Experiment:
    """All that is shown of the grids of one name; its figures are written."""
    stem = _stem(name)
    members = {run.identity for arm in found[0].arms for run in arm.runs.values()} if found else set()
    # Of several grids the one that stands first on the page says what it is.
    grid = next((own for own in grids if any(cell.identity in members for cell in own.cells)), grids[-1])
    paper = [printed(grids, [arm.place for arm in section.arms], problems) for section in found]
    stems = [f"{stem}{f'_{number}' if number > 1 else ''}" for number in range(1, len(found) + 1)]
    own = [judgement for judgements in judged.values() for judgement in judgements if judgement.claim.experiment == name]
    return Experiment(
        stem,
        grid.title,
        grid.note,
        found,
        paper,
        [_loss(section, f"{stem}_loss", results) for section, stem in zip(found, stems, strict=True)],
        [_more(section, own, stem, grid, results) for section, own, stem in zip(found, paper, stems, strict=True)],
        [[judgement for judgement in own if judgement.setting == section.label] for section in found],
    )


def _write_pages(
    experiments: Sequence[Experiment], judgements: Sequence[Judgement], records: pd.DataFrame, results: Path
) -> None:
    """Every page in Markdown, CSV, LaTeX and HTML, and the two front pages."""
    pages = {experiment.name: page(experiment) for experiment in experiments}
    for experiment in experiments:
        write_atomic(results / f"{experiment.name}.csv", comma_separated(experiment))
    stems = [*pages, "claims"]
    write_atomic(results / "claims.csv", verdicts.comma_separated(judgements))
    for stem, text in zip(stems, [*pages.values(), verdicts.page(judgements, set(pages))], strict=True):
        write_atomic(results / f"{stem}.md", text)
        write_atomic(results / f"{stem}.tex", latex.tables(text, stem))
        write_atomic(results / f"{stem}.html", site.single(stem, text, results))
    others = other_pages(results, list(pages))
    write_atomic(results / "README.md", index(experiments, len(records), others, judgements))
    pages |= {stem: (results / f"{stem}.md").read_text(encoding="utf-8") for stem, _ in others}
    listed = [(name, pages[name]) for name in order(pages)]
    front = site.site(
        intro(records), listed, verdicts.summary(judgements, set(pages)), verdicts.comparisons(judgements), results
    )
    write_atomic(results / "index.html", front)


def _stem(name: str) -> str:
    """A file's stem for the name of an experiment, which a user may choose freely; never one of the report's own files."""
    stem = re.sub(r"[^\w.+-]+", "_", name).lstrip(".") or "_"
    return f"{stem}_" if stem.lower() in {name.lower() for name in OWN} else stem


def _more(section: Section, paper: Printed | None, stem: str, grid: Grid, results: Path) -> list[str]:
    """What an experiment asks for beside tables and loss curves, in Markdown."""
    parts: list[str] = []
    if ladder.NAME in grid.figures:
        parts += ladder.shown(section, paper, lambda figure: _written(figure, f"{stem}_{ladder.NAME}", results))
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
    if layer_skip.NAME in grid.figures:
        parts += layer_skip.shown(section, results, lambda figure: _written(figure, f"{stem}_{layer_skip.NAME}", results))
    if convergence.NAME in grid.figures:
        parts += convergence.shown(section, results)
    for module in (forgetting, batch_lr):
        if module.NAME in grid.figures:
            name = f"{stem}_{module.NAME}"
            parts += module.shown(section, lambda figure, name=name: _written(figure, name, results))
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


def _experiment_name() -> str:
    """What runs are tracked under, unless they say otherwise."""
    import yaml

    name: str = yaml.safe_load((conf_dir() / "tracking" / "mlflow.yaml").read_text(encoding="utf-8"))["experiment"]
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tinylm_ablate.report", description="Write the tables of the runs.")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where to write (default: results)")
    parser.add_argument(
        "--claims", type=Path, help="folder of your own claims, one YAML file each (default: claims, if there is one here)"
    )
    parser.add_argument(
        "--mlflow", metavar="URI", help="read an MLflow store in place of a folder of runs: sqlite:///FILE or http://SERVER"
    )
    parser.add_argument("--experiment", default=_experiment_name(), help="its experiment (default: %(default)s)")
    options = parser.parse_args(arguments)
    claims = options.claims or next((folder for folder in [Path("claims")] if folder.is_dir()), None)
    try:
        if options.mlflow is None:
            experiments, problems = write_report(options.runs_dir, options.results, claims)
        else:
            fetched: list[str] = []
            with tempfile.TemporaryDirectory() as folder:
                mlflow_store.fetch(options.mlflow, options.experiment, Path(folder), fetched)
                experiments, problems = write_report(Path(folder), options.results, claims)
            problems = [*fetched, *problems]
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
    print(f"{options.results / 'index.html'}: all in one page; {options.results / 'claims.md'}: verdicts on the paper's claims")
    print(f"{options.results / 'README.md'}: all tables; {options.results / RUNS}: all runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
