"""The front page of ``results/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.report.compare import WITHIN_NOISE
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.page import Experiment

_READING = f"""## How to read the tables

- **bits/byte** of held-out text, fewer is better: the sum of the losses over the UTF-8 bytes, so that tokenizers compare.
  `all` is the unweighted mean over the languages.
- **cloze %**: which of four continuations is the true one; guessing gives 25 %.
- **a ± b**: mean and sample standard deviation over the seeds.
- **{WITHIN_NOISE}**: cannot be told from the best of its column. The arms are paired by seed, and the 95 % t-interval of the
  difference holds zero (or fewer than two seeds are common). **Bold**: every other arm is worse beyond that. Intervals are
  not corrected for the number of arms. With one seed nothing can be concluded, and nothing is marked.
- **training tokens/s** and **training s** depend on the machine and on what else it did.

## What is kept

`runs.csv` has a row a run with all settings and measures, `grids/` says which runs make up a table, `curves/` holds thinned
loss curves, and `matrix_std/` the spread of weights where a table draws it. From these `make report` writes the tables and
their figures again, byte for byte, and it adds the finished runs that it finds in `runs/`. To forget a run, delete its row.
"""


def other_pages(results: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Pages in ``results`` that were not made from runs, such as that of ``mode=coverage``: stem and heading, sorted.

    Args:
        results: Folder of the results.
        names: Stems of the pages that were made from runs.
    """
    found = []
    for path in sorted(results.glob("*.md")):
        if path.stem not in {*names, "README"}:
            heading = path.read_text(encoding="utf-8").partition("\n")[0]
            found.append((path.stem, heading.lstrip("# ")))
    return found


def index(experiments: Sequence[Experiment], runs: int, pages: Sequence[tuple[str, str]] = ()) -> str:
    """The front page in Markdown.

    Args:
        experiments: In the order of the table.
        runs: Rows of ``runs.csv``.
        pages: Further pages: stem and heading.
    """
    rows = [
        [
            f"[{experiment.name}]({experiment.name}.md)",
            experiment.title,
            str(sum(len(section.arms) for section in experiment.sections)),
            str(max((section.seeds for section in experiment.sections), default=0)),
            str(experiment.runs),
            f"[CSV]({experiment.name}.csv)",
        ]
        for experiment in experiments
    ]
    listed = table(["table", "what it shows", "arms", "seeds", "runs", "data"], rows, words=2) if rows else "No grid yet."
    if pages:
        listed += "\n\n" + "\n".join(f"- [{stem}]({stem}.md): {heading}" for stem, heading in pages)
    single = f"{runs} {'run' if runs == 1 else 'runs'} in [runs.csv](runs.csv)."
    return f"# Results\n\n{listed}\n\n{single}\n\n{_READING}"
