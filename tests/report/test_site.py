"""The whole report: its output and input, and that nothing else affects it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import markdown_it
import pytest

from tests.report.conftest import Runs, contents
from tinylm_ablate.frames.arms import evidence
from tinylm_ablate.frames.run_folders import read_runs
from tinylm_ablate.report.__main__ import main
from tinylm_ablate.report.page import stem_of
from tinylm_ablate.report.reference_data import read_reference

DEPTHS = {9: [2.21, 2.22, 2.2], 20: [2.1, 2.11, 2.09], 40: [2.15, 2.161, 2.14]}
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"


def report(runs, results, *more):
    return main(["--runs-dir", str(runs.folder), "--results", str(results), *map(str, more)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The runs of a grid, and the folder of their report."""
    folder = tmp_path_factory.mktemp("made")
    runs = Runs(folder / "runs")
    runs.depths(DEPTHS, paper="table02_depth_width", paper_axis=["depth"], figures=["convergence"], note="A note.")
    assert report(runs, folder / "results") == 0
    return runs, folder / "results"


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """A folder with the runs of a grid and another run, and with a report that has added them to the reference."""
    folder = tmp_path_factory.mktemp("added")
    runs = Runs(folder / "runs")
    runs.depths(DEPTHS, figures=["convergence"])
    runs.add("in no grid", 0, 2.5)
    assert report(runs, folder / "results", "--add") == 0
    return folder


@pytest.fixture
def referenced(added, tmp_path):
    """The same in ``tmp_path``: the runs of a report whose reference has them already."""
    shutil.copytree(added, tmp_path, dirs_exist_ok=True)
    return Runs(tmp_path / "runs")


def test_a_grid_becomes_pages_in_every_format(made):
    written = contents(made[1])
    stem = "table02_depth_width"
    expected = {
        f"{stem}.md",
        f"{stem}.tex",
        f"{stem}.csv",
        f"figures/{stem}_arms.svg",
        f"figures/{stem}_loss.png",
        "index.html",
    }
    assert expected | {"README.md", "claims.md", "runs.csv"} <= written.keys()
    page = written[f"{stem}.md"].decode()
    head = next(line for line in page.splitlines() if line.startswith("| arch.depth"))
    # The measure follows the arm, and the best is bold since every other arm is significantly worse.
    assert [cell.strip() for cell in head.split("|")[1:3]] == ["arch.depth", "bits/byte all"]
    assert "**2.1000 ± 0.0100**" in page and "| 20 is better" in page and "41.19" in page and "A note." in page
    assert page.index("_arms.svg") < page.index("| arch.depth") < page.index("### Paired tests") < page.index("How it was run")
    assert "python -m tinylm_ablate -m +experiments=table02_depth_width" in page


