"""Results from Python: the frame, the paired test, and the worked notebook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tinylm_ablate
from tinylm_ablate import compare, curves
from tinylm_ablate import runs as read
from tinylm_ablate.errors import UserError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "results.ipynb"
DEPTHS = {9: [2.21, 2.22, 2.2], 20: [2.1, 2.11, 2.09], 40: [2.111, 2.105, 2.10]}


def test_arms_are_compared_in_pairs_by_seed(runs):
    runs.depths(DEPTHS)
    frame = read(runs.folder)
    found = compare(frame, by="arch.depth").set_index(["arm", "against"])
    assert len(frame) == len(curves(runs.folder)["identity"].unique()) == 9 and len(found) == 3
    clear, close = found.loc[("9", "20")], found.loc[("20", "40")]
    assert clear["difference"] == pytest.approx(0.11) and clear["better"] == "20" and clear["holm"] < 0.05
    assert close["better"] == "" and close["low"] < 0 < close["high"] and close["seeds"] == 3
    part = compare(frame[frame["arch.depth"] != 9], by=["arch.depth"], measure="test/bits_per_byte/en")
    assert len(part) == 1 and part["holm"].iloc[0] == part["p"].iloc[0]


def test_a_mistake_is_one_clear_error(runs):
    runs.depths(DEPTHS)
    with pytest.raises(UserError, match=r"no column 'arch\.deep'"):
        compare(read(runs.folder), by="arch.deep")
    with pytest.raises(UserError, match="no such folder"):
        read(runs.folder / "none")


def test_the_package_exports_the_functions():
    assert tinylm_ablate.runs is read and tinylm_ablate.compare is compare


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="no checkout: a wheel has no examples")
def test_the_notebook_runs_from_top_to_bottom(runs, monkeypatch, capsys):
    runs.depths(DEPTHS)
    monkeypatch.chdir(runs.folder.parent)
    content = json.loads(EXAMPLE.read_text())
    names: dict[str, object] = {}
    for number, cell in enumerate(content["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert "9" in capsys.readouterr().out and Path("depth.svg").read_text().startswith("<svg")
