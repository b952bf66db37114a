"""Reading of a folder of runs: content of the frames, and reported omissions."""

from __future__ import annotations

import json
import math
import os

import pandas as pd
import pytest

from tinylm_ablate.frames.flat_rows import flatten, frame
from tinylm_ablate.frames.grid_file import parse_grid
from tinylm_ablate.frames.long_tables import thin_curve
from tinylm_ablate.frames.run_folders import read_runs

BITS = "test/bits_per_byte/all"


def test_a_run_is_one_row_of_settings_and_measures(runs):
    identity = runs.add("a", 3, 2.5, depth=9)
    runs.measure(identity, "decoding_speed", {"decode/tokens_per_second": 120.0}, batch=20)
    records = read_runs(runs.folder)
    (row,) = records.runs.to_dict("records")
    assert (row["identity"], row["seed"], row["arch.depth"], row["shape.width"]) == (identity, 3, 9, 284)
    assert (row[BITS], row["train/seconds"], row["decode/tokens_per_second"]) == (2.5, 500.0, 120.0)
    assert row["measure.decoding_speed.batch"] == 20 and row["measure.bits_per_byte.max_bytes"] == 100000
    assert records.problems == []
    # Folders and addresses are private, and lists of packages do not affect the numbers.
    assert not [name for name in records.runs if name.startswith(("runs_dir", "tracking", "provenance.packages"))]
    assert "secret" not in records.runs.to_csv()


def test_long_frames_hold_curves_documents_and_the_rows_of_measures(runs):
    identity = runs.add("a", 0, 2.5)
    rows = pd.DataFrame({"skipped": [0, 1], "first": [0, 0], "bits_per_byte": [2.5, 3.0], "cloze": [0.3, 0.2]})
    runs.measure(identity, "layer_skip", {}, rows)
    found = read_runs(runs.folder).rows
    assert set(found) == {"curves", "documents", "questions", "layer_skip"}
    assert len(found["curves"]) <= 64 and found["curves"]["tokens"].iloc[-1] == 300_000
    documents = found["documents"]
    assert set(documents["split"]) == {"test"} and len(documents) == 80
    english = documents[documents["language"] == "en"]
    assert english["nats"].sum() / english["bytes"].sum() / math.log(2) == pytest.approx(2.4, abs=1e-4)
    assert found["layer_skip"]["bits_per_byte"].tolist() == [2.5, 3.0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: record | {"identity": "../../../x"}, "not sixteen hexadecimal digits"),
        (lambda record: record | {"identity": "0" * 16}, "not the name of its folder"),
        (lambda record: record | {"schema": 1}, "schema 1 is not 2"),
        (lambda record: record | {"seed": "zero"}, "seed='zero' is not a whole number"),
        (lambda record: record | {"metrics": {"train/loss": float("nan")}}, "train/loss=nan is not a finite number"),
        (lambda record: record | {"metrics": {"train/loss": "low"}}, "train/loss='low' is not a number"),
        (lambda record: {key: value for key, value in record.items() if key != "metrics"}, "'metrics' is missing"),
        (lambda record: [record], "TypeError"),
    ],
)
def test_a_damaged_record_is_reported_and_the_others_are_read(runs, damage, message):
    good, bad = runs.add("good", 0, 2.5), runs.add("bad", 0, 2.5)
    path = runs.folder / bad / "metrics.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    records = read_runs(runs.folder)
    assert records.runs["identity"].tolist() == [good]
    (problem,) = records.problems
    assert str(path) in problem and message in problem


def test_a_damaged_measure_affects_only_itself(runs):
    identity = runs.add("a", 0, 2.5)
    folder = runs.folder / identity / "measures"
    next(folder.glob("cloze.*.json")).write_text("{")
    (folder / "../measures/notes.json").write_text("{}")
    records = read_runs(runs.folder)
    assert records.runs[BITS].tolist() == [2.5] and "test/cloze/all" not in records.runs
    assert len(records.problems) == 2 and "questions" not in records.rows


