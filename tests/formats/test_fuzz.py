"""Damaged and hostile files are read or refused with a message; ``benchmarks/fuzz.py`` tries many more."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import READERS, attempt, mutated
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.gguf_file import GgufFile

pytest.importorskip("gguf")


@pytest.fixture(scope="module", params=READERS)
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, bytes]:
    path = READERS[request.param].make(tmp_path_factory.mktemp("valid"))
    return request.param, path, path.read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_mutated_file_is_read_or_refused(valid: tuple[str, Path, bytes], seed: int) -> None:
    name, path, content = valid
    _, refusal = attempt(READERS[name], path, content)
    assert refusal is None
    _, refusal = attempt(READERS[name], path, mutated(content, random.Random(seed), READERS[name].json))
    assert refusal is None or (path.parent.name in refusal and "Traceback" not in refusal)


def header(tensors: int = 0, entries: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + rest


def entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(tensors=2**61), "it declares 2,305,843,009,213,693,952 tensors"),
        (header(entries=2**61), "2,305,843,009,213,693,952 entries"),
        (header(1, 1, entry("a", 9, struct.pack("<IQ", 8, 2**61)) + b" " * 64), "'a': 2,305,843,009,213,693,952 texts"),
        (header(1, 1, entry("a", 9, struct.pack("<IQ", 0, 2**40)) + b" " * 64), "'a': it ends within"),
        (header(1, 1, entry("a", 9, struct.pack("<IQ", 9, 1)) + b" " * 64), "'a': an array of the unknown type 9"),
        (header(1, 1, entry("a", 8, struct.pack("<Q", 2**40)) + b" " * 64), "'a': a text of 1,099,511,627,776 bytes"),
        (header(1, 2, entry("a", 0, b"1") * 2 + b" " * 64), "'a' occurs twice"),
        (header(1, 0, struct.pack("<Q1sIQIQ", 1, b"t", 1, 2**60, 0, 0) + b" " * 64), "is not within the file"),
        (header(1, 0, struct.pack("<Q1sIQIQ", 1, b"t", 1, 4, 0, 2**63) + b" " * 64), "is not within the file"),
        (header(1, 0, struct.pack("<Q1sIQIQ", 1, b"t", 1, 4, 99, 0) + b" " * 64), "type 99, which cannot be expanded"),
        (header(1, 0, struct.pack("<Q1sI", 1, b"t", 2**31) + b" " * 64), "2147483648 dimensions"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648; allowed: 2, 3, little-endian"),
    ],
)
def test_a_gguf_that_declares_more_than_it_holds_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.gguf").write_bytes(content)
    with pytest.raises(UserError) as caught:
        GgufFile(tmp_path / "bomb.gguf")
    assert "bomb.gguf: not a complete GGUF file" in str(caught.value) and message in str(caught.value)
