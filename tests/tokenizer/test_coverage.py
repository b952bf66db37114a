"""Accumulated frequency: exact percentages, and a reproducible figure."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.tokenizer.frequency import (
    accumulated_frequency,
    coverage_table,
    covered,
    draw_coverage,
    write_coverage_table,
)

#: Section 2.1 of the paper.
PAPER = {8000: 78.68, 16000: 87.24, 32000: 94.49, 48000: 97.86, 72000: 99.84, 100000: 100.0}
PAPER_VOCAB_SIZE = 100_883


def test_percentages_by_hand() -> None:
    counts = np.array([1, 0, 6, 3])
    assert accumulated_frequency(counts, [0, 1, 2, 3, 4, 99]) == [0, 60, 90, 100, 100, 100]
    assert covered(counts, np.array([0, 3])) == 40
    assert covered(np.zeros(4), np.array([0])) is None


def test_large_counts_stay_exact() -> None:
    assert accumulated_frequency(np.array([2**61, 2**60]), [1]) == [pytest.approx(200 / 3)]


@pytest.mark.parametrize(("counts", "sizes"), [([0, 0], [1]), ([1], [-1])])
def test_invalid_input_is_an_error(counts: list[int], sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="accumulated_frequency"):
        accumulated_frequency(np.array(counts), sizes)


@given(st.lists(st.integers(0, 10**9), min_size=1).filter(any))
def test_the_curve_rises_and_bends_down(counts: list[int]) -> None:
    curve = accumulated_frequency(np.array(counts), range(len(counts) + 1))
    steps = np.diff(curve)
    assert curve[0] == 0
    assert curve[-1] == 100
    assert (steps >= 0).all()
    assert (np.diff(steps) <= 1e-9).all()


def test_the_table_is_at_equal_shares(tmp_path: Path) -> None:
    counts = np.arange(1000)[::-1]
    rows = coverage_table(counts, PAPER, PAPER_VOCAB_SIZE)
    assert [row["vocab_size"] for row in rows] == [79, 159, 317, 476, 714, 991]
    assert [row["paper_accumulated_frequency_percent"] for row in rows] == list(PAPER.values())
    assert rows[3]["accumulated_frequency_percent"] == round(accumulated_frequency(counts, [476])[0], 2)
    write_coverage_table(rows, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        assert [float(row["vocab_share_percent"]) for row in csv.DictReader(file)] == [7.93, 15.86, 31.72, 47.58, 71.37, 99.12]


def test_the_figure_is_drawn_the_same_twice(tmp_path: Path) -> None:
    counts = (1e6 / np.arange(1, 5000)).astype(np.int64)
    drawn = [draw_coverage({"BPE": counts}, PAPER, PAPER_VOCAB_SIZE, tmp_path / name / "figure02.x") for name in "ab"]
    assert [path.name for path in drawn[0]] == ["figure02.x.svg", "figure02.x.png"]
    for first, second in zip(*drawn, strict=True):
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size > 5000
    assert drawn[0][1].read_bytes().startswith(b"\x89PNG")
