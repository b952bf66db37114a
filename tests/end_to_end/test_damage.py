"""Damage to each kind of file in a folder of runs: commands read it, repair it or report it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.execute.outcomes import outcome
from tests.helpers import TINY, run_command

GRID = [
    "-m", *TINY, "arch.depth=1", "seed=0", "rounds=two", "rounds.parts=2", "rounds.rule=loss", "train.tokens=1024",
    "train.log_every=1", "evaluate.decode.measure=true", "evaluate.decode.batch=2", "evaluate.decode.new_tokens=4",
    "evaluate.decode.repeats=1", "train.precision=fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(small_data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished grid in ``runs``."""
    folder = tmp_path_factory.mktemp("whole")
    ended = run_command(*GRID, *small_data, folder=folder)
    assert ended.code == 0, ended.text
    return folder


def kinds(folder: Path) -> dict[str, Path]:
    """Return one file of each kind in a folder of runs, by a pattern of its name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("runs/**/*")):
        if path.is_file() and path.suffix != ".lock":
            parent = path.parent.name if path.parent.name in ("measures", "model", "grids", "decode", "speed") else ""
            found.setdefault(f"{parent}/{path.name.partition('.')[0] if len(path.stem) < 16 else ''}{path.suffix}", path)
    return found


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    yield tmp_path


@pytest.mark.slow
def test_a_damaged_file_of_any_kind_is_repaired_or_reported(small_data: list[str], place: Path, whole: Path) -> None:
    damaged = kinds(place)
    assert len(damaged) > 15, damaged
    for number, (kind, path) in enumerate(damaged.items()):
        before = path.read_bytes()
        path.write_bytes((b"[5]", b"\x00\xff garbage\n", b"")[number % 3])
        ended = run_command(*GRID, *small_data, folder=place)  # raises any defect
        assert ended.code in (0, 1, 2) and "Traceback" not in ended.text, (kind, ended.text)
        assert not ended.code or path.name in ended.text or path.parent.name in ended.text, (kind, ended.text)
        path.write_bytes(before)
        shutil.rmtree(place / "runs" / "errors", ignore_errors=True)
    assert run_command("gc", "--runs-dir", "runs", folder=place).code == 0
    assert run_command(*GRID, *small_data, folder=place).code == 0
    assert outcome(place / "runs").keys() == outcome(whole / "runs").keys()


@pytest.mark.parametrize("damage", ["emptied", "cut", "a broken line"])
def test_a_round_refuses_the_damaged_curve_of_the_one_before(
    damage: str, small_data: list[str], place: Path, whole: Path
) -> None:
    runs = [path.parent for path in (place / "runs").glob("*/metrics.json")]
    first = next(path for path in runs if (path / "batch_losses.parquet").exists())
    curve = first / "curve.jsonl"
    lines = curve.read_text().splitlines(keepends=True)
    for path in runs:  # the later rounds are trained again
        if not (path / "batch_losses.parquet").exists():
            shutil.rmtree(path)
    text = {"emptied": "", "cut": "".join(lines[:-1]), "a broken line": "".join([*lines[:1], "5\n", *lines[2:]])}[damage]
    curve.write_text(text)
    ended = run_command(*GRID, *small_data, folder=place)
    assert ended.code == 1 and f"{os.path.relpath(first, place)}: its weights and record cannot be read" in ended.text
    shutil.rmtree(first)
    assert run_command(*GRID, *small_data, folder=place).code == 0
    found, expected = outcome(place / "runs"), outcome(whole / "runs")
    assert {name: files["weights"] for name, files in found.items()} == {
        name: files["weights"] for name, files in expected.items()
    }
