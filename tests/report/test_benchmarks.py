"""Benchmark scores in the report: every task, the paper's averages, other models, and the paper's rows."""

from __future__ import annotations

import json
import re
from typing import Any

import pandas as pd
import pytest

from tinylm_ablate.frames.arms import evidence
from tinylm_ablate.frames.run_folders import read_runs
from tinylm_ablate.measure.benchmarks import column_of
from tinylm_ablate.measure.harness import LISTS
from tinylm_ablate.report.blocks import Table
from tinylm_ablate.report.markdown import render
from tinylm_ablate.report.page import experiment_page
from tinylm_ablate.report.reference_data import read_reference, write_reference
from tinylm_ablate.science.evidence import settings


def score(runs: Any, identity: str, start: float) -> None:
    for number, benchmark in enumerate(LISTS["paper"]):
        metrics = {column_of(benchmark): start + number / 100, f"benchmarks/{benchmark.task}/questions": 4}
        rows = pd.DataFrame({"task": [benchmark.task], "doc_id": [0]})
        runs.measure(identity, "benchmarks", metrics, rows, task=benchmark.task, limit=None)


@pytest.fixture
def scored(runs: Any) -> Any:
    names = {"pangu_1b": 0.2, "pro_1b": 0.3, "pro_1_5b": 0.4}
    cells = {}
    for arm, start in names.items():
        identity = runs.add(arm, 0, 2.5)
        score(runs, identity, start)
        cells[identity] = {"arm": arm}
    model = runs.folder / "models" / ("ab" * 8)
    (model / "measures").mkdir(parents=True)
    (model / "model.json").write_text(json.dumps({"schema": 1, "name": "Owner/Other", "shape": {}, "parameters": 7}))
    record = {"schema": 1, "measure": "benchmarks", "settings": {"task": "mmlu"}, "metrics": {"benchmarks/mmlu/acc": 0.27}}
    (model / "measures" / "benchmarks.0123456789abcdef.json").write_text(json.dumps(record))
    runs.grid("table08_benchmarks", cells, paper="table08_benchmarks", paper_axis=["arm"], figures=["models"])
    return runs


def test_all_tasks_of_a_run_are_read_and_averaged(scored: Any) -> None:
    records = read_runs(scored.folder)
    assert records.problems == []
    values = sorted(records.runs["benchmarks/average/table8"])
    assert values == pytest.approx([24.5, 34.5, 44.5])
    assert sorted(records.runs["benchmarks/average/ablations"]) == pytest.approx([(29 + 30 + 31) / 3, 40.0, 50.0])
    assert len(records.rows["benchmarks"]) == 3 * 12
    assert not [name for name in records.runs if str(name).startswith("measure.benchmarks")]


def test_the_page_has_our_models_others_and_the_printed_rows(scored: Any) -> None:
    records = read_runs(scored.folder)
    found = evidence(records)["table08_benchmarks"]
    page = experiment_page(records.grids, found, records, [])
    tables = {block.caption: block for block in page.blocks if isinstance(block, Table)}
    ten = tables["Ten benchmarks"]
    assert ten.head == ["model", "source", *(benchmark.name for benchmark in LISTS["table8"]), "average"]
    text = render(page.blocks, lambda _: None)
    assert re.search(r"\| pro_1b +\| trained here +\| +30\.0 .*\| +34\.50 ", text)
    assert re.search(r"\| Owner/Other +\| measured here +\|[ –|]* 27\.0 ", text)
    assert re.search(r"\| PanGu-π-1B-Pro +\| printed +\| +46\.50 .*\| +51\.28 ", text)
    assert text.count("| printed") == 13
    assert "average of 10 benchmarks" in text and "average of 3 benchmarks" in text
    # Our scores and the paper's are in percent.
    printed = tables["The paper's numbers"]
    assert {"here: c eval", "paper: c eval", "here: average", "paper: average"} <= set(map(str, printed.head))


def test_alternatives_of_one_measure_are_not_mixed(runs: Any) -> None:
    identity = runs.add("a", 0, 2.5)
    second = runs.measure(identity, "bits_per_byte", {"test/bits_per_byte/all": 9.0}, max_bytes=5)
    (problem,) = read_runs(runs.folder).problems
    assert "different measurements of bits_per_byte" in problem
    runs.grid("wanted", {identity: {}})
    path = next((runs.folder / "grids").glob("*.json"))
    content = json.loads(path.read_text())
    content["cells"][0]["measures"] = [second]
    path.write_text(json.dumps(content))
    assert read_runs(runs.folder).runs["test/bits_per_byte/all"].tolist() == [9.0]


def test_scores_of_other_models_are_kept_where_a_page_shows_them(scored: Any, tmp_path: Any) -> None:
    write_reference(read_runs(scored.folder), tmp_path / "reference")
    back = read_reference(tmp_path / "reference")
    assert back.rows["models"]["name"].tolist() == ["Owner/Other"]
    assert "benchmarks" not in back.rows


def test_bigrams_of_different_budgets_do_not_separate_arms(runs: Any) -> None:
    """An arm with two rounds has more tokens, and its table of bigrams is counted on as many."""
    cells = {}
    for rounds, tokens in ((1, 100), (2, 150)):
        identity = runs.add(f"rounds {rounds}", 0, 2.5)
        runs.measure(identity, "bigrams", {"test/bigrams/bits_per_byte/all": 3.0}, max_bytes=100000, tokens=tokens)
        cells[identity] = {"arm": f"rounds_{rounds}"}
    runs.grid("rounds", cells)
    (setting,) = settings(evidence(read_runs(runs.folder))["rounds"])
    assert setting.arms == ["rounds_1", "rounds_2"]
