from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.report.test_arms import budgets
from tinylm_ablate.files import sha256_file
from tinylm_ablate.report import summary_table
from tinylm_ablate.report.__main__ import main, write_report
from tinylm_ablate.report.curves import POINTS, thin

GRID = {40: [1.50, 1.52, 1.51], 20: [1.60, 1.615, 1.61], 9: [1.62, 1.63, 1.63]}


def contents(folder):
    """Fingerprints, so that a difference is a short message."""
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def report(runs, results):
    return main(["--runs-dir", str(runs.folder), "--results", str(results)])


def test_a_report_has_tables_data_and_figures(runs, tmp_path, capsys):
    runs.depths(GRID, paper="table02_depth_width", paper_axis=["depth"])
    results = tmp_path / "results"
    assert report(runs, results) == 0
    assert "Title of table02_depth_width (9 runs)" in capsys.readouterr().out
    text = (results / "table02_depth_width.md").read_text()
    assert "**1.5100 ± 0.0100**" in text and "1.6083 ± 0.0076" in text
    assert re.search(r"\+0\.0983 \[\+0\.0\d+, \+0\.1\d+\]", text)
    assert "paper: average" in text and "42.02" in text and "35.46" in text
    assert "cannot be told from the best" in text
    assert "figures/table02_depth_width_loss.svg" in text
    assert ElementTree.parse(results / "figures" / "table02_depth_width_loss.svg").getroot().tag.endswith("svg")
    assert (results / "figures" / "table02_depth_width_loss.png").read_bytes().startswith(b"\x89PNG")
    with (results / "table02_depth_width.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["arch.depth"] for row in rows] == ["40", "20", "9"]
    assert float(rows[0]["test/bits_per_byte/all"]) == pytest.approx(1.51)
    assert float(rows[0]["test/bits_per_byte/all/deviation"]) == pytest.approx(0.01)
    assert rows[0]["test/bits_per_byte/all/best"] == "true" and rows[0]["paper/average"] == "42.02"
    assert "[table02_depth_width](table02_depth_width.md)" in (results / "README.md").read_text()
    with (results / "runs.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 9


def test_every_line_of_a_table_has_as_many_cells(runs, tmp_path):
    runs.depths(GRID, paper="table02_depth_width", paper_axis=["depth"])
    report(runs, tmp_path / "results")
    for path in (tmp_path / "results").glob("*.md"):
        for block in re.findall(r"(?:^\|.*\|\n?)+", path.read_text(), re.MULTILINE):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_the_same_runs_give_the_same_bytes(runs, tmp_path):
    runs.depths(GRID)
    runs.depths({40: [1.0], 9: [2.0]}, name="demo")
    first, second = tmp_path / "first", tmp_path / "second"
    report(runs, first)
    before = contents(first)
    report(runs, first)
    assert contents(first) == before
    # Another process, with another hash seed, in another place.
    command = [sys.executable, "-m", "tinylm_ablate.report", "--runs-dir", str(runs.folder), "--results", str(second)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    assert contents(second) == before


def test_a_clone_without_runs_makes_the_same_report(runs, tmp_path):
    runs.depths(GRID, paper="table02_depth_width", paper_axis=["depth"])
    results, clone = tmp_path / "results", tmp_path / "clone"
    report(runs, results)
    for kept in ("runs.csv", "grids", "curves"):
        copy = shutil.copytree if (results / kept).is_dir() else shutil.copy
        clone.mkdir(exist_ok=True)
        copy(results / kept, clone / kept)
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(clone)]) == 0
    assert contents(clone) == contents(results)


def test_new_runs_are_added_to_what_was_kept(runs, tmp_path):
    runs.depths(GRID)
    report(runs, tmp_path / "results")
    later = type(runs)(tmp_path / "later")
    later.depths({3: [1.0, 1.1]}, name="mine")
    assert report(later, tmp_path / "results") == 0
    experiments, _ = write_report(tmp_path / "none", tmp_path / "results")
    assert [(experiment.name, experiment.runs) for experiment in experiments] == [("table02_depth_width", 9), ("mine", 2)]


def test_nothing_to_report_is_no_error(tmp_path, capsys):
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(tmp_path / "results")]) == 0
    out = capsys.readouterr().out
    assert "nothing to report yet" in out and "make demo" in out
    assert not (tmp_path / "results").exists()


def test_what_is_left_out_is_told(runs, tmp_path, capsys):
    runs.depths({40: [1.0, 1.1]})
    (runs.folder / "broken").mkdir()
    (runs.folder / "broken" / "metrics.json").write_text("{")
    runs.grid("table02_depth_width", {"table02_depth_width-40-0": {"arch.depth": 40}, "gone": {"arch.depth": 20}}, file="z")
    runs.grid("never", {"gone": {"arch.depth": 20}})
    assert report(runs, tmp_path / "results") == 0
    errors = capsys.readouterr().err
    assert "broken" in errors and "1 of 2 cells are not finished" in errors and "never: 1 of 1 cells" in errors
    assert "1 arm has no finished run yet" in (tmp_path / "results" / "table02_depth_width.md").read_text()
    assert not (tmp_path / "results" / "never.md").exists()


@pytest.mark.parametrize("which", ["runs", "results", "kept"])
def test_a_folder_that_cannot_be_used_is_the_users_to_mend(runs, tmp_path, capsys, which):
    runs.depths({40: [1.0]})
    results = tmp_path / "results"
    if which == "kept":
        results.mkdir()
        (results / "runs.csv").write_text("something,else\n1,2\n")
    elif which == "results":
        results.write_text("")
    else:
        shutil.rmtree(runs.folder)
        runs.folder.write_text("")
    assert report(runs, results) == 2
    error = capsys.readouterr().err
    assert "cannot be" in error and "Traceback" not in error and len(error.splitlines()) == 1


