"""Pages in Markdown, LaTeX and HTML: the same content, well formed, whole without a network, and the same bytes each time."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from tests.report.conftest import Runs
from tinylm_ablate.files import sha256_file
from tinylm_ablate.report.__main__ import main
from tinylm_ablate.report.blocks import Figure, Heading, Items, Paragraph, Table, inline, parse
from tinylm_ablate.report.html import render
from tinylm_ablate.report.latex import tables
from tinylm_ablate.report.printed import order

GRID = {40: [1.50, 1.52, 1.51], 20: [1.60, 1.615, 1.61], 9: [1.62, 1.63, 1.63]}
VOID = {"meta", "img", "br", "link"}


def contents(folder):
    """Fingerprints, so that a difference is a short message."""
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Runs, and the results made from them, once; tests take copies."""
    folder = tmp_path_factory.mktemp("built")
    runs = Runs(folder / "runs")
    runs.depths(GRID, paper="table02_depth_width", paper_axis=["depth"])
    runs.depths({40: [1.0, 1.1], 9: [2.0, 2.2]}, name="figure01_ladder", figures=["ladder"])
    for number, identity in enumerate(sorted(path.name for path in runs.folder.iterdir() if path.name != "grids")):
        runs.documents(identity, 0.05, number)
    (folder / "results").mkdir()
    (folder / "results" / "figure02_coverage.md").write_text("# Coverage\n\nA page of another command.\n")
    assert main(["--runs-dir", str(runs.folder), "--results", str(folder / "results")]) == 0
    return runs, folder / "results"


@pytest.fixture
def results(built, tmp_path):
    return shutil.copytree(built[1], tmp_path / "results")


