"""Files that no grid needs any longer are listed by ``tinylm-ablate gc``, and removed on request, but no others."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.helpers import TINY, run, run_command
from tinylm_ablate.config import Config
from tinylm_ablate.execute.litter import litter
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.leases import Leases, machine
from tinylm_ablate.settle import settle


@pytest.fixture
def config(small_data: list[str], tmp_path: Path) -> Config:
    """Two rounds, so that one run needs another; the cache is in the folder of the runs, as by default."""
    words = [*TINY, *small_data, f"runs_dir={tmp_path}/runs", "train.tokens=1024", "rounds.count=2", "rounds.parts=2"]
    return compose(words)


def found(runs: Path) -> dict[str, str]:
    return {str(item.path.relative_to(runs)): item.why for item in litter(runs)}


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def old(path: Path, content: str | None = "x") -> Path:
    """Make a file or folder appear unchanged for two days."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_text(content)
    os.utime(path, (time.time() - 200_000,) * 2)
    return path


@pytest.mark.timeout(300)
def test_gc_removes_what_nothing_needs(config: Config, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    settled = settle(config)
    assert settled.previous is not None
    previous = settled.previous.identity
    run(config)
    assert found(runs).keys() <= {"claims", "orders", "errors"}  # at most empty folders

    # Recent partial files, and what an active worker holds, are kept.
    (settled.folder / ".metrics.json.12345678").write_text("{")
    foreign = {"machine": "elsewhere/1", "pid": 7, "since": "", "seconds": 60, "session": "", "crashes": 0}
    (runs / "claims").mkdir(exist_ok=True)
    (runs / "claims" / f"measure-{previous}-bits.1").write_text(json.dumps(foreign))
    # Removed: old partial files, ended leases, old orders, checkpoints of a finished run, and a corpus without runs.
    old(settled.folder / ".model.12345678" / "x")
    old(settled.folder / ".model.12345678", None)
    old(settled.folder / "measures" / ".bits.json.12345678")
    old(runs / "orders" / "feed.json")
    old(runs / "errors" / f"corpus-{settled.text}.txt")
    (runs / "claims" / f"run-{settled.identity}.3").write_text(json.dumps({**foreign, "machine": machine()}))
    old(settled.folder / "checkpoint" / "step-000000001" / "state.json")
    old(runs / "cache" / "text" / "0123456789abcdef" / "corpus.json")
    old(runs / "cache" / "text" / "0123456789abcdef", None)
    name = settled.identity
    expected = {
        f"{name}/.model.12345678": "half-written, by a worker that was killed",
        f"{name}/measures/.bits.json.12345678": "half-written, by a worker that was killed",
        f"{name}/checkpoint": "checkpoints of a run that is finished",
        "orders/feed.json": "the order or log of a command that has ended",
        f"errors/corpus-{settled.text}.txt": "the error of a task that was done afterwards",
        f"claims/run-{name}.3": "the lease of a worker that has ended",
        "cache/text/0123456789abcdef": "a corpus that no run uses",
    }
    assert found(runs) == expected
    before = everything(runs)
    dry = run_command("gc", "--runs-dir", str(runs))
    assert dry.code == 0 and "can be removed with --delete" in dry.out
    assert everything(runs) == before
    assert run_command("gc", "--runs-dir", str(runs), "--delete").code == 0
    gone = before - everything(runs)
    assert all(any(path == item or path.startswith(f"{item}/") for item in expected) for path in gone)
    assert set(expected) <= gone

    # Without its child, the run of the first round is not needed, but the worker of its measure keeps it until it ends.
    shutil.rmtree(settled.folder)
    assert previous not in found(runs)
    (runs / "claims" / f"measure-{previous}-bits.1").unlink()
    assert found(runs)[previous] == "a run that nothing needs any more"
    assert "a corpus that no run uses" in found(runs).values() and "token shards that no run uses" in found(runs).values()


def test_gc_of_a_missing_folder_is_reported(tmp_path: Path) -> None:
    ended = run_command("gc", "--runs-dir", str(tmp_path / "absent"))
    assert ended.code == 2 and f"{tmp_path}/absent: no such folder of runs" in ended.err


@pytest.mark.timeout(300)
def test_the_next_command_removes_leftovers_of_killed_workers(small_data: list[str], tmp_path: Path) -> None:
    config = compose([*TINY, *small_data, f"runs_dir={tmp_path}/runs"])
    run(config)
    settled = settle(config)
    key, claims = f"run-{settled.identity}", tmp_path / "runs" / "claims"
    mine = {"machine": machine(), "pid": 7, "since": "", "seconds": 60, "session": "", "crashes": 0}
    other = {**mine, "machine": "elsewhere/1"}
    (claims / f"{key}.2").write_text(json.dumps(mine))
    (claims / f"{key}.lock").touch()
    (claims / "run-0123456789abcdef.1").write_text(json.dumps(other))
    (settled.folder / ".metrics.json.12345678").write_text("{")
    (settled.folder / ".model.12345678").mkdir()
    (settled.folder / "error.txt").write_text("it failed once")
    run(config)
    assert [path.name for path in claims.iterdir()] == ["run-0123456789abcdef.1"]
    assert not list(settled.folder.glob(".m*")) and not (settled.folder / "error.txt").exists()


def test_leases_are_released_manually(tmp_path: Path) -> None:
    leases = Leases(tmp_path, 60)
    other = {"machine": "elsewhere/1", "pid": 7, "since": "noon", "seconds": 60, "session": "", "crashes": 0}
    leases.folder.mkdir()
    for key in ("run-0123456789abcdef", "measure-0123456789abcdef-bits.1a2b", "run-fedcba9876543210"):
        (leases.folder / f"{key}.4").write_text(json.dumps(other))
    found = leases.unclaim("0123456789abcdef")
    assert {key: holder.name for key, holder in found.items()} == {
        "run-0123456789abcdef": "elsewhere, process 7, since noon",
        "measure-0123456789abcdef-bits.1a2b": "elsewhere, process 7, since noon",
    }
    assert set(leases.held()) == {"run-fedcba9876543210"}
    assert leases.unclaim("0123456789abcdef") == {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("words", [[], ["-m"]], ids=["run", "grid"])
def test_grid_unclaim_takes_a_run_from_another_machine(words: list[str], small_data: list[str], tmp_path: Path) -> None:
    settings = [*TINY, *small_data, f"runs_dir={tmp_path}/runs", "grid.lease_seconds=3600"]
    identity = settle(compose(settings)).identity
    other = {"machine": "elsewhere/1", "pid": 7, "since": "noon", "seconds": 3600, "session": "", "crashes": 0}
    (tmp_path / "runs" / "claims").mkdir(parents=True)
    (tmp_path / "runs" / "claims" / f"run-{identity}.1").write_text(json.dumps(other))
    ended = run_command(*words, *settings, f"grid.unclaim={identity}")
    assert ended.code == 0, ended.err
    assert f"unclaimed run-{identity}, which elsewhere, process 7, since noon held" in ended.err
    again = run_command(*words, *settings, f"grid.unclaim={identity}")
    assert f"grid.unclaim={identity}: no worker holds it; none is held" in again.err
