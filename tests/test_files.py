"""Atomic files, and fingerprints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.files import building, canonical_json, fingerprint, write_atomic

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain))
def test_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


def test_fingerprint_is_the_same_in_another_process() -> None:
    value = {"a": [1, 2.5, None, True], "b": {"c": "词"}}
    code = f"from tinylm_ablate.files import fingerprint; print(fingerprint({value!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == fingerprint(value)


def test_a_whole_float_is_the_integer_that_it_equals() -> None:
    assert canonical_json({"a": 1.0}) == canonical_json({"a": 1})


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), float("inf"), {1: 2}, len])
def test_values_without_a_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json({"key": value})


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(TypeError):
        write_atomic(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_fails_disappears(tmp_path: Path) -> None:
    def build() -> None:
        with building(tmp_path / "folder") as temporary:
            (temporary / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_builders_wins(tmp_path: Path) -> None:
    with building(tmp_path / "folder") as slow:
        (slow / "file").write_text("slow")
        with building(tmp_path / "folder") as quick:
            (quick / "file").write_text("quick")
    assert (tmp_path / "folder" / "file").read_text() == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