def test_one_seed_concludes_nothing(runs, tmp_path):
    runs.depths({40: [1.0], 20: [2.0]})
    report(runs, tmp_path / "results")
    text = (tmp_path / "results" / "table02_depth_width.md").read_text()
    assert "One seed: nothing can be concluded" in text
    assert "**" not in text and "≈" not in text


def test_a_grid_of_seeds_alone_has_a_table(runs, tmp_path):
    cells = {runs.add(f"seed{seed}", seed, 1.0 + seed / 10): {"seed": seed} for seed in range(3)}
    runs.grid("noise", cells)
    report(runs, tmp_path / "results")
    assert "1.1000 ± 0.1000" in (tmp_path / "results" / "noise.md").read_text()


def test_sections_have_figures_of_their_own(runs, tmp_path):
    runs.depths({40: [1.0], 20: [2.0]})
    cells = {runs.add(f"s16-{depth}", 0, 1.5, depth=depth, scale="s16"): {"arch.depth": depth} for depth in (40, 20)}
    runs.grid("table02_depth_width", cells, file="later")
    report(runs, tmp_path / "results")
    text = (tmp_path / "results" / "table02_depth_width.md").read_text()
    assert "## scale.name=s16" in text and "## scale.name=s32" in text
    assert {path.name for path in (tmp_path / "results" / "figures").glob("*.svg")} == {
        "table02_depth_width_loss.svg",
        "table02_depth_width_2_loss.svg",
    }


@pytest.mark.parametrize("name", ["runs", "README", "claims", "Index", "../escape", "a b/c"])
def test_a_name_never_leaves_its_place(runs, tmp_path, name):
    runs.add("one", 0, 1.0)
    runs.grid(name, {"one": {"arch.depth": 20}}, file="grid")
    results = tmp_path / "results"
    report(runs, results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "runs"]
    with (results / "runs.csv").open() as stream:
        assert [row["identity"] for row in csv.DictReader(stream)] == ["one"]
    assert (results / "README.md").read_text().startswith("# Results")
    assert len({path.name for path in results.glob("*.md")} - {"README.md", "claims.md"}) == 1


def test_a_curve_is_thinned_to_means(tmp_path):
    import json

    path = tmp_path / "curve.jsonl"
    lines = [json.dumps({"tokens": 10 * n, "loss": float(n), "step": n}) for n in range(1, 1001)]
    path.write_text("\n".join(lines) + '\n{"tokens": 1')
    rows = list(csv.DictReader(thin(path).splitlines()))
    assert len(rows) <= POINTS
    assert (rows[0]["tokens"], float(rows[0]["loss"])) == ("160", 8.5)
    assert rows[-1]["tokens"] == "10000"
    path.write_text("\n".join(lines[:5]))
    assert [row["loss"] for row in csv.DictReader(thin(path).splitlines())] == ["1", "2", "3", "4", "5"]


def test_the_summary_of_a_grid_fits_a_terminal(runs):
    import json

    runs.depths(GRID)
    rows = []
    for folder in sorted(runs.folder.glob("table*")):
        record = json.loads((folder / "metrics.json").read_text())
        rows.append(({"arch.depth": str(record["config"]["arch"]["depth"]), "seed": str(record["seed"])}, record))
    text = summary_table(rows)
    lines = text.splitlines()
    assert lines[0].split("|")[1].strip() == "arch.depth"
    assert len({len(line) for line in lines[:5]}) == 1 and len(lines[0]) < 130
    assert any("**1.5100 ± 0.0100**" in line for line in lines)
    assert "paired t-test" in text
    single = summary_table([({"run": "abc"}, rows[0][1])])
    assert "abc" in single and "interval" not in single and "One seed" not in single
    assert "One seed" in summary_table([rows[0], rows[3]])
    assert summary_table([]) == ""


def test_two_budgets_stand_beside_each_other_and_the_larger_counts(runs, tmp_path):
    budgets(runs)
    results = tmp_path / "results"
    assert report(runs, results) == 0
    text = (results / "table02_depth_width.md").read_text()
    assert text.index("## train.tokens=2000000") < text.index("## train.tokens=500000")
    assert text.count("The verdict at a larger budget counts in place of this one.") == 0  # the larger one lacks an arm
    (results / "mine").mkdir()
    (results / "mine" / "deep.yaml").write_text(
        "title: Deeper is better\nsource: mine\nexperiment: table02_depth_width\n"
        "arms: {deep: {arch.depth: 40}, shallow: {arch.depth: 20}}\n"
        "tests: [{kind: ordering, order: [deep, shallow], metric: test/bits_per_byte/all, direction: less, smallest: 0}]\n"
    )
    write_report(tmp_path / "none", results, results / "mine")
    text = (results / "table02_depth_width.md").read_text()
    assert text.count("The verdict at a larger budget counts in place of this one.") == 1
    claims = (results / "claims.md").read_text()
    assert "1 contradicted" in claims and "1 more at smaller budgets" in claims
    (row,) = [line for line in claims.splitlines() if line.startswith("| Deeper is better")]
    assert "contradicted" in row and "train.tokens=2000000" in row
    with (results / "claims.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["claim"] == "deep"]
    assert [row["larger_budget_counts"] for row in rows] == ["false", "true"]
