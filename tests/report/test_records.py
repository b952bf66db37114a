from __future__ import annotations

import dataclasses
import json
import math

import pytest

from tinylm_ablate.config import walk
from tinylm_ablate.errors import UserError
from tinylm_ablate.report import read_grids, read_records
from tinylm_ablate.report.records import flat_record, frame, to_csv


def test_a_record_is_a_row(runs):
    runs.add("bbbb", 1, 2.0)
    runs.add("1234567890123456", 0, 1.5, depth=40)
    records = read_records(runs.folder)
    assert records["identity"].tolist() == ["1234567890123456", "bbbb"]
    assert records["seed"].tolist() == [0, 1]
    first = records.iloc[0]
    assert first["arch.depth"] == first["shape.depth"] == 40
    assert first["parameters.total"] == 900_040
    assert first["test/bits_per_byte/all"] == 1.5
    assert first["vocabulary.bytes_per_token.zh"] == 3.0
    assert first["text.fingerprint"] == "1234567890123456"
    assert first["init.method"] == "random" and first["origin.origin"] == "drawn"
    assert not bool(first["arch.tied"])
    assert not any(column.startswith(("text.sources", "provenance.packages", "schema")) for column in records.columns)


def test_settings_that_can_change_numbers_are_kept_and_others_are_not(compose):
    config = compose(["scale=s32", "arch.depth=20", "tracking.uri=http://me:secret@server"])
    row = flat_record({"identity": "a", "seed": 0, "config": dataclasses.asdict(config), "metrics": {"m": 1.0}})
    for key, value, rule in walk(config):
        if rule.get("identity") != "none" or key == "scale.name":
            assert row[key] == value, key
        else:
            assert key not in row
    assert "secret" not in to_csv([row])


def test_what_cannot_be_read_is_told(runs):
    runs.add("good", 0, 2.0)
    for name, text in {
        "cut": '{"schema": 1, "iden',
        "list": "[]",
        "newer": json.dumps({"schema": 99}),
        "part": json.dumps({"schema": 1, "identity": "part", "seed": 0, "config": {}}),
        "binary": "\x00\x01",
        "words": json.dumps({"identity": "words", "seed": 0, "config": {}, "schema": 1, "metrics": {"test/cloze/en": "many"}}),
        "half": json.dumps({"identity": "half", "seed": 0.5, "config": {}, "schema": 1, "metrics": {}}),
    }.items():
        (runs.folder / name).mkdir()
        (runs.folder / name / "metrics.json").write_text(text)
    for name in ("running", "failed"):
        (runs.folder / name).mkdir()
        (runs.folder / name / "config.yaml").write_text("")
    (runs.folder / "failed" / "error.txt").write_text("Traceback\nValueError: loss is nan\n")
    (runs.folder / "cache").mkdir()
    problems: list[str] = []
    assert read_records(runs.folder, problems)["identity"].tolist() == ["good"]
    text = "\n".join(problems)
    assert len(problems) == 9
    assert "test/cloze/en=many is no finite number" in text and "seed=0.5 is no whole number" in text
    assert "schema 99 is newer" in text and "'metrics' is missing" in text
    assert "running: not finished" in text and "failed: failed: ValueError: loss is nan" in text
    assert "cache" not in text


def test_a_broken_grid_is_told(runs):
    runs.grid("good", {"a": {"arch.depth": 1}})
    (runs.folder / "grids" / "bad.json").write_text('{"name": "bad"}')
    problems: list[str] = []
    assert [grid.name for grid in read_grids(runs.folder, problems)] == ["good"]
    assert len(problems) == 1 and "bad.json" in problems[0]


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be read as a folder of runs"):
        read_records(tmp_path / "file")
    assert read_records(tmp_path / "absent").empty


def test_csv_keeps_every_value():
    rows = [
        {"identity": "12e4", "seed": 0, "x": 0.1 + 0.2, "y": True, "z": None, "w": "100883/s", "v": [1, "a"]},
        {"identity": "0001", "seed": 2, "x": 1e-300, "y": False, "u": 'a,b\n"c"'},
    ]
    records = frame(to_csv(rows))
    assert records["identity"].tolist() == ["12e4", "0001"]
    assert records["x"].tolist() == [0.1 + 0.2, 1e-300]
    assert records["y"].tolist() == [True, False]
    assert math.isnan(records["z"][0]) and records["w"][0] == "100883/s" and records["v"][0] == '[1,"a"]'
    assert records["u"][1] == 'a,b\n"c"'
