"""Layers skipped at inference: kept small, drawn and tabulated where an experiment asks for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tinylm_ablate.measure.layer_skip import save
from tinylm_ablate.report.__main__ import main
from tinylm_ablate.report.layer_skip import compact, read

DEPTH = 5


def write(folder: Path, shift: float = 0.0, cloze: bool = True) -> None:
    """Rows as a run leaves them: skipping costs most at the ends, and more with more layers."""
    places = [(0, 0), *((count, first) for count in (1, 2) for first in range(DEPTH - count + 1))]
    cost = {0: 2.0, 1: 0.3, 2: 0.1, 3: 0.2, 4: 0.5}
    rows = [
        {
            "skipped": count, "first": first, "loss": 3.0,
            "bits_per_byte": 1.5 + shift + sum(cost[layer] for layer in range(first, first + count)),
            "cloze": (0.3 if count else 0.4) if cloze else None,
        }
        for count, first in places
    ]  # fmt: skip
    save(rows, folder)


@pytest.fixture
def results(runs, tmp_path: Path) -> Path:
    cells = {}
    for seed in (0, 1):
        for arm in ("baseline", "deeper"):
            identity = runs.add(f"{arm}-{seed}", seed, 1.5)
            cells[identity] = {"arm": arm, "seed": seed}
            if arm == "baseline":
                write(runs.folder / identity, seed / 10)
    runs.grid("figure05_layer_skip", cells, figures=["layer_skip"])
    runs.grid("another", {"baseline-0": {"init": "constant"}})
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    return tmp_path / "results"


def test_it_is_kept_small_and_read_back(results: Path) -> None:
    kept = read(results / "layer_skip" / "baseline-1.csv")
    assert kept is not None
    assert kept[0, 0] == {"loss": 3.0, "bits_per_byte": 1.6, "cloze": 0.4}
    assert kept[2, 3] == {"loss": 3.0, "bits_per_byte": 2.3, "cloze": 0.3}
    assert len(kept) == 1 + 5 + 4
    assert read(results / "layer_skip" / "none.csv") is None


def test_the_page_has_figure_and_table_where_they_are_asked_for(results: Path) -> None:
    text = (results / "figure05_layer_skip.md").read_text()
    assert "### Layers skipped at inference" in text
    lines = [
        line.strip("| ").split("|") for line in text.partition("### Layers skipped")[2].splitlines() if line.startswith("|")
    ]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert rows["first skipped layer"][:2] == ["bits/byte, 1 skipped", "bits/byte, 2 skipped"]
    # The mean and the sample deviation of two seeds that are 0.1 apart.
    assert rows["none skipped"] == ["1.5500 ± 0.0707", "1.5500 ± 0.0707", "40.0 ± 0.0", "40.0 ± 0.0"]
    assert rows["2"] == ["1.6500 ± 0.0707", "1.8500 ± 0.0707", "30.0 ± 0.0", "30.0 ± 0.0"]
    assert rows["4"][1] == rows["4"][3] == "–", "two layers cannot be skipped from the last one on"
    assert "1: least at layer 2 (+0.1000), most at layer 0 (+2.0000); 2: least at layer 2 (+0.3000), most" in text
    assert "**arm=baseline**, 2 seeds:" in text and "**arm=deeper**" not in text
    svg = (results / "figures" / "figure05_layer_skip_layer_skip.svg").read_text()
    ElementTree.fromstring(svg)
    assert "arm=baseline" in svg and ">2 layers<" in svg and ">cloze %<" in svg
    assert "skipped at inference" not in (results / "another.md").read_text()


def test_a_clone_draws_it_again(results: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(results, clone)
    (clone / "figure05_layer_skip.md").unlink()
    shutil.rmtree(clone / "figures")
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(clone)]) == 0
    files = {path.relative_to(results): path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert files == {path.relative_to(clone): path.read_bytes() for path in clone.rglob("*") if path.is_file()}


def test_without_questions_there_is_one_panel(runs, tmp_path: Path) -> None:
    write(runs.folder / runs.add("one", 0, 1.0), cloze=False)
    runs.grid("mine", {"one": {"arm": "a"}}, figures=["layer_skip"])
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    text = (tmp_path / "results" / "mine.md").read_text().partition("### Layers skipped")[2]
    assert " 1.5000 |" in text and "cloze %, 1" not in text and "±" not in text


def test_a_damaged_file_is_told_and_left_out(runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = runs.add("one", 0, 1.0)
    path = runs.folder / identity / "layer_skip.parquet"
    path.write_bytes(b"cut short")
    runs.grid("mine", {identity: {"arm": "a"}}, figures=["layer_skip"])
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    assert "layer_skip.parquet: cannot be read" in capsys.readouterr().err
    with pytest.raises((OSError, ValueError)):
        compact(path)