def test_the_same_runs_give_the_same_bytes_in_any_process(made, tmp_path):
    runs, first_results = made
    command = [sys.executable, "-m", "tinylm_ablate.report", "--runs-dir", str(runs.folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONHASHSEED": "1"}
    command += ["--results", str(tmp_path / "second")]
    done = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment, text=True)
    assert str(tmp_path / "second" / "index.html") in done.stdout
    first, second = contents(first_results), contents(tmp_path / "second")
    assert first.keys() == second.keys() and [name for name in first if first[name] != second[name]] == []


def test_names_that_collide_get_separate_pages(runs, tmp_path):
    names = ["a b", "a_b", "A_B", "a/b", "../a", "x" * 300, "index", "README", "claims", "con:1", ""]
    for number, name in enumerate(names):
        runs.grid(name, {runs.add(f"{number}", 0, 2.0 + number / 100): {"seed": 0}}, file=f"{number:016x}")
    assert report(runs, tmp_path / "results") == 0
    stems = [stem_of(name) for name in names]
    assert len({stem.lower() for stem in stems}) == len(names) and max(map(len, stems)) < 80
    for name, stem in zip(names, stems, strict=True):
        text = (tmp_path / "results" / f"{stem}.md").read_text()
        assert f"Title of {name[:40]}".strip().replace("_", "") in text.replace("\\_", "").replace("_", "")
    assert not list(tmp_path.glob("*.md")) and stem_of("a_b") == "a_b"


def test_one_damaged_record_affects_nothing_else(runs, tmp_path, capsys):
    first, *_ = runs.depths(DEPTHS)
    (runs.folder / first / "metrics.json").write_text('{"schema": 2, "identity": "../../../x", "seed": 0')
    assert report(runs, tmp_path / "results") == 0
    assert "metrics.json: cannot be read and is left out" in capsys.readouterr().err
    assert "(8 runs)" not in (tmp_path / "results" / "README.md").read_text()
    assert (tmp_path / "results" / "table02_depth_width.md").is_file()


class _Page(HTMLParser):
    """Collects every element, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


EVIL = '"><img src=x onerror=alert(1)></script><script>alert(2)</script> [a](javascript:alert(3)) ![x](/etc/passwd) <b>'


def test_users_text_stays_text(runs, tmp_path):
    identity = runs.add("a", 0, 2.5)
    evil = {"note": EVIL, "title": EVIL, "command": ["run", EVIL], "paper": "../../../etc/passwd", "paper_axis": ["arm"]}
    runs.grid(f"evil {EVIL}", {identity: {"arm": EVIL, "seed": 0}}, **evil)
    assert report(runs, tmp_path / "results") == 0
    text = (tmp_path / "results" / "index.html").read_text()
    page = _Page()
    page.feed(text)
    assert not [
        1 for tag, attrs in page.elements if tag in ("img", "iframe", "object", "b") or any(k.startswith("on") for k in attrs)
    ]
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    assert links and all(address.startswith("#") or re.match(r"[\w./-]+$|https?://", address) for address in links)
    assert len([tag for tag, _ in page.elements if tag == "script"]) == text.count("</script>") == 5
    assert "root:x:0" not in text
    (stem,) = [path.stem for path in (tmp_path / "results").glob("evil*.md")]
    shown = _Page()
    shown.feed(markdown_it.MarkdownIt("commonmark").enable("table").render((tmp_path / "results" / f"{stem}.md").read_text()))
    tags = {tag for tag, _ in shown.elements}
    assert tags <= {
        "h1",
        "h2",
        "h3",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "code",
        "pre",
        "img",
        "details",
        "summary",
    }
    assert all((attrs["src"] or "").startswith("figures/") for tag, attrs in shown.elements if tag == "img")


def test_the_page_needs_no_network(made):
    page = _Page()
    page.feed((made[1] / "index.html").read_text())
    assert not [attrs for tag, attrs in page.elements if tag in ("link", "img") or (tag == "script" and "src" in attrs)]
    policy = next(attrs["content"] for tag, attrs in page.elements if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None and policy.startswith("default-src 'none'")
    # Every table scrolls in a named region, and every figure has a text alternative.
    regions = [attrs for _, attrs in page.elements if attrs.get("role") == "region"]
    assert regions and all(attrs.get("aria-label") and attrs.get("tabindex") == "0" for attrs in regions)
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert drawings and all(len(attrs.get("aria-label") or "") > 20 for attrs in drawings)
    identifiers = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(identifiers) == len(set(identifiers))


def test_a_reference_is_small_and_regenerated_byte_for_byte(referenced, tmp_path):
    results = tmp_path / "results"
    kept = contents(results / "reference")
    assert {
        "runs.parquet",
        "curves.parquet",
        "documents.parquet",
        "questions.parquet",
        "grids.json",
        "README.md",
    } <= kept.keys()
    assert {"claims.md", "table02_depth_width.md", "table02_depth_width_arms.svg"} <= kept.keys()
    assert not [name for name in kept if name.endswith((".html", ".tex", ".png", ".csv"))]
    assert len(read_reference(results / "reference").runs) == 9
    for name in kept:
        if not name.endswith((".parquet", ".json")):
            (results / "reference" / name).unlink()
    (tmp_path / "none").mkdir()
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(results)]) == 0
    assert contents(results / "reference") == kept
    # Adding the same runs again changes nothing.
    assert report(referenced, results, "--add") == 0
    assert contents(results / "reference") == kept


def test_only_pages_that_the_reference_lists_are_removed(referenced, tmp_path):
    folder = tmp_path / "results" / "reference"
    kept = contents(folder)
    index = (folder / "README.md").read_text()
    (folder / "README.md").write_text(f"{index}\n| [old](old.md) | An experiment that was withdrawn |\n")
    (folder / "old.md").write_text("![Arms](old_arms.svg)")
    (folder / "old_arms.svg").write_text("stale")
    for name in ("notes.md", "drawn.svg"):
        (folder / name).write_text("a user's own")
    assert report(referenced, tmp_path / "results") == 0
    assert contents(folder) == kept | {"notes.md": b"a user's own", "drawn.svg": b"a user's own"}


def test_a_folder_that_is_no_reference_is_not_touched(referenced, tmp_path, capsys):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("README.md", "guide.md", "figure.svg"):
        (folder / name).write_text("a user's own")
    before = contents(folder)
    assert report(referenced, tmp_path / "results", "--reference", str(folder)) == 0
    assert contents(folder) == before
    assert report(referenced, tmp_path / "results", "--reference", str(folder), "--add") == 2
    assert contents(folder) == before
    assert "is not a reference, and its README.md would be replaced" in capsys.readouterr().err


def test_a_run_that_was_trained_again_does_not_replace_its_first_result(referenced, tmp_path, capsys):
    results = tmp_path / "results"
    before = contents(results / "reference")
    path = referenced.folder / read_reference(results / "reference").runs["identity"].iloc[0] / "metrics.json"
    record = json.loads(path.read_text())
    record["metrics"]["train/loss"] += 0.25
    path.write_text(json.dumps(record))
    assert report(referenced, results, "--add") == 0
    assert f"trained again: {path.parent.name}; the results in the reference stay" in capsys.readouterr().err
    assert contents(results / "reference") == before


def test_a_users_runs_never_reach_the_reference(referenced, tmp_path):
    results = tmp_path / "results"
    before = contents(results / "reference")
    referenced.depths({9: [3.0, 3.01], 20: [2.9, 2.92]}, name="mine", created="2026-02-01")
    assert report(referenced, results) == 0
    assert contents(results / "reference") == before
    page = (results / "index.html").read_text()
    mine, own, theirs = (
        page.index(f'id="{name}"') for name in ("mine", "table02_depth_width", "reference-table02_depth_width")
    )
    assert mine < own < theirs, "a user's own grids come first, the newest before the others"
    assert "The same experiment in the reference" in (results / "table02_depth_width.md").read_text()


def test_a_repeated_run_replaces_the_stored_one(referenced, tmp_path):
    results = tmp_path / "results"
    stored = read_reference(results / "reference").runs
    identity = stored["identity"].iloc[0]
    assert len(stored) == 9 and "decode/tokens_per_second" not in stored
    referenced.measure(identity, "decoding_speed", {"decode/tokens_per_second": 5.0})
    assert report(referenced, results, "--add") == 0
    table = read_reference(results / "reference").runs.set_index("identity")
    assert len(table) == 9 and table.loc[identity, "decode/tokens_per_second"] == 5.0


def test_without_runs_the_command_explains_how_to_get_some(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(tmp_path / "results")]) == 0
    assert "make demo" in capsys.readouterr().out
    (tmp_path / "none" / "text.txt").write_text("not a run")
    for folder in ("none", "missing"):  # the page may have other runs, which an empty one must not replace
        assert main(["--runs-dir", str(tmp_path / folder), "--results", str(tmp_path / "results")]) == 2
        assert f"{folder}: no such folder of runs; nothing was written" in capsys.readouterr().err


def test_a_damaged_reference_is_reported(tmp_path, capsys):
    folder = tmp_path / "results" / "reference"
    folder.mkdir(parents=True)
    (folder / "runs.parquet").write_bytes(b"no parquet")
    (tmp_path / "none").mkdir()
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(tmp_path / "results")]) == 2
    assert "runs.parquet cannot be read" in capsys.readouterr().err


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no checkout: a wheel has no results")
def test_the_repositorys_reference_is_up_to_date(tmp_path):
    shutil.copytree(REFERENCE, tmp_path / "results" / "reference")
    (tmp_path / "none").mkdir()
    assert main(["--runs-dir", str(tmp_path / "none"), "--results", str(tmp_path / "results")]) == 0
    rebuilt, kept = contents(tmp_path / "results" / "reference"), contents(REFERENCE)
    assert rebuilt.keys() == kept.keys(), "files that nothing makes, or that are not kept"
    assert [name for name in kept if rebuilt[name] != kept[name]] == [], "after a change of the report: make report"
    assert len(kept) < 80 and sum(map(len, kept.values())) < 3_000_000


def test_tuned_arms_show_their_curves_and_how_many_orders_tuning_changed(runs, tmp_path):
    key = "optimizer.scaling.base_lr"

    def entry(arm: str, losses: dict[float, float | None]) -> dict[str, object]:
        curve = [{"factor": factor, "identity": "0" * 16, "loss": loss} for factor, loss in losses.items()]
        best = min((factor for factor, loss in losses.items() if loss is not None), key=lambda own: losses[own])
        return {"arm": arm, "key": key, "best": best, "state": "interior", "curve": curve}

    tuning = [entry("9", {0.5: 3.0, 1.0: 2.5, 2.0: None}), entry("20", {1.0: 2.6, 2.0: 2.2, 4.0: 2.4})]
    runs.depths(DEPTHS, tuning=[*tuning, entry("40", {0.5: 2.2, 1.0: 2.1, 2.0: 2.3})])
    assert report(runs, tmp_path / "results") == 0
    page = (tmp_path / "results" / "table02_depth_width.md").read_text()
    assert "How the arms were tuned" in page and "table02_depth_width_tuning.svg" in page
    assert "changes the order of 1 of 3 pairs of arms" in page.replace("\\", "")


def test_the_same_arms_tuned_at_two_scales_have_curves_of_their_own(runs, tmp_path):
    for scale, best in (("s32", 1.0), ("s16", 2.0)):
        curve = [{"factor": own, "identity": "0" * 16, "loss": 2 + abs(own - best)} for own in (0.5, 1.0, 2.0)]
        tuning = [{"arm": "9", "key": "optimizer.scaling.base_lr", "best": best, "state": "interior", "curve": curve}]
        cell = runs.add(scale, 0, 2.3, depth=9, scale=scale)
        runs.grid("table02_depth_width", {cell: {"arch.depth": 9, "seed": 0}}, file=scale, tuning=tuning)
    assert report(runs, tmp_path / "results") == 0
    page = (tmp_path / "results" / "table02_depth_width.md").read_text()
    assert page.count("How the arms were tuned") == 2
    assert re.findall(r"base_lr +\| interior +\| +(\d) ", page.replace("\\", "")) in (["1", "2"], ["2", "1"])


def test_deviations_of_trained_matrices_are_columns_for_claims(runs):
    (identity, *_) = runs.depths({9: [2.2], 20: [2.1]}, name="table04_random_init", figures=["matrix_std"])
    matrices = [
        {"layer": layer, "matrix": name, "std": 0.02, "trained_std": 0.02 + layer / 100 * (name == "q")}
        for layer in range(3)
        for name in ("q", "up")
    ]
    (runs.folder / identity / "matrix_std.json").write_text(json.dumps(matrices))
    frame = evidence(read_runs(runs.folder))["table04_random_init"].runs.set_index("identity")
    assert frame.loc[identity, "matrix_std/trained"] == pytest.approx(0.025)
    assert frame.loc[identity, "matrix_std/variation/ffn"] == 0
    assert frame.loc[identity, "matrix_std/variation/attention"] == pytest.approx(0.01 / 0.03)


def test_a_search_has_a_page(runs, tmp_path):
    folder = runs.folder / "search"
    folder.mkdir(parents=True)
    trial = {"state": "done", "overrides": {"arch.depth": "9"}, "parameters": 1000, "reason": ""}
    content = {
        "schema": 1, "name": "s", "title": "Depth", "experiment": "x", "scale": "s32", "space": {"arch.depth": "9 to 40"},
        "budget": [900, 1100], "sampler": "tpe", "pruner": "none", "seed": 0, "counts": {"done": 2, "pruned": 1},
        "objectives": [{"name": "bits", "direction": "minimise"}], "front": [1],
        "trials": [trial | {"number": n, "identity": f"{n}" * 16, "values": {"bits": 2.5 - n / 10}} for n in range(2)],
    }  # fmt: skip
    (folder / "s.json").write_text(json.dumps(content))
    (folder / "broken.json").write_text(json.dumps({"schema": 1, "name": "b"}))
    assert report(runs, tmp_path / "results") == 0
    page = (tmp_path / "results" / "search_s.md").read_text()
    assert page.index("2.4") < page.index("2.5") and "2 done, 1 pruned" in page and "search_s_trials.svg" in page
    assert (
        (tmp_path / "results" / "search_s.csv")
        .read_text()
        .startswith("trial,state,arch.depth,bits,parameters,front,run,reason")
    )
