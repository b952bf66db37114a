"""Input of ``report --mlflow``: a store returns the files from which it was created."""

from __future__ import annotations

import shutil

import pytest

from tests.tracking.conftest import EXPERIMENT, GRID, RUNS
from tinylm_ablate.errors import UserError
from tinylm_ablate.report.mlflow_store import fetch
from tinylm_ablate.tracking import sync


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_gives_back_the_files_of_finished_runs_also_after_a_move(settings, replicated, tmp_path):
    (replicated.path / RUNS[3] / "metrics.json").unlink()
    sync(settings, replicated.path)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(replicated.path, elsewhere)
    problems: list[str] = []
    fetch(f"sqlite:///{elsewhere / 'mlflow.db'}", EXPERIMENT, tmp_path / "fetched", problems)
    assert len(problems) == 1 and RUNS[3] in problems[0]
    expected = {name: content for run in RUNS[:3] for name, content in contents(elsewhere / run).items()}
    fetched = contents(tmp_path / "fetched")
    assert sorted({name.partition("/")[0] for name in fetched}) == [*RUNS[:3], "grids"]
    for run in RUNS[:3]:
        assert {name: fetched[f"{run}/{name}"] for name in contents(elsewhere / run)} == contents(elsewhere / run)
    assert fetched[f"grids/{GRID}.json"] == (elsewhere / "grids" / f"{GRID}.json").read_bytes()
    assert len(fetched) == 3 * len(expected) + 1


@pytest.mark.parametrize(
    ("address", "experiment", "words"),
    [
        ("sqlite:///{}/none.db", EXPERIMENT, "no such file"),
        ("sqlite:///{}/mlflow.db", "other", "it has Default, tests"),
    ],
)
def test_an_unreadable_store_is_reported(settings, replicated, tmp_path, address, experiment, words):
    sync(settings, replicated.path)
    with pytest.raises(UserError, match=words):
        fetch(address.format(replicated.path), experiment, tmp_path / "fetched", [])
    assert not (replicated.path / "none.db").exists()
