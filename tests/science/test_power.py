"""The power in the documentation is that of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinylm_ablate.science.power import power, table

METHOD = Path(__file__).parents[2] / "docs" / "method.md"


def test_the_documented_power_is_computed() -> None:
    printed = METHOD.read_text(encoding="utf-8").split("<!-- power -->")[1].split("<!-- /power -->")[0].strip().splitlines()
    effects = tuple(float(word) for word in printed[0].strip("| ").split("|")[1:])
    rows = [[word.strip() for word in line.strip("| ").split("|")] for line in printed[2:]]
    found = table(tuple(float(row[0]) for row in rows), effects, 0.011)
    assert found == rows


def test_power_grows_with_the_effect_and_seeds_shrink() -> None:
    found = [power(effect, 0.036, 0.011) for effect in (0.02, 0.05, 0.1)]
    assert found[0].reproduced < found[1].reproduced < found[2].reproduced
    assert found[0].seeds > found[1].seeds > found[2].seeds
    assert power(0.0, 0.003, 0.011).no_effect > 0.99
    assert power(-0.1, 0.01, 0.011).reversed == pytest.approx(1.0)