class Page(HTMLParser):
    """What a browser would see of a page; raises where it is not well nested."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.images, self.links, self.ids, self.words = [], [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.images.append(attributes)
        if tag == "a":
            self.links.append(attributes["href"])
        if "id" in attributes:
            self.ids.append(attributes["id"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_blocks_of_a_page_are_found():
    page = "# One\n\nText of\ntwo lines.\n\n- a\n- b\n  more\n\n| x | y |\n|:---|---:|\n| a\\|b | 1 |\n\n"
    page += "![What it shows](f/g.svg)\n"
    assert parse(page) == [
        Heading(1, "One"),
        Paragraph("Text of two lines."),
        Items(["a", "b more"]),
        Table(["x", "y"], [["a|b", "1"]], 1),
        Figure("f/g.svg", "What it shows"),
    ]
    assert inline("a **b** `c` [d](e.md)") == [
        ("text", "a ", ""), ("strong", "b", ""), ("text", " ", ""), ("code", "c", ""), ("text", " ", ""), ("link", "d", "e.md"),
    ]  # fmt: skip


def test_every_experiment_is_written_in_every_form(results):
    for stem in ("table02_depth_width", "figure01_ladder", "claims"):
        for suffix in (".md", ".csv", ".tex", ".html"):
            assert (results / f"{stem}{suffix}").stat().st_size > 100
    assert (results / "figures" / "table02_depth_width_loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["index", "table02_depth_width", "claims"])
def test_a_page_is_whole_and_well_formed(results, name):
    text = (results / f"{name}.html").read_text()
    page = Page(text)
    assert text.startswith("<!doctype html>") and '<html lang="en">' in text and 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    # Nothing is asked for over a network.
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text) and "@import" not in text and "url(" not in text
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.images)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids, link
        else:
            assert (results / link.partition("#")[0]).is_file(), link


def test_the_front_page_is_read_from_the_ladder_over_verdicts_to_the_tables(results):
    text = (results / "index.html").read_text()
    places = [
        text.index(part)
        for part in (
            "13 runs of models", 'id="figure01_ladder"', 'id="verdicts"', 'id="table02_depth_width"', 'id="figure02_coverage"',
            'id="comparisons"', 'id="reading"',
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert order(["demo", "figure04_x", "table01_x", "figure01_ladder"]) == [
        "figure01_ladder",
        "table01_x",
        "figure04_x",
        "demo",
    ]
    assert 'class="not-run"' in text and "42.02" in text and "records/table02_depth_width-40-0.json" in text
    record = json.loads((results / "records" / "table02_depth_width-40-0.json").read_text())
    assert record["arch.depth"] == 40 and record["identity"] == "table02_depth_width-40-0"


def test_what_stands_in_a_page_is_no_markup(tmp_path):
    text = render("# <b> & co\n\n| <i> |\n|:---|\n| `a<b>` |\n", tmp_path)
    assert "<b>" not in text and "&lt;b&gt; &amp; co" in text and "<code>a&lt;b&gt;</code>" in text


def test_latex_tables_are_balanced_and_escaped(results):
    text = (results / "table02_depth_width.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") > 3
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == text.count(r"\begin{table}")
    for line in text.splitlines():
        if not line.startswith("%") and "label{" not in line and "resizebox" not in line:
            assert not re.search(r"(?<!\\)[%#_&]", line.replace(" & ", " ")), line
    for block in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        assert {line.count(" & ") for line in block[1].splitlines() if line.endswith(r"\\")} == {len(block[0]) - 1}
    assert r"\textbf{" in text and "±" not in text and "≈" not in text
    assert tables("| a_b | 5 % |\n|:---|---:|\n| $x$ | **1** |\n", "t").count(r"\_") == 1


def test_a_clone_without_runs_makes_every_byte_again(built, results, tmp_path):
    before = contents(results)
    assert main(["--runs-dir", str(built[0].folder), "--results", str(results)]) == 0
    assert contents(results) == before
    clone = tmp_path / "clone"
    for kept in ("runs.csv", "figure02_coverage.md", "grids", "curves", "documents"):
        clone.mkdir(exist_ok=True)
        (shutil.copytree if (results / kept).is_dir() else shutil.copy)(results / kept, clone / kept)
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(clone)]) == 0
    assert contents(clone) == before


def test_documents_widen_the_intervals(results, tmp_path):
    with (results / "table02_depth_width.csv").open() as stream:
        wide = {row["arch.depth"]: row for row in csv.DictReader(stream)}
    alone = tmp_path / "alone"
    shutil.copytree(results, alone)
    shutil.rmtree(alone / "documents")
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(alone)]) == 0
    with (alone / "table02_depth_width.csv").open() as stream:
        narrow = {row["arch.depth"]: row for row in csv.DictReader(stream)}
    column = "test/bits_per_byte/all"
    assert wide["9"][f"{column}/difference"] == narrow["9"][f"{column}/difference"]
    assert float(wide["9"][f"{column}/low"]) < float(narrow["9"][f"{column}/low"])
    text = (results / "table02_depth_width.md").read_text()
    assert "with the variance over documents added" in text and "### Paired tests" in text
    assert "is not kept for all runs" in (alone / "table02_depth_width.md").read_text()


def test_documents_that_contradict_the_record_are_told_and_left_out(runs, tmp_path, capsys):
    runs.depths({40: [1.0, 1.1], 9: [2.0, 2.1]})
    runs.documents("table02_depth_width-40-0")
    path = runs.folder / "table02_depth_width-40-0" / "metrics.json"
    path.write_text(path.read_text().replace('"test/bits_per_byte/en": 0.9', '"test/bits_per_byte/en": 0.8'))
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    assert "its en items come to bits_per_byte 0.90000, and metrics.json has 0.8" in capsys.readouterr().err
    assert not (tmp_path / "results" / "documents").exists()


def test_differences_within_noise_are_never_bold(runs, tmp_path):
    runs.depths({40: [1.50, 1.60], 20: [1.55, 1.52], 9: [1.58, 1.54]})
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    text = (tmp_path / "results" / "table02_depth_width.md").read_text()
    assert "≈ within noise" in text and not re.search(r"\*\*\d", text)
    assert re.search(r"about \d+|over 1,000", text)


def test_from_five_seeds_on_the_bootstrap_is_shown(runs, tmp_path):
    runs.depths({40: [1.5, 1.51, 1.52, 1.5, 1.53], 9: [1.6, 1.62, 1.61, 1.6, 1.66]})
    for path in sorted(runs.folder.glob("table*")):
        runs.documents(path.name, 0.05)
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    assert "bootstrap [95 %]" in (tmp_path / "results" / "table02_depth_width.md").read_text()


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("runs.csv", lambda text: text + text.splitlines()[1] + "\n", "stands in an earlier line too"),
        ("runs.csv", lambda text: text.replace("seed", "sprout", 1), "line 2: seed is missing"),
        ("runs.csv", lambda text: re.sub(r"-40-0,0,", "-40-0,x,", text), "seed=x is no whole number"),
        ("runs.csv", lambda text: text.replace(",1.5,", ",much,"), "=much is no finite number"),
        ("curves/table02_depth_width-40-0.csv", lambda text: text.replace("loss", "gain"), "is no curve with the columns"),
        (
            "documents/table02_depth_width-40-0.json",
            lambda text: text.replace('"schema": 1', '"schema": 9'),
            "schema 9 is not 1",
        ),
        ("documents/table02_depth_width-40-0.json", lambda text: text.replace("[", "[1.0, "), "values for the"),
        ("documents/items-*.csv", lambda text: text.replace("size", "weight", 1), "its first line is not"),
        ("documents/items-*.csv", lambda text: text.replace("bits_per_byte,", "joules,", 1), "a measure is one of"),
    ],
)
def test_what_is_kept_is_checked(results, tmp_path, capsys, file, change, told):
    (path,) = results.glob(file)
    path.write_text(change(path.read_text()))
    capsys.readouterr()
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert path.name in error and told in error and len(error.splitlines()) == 1
