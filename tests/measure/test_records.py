"""Files of measures."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.errors import RunFailed, UserError
from tinylm_ablate.measure.records import read_record, read_rows, record_path, stem, write_record
from tinylm_ablate.measure.subject import Result

SETTINGS = {"max_bytes": 2000, "kind": "auto", "nothing": None}
ROWS = [{"language": "zh", "nats": 1.5, "bytes": 3}, {"language": "en", "nats": 0.25, "bytes": 7}]
RESULT = Result({"test/bits_per_byte/en": 1.25, "test/bits_per_byte/en/documents": 3}, ROWS)
STEM = stem("bits_per_byte", SETTINGS)


def test_a_record_reads_back_with_its_rows(tmp_path: Path) -> None:
    write_record(tmp_path, "bits_per_byte", SETTINGS, RESULT, 2.5)
    assert sorted(path.name for path in (tmp_path / "measures").iterdir()) == [f"{STEM}.json", f"{STEM}.parquet"]
    record = read_record(tmp_path, STEM)
    assert record is not None
    about = record.pop("provenance")
    assert about["machine"]["cores"] >= 1
    assert record == {
        "schema": 1, "measure": "bits_per_byte", "settings": SETTINGS, "metrics": RESULT.metrics, "seconds": 2.5
    }  # fmt: skip
    assert read_rows(tmp_path, STEM) == ROWS


def test_a_measure_without_rows_has_no_second_file(tmp_path: Path) -> None:
    write_record(tmp_path, "bits_per_byte", SETTINGS, Result({"a": 1.0}), 0.0)
    assert [path.name for path in (tmp_path / "measures").iterdir()] == [f"{STEM}.json"]
    assert read_rows(tmp_path, STEM) == []


def test_missing_measurements_are_none(tmp_path: Path) -> None:
    assert read_record(tmp_path, STEM) is None
    assert read_rows(tmp_path, STEM) == []


values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.text(min_size=1), values | st.lists(values, max_size=3), max_size=5))
def test_a_name_is_a_file_name_and_depends_only_on_the_settings(settings: dict[str, Any]) -> None:
    name = stem("cloze", settings)
    assert name == stem("cloze", dict(reversed(settings.items())))
    assert name.startswith("cloze.") and name.removeprefix("cloze.").isalnum() and len(name) < 64
    assert name != stem("cloze", {**settings, "another setting": 1})
    assert name != stem("layer_skip", settings)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff\xfe"])
def test_a_damaged_record_is_reported(tmp_path: Path, content: bytes) -> None:
    write_record(tmp_path, "bits_per_byte", SETTINGS, RESULT, 2.5)
    record_path(tmp_path, STEM).write_bytes(content)
    with pytest.raises(UserError, match=rf"{STEM}\.json: the record is damaged; remove it to measure it again"):
        read_record(tmp_path, STEM)


def test_damaged_rows_are_reported(tmp_path: Path) -> None:
    write_record(tmp_path, "bits_per_byte", SETTINGS, RESULT, 2.5)
    record_path(tmp_path, STEM).with_suffix(".parquet").write_bytes(b"cut short")
    with pytest.raises(UserError, match=rf"{STEM}\.parquet: damaged .* remove it and its \.json file"):
        read_rows(tmp_path, STEM)


def test_a_number_that_is_not_finite_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"bits_per_byte of .*: a is nan, c is inf; the weights may have diverged"):
        write_record(tmp_path, "bits_per_byte", SETTINGS, Result({"a": math.nan, "b": 1, "c": math.inf}, ROWS), 0.0)
    assert list(tmp_path.iterdir()) == []


def test_no_column_is_lost_where_rows_differ(tmp_path: Path) -> None:
    rows = [{"task": "a", "acc": 1.0}, {"task": "b", "exact_match": 0.5, "filter": "none"}]
    write_record(tmp_path, "benchmarks", SETTINGS, Result({}, rows), 0.0)
    empty = {"acc": None, "exact_match": None, "filter": None}
    assert read_rows(tmp_path, stem("benchmarks", SETTINGS)) == [{**empty, **row} for row in rows]


KILLED = """
import os, signal, sys
from pathlib import Path
from tinylm_ablate.measure import records
from tinylm_ablate.measure.subject import Result
write, calls = records.write_atomic, []
def counted(path, content):
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(path)
    write(path, content)
records.write_atomic = counted
records.write_record(Path(sys.argv[1]), "bits_per_byte", {"max_bytes": 2000}, Result({"a": 1.0}, [{"nats": 1.0}]), 1.0)
"""


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_kill_leaves_a_complete_record_or_none(tmp_path: Path, after: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(after)], check=False, env=dict(os.environ))
    assert done.returncode == (-signal.SIGKILL if after < 2 else 0)
    name = stem("bits_per_byte", {"max_bytes": 2000})
    record = read_record(tmp_path, name)
    assert (record is not None) == (after == 2)
    assert read_rows(tmp_path, name) == ([{"nats": 1.0}] if after else [])
    # A repetition completes it.
    write_record(tmp_path, "bits_per_byte", {"max_bytes": 2000}, Result({"a": 1.0}, [{"nats": 1.0}]), 1.0)
    assert json.loads(record_path(tmp_path, name).read_text())["metrics"] == {"a": 1.0}