def test_inconsistent_documents_are_not_used(runs):
    identity = runs.add("a", 0, 2.5)
    path = next((runs.folder / identity / "measures").glob("bits_per_byte.*.json"))
    content = json.loads(path.read_text())
    content["metrics"]["test/bits_per_byte/en"] += 0.01
    path.write_text(json.dumps(content))
    records = read_runs(runs.folder)
    assert "its en items give bits_per_byte 2.40000, but its metrics say 2.4" in records.problems[0]
    assert "documents" not in records.rows


def test_the_measurement_that_the_grid_names_counts(runs):
    identity = runs.add("a", 0, 2.5)
    speeds = (1, 2, 3)
    wanted, *_ = [
        runs.measure(identity, "decoding_speed", {"decode/tokens_per_second": float(speed)}, batch=speed) for speed in speeds
    ]
    path = runs.grid("g", {identity: {"seed": 0}})
    content = json.loads(path.read_text())
    content["cells"][0]["measures"] = [wanted]
    path.write_text(json.dumps(content))
    records = read_runs(runs.folder)
    assert records.runs["decode/tokens_per_second"].tolist() == [1.0] and records.problems == []


def test_the_newer_of_two_measurements_of_one_point_is_kept(runs):
    identity = runs.add("a", 0, 2.5)
    folder = runs.folder / identity
    record = json.loads((folder / "metrics.json").read_text())
    record["config"]["train"]["batch_tokens"] = 100
    (folder / "metrics.json").write_text(json.dumps(record))
    measures = folder / "points" / "000000003" / "measures"
    measures.mkdir(parents=True)
    for name, bits, changed in (("0123456789abcdef", 2.0, 2000), ("fedcba9876543210", 3.0, 1000)):
        path = measures / f"bits_per_byte.{name}.json"
        path.write_text(json.dumps({"schema": 1, "settings": {}, "metrics": {BITS: bits}}))
        os.utime(path, (changed, changed))
    along = read_runs(runs.folder).rows["along"]
    assert along[["identity", "tokens", "metric", "value"]].to_numpy().tolist() == [[identity, 300, BITS, 2.0]]


def test_unfinished_and_failed_runs_are_reported(runs):
    for name, error in (("a", None), ("b", "Traceback\nValueError: no text\n")):
        folder = runs.folder / (name * 16)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("")
        if error is not None:
            (folder / "error.txt").write_text(error)
    assert [problem.partition(": ")[2] for problem in read_runs(runs.folder).problems] == [
        "not finished; the command that started it resumes it",
        "failed: ValueError: no text",
    ]


def test_a_grid_with_cells_outside_the_folder_is_omitted(runs):
    identity = runs.add("a", 0, 2.5)
    runs.grid("fine", {identity: {"seed": 0}})
    runs.grid("bad", {"../../x": {"seed": 0}})
    records = read_runs(runs.folder)
    assert [grid.name for grid in records.grids] == ["fine"]
    assert "'../../x' is not sixteen hexadecimal digits" in records.problems[0]
    with pytest.raises(ValueError, match="identity="):
        parse_grid({"identity": "/etc/passwd", "name": "x", "title": "x", "cells": []})


def test_columns_have_one_type_each():
    rows = [
        {"identity": "a", "seed": 0, "width": "auto", "flag": True, "number": 1, "half": 0.5, "none": None},
        {"identity": "b", "seed": 1, "width": 20.0, "flag": None, "number": 2, "half": 1, "list": [1, 2]},
    ]
    table = frame(rows)
    assert list(table)[:2] == ["identity", "seed"] and table["seed"].dtype == "int64"
    assert table["width"].tolist() == ["auto", "20"] and table["number"].dtype == "int64" and table["half"].dtype == "float64"
    assert table["flag"].dtype == "boolean" and table["list"].tolist()[1] == "[1,2]"


def test_an_incomplete_record_is_not_a_record():
    with pytest.raises(ValueError, match="'config' is missing"):
        flatten({"identity": "0" * 16, "seed": 0, "metrics": {}})


def test_a_curve_is_thinned_to_means_and_survives_an_incomplete_line(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text("".join(json.dumps({"tokens": n, "loss": float(n)}) + "\n" for n in range(1, 129)) + '{"tokens": 12')
    table = thin_curve(path).to_pandas()
    assert len(table) == 64 and table["tokens"].tolist()[:2] == [2, 4] and table["loss"].tolist()[:2] == [1.5, 3.5]
