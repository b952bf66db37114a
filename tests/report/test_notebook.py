"""Results from Python: the frame, the paired test, and the worked notebook."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import tinylm_ablate
from tinylm_ablate import compare, curves
from tinylm_ablate import runs as read
from tinylm_ablate.errors import UserError
from tinylm_ablate.frames.arms import evidence
from tinylm_ablate.frames.run_folders import read_runs
from tinylm_ablate.report.notebook import BITS
from tinylm_ablate.science.evidence import settings
from tinylm_ablate.science.pairs import pairs

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


def test_the_better_arm_is_named_whichever_comes_first(runs):
    runs.depths({9: DEPTHS[20], 20: DEPTHS[9]})
    frame = read(runs.folder)
    for measure in (BITS, "train/loss"):
        assert list(compare(frame, by="arch.depth", measure=measure)["better"]) == ["9"]
    frame["test/cloze/all"] = -frame[BITS]
    assert list(compare(frame, by="arch.depth", measure="test/cloze/all")["better"]) == ["9"]
    frame["mystery"] = frame[BITS]
    assert list(compare(frame, by="arch.depth", measure="mystery")["better"]) == [""]


def trained(runs, name: str, depth: int, seed: int, bits: float, rate: float) -> str:
    config = {
        "seed": seed, "scale": {"name": "s32", "factor": 32}, "arch": {"depth": depth, "width": 2560 // depth},
        "train": {"tokens": 500000}, "optimizer": {"scaling": {"base_lr": rate}},
    }  # fmt: skip
    return runs.add(name, seed, bits, depth=depth, config=config)


def test_runs_that_differ_in_another_setting_are_compared_within_it(runs):
    """Widths follow from the depth and separate nothing; rates and budgets of both arms do."""
    for rate, effect in ((0.001, 0.1), (0.002, -0.2)):
        for seed in range(3):
            trained(runs, f"shallow {rate} {seed}", 9, seed, 2.3 + seed / 1000, rate=rate)
            trained(runs, f"deep {rate} {seed}", 20, seed, 2.3 - effect + seed / 900, rate=rate)
    found = compare(read(runs.folder), by="arch.depth")
    assert sorted(round(value, 2) for value in found["difference"]) == [-0.2, 0.1]
    assert all("optimizer.scaling.base_lr=" in text for text in found["setting"]) and set(found["seeds"]) == {3}


def test_runs_that_cannot_be_told_apart_are_an_error(runs):
    for depth, rates in ((9, (0.001, 0.002)), (20, (0.003, 0.004))):
        for rate in rates:
            trained(runs, f"{depth} {rate}", depth, 0, 2.3, rate=rate)
    with pytest.raises(
        UserError, match=r"arm (9|20) has 2 runs with seed 0, which differ in optimizer\.scaling\.base_lr: select"
    ):
        compare(read(runs.folder), by="arch.depth")


def test_tuning_runs_are_marked_and_left_out(runs):
    runs.depths(DEPTHS)
    tuned = [runs.add(f"tuning {depth}", 999983, 2.0, depth=depth) for depth in DEPTHS]
    before = compare(read(runs.folder)[lambda frame: frame["seed"] != 999983], by="arch.depth")
    entries = [
        {"arm": str(depth), "key": "optimizer.scaling.base_lr", "best": 1.0, "state": "interior", "curve": [
            {"factor": 1.0, "identity": identity, "loss": 2.0}]}
        for depth, identity in zip(DEPTHS, tuned, strict=True)
    ]  # fmt: skip
    (path,) = (runs.folder / "grids").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tuning": entries}))
    frame = read(runs.folder)
    assert set(frame.loc[frame["role"] == "tuning", "identity"]) == set(tuned)
    pd.testing.assert_frame_equal(compare(frame, by="arch.depth"), before)


def test_intervals_include_the_variance_over_documents(runs):
    """As in the report; they are wider than those over seeds alone."""
    runs.depths({9: DEPTHS[9], 20: DEPTHS[20]})
    frame = read(runs.folder)
    found = compare(frame, by="arch.depth").iloc[0]
    alone = frame.copy()
    alone.attrs.clear()
    seeds = compare(alone, by="arch.depth").iloc[0]
    assert found["difference"] == seeds["difference"] and found["high"] - found["low"] > seeds["high"] - seeds["low"]
    (experiment,) = evidence(read_runs(runs.folder)).values()
    (pair,) = pairs(settings(experiment)[0], BITS)
    assert (found["low"], found["high"]) == pytest.approx(pair.estimate.interval())


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
