"""Small scales as evidence about larger ones: decision accuracy, and forecasts before the runs."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tinylm_ablate.report.__main__ import main

SIZES = {"s32": (1e6, 8_000_000), "s16": (4e6, 32_000_000), "s8": (16e6, 128_000_000)}


def scale(runs, name: str, bits: dict[int, float], spread: float = 0.001) -> None:
    """Add a grid of depths at a scale, with two seeds each."""
    parameters, tokens = SIZES[name]
    cells = {}
    for depth, value in bits.items():
        for seed in range(2):
            own = runs.add(
                f"{name}-{depth}-{seed}", seed, value + spread * seed, depth=depth, scale=name, tokens=tokens,
                parameters={"total": parameters},
            )  # fmt: skip
            cells[own] = {"arch.depth": depth, "seed": seed}
    runs.grid("table02_depth_width", cells, file=name)


def report(runs, results: Path, *more: str) -> int:
    return main(["--runs-dir", str(runs.folder), "--results", str(results), *more])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "forecasts.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_decision_accuracy_has_a_page_with_a_figure_and_the_pairs_that_disagree(runs, tmp_path):
    scale(runs, "s32", {9: 2.3, 20: 2.2, 40: 2.21})
    scale(runs, "s16", {9: 2.1, 20: 2.0, 40: 1.97})
    assert report(runs, tmp_path) == 0
    page = (tmp_path / "scales.md").read_text()
    assert "Decision accuracy of s32 for s16" in page and "3 pairs of 3 arms" in page and "67 %" in page
    assert "scales_s32_s16.svg" in page and (tmp_path / "figures" / "scales_s32_s16.svg").is_file()
    assert re.search(r"\| 20 +\| 40 +\| +−0\.0100 \| +\+0\.0300 \|", page)
    assert "scales.md" in (tmp_path / "README.md").read_text() and 'id="scales"' in (tmp_path / "index.html").read_text()


def test_one_scale_has_no_such_page(runs, tmp_path):
    scale(runs, "s32", {9: 2.3, 20: 2.2})
    assert report(runs, tmp_path) == 0
    assert not (tmp_path / "scales.md").exists() and not (tmp_path / "forecasts.csv").exists()


def test_forecasts_precede_the_runs_are_kept_and_are_judged_afterwards(runs, tmp_path, capsys):
    scale(runs, "s32", {9: 2.3, 20: 2.2})
    ahead = ("--forecast", "s8", "16e6", "128e6")
    assert report(runs, tmp_path, *ahead) == 2
    assert "nothing can be forecast for scale s8" in capsys.readouterr().err
    scale(runs, "s16", {9: 2.1, 20: 2.0})
    assert report(runs, tmp_path, *ahead) == 0
    before = rows(tmp_path)
    assert {row["subject"] for row in before} >= {"9", "20"} and all(row["inside"] == "" for row in before)
    nine = next(row for row in before if row["subject"] == "9")
    assert float(nine["forecast"]) == pytest.approx(1.91, abs=0.02) and "not run yet" in (tmp_path / "scales.md").read_text()
    # Another report that requests the same forecast does not change it.
    assert report(runs, tmp_path, *ahead) == 0 and rows(tmp_path) == before

    scale(runs, "s8", {9: float(nine["forecast"]), 20: 3.0})
    assert report(runs, tmp_path, *ahead) == 2, "a forecast of what was run already is none"
    assert report(runs, tmp_path) == 0
    after = {row["subject"]: row for row in rows(tmp_path)}
    assert after["9"]["inside"] == "yes" and after["20"]["inside"] == "no" and float(after["20"]["observed"]) > 2.9
    for row in before:
        kept = after[row["subject"]]
        assert {**kept, "observed": "", "inside": ""} == row


def test_a_forecast_that_was_edited_later_shows(runs, tmp_path, capsys):
    scale(runs, "s32", {9: 2.3, 20: 2.2})
    scale(runs, "s16", {9: 2.1, 20: 2.0})
    assert report(runs, tmp_path, "--forecast", "s8", "16e6", "128e6") == 0
    path = tmp_path / "forecasts.csv"
    number = rows(tmp_path)[0]["forecast"]
    path.write_text(path.read_text().replace(number, "1.5", 1))
    capsys.readouterr()
    assert report(runs, tmp_path) == 0
    assert (
        "1 row was edited" in capsys.readouterr().err and "edited since it was written" in (tmp_path / "scales.md").read_text()
    )


def test_mistakes_in_forecast_requests_are_named(runs, tmp_path, capsys):
    assert report(runs, tmp_path, "--forecast", "s8", "many", "-1") == 2
    assert "PARAMETERS=many" in (output := capsys.readouterr().err) and "TOKENS=-1" in output
