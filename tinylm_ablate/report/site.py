"""Output of a report: the reference's pages, the user's pages, and one HTML page with both, in separate parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.frames.arms import claim_keys, evidence
from tinylm_ablate.frames.grid_file import Grid
from tinylm_ablate.frames.run_folders import Records, read_runs
from tinylm_ablate.report import explore, html, latex, markdown, measures
from tinylm_ablate.report.blocks import Block, Cell, Figure, Fold, Heading, Items, Row, Table, Text, link, styled
from tinylm_ablate.report.drawing import on_white, save_drawn
from tinylm_ablate.report.forecasts import EDITED, FILE, judged, new_forecasts, read_forecasts, write_forecasts
from tinylm_ablate.report.page import Page, experiment_page, stem_of
from tinylm_ablate.report.page_tables import WITHIN_NOISE, comma_separated
from tinylm_ablate.report.printed import order, printed_tables
from tinylm_ablate.report.reference_data import merged, read_reference, write_reference
from tinylm_ablate.report.scales import scales_page
from tinylm_ablate.report.searches import search_page
from tinylm_ablate.report.verdicts import claims_blocks, headline, summary
from tinylm_ablate.science.claim_files import read_claims
from tinylm_ablate.science.evidence import Evidence
from tinylm_ablate.science.verdict import Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

#: Scale, parameters and tokens of a setting that was not run.
Ahead = tuple[str, float, float]

TITLE = "Ablations of tiny language models"

READING: Sequence[Block] = (
    Heading(2, "How to read the tables"),
    Items(
        [
            styled(
                "**bits/byte** of held-out text, less is better: the sum of the losses divided by the UTF-8 bytes, so it is "
                "comparable across tokenizers. The mean over languages is unweighted."
            ),
            styled(
                "**cloze %**: how often the true one of four continuations is selected; guessing gives "
                f"{100 * measures.CHANCE:.0f} %."
            ),
            styled("**a ± b**: mean and sample standard deviation over the seeds."),
            styled(
                "**[a, b]**: a 95 % interval over seeds and held-out documents. Arms are paired by seed (same data, same "
                "order) and by document. The interval does not cover other texts or other parents."
            ),
            styled(
                f"**{WITHIN_NOISE}**: cannot be distinguished from the best of its column. **Bold**: every other arm is "
                "significantly worse. With one seed, nothing is marked."
            ),
            styled(
                "**Verdicts** use units of the margin, the smallest effect that matters: the effect of 5 % more tokens on the "
                "reference arm. Beyond 1, a claimed difference is reproduced; beyond −1, it is reversed; in between, no effect "
                "matters."
            ),
            styled(
                "**Settings** of one experiment with different scales, texts or budgets are never mixed; the largest is first."
            ),
        ]
    ),
)


@dataclass
class Side:
    """Results for the reference, or for a user's own runs.

    Attributes:
        records: The records.
        evidence: Evidence by experiment.
        verdicts: Verdicts on all claims.
        pages: One per experiment, without the page of claims.
        forecasts: ``forecasts.csv`` of its folder, judged.
        tables: CSV of each page, by its stem.
    """

    records: Records
    evidence: Mapping[str, Evidence]
    verdicts: Sequence[Verdict]
    forecasts: pd.DataFrame
    pages: list[Page] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)

    @property
    def stems(self) -> dict[str, str]:
        """Experiment -> stem of its page."""
        return {name: stem_of(name) for name in self.evidence}


def write_report(
    runs_dir: Path, results: Path, claims: Path | None = None, reference: Path | None = None, ahead: Ahead | None = None
) -> tuple[Side, Side]:
    """Write the reference's pages and those of the user's runs.

    The reference is regenerated only from its own data, byte for byte; the user's runs are never added to it.

    Args:
        runs_dir: Folder of the runs; it may be missing.
        results: Folder for the user's pages and ``index.html``.
        claims: Folder of a user's own claims, in addition to those of the paper.
        reference: Folder of the reference; ``results/reference`` by default.
        ahead: Scale, parameters and tokens to forecast from the user's runs.

    Returns:
        The user's side and the reference's.

    Raises:
        UserError: A folder cannot be read or written, the reference is damaged, a claim has mistakes, or nothing can be
            forecast.
    """
    folder = results / "reference" if reference is None else reference
    theirs = side(read_reference(folder), read_forecasts(folder))
    mine = side(read_runs(runs_dir), read_forecasts(results), claims, theirs, ahead)
    try:
        if folder.is_dir():
            write_pages(theirs, folder, kept=True)
        write_pages(mine, results)
        write_atomic(results / "index.html", front_page(mine, theirs))
    except OSError as error:
        raise UserError(f"{results} cannot be written: {error.strerror}") from error
    return mine, theirs


def add_to_reference(runs_dir: Path, reference: Path, ahead: Ahead | None = None) -> Side:
    """Add the finished runs of a folder, and the grids that have any, to the reference, and write its pages.

    Args:
        runs_dir: Folder of the runs.
        reference: Folder of the reference.
        ahead: Scale, parameters and tokens to forecast from the runs of the reference.

    Raises:
        UserError: A folder cannot be read or written, or the reference is damaged.
    """
    records = merged(read_reference(reference), read_runs(runs_dir))
    try:
        write_reference(records, reference)
        written = side(read_reference(reference), read_forecasts(reference), ahead=ahead)
        written.records.problems[:0] = records.problems
        write_pages(written, reference, kept=True)
    except OSError as error:
        raise UserError(f"{reference} cannot be written: {error.strerror}") from error
    return written


def side(
    records: Records,
    forecasts: pd.DataFrame,
    claims: Path | None = None,
    reference: Side | None = None,
    ahead: Ahead | None = None,
) -> Side:
    """Compute statistics, verdicts and pages of some records. A page that fails is reported, and does not affect others."""
    found = evidence(records)
    verdicts = judge(read_claims(claims, claim_keys(), printed_tables()), found)
    if ahead is not None:
        forecasts = new_forecasts(forecasts, found, verdicts, *ahead)
    own = Side(records, found, verdicts, judged(forecasts, found, verdicts))
    if edited := int(own.forecasts[EDITED].sum()):
        records.problems.append(f"{FILE}: {edited} {'row was' if edited == 1 else 'rows were'} edited since it was written")
    named: dict[str, list[Grid]] = {}
    for grid in records.grids:
        named.setdefault(grid.name, []).append(grid)
    # Grids of one command are as new as the last of them, so that they keep the paper's order.
    moments: dict[tuple[str, ...], str] = {}
    for grid in records.grids:
        moments[tuple(grid.command)] = max(grid.created, moments.get(tuple(grid.command), ""))
    newest = {name: max(moments[tuple(grid.command)] for grid in grids) for name, grids in named.items()}
    ordered = [name for name in order(named) if name in found]
    if reference is not None:  # a user's own pages are sorted newest first
        ordered.sort(key=lambda name: newest[name], reverse=True)
    for name in progress.bar(ordered, description="tables", unit="table"):
        counterpart = reference.evidence.get(name) if reference is not None else None
        about = [verdict for verdict in own.verdicts if verdict.claim.experiment == name]
        try:
            page = experiment_page(named[name], found[name], records, about, counterpart)
            own.tables[page.stem] = comma_separated(found[name])
        except (ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
            records.problems.append(f"experiment {name}: its page cannot be made: {type(error).__name__}: {error}")
            continue
        own.pages.append(page)
    if (scales := scales_page(found, verdicts, own.forecasts)) is not None:
        own.pages.append(scales)
    for search in records.searches:
        try:
            page, table = search_page(search)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            records.problems.append(f"search {search.get('name')}: its page cannot be made: {type(error).__name__}: {error}")
            continue
        own.pages.append(page)
        own.tables[page.stem] = table
    return own


def write_pages(own: Side, folder: Path, kept: bool = False) -> None:
    """Write the pages of one side.

    Args:
        own: The side.
        folder: Output folder; it is not touched if there are no pages.
        kept: Whether they are for a repository: Markdown with the first figure of each page, without LaTeX and CSV. Pages and
            figures that are there, but no longer part of the reference, are removed.
    """
    if not own.pages and not kept:
        return
    claims = claims_blocks(own.verdicts, own.stems)
    written = {"README.md"}
    for page in [*own.pages, Page("claims", "Claims", claims)]:
        drawn: list[str] = []

        def place(figure: Figure, drawn: list[str] = drawn) -> str | None:
            if kept and drawn:
                return None
            name = html.slug(figure.name)
            drawn.append(name)
            if kept:
                written.add(f"{name}.svg")
                write_atomic(folder / f"{name}.svg", on_white(figure.drawn))
                return f"{name}.svg"
            save_drawn(figure.drawn, folder / "figures" / name)
            return f"figures/{name}.svg"

        written.add(f"{page.stem}.md")
        write_atomic(folder / f"{page.stem}.md", markdown.render(page.blocks, place))
        if not kept:
            write_atomic(folder / f"{page.stem}.tex", latex.tables(page.blocks, page.stem))
            if page.stem in own.tables:
                write_atomic(folder / f"{page.stem}.csv", own.tables[page.stem])
    write_forecasts(own.forecasts, folder)
    if not kept:
        write_atomic(folder / "runs.csv", own.records.runs.to_csv(index=False, lineterminator="\n"))
    write_atomic(folder / "README.md", markdown.render(_index(own, kept), lambda _: None))
    for path in [*folder.glob("*.md"), *folder.glob("*.svg")] if kept else []:
        if path.name not in written:
            path.unlink()


def front_page(mine: Side, theirs: Side) -> str:
    """Return the HTML page: a sentence and a figure on all verdicts, the user's experiments, and the reference's."""
    sections: list[dict[str, Any]] = []

    def add(anchor: str, title: str, blocks: Sequence[Block], group: str = "", deeper: int = 1) -> None:
        sections.append({"anchor": anchor, "title": title, "blocks": blocks, "group": group, "deeper": deeper})

    for own, prefix, whose in ((mine, "", "Your runs"), (theirs, "reference-", "The reference")):
        if not own.pages:
            continue
        tested = any(verdict.at is not None for verdict in own.verdicts)
        lead: list[Block] = [Heading(1, TITLE) if not sections else Heading(2, f"{whose}: verdicts")]
        lead.append(Text(headline(own.verdicts, _called(own, "Your" if own is mine else "The reference's"))))
        lead += summary(own.verdicts, f"{prefix}verdicts") if tested or own is theirs else []
        add(f"{prefix}verdicts", f"{whose}: verdicts", lead, deeper=0)
    if not sections:
        add("verdicts", "Nothing yet", [Heading(1, TITLE), Text("There are no finished runs yet.")], deeper=0)
    for own, prefix, group in ((mine, "", "1 Your runs"), (theirs, "reference-", "2 The reference")):
        for page in own.pages:
            add(f"{prefix}{page.stem}", page.title, [_apart(block, prefix) for block in page.blocks], group)
    if mine.records.problems:
        add("problems", "Left out", [Heading(2, "Left out"), Items(mine.records.problems)], deeper=0)
    add("reading", "How to read the tables", READING, deeper=0)
    return html.document(TITLE, sections, explore.payload(mine.records if len(mine.records.runs) else theirs.records))


def _apart(block: Block, prefix: str) -> Block:
    """Rename a block's figures, so that they differ from those of the same experiment on the other side."""
    if isinstance(block, Figure) and prefix:
        return dataclasses.replace(block, name=f"{prefix}{block.name}")
    if isinstance(block, Fold):
        return Fold(block.summary, [_apart(inner, prefix) for inner in block.blocks])
    return block


