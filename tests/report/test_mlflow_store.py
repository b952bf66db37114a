"""A report from an MLflow store says what one from the folders says."""

from __future__ import annotations

import json
import shutil

import pytest
from tests.report.test_report import GRID, contents, report

from tinylm_ablate.report.__main__ import main
from tinylm_ablate.tracking import RUN_FILES
from tinylm_ablate.tracking.store import Store
from tinylm_ablate.tracking.tracker import MlflowTracker

EXPERIMENT = "tinylm_ablate"


@pytest.fixture
def tracked(runs, tmp_path):
    """Runs and their grid, tracked in a database as the harness does it; the address of the store."""
    runs.depths(GRID, paper="table02_depth_width", paper_axis=["depth"], identity="0123456789abcdef")
    grid = runs.folder / "grids" / "0123456789abcdef.json"
    (runs.folder / "grids" / "table02_depth_width.json").rename(grid)
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}", (tmp_path / "artifacts").as_uri(), EXPERIMENT)
    tracker = MlflowTracker(store, runs.folder, flush_seconds=1000)
    nest = tracker.start_grid("table02_depth_width", "Depth", identity="0123456789abcdef")
    for number, folder in enumerate(sorted(runs.folder.glob("table02*"))):
        identity = f"{number:016x}"
        record = json.loads((folder / "metrics.json").read_text()) | {"identity": identity}
        (folder / "metrics.json").write_text(json.dumps(record))
        grid.write_text(grid.read_text().replace(folder.name, identity))
        folder = folder.rename(runs.folder / identity)
        runs.documents(identity, 0.05, number)
        run = tracker.start_run(folder, f"cell {number}", nest, {}, {"identity": identity})
        run.finish(record["metrics"], [folder / name for name in RUN_FILES], "FINISHED", record["tokens"])
    tracker.finish_grid(nest, "a table", [grid])
    tracker.start_run(runs.folder / "unfinished", "half a run", nest, {}, {"identity": "ff"}).finish({}, [], "KILLED")
    return runs, tracker, store.uri


def test_a_store_gives_the_same_tables_as_the_folders(tracked, tmp_path, capsys):
    runs, tracker, uri = tracked
    assert report(runs, tmp_path / "folders") == 0
    capsys.readouterr()
    assert main(["--mlflow", uri, "--results", str(tmp_path / "store")]) == 0
    told = capsys.readouterr()
    assert "half a run" in told.err and "(9 runs)" in told.out
    assert contents(tmp_path / "store") == contents(tmp_path / "folders")
    # What is measured after a run has ended reaches the store too.
    folder = runs.folder / f"{3:016x}"
    record = json.loads((folder / "metrics.json").read_text())
    record["metrics"]["decode/tokens_per_second"] = 123.0
    (folder / "metrics.json").write_text(json.dumps(record))
    tracker.amend(folder, record["metrics"], record["tokens"])
    tracker.amend(tmp_path / "never tracked", {}, 0)
    assert report(runs, tmp_path / "folders") == 0
    assert main(["--mlflow", uri, "--results", str(tmp_path / "store")]) == 0
    assert contents(tmp_path / "store") == contents(tmp_path / "folders")


def test_a_store_that_cannot_be_read_is_the_users_to_mend(tracked, tmp_path, capsys):
    _, _, uri = tracked
    for address, experiment, told in (
        (f"sqlite:///{tmp_path}/none.db", EXPERIMENT, "there is no such file"),
        (uri, "other", f"is not in {uri}; it has Default, {EXPERIMENT}"),
    ):
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        arguments = ["--mlflow", address, "--experiment", experiment, "--results", str(tmp_path / "results")]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.splitlines()) == 1
        assert not (tmp_path / "results").exists()
    assert not (tmp_path / "none.db").exists()
