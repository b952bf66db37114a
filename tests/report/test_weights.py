"""The spread of each matrix by layer: kept and drawn where an experiment asks for it."""

from __future__ import annotations

import json
import shutil
from xml.etree import ElementTree

import pytest

from tinylm_ablate.report.__main__ import main
from tinylm_ablate.report.weights import compact, read

MATRICES = ("q", "k", "v", "out", "gate", "up", "down")


def write(runs, identity, first=0.02):
    rows = [
        {"layer": layer, "matrix": matrix, "std": first, "trained_std": first * (1 + layer / 10)}
        for layer in range(4)
        for matrix in MATRICES
    ]
    (runs.folder / identity / "matrix_std.json").write_text(json.dumps(rows))


@pytest.fixture
def results(runs, tmp_path):
    cells = {}
    for number, arm in enumerate(("constant", "gpt2")):
        for seed in (0, 1):
            identity = runs.add(f"{arm}-{seed}", seed, 1.5)
            write(runs, identity, 0.02 / (number + 1))
            cells[identity] = {"init": arm, "seed": seed}
    runs.grid("table04_random_init", cells, figures=["matrix_std"])
    runs.grid("another", {"constant-0": {"init": "constant"}})
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    return tmp_path / "results"


def test_it_is_kept_small_and_read_back(results):
    kept = read(results / "matrix_std" / "gpt2-1.csv")
    assert list(kept) == list(MATRICES)
    assert kept["q"] == [(0.01, 0.01), (0.01, 0.011), (0.01, 0.012), (0.01, 0.013)]
    assert read(results / "matrix_std" / "none.csv") is None


def test_the_page_draws_a_panel_an_arm_where_it_is_asked_for(results):
    text = (results / "table04_random_init.md").read_text()
    assert "### Standard deviation of each matrix by layer" in text
    svg = (results / "figures" / "table04_random_init_matrix_std.svg").read_text()
    ElementTree.fromstring(svg)
    assert "init=constant" in svg and "init=gpt2" in svg and ">down<" in svg
    assert "Standard deviation" not in (results / "another.md").read_text()


def test_a_clone_draws_it_again(results, tmp_path):
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.copy(results / "runs.csv", clone)
    for name in ("grids", "curves", "matrix_std"):
        shutil.copytree(results / name, clone / name)
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(clone)]) == 0
    files = {path.relative_to(results): path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert files == {path.relative_to(clone): path.read_bytes() for path in clone.rglob("*") if path.is_file()}


def test_a_damaged_file_is_told_and_left_out(runs, tmp_path, capsys):
    identity = runs.add("one", 0, 1.0)
    (runs.folder / identity / "matrix_std.json").write_text('[{"layer": 0}]')
    runs.grid("mine", {identity: {"init": "gpt2"}}, figures=["matrix_std"])
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    assert "matrix_std.json: cannot be read" in capsys.readouterr().err
    with pytest.raises(KeyError):
        compact(runs.folder / identity / "matrix_std.json")