def _called(own: Side, whose: str) -> str:
    """Summarize the runs: "Your 6 runs (393k parameters, 1.1M tokens each)"."""
    runs = own.records.runs
    counted = f"{len(runs):,} {'run' if len(runs) == 1 else 'runs'}"
    return f"{whose} {counted} ({_ends(runs, 'parameters.total')} parameters, {_ends(runs, 'tokens')} tokens each)"


def _ends(runs: Any, column: str) -> str:
    values = runs[column].dropna() if column in runs else []
    if not len(values):
        return "an unknown number of"
    low, high = measures.count(float(min(values))), measures.count(float(max(values)))
    return low if low == high else f"{low} to {high}"


def _index(own: Side, kept: bool) -> list[Block]:
    """Return the front page in Markdown."""
    rows: list[Row] = [
        [Cell([link(page.stem, f"{page.stem}.md")], page.stem), page.title, page.arms, page.seeds, page.runs]
        for page in own.pages
    ]
    blocks: list[Block] = [
        Heading(1, "The reference" if kept else "Results"),
        Text([*headline(own.verdicts), *styled(" [Every claim](claims.md).")]),
    ]
    head = ["table", "what it shows", "arms", "seeds", "runs"]
    blocks.append(Table(head, rows, 2) if rows else Text("There are no experiments here yet."))
    if not kept:
        one = styled("Everything in one page for a browser: [index.html](index.html); all runs: [runs.csv](runs.csv).")
        return [*blocks, Text(one), *READING]
    what = styled(
        "`runs.parquet` has one row per run with all settings and measures, `grids.json` lists the runs of each table, "
        "`curves.parquet` has thinned loss curves, and `documents.parquet` and `questions.parquet` have the result of each "
        "held-out document and cloze question. From these files, `make report` regenerates everything else here byte for "
        "byte; `make reference` adds the finished runs in `runs/`. Comparisons with other libraries: [bench](bench/README.md)."
    )
    return [*blocks, Heading(2, "Files"), Text(what), *READING]
