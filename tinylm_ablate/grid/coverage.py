"""Figure 2 for the configured corpus and large vocabulary (``mode=coverage``): table, figure and page, without training."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.errors import ConfigError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.paths import paper_dir
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    import numpy as np

_PERCENT = "accumulated_frequency_percent"


def write_coverage(cells: Sequence[Settled]) -> str:
    """Count each cell's large vocabulary on its corpus, and write the coverage of its most frequent entries and the paper's.

    Args:
        cells: Settled configs; those with the same large vocabulary and corpus give one curve. The first determines the output
            folder, the file names, and the table with the paper's values.

    Returns:
        A table for the terminal, with the written files.

    Raises:
        UserError: The text or the large vocabulary cannot be used.
    """
    from tabulate import tabulate

    from tinylm_ablate.tokenizer.frequency import coverage_table, draw_coverage, write_coverage_table

    config = cells[0].config
    name = config.experiment.name if config.experiment.name != "adhoc" else "coverage"
    folder = Path(config.results_dir)
    paper = _printed(config.experiment.paper)
    largest = max(paper)
    curves, about = _curves(cells)
    rows = [
        {"large_vocabulary": label, "entries": len(counts), **row}
        for label, counts in curves.items()
        for row in coverage_table(counts, paper, largest)
    ]
    files = [folder / f"{name}.csv", *draw_coverage(curves, paper, largest, folder / "figures" / name)]
    write_coverage_table(rows, files[0])
    head = {
        "large_vocabulary": "large vocabulary", "entries": "entries", "vocab_share_percent": "kept, % of entries",
        "vocab_size": "kept", _PERCENT: "accumulated frequency %", "paper_vocab_size": "paper: kept",
        f"paper_{_PERCENT}": "paper: accumulated frequency %",
    }  # fmt: skip
    shown = tabulate(
        [[_text(row[key]) for key in head] for row in rows], headers=list(head.values()), tablefmt="pipe",
        disable_numparse=True, colalign=["left"] + ["right"] * (len(head) - 1),
    )  # fmt: skip
    page = [
        f"# {config.experiment.title or 'Accumulated frequency'}",
        *about,
        shown,
        f"The paper's vocabulary has {largest:,} entries, so sizes are compared by their share of the large vocabulary: "
        f"{_text(48000)} of {largest:,} entries are {100 * 48000 / largest:.1f} %.",
        f"![Accumulated frequency over the share of entries that are kept](figures/{name}.svg)",
        f"As data: [{name}.csv]({name}.csv).",
    ]
    files.append(folder / f"{name}.md")
    write_atomic(files[-1], "\n\n".join(page) + "\n")
    return "\n".join([shown, "", *(str(file) for file in files)])


def _curves(cells: Sequence[Settled]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return counts by label, and a description of each."""
    from tinylm_ablate.data.corpus import open_corpus
    from tinylm_ablate.tokenizer.vocabularies import large_vocabulary, open_counts

    curves: dict[str, np.ndarray] = {}
    about: dict[str, str] = {}
    known: dict[tuple[str, str], str] = {}
    for settled in cells:
        config, cache = settled.config, Path(settled.config.cache_dir)
        corpus = open_corpus(config.data, cache)
        large = large_vocabulary(config.tokenizer, settled.source_vocab_size, corpus, cache)
        if (large.fingerprint, corpus.fingerprint) in known:
            continue
        source = config.tokenizer.source
        label = base = Path(source).name if source is not None else "BPE trained on this text"
        number = 1
        while label in curves:
            label = f"{base} ({(number := number + 1)})"
        known[large.fingerprint, corpus.fingerprint] = label
        curves[label] = open_counts(large, corpus, config.tokenizer.train_bytes, cache)
        about[label] = (
            f"{label}: {large.size:,} entries, {int(curves[label].sum()):,} tokens counted in text `{corpus.fingerprint}` "
            f"({', '.join(corpus.languages)}; at most {config.tokenizer.train_bytes:,} bytes of each)."
        )
    return curves, list(about.values())


def _printed(name: str | None) -> Mapping[int, float]:
    """Return the paper's values: size of the vocabulary -> percent."""
    path = paper_dir() / f"{(name or 'table01_tokenizer').removesuffix('.csv')}.csv"
    try:
        with path.open(newline="") as stream:
            return {int(row["vocab_size"]): float(row[_PERCENT]) for row in csv.DictReader(stream)}
    except (OSError, KeyError):
        raise ConfigError(
            [f"experiment.paper={name}: mode=coverage needs the columns vocab_size and {_PERCENT}; allowed: table01_tokenizer"]
        ) from None


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
