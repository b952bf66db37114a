"""The paper's row for each arm, and checks that the rows were typed correctly."""

from __future__ import annotations

import csv

import pytest

from tinylm_ablate.frames.grid_file import Grid
from tinylm_ablate.report.measures import number
from tinylm_ablate.report.printed import FOLDER, printed


def grid(paper, axis, paper_axis):
    return Grid("0" * 16, "name", "title", "", axis, paper, paper_axis, [], [], [], "", [])


@pytest.mark.parametrize(
    ("paper", "axis", "paper_axis", "values", "averages"),
    [
        ("table02_depth_width", ["arch.depth", "seed"], ["depth"], ["40", "20", "21"], ["42.02", "41.19", None]),
        ("table01_tokenizer", ["tokenizer.vocab_size"], ["vocab_size"], ["48000/s", "100883/s"], ["41.19", "40.4"]),
        ("table03_expanding_rate", ["arch.expanding_rate"], ["expanding_rate"], ["2.6666666666666665", "3.0"], ["41.19", None]),
        ("table11_random_init_all", ["init"], ["init"], ["depthwise", "inherit"], ["42.94", None]),
        (
            "table13_weight_decay.csv",
            ["optimizer.weight_decay"],
            ["weight_decay"],
            ["0.0001", "0.2", "0.15"],
            ["37.7", "38.71", None],
        ),
        ("table12_heads", ["arch.head_dim"], ["head_dim"], ["32/s", "128/s"], ["40.9", "41.19"]),
        ("table05_inheritance", ["arm"], ["strategy"], ["learned", "L2"], ["48.08", "47.0"]),
    ],
)
def test_each_arm_finds_its_row(paper, axis, paper_axis, values, averages):
    problems: list[str] = []
    found = printed([grid(paper, axis, paper_axis)], [{axis[0]: value} for value in values], problems)
    assert found is not None and not problems
    assert [None if row is None else row["average"] for row in found.rows] == averages
    assert paper_axis[0] not in found.columns


def test_an_axis_is_found_by_its_name_before_its_place():
    axis = ["tokenizer.vocab_size", "arch.depth"]
    place = {"tokenizer.vocab_size": "8000/s", "arch.depth": "40"}
    found = printed([grid("table02_depth_width", axis, ["depth"])], [place], [])
    assert found is not None and found.rows[0] is not None and found.rows[0]["average"] == "42.02"


def test_a_missing_table_is_reported():
    problems: list[str] = []
    assert printed([grid("table99", ["arch.depth"], ["depth"])], [{"arch.depth": "1"}], problems) is None
    assert printed([grid("table02_depth_width", ["arch.depth"], ["nothing"])], [{"arch.depth": "1"}], problems) is None
    assert printed([grid(None, ["arch.depth"], [])], [{"arch.depth": "1"}], problems) is None
    assert printed([grid("../claims", ["arch.depth"], ["depth"])], [{"arch.depth": "1"}], problems) is None
    assert printed([grid("/etc/passwd", ["arch.depth"], ["depth"])], [{"arch.depth": "1"}], problems) is None
    assert len(problems) == 4


def test_sizes_are_read_as_the_papers_numbers():
    assert [number(text) for text in ("48000/s", " 8 / s ", "2.5", "1e-4", "internlm")] == [48000, 8, 2.5, 1e-4, None]


def test_the_papers_averages_are_the_means_of_their_rows():
    """The numbers were typed by hand: each printed average agrees with its row to two decimals."""
    checked = 0
    for path in sorted(FOLDER.glob("table*.csv")):
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                if "average" not in row:
                    continue
                scores = [
                    float(row[name])
                    for name in ("arc_easy", "hellaswag", "c3")
                    if name in row and path.stem != "table08_benchmarks"
                ]
                if path.stem == "table08_benchmarks":
                    scores = [float(value) for name, value in row.items() if name not in {"arm", "model", "average"}]
                assert sum(scores) / len(scores) == pytest.approx(float(row["average"]), abs=0.011), (path.stem, row)
                checked += 1
    assert checked > 50
