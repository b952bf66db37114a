"""The dial's rules by shape, compared with the measurements in docs/dial.md."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tinylm_ablate.scale import decay_at_budget, rate_at_budget, rate_at_shape, std_at_width

DIAL = Path(__file__).parents[1] / "docs" / "dial.md"


def measured() -> list[dict[str, str]]:
    lines = DIAL.read_text(encoding="utf-8").split("<!-- rates -->")[1].split("<!-- /rates -->")[0].strip().splitlines()
    head, *rows = [[word.strip() for word in line.strip().strip("|").split("|")] for line in lines if "---" not in line]
    return [dict(zip(head, row, strict=True)) for row in rows]


def best_factor(row: dict[str, str]) -> float | None:
    """Return the vertex of a parabola through the best value and its neighbors, over the log factor; None at an edge."""
    points = [(math.log2(float(key)), float(row[key])) for key in ("0.5", "1", "1.5", "2", "3", "4") if row[key]]
    if len(points) < 3:
        return None
    best = min(range(len(points)), key=lambda i: points[i][1])
    first = min(max(best - 1, 0), len(points) - 3)
    a, b, _ = np.polyfit(*zip(*points[first : first + 3], strict=True), 2)
    vertex = -b / (2 * a)
    return float(2**vertex) if a > 0 and points[0][0] <= vertex <= points[-1][0] else None


def drift(rule) -> float:
    """Return the largest best factor over the smallest at s32 and 8 tokens per parameter, relative to a rule's rate."""
    rows = [row for row in measured() if row["scale"] == "s32" and row["tokens per parameter"] == "8"]
    found = [(best_factor(row) or math.nan) / rule(int(row["width"]), int(row["layers"])) for row in rows]
    assert len(found) == 5
    return max(found) / min(found)


def test_the_documented_best_factors_are_the_vertices() -> None:
    rows = {(row["scale"], row["tokens per parameter"], row["layers"]): best_factor(row) for row in measured()}
    for layers, factor in (("9", 2.73), ("15", 2.93), ("20", 3.19), ("30", 2.83), ("40", 2.86)):
        assert rows["s32", "8", layers] == pytest.approx(factor, abs=0.006)
    assert rows["s32", "2", "9"] == pytest.approx(1.75, abs=0.006) and rows["s32", "2", "20"] == pytest.approx(1.55, abs=0.006)
    assert rows["s16", "8", "9"] == pytest.approx(1.89, abs=0.006)
    assert rows["s32", "2", "40"] is rows["s16", "8", "20"] is rows["s16", "8", "40"] is None


def test_the_rule_drifts_least_over_depths() -> None:
    assert drift(lambda width, depth: rate_at_shape(1.0, width, depth, 56, 20)) < 1.25
    assert drift(lambda width, _: 56 / width) > 1.8
    assert drift(lambda _, depth: math.sqrt(20 / depth)) > 2.0


def test_the_rate_of_a_scale_is_the_best_at_its_baseline() -> None:
    (row,) = [r for r in measured() if (r["scale"], r["tokens per parameter"], r["layers"]) == ("s32", "8", "20")]
    assert (best_factor(row) or 0) * 3.2e-3 == pytest.approx(2.8e-4 * 32, rel=0.2)


def test_budgets() -> None:
    assert rate_at_budget(2.8, 8) == 2.8
    assert rate_at_budget(2.8, 2) == pytest.approx(1.6, abs=0.05)
    assert rate_at_budget(2.8, 52) == pytest.approx(1.5, abs=0.05)


def test_equal_parameters_share_a_rate_and_shapes_scale() -> None:
    assert rate_at_shape(1e-3, 80, 10, 40, 40) == pytest.approx(1e-3)
    assert rate_at_shape(1e-3, 112, 20, 56, 20) == pytest.approx(5e-4)
    assert std_at_width(0.02, 56, 1792) == pytest.approx(0.1131, abs=1e-4)


def test_the_sum_of_rate_times_decay_is_kept() -> None:
    decay = decay_at_budget(0.1, 9e-3, 4000, 1e-4 * 50_000)
    assert 9e-3 * 4000 * decay == pytest.approx(1e-4 * 50_000 * 0.1)
    assert decay == pytest.approx(0.0139, abs=1e-4)
