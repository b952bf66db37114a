"""Tokens that an arm needs to come down to the final loss of the base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.report.__main__ import main
from tinylm_ablate.report.convergence import tokens_to

STEPS = 64


def write(folder: Path, losses: list[float]) -> None:
    """A curve with a point for each of the losses."""
    rows = [{"step": n, "tokens": 1000 * n, "loss": loss} for n, loss in enumerate(losses, start=1)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def falling(first: float, last: float) -> list[float]:
    return [float(loss) for loss in np.linspace(first, last, STEPS)]


@pytest.fixture
def text(runs, tmp_path: Path) -> str:
    """Base, an arm that gets there in half the time, one that does for one seed, one that never does, one without curves."""
    cells = {}
    curves = {
        "late": [falling(5, 4), falling(5, 2.5)], "base": [falling(5, 3), falling(5.2, 3.2)],
        "fast": [falling(5, 1), falling(5.2, 1.2)], "never": [falling(5, 3.5), falling(5.2, 3.5)], "empty": [[], []],
    }  # fmt: skip
    for arm, seeds in curves.items():
        for seed, losses in enumerate(seeds):
            identity = runs.add(f"{arm}-{seed}", seed, 1.5)
            write(runs.folder / identity, losses)
            cells[identity] = {"arm": arm, "seed": seed}
    runs.grid("figure06_convergence", cells, figures=["convergence"])
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    return (tmp_path / "results" / "figure06_convergence.md").read_text()


def test_the_table(text: str) -> None:
    lines = [line.strip("| ").split("|") for line in text.partition("### Convergence")[2].splitlines() if line.startswith("|")]
    head, _, *rest = [[cell.strip() for cell in cells] for cells in lines]
    rows = {cells[0]: cells[1:] for cells in rest}
    assert head == [
        "arm", "loss at the start", "loss at the end", "tokens to the final loss of base", "of its tokens %", "seeds"
    ]  # fmt: skip
    assert rows["base"][:3] == ["5.1000 ± 0.1414", "3.1000 ± 0.1414", "64k ± 0"]
    # Half of the way from 5 to 1 in 63 steps after the first.
    assert rows["fast"][2:] == ["32.5k ± 0", "50.8 ± 0.0", "2"]
    assert rows["never"][2:] == ["not reached", "–", "2"]
    assert rows["late"][2].endswith("1 of 2 seeds not reached")
    assert "empty" not in rows


@given(
    losses=st.lists(st.floats(0, 10), min_size=1, max_size=30),
    goal=st.floats(0, 10),
)
def test_the_curve_is_above_the_goal_before(losses: list[float], goal: float) -> None:
    tokens = np.arange(1, len(losses) + 1) * 1000.0
    found = tokens_to((tokens, np.array(losses)), goal)
    if min(losses) > goal:
        assert found is None
        return
    assert found is not None
    first = next(index for index, loss in enumerate(losses) if loss <= goal)
    assert tokens[max(0, first - 1)] <= found <= tokens[first]
    if losses[0] > goal:
        assert np.interp(found, tokens, losses) == pytest.approx(goal, abs=1e-6)
