"""What this repository keeps in ``results/`` is what its code makes of the rows that are kept there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.report.test_report import contents
from tinylm_ablate.report.__main__ import main
from tinylm_ablate.report.index import OWN, other_pages

RESULTS = Path(__file__).resolve().parents[2] / "results"

#: From what a report is made; all else follows.
KEPT = ("runs.csv", "grids", "curves", "documents", "matrix_std", "layer_skip", "bench")


@pytest.mark.skipif(not RESULTS.is_dir(), reason="no checkout: a wheel has no results")
def test_a_clone_rebuilds_its_results_byte_for_byte(tmp_path):
    clone = tmp_path / "results"
    clone.mkdir()
    for name in KEPT:
        if (RESULTS / name).exists():
            (shutil.copytree if (RESULTS / name).is_dir() else shutil.copy)(RESULTS / name, clone / name)
    made = {path.stem for path in (RESULTS / "grids").glob("*.json")}
    assert made, "nothing is kept"
    for stem, _ in other_pages(RESULTS, _experiments()):  # pages of commands that are no runs, with their figures
        for path in [*RESULTS.glob(f"{stem}.*"), *(RESULTS / "figures").glob(f"{stem}.*")]:
            target = clone / path.relative_to(RESULTS)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(clone)]) == 0
    rebuilt, kept = contents(clone), contents(RESULTS)
    assert rebuilt.keys() == kept.keys(), "files that nothing makes, or that are not kept"
    assert [name for name in kept if rebuilt[name] != kept[name]] == [], "after a change of the report: make report"


def _experiments() -> list[str]:
    from tinylm_ablate.report import read_grids

    names = [grid.name for grid in read_grids(RESULTS)]
    assert not OWN & set(names)
    return names
