"""Share of a corpus that the most frequent entries of a vocabulary cover (Section 2.1, Figure 2)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinylm_ablate.files import write_atomic


def accumulated_frequency(counts: np.ndarray, sizes: Sequence[int]) -> list[float]:
    """Share of token occurrences that belong to the k most frequent entries, for each k.

    Args:
        counts: Occurrences of each entry of the large vocabulary, shape (entries,).
        sizes: Values of k, at least 0; values above the number of entries mean all.

    Returns:
        Percent for each size.

    Raises:
        ValueError: Nothing was counted, or a size is negative.
    """
    total = int(counts.sum())
    if total <= 0 or min(sizes, default=0) < 0:
        raise ValueError("accumulated_frequency needs positive counts and nonnegative sizes")
    running = np.concatenate([[0], np.cumsum(np.sort(counts)[::-1])])
    return [100.0 * int(running[min(size, len(counts))]) / total for size in sizes]


def covered(counts: np.ndarray, kept: np.ndarray) -> float | None:
    """Share of token occurrences that belong to the kept ids, in percent; None if nothing was counted."""
    total = int(counts.sum())
    return 100.0 * int(counts[kept].sum()) / total if total else None


def coverage_table(counts: np.ndarray, paper: Mapping[int, float], paper_vocab_size: int) -> list[dict[str, Any]]:
    """Compare Figure 2's points with ours at the same share of the vocabulary.

    Args:
        counts: Occurrences of each entry of the large vocabulary, shape (entries,).
        paper: The paper's sizes and their accumulated frequencies in percent.
        paper_vocab_size: Entries of the paper's large vocabulary.

    Returns:
        A row for each of the paper's sizes: vocab_size, vocab_share_percent, accumulated_frequency_percent,
        paper_vocab_size, paper_accumulated_frequency_percent.
    """
    sizes = [round(len(counts) * min(size / paper_vocab_size, 1.0)) for size in paper]
    return [
        {
            "vocab_size": size,
            "vocab_share_percent": round(100 * paper_size / paper_vocab_size, 2),
            "accumulated_frequency_percent": round(percent, 2),
            "paper_vocab_size": paper_size,
            "paper_accumulated_frequency_percent": paper_percent,
        }
        for size, percent, (paper_size, paper_percent) in zip(
            sizes, accumulated_frequency(counts, sizes), paper.items(), strict=True
        )
    ]


def write_coverage_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows of ``coverage_table`` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def draw_coverage(
    curves: Mapping[str, np.ndarray], paper: Mapping[int, float], paper_vocab_size: int, path: Path
) -> list[Path]:
    """Plot accumulated frequency over the share of the vocabulary that is kept, with the paper's points.

    This axis makes vocabularies of different sizes comparable: the paper's 48k of 100,883 entries correspond to 47.6 % of ours.

    Args:
        curves: For each label of the legend, the counts of a large vocabulary, shape (entries,).
        paper: The paper's sizes and their accumulated frequencies in percent.
        paper_vocab_size: Entries of the paper's large vocabulary.
        path: Output path without a suffix.

    Returns:
        The SVG and the PNG; the same arguments give the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = np.linspace(0, 100, 401)
    for label, counts in curves.items():
        sizes = np.round(shares / 100 * len(counts)).astype(int).tolist()
        axes.plot(shares, accumulated_frequency(counts, sizes), label=f"{label} ({len(counts):,} entries)")
    at = [100 * size / paper_vocab_size for size in paper]
    axes.plot(at, list(paper.values()), "o", color="black", label=f"the paper ({paper_vocab_size:,} entries)")
    for share, (size, percent) in zip(at, paper.items(), strict=True):
        axes.annotate(f"{size // 1000}k", (share, percent), xytext=(4, -12), textcoords="offset points", fontsize=8)
    axes.set_xlabel("most frequent entries kept, % of the vocabulary")
    axes.set_ylabel("accumulated frequency, % of tokens")
    axes.set_xlim(0, 104)
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    written = []
    for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
        image = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "coverage"}):
            figure.savefig(image, format=suffix[1:], dpi=150, metadata=metadata)
        written.append(path.with_name(path.name + suffix))
        write_atomic(written[-1], image.getvalue())
    return written
