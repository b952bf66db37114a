"""Folders that are moved, commands in other folders, sessions with other packages, and records of other versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.execute.outcomes import litter, outcome
from tests.helpers import TINY, run, run_command
from tinylm_ablate.errors import Pruned, UserError
from tinylm_ablate.execute.perform import perform
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.records import read_record
from tinylm_ablate.settle import settle
from tinylm_ablate.tasks.run import read_metrics

#: A run that inherits from a parent, so that its folder refers to another one.
CHILD = [
    *TINY, "train.tokens=1536", "train.log_every=1", "train.precision=fp32", "train.checkpoint_minutes=1e-9", "arch.depth=1",
    "init=inherit", "init.parent_depth=3", "init.parent_width=32", "init.parent_ffn_width=48", "init.keep_first=1",
    "init.keep_last=0",
]  # fmt: skip


def stopped(words: list[str], step: int = 7) -> Path:
    """Folder of a run that was stopped in training, as by a signal."""
    config = compose(words)
    settled = settle(config)
    with pytest.raises(Pruned):
        perform([("the run", settled)], config, watch=lambda row: row["step"] == step, quiet=True)
    assert list((settled.folder / "checkpoint").glob("step-*")) and not (settled.folder / "metrics.json").exists()
    return settled.folder


@pytest.fixture(scope="module")
def whole(small_data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an undisturbed run and its parent."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    run(compose([*CHILD, *small_data, f"runs_dir={runs}"]))
    return runs


def test_a_run_resumes_after_its_folder_was_moved(
    whole: Path, small_data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a command in another working directory, with the text moved as well."""
    (text,) = [word.partition("=")[2] for word in small_data if word.startswith("data.path=")]
    others = [word for word in small_data if not word.startswith("data.path=")]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    shutil.copy(text, one / "text.jsonl")
    monkeypatch.chdir(one)
    identity = stopped([*CHILD, *others, "data.path=text.jsonl", "runs_dir=runs"]).name
    (one / "runs").rename(two / "moved")
    (one / "text.jsonl").rename(two / "renamed.jsonl")
    ended = run_command(*CHILD, *others, f"data.path={two}/renamed.jsonl", "runs_dir=two/moved", folder=tmp_path)
    assert ended.code == 0 and identity in {path.name for path in (two / "moved").iterdir()}, ended.text
    assert not (one / "runs").exists() and not (tmp_path / "runs").exists()
    assert outcome(two / "moved") == outcome(whole)
    assert not litter(two / "moved")
    # Finished and moved again: nothing is left to do for a run, a grid, or the status.
    (two / "moved").rename(tmp_path / "last")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "last").glob("*/*.json")}
    arguments = [*CHILD, *others, f"data.path={two}/renamed.jsonl", f"runs_dir={tmp_path}/last"]
    assert "already finished" in run_command(*arguments, folder=one).out
    grid = run_command("-m", *arguments, "seed=0", folder=two)
    assert grid.code == 0 and "1 skipped" in grid.err, grid.text
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_session_with_another_package_is_reported_and_both_are_listed(
    whole: Path, small_data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*CHILD, *small_data, f"runs_dir={tmp_path}/runs"]
    folder = stopped(words)
    before = json.loads((folder / "provenance.json").read_text())
    present = before["packages"]["torch"]
    assert "earlier" not in before
    before["packages"]["torch"] = "2.0.1"  # as after a session with that version
    before["machine"]["processor"] = "Z80"
    (folder / "provenance.json").write_text(json.dumps(before))
    capsys.readouterr()
    run(compose(words))
    output = capsys.readouterr().err
    assert f"torch {present} (previously 2.0.1)" in output and "(previously Z80)" in output
    assert "provenance.json lists both" in output
    for kept in (json.loads((folder / "provenance.json").read_text()), read_metrics(folder)["provenance"]):
        assert kept["packages"]["torch"] == present
        (earlier,) = kept["earlier"]
        assert (earlier["packages"]["torch"], earlier["machine"]["processor"]) == ("2.0.1", "Z80")
    assert outcome(tmp_path / "runs") == outcome(whole)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"packages": 5, "machine": []}'])
def test_a_damaged_provenance_stops_no_run(content: str, whole: Path, small_data: list[str], tmp_path: Path) -> None:
    words = [*CHILD, *small_data, f"runs_dir={tmp_path}/runs"]
    shutil.copytree(whole, tmp_path / "runs")
    folder = settle(compose(words)).folder
    shutil.rmtree(folder)
    stopped(words, step=11)
    (folder / "provenance.json").write_text(content)
    run(compose(words))
    assert json.loads((folder / "provenance.json").read_text())["earlier"] == [None]
    assert outcome(tmp_path / "runs") == outcome(whole)


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_record_of_another_version_is_reported_and_kept(whole: Path, small_data: list[str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    words = [*CHILD, *small_data, f"runs_dir={runs}"]
    folder = settle(compose(words)).folder
    (measure,) = folder.glob("measures/bits_per_byte.*.json")
    for path, other in ((folder / "metrics.json", 1), (measure, 0)):
        before = path.read_bytes()
        edited(path, schema=other)
        stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
        for command in (words, ["-m", *words, "seed=0"]):
            ended = run_command(*command)
            assert "Traceback" not in ended.err and f"schema {other}" in ended.err, ended.text
            assert f"{path}: " in ended.err
        assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
        path.write_bytes(before)
    edited(folder / "metrics.json", schema=1)
    with pytest.raises(UserError, match="the record has schema 1, but this version reads 2"):
        read_metrics(folder)
    edited(measure, schema=0)
    with pytest.raises(UserError, match="the record has schema 0, but this version reads 1; remove it to measure it again"):
        read_record(folder, measure.stem)
