"""The front page of ``results/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.report import measures
from tinylm_ablate.report.compare import WITHIN_NOISE
from tinylm_ablate.report.judge import Judgement
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.page import Experiment
from tinylm_ablate.report.verdicts import counted

if TYPE_CHECKING:
    import pandas as pd

#: Stems of pages and parts that are the report's own; no experiment has such a name.
OWN = frozenset({"README", "claims", "comparisons", "index", "reading", "runs", "verdicts"})

READING = f"""## How to read the tables

- **bits/byte** of held-out text, fewer is better: the sum of the losses over the UTF-8 bytes, so that tokenizers compare.
  `all` is the unweighted mean over the languages.
- **cloze %**: which of four continuations is the true one; guessing gives 25 %.
- **a ± b**: mean and sample standard deviation over the seeds.
- **[a, b]**: a 95 % interval over seeds and held-out documents. Arms are paired by seed (the same data in the same order) and
  by document. Two seeds say little, and the interval says so: it has Student's quantile for the seeds, 12.7 with two. It covers
  what seeds and documents change, and nothing else: not another text, nor another parent of inherited weights.
- **{WITHIN_NOISE}**: within noise of the best of its column, by the paired test with Holm's correction over all pairs of arms,
  for each column by itself. Such differences are never bold. **Bold**: every other arm is worse beyond noise. With one seed
  nothing can be concluded, and nothing is marked.
- **Several settings** of one experiment (another scale, text or budget) are never mixed: each has its own tables, the largest
  budget first. Verdicts on claims are those at the largest budget.
- **training tokens/s** and **training s** depend on the machine and on what else it did.

## What is kept

`runs.csv` has a row a run with all settings and measures, `grids/` says which runs make up a table, `curves/` holds thinned
loss curves, `documents/` what each held-out document and question came to, and `matrix_std/` the spread of weights where a
table draws it. From these `make report` writes all else again, byte for byte, and it adds the finished runs that it finds in
`runs/`; a run that is there already is replaced. To forget a run, delete its row.
"""


def intro(records: pd.DataFrame) -> str:
    """What the results are of, in a paragraph of Markdown.

    Args:
        records: A row a finished run.
    """

    def ends(column: str) -> str:
        values = list(records[column].dropna()) if column in records else []
        if not values:
            return "unknown"
        low, high = measures.count(float(min(values))), measures.count(float(max(values)))
        return low if low == high else f"{low} to {high}"

    runs = f"{len(records)} {'run' if len(records) == 1 else 'runs'}"
    return (
        "What the conclusions of Rethinking Optimization and Architecture for Tiny Language Models (PanGu-π Pro, ICML 2024, "
        "arXiv 2402.02791), which rest on single runs of models of a billion parameters, come to at another scale, on other "
        f"text and with repeated seeds: {runs} of models of {ends(measures.PARAMETERS.column)} parameters, "
        f"{ends(measures.TOKENS.column)} tokens each."
    )


def other_pages(results: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Pages in ``results`` that were not made from runs, such as that of ``mode=coverage``: stem and heading, sorted.

    Args:
        results: Folder of the results.
        names: Stems of the pages that were made from runs.
    """
    found = []
    for path in sorted(results.glob("*.md")):
        if path.stem not in {*names, *OWN}:
            heading = path.read_text(encoding="utf-8").partition("\n")[0]
            found.append((path.stem, heading.lstrip("# ")))
    return found


def index(
    experiments: Sequence[Experiment], runs: int, pages: Sequence[tuple[str, str]] = (), judgements: Sequence[Judgement] = ()
) -> str:
    """The front page in Markdown.

    Args:
        experiments: In the order of the table.
        runs: Rows of ``runs.csv``.
        pages: Further pages: stem and heading.
        judgements: All verdicts.
    """
    rows = [
        [
            f"[{experiment.name}]({experiment.name}.md)",
            experiment.title,
            str(sum(len(section.arms) for section in experiment.sections)),
            str(max((section.seeds for section in experiment.sections), default=0)),
            str(experiment.runs),
            f"[CSV]({experiment.name}.csv), [LaTeX]({experiment.name}.tex), [HTML]({experiment.name}.html)",
        ]
        for experiment in experiments
    ]
    listed = table(["table", "what it shows", "arms", "seeds", "runs", "data"], rows, words=2) if rows else "No grid yet."
    if pages:
        listed += "\n\n" + "\n".join(f"- [{stem}]({stem}.md): {heading}" for stem, heading in pages)
    single = f"{runs} {'run' if runs == 1 else 'runs'} in [runs.csv](runs.csv)."
    told = ""
    if judgements:
        told = (
            f"[Verdicts on the paper's claims](claims.md): {counted(judgements)} All in one page, for a browser: "
            "[index.html](index.html).\n\n"
        )
    return f"# Results\n\n{told}{listed}\n\n{single}\n\n{READING}"
