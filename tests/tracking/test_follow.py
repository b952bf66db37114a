"""A thread follows runs in training, and training never waits for it."""

from __future__ import annotations

import csv
import logging
import sqlite3
import time
from pathlib import Path

import pytest

from tests.helpers import FORKS, in_fork
from tests.tracking.conftest import GRID, RUNS
from tests.tracking.test_server import wait_until
from tests.tracking.test_sync import View, losses
from tinylm_ablate.config import TrackingConfig
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.tracking import follow, on_end, sync


@pytest.fixture
def view(folders):
    return View(f"sqlite:///{folders.path / 'mlflow.db'}")


def test_a_run_appears_while_it_trains_and_is_closed_at_its_end(settings, folders, view):
    settings.flush_seconds = 0.1
    folders.grid(GRID, {RUNS[0]: {"seed": "0"}})
    with follow(settings, folders.path) as follower:
        follower.add(folders.path / RUNS[0])  # before it has a folder
        folder = folders.start(RUNS[0])
        folders.train(RUNS[0], 1, 5)
        wait_until(lambda: view.experiment is not None and view.runs() and view.curve(RUNS[0]) == losses(1, 5))
        assert {run.info.status for run in view.runs()} == {"RUNNING"}
        folders.train(RUNS[0], 6, 9)
        wait_until(lambda: view.curve(RUNS[0]) == losses(1, 9))
        folders.finish(RUNS[0])
        follower.done(folder)
    assert {run.info.status for run in view.runs()} == {"FINISHED"}


def test_a_run_that_is_interrupted_ends_as_killed(settings, folders, view):
    with follow(settings, folders.path) as follower:
        follower.add(folders.start(RUNS[0]))
        folders.train(RUNS[0], 1, 5)
    assert view.run(RUNS[0]).info.status == "KILLED"
    assert view.curve(RUNS[0]) == losses(1, 5)


def test_a_locked_database_does_not_stop_training(settings, folders, view, caplog):
    sync(settings, folders.path)
    settings.flush_seconds = 0.05
    folders.start(RUNS[0])
    lock = sqlite3.connect(folders.path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING):
        follower = follow(settings, folders.path)
        follower.add(folders.path / RUNS[0])
        folders.train(RUNS[0], 1, 5)
        time.sleep(0.5)
        lock.execute("ROLLBACK")
        folders.finish(RUNS[0])
        follower.done(folders.path / RUNS[0])
        follower.close()
    sync(settings, folders.path)
    assert view.run(RUNS[0]).info.status == "FINISHED" and view.curve(RUNS[0]) == losses(1, 5)


def test_without_trackers_no_thread_starts(settings, folders):
    settings.kind = "none"
    with follow(settings, folders.path) as follower:
        follower.add(folders.start(RUNS[0]))
        assert follower._thread is None
    assert not (folders.path / "mlflow.db").with_name(".tracking.lock").exists()


def follow_forever(settings: TrackingConfig, folder: Path) -> None:
    """Follow a run until this process is killed."""
    follow(settings, folder.parent).add(folder)
    time.sleep(600)


def csv_rows(folders, run):
    path = folders.path / "csv" / run / "metrics.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(row["step"]), float(row["curve/loss"])) for row in csv.DictReader(lines) if row["curve/loss"]]


@pytest.mark.slow
def test_csv_and_tensorboard_contain_each_point_once_after_a_kill(settings, folders):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings.kind, settings.loggers, settings.flush_seconds = "none", ["csv", "tensorboard"], 0.05
    folder = folders.start(RUNS[0])
    folders.train(RUNS[0], 1, 5)
    killed = FORKS.Process(target=follow_forever, args=(settings, folder))
    killed.start()
    wait_until(lambda: (folders.path / "csv" / RUNS[0] / "metrics.csv").exists())
    killed.kill()
    killed.join()
    with follow(settings, folders.path) as follower:
        follower.add(folder)
        folders.train(RUNS[0], 6, 30)
        wait_until(lambda: len(csv_rows(folders, RUNS[0])) == 30)
        folders.finish(RUNS[0])
        follower.done(folder)
    assert csv_rows(folders, RUNS[0]) == losses(1, 30)
    events = EventAccumulator(str(folders.path / "tensorboard" / RUNS[0]))
    events.Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("curve/loss")] == losses(1, 30)
    assert events.Scalars("test/bits_per_byte/all")[0].value == 2.0
    # A sync finds nothing to do, and restores what was lost.
    before = (folders.path / "csv" / RUNS[0] / "metrics.csv").stat().st_mtime_ns
    assert sync(settings, folders.path).problems == []
    assert (folders.path / "csv" / RUNS[0] / "metrics.csv").stat().st_mtime_ns == before
    (folders.path / "csv" / RUNS[0] / ".signature").unlink()
    sync(settings, folders.path)
    assert csv_rows(folders, RUNS[0]) == losses(1, 30)


def sync_offline(runs_dir: Path) -> list[str]:
    settings = TrackingConfig(kind="none", loggers=["wandb"], uri=None, artifacts=None, experiment="tests", flush_seconds=1)
    return list(map(str, sync(settings, runs_dir).problems))


@pytest.mark.slow
def test_weights_and_biases_offline(folders):
    pytest.importorskip("wandb")
    folders.start(RUNS[0])
    folders.train(RUNS[0], 1, 30)
    folders.finish(RUNS[0])
    assert in_fork(sync_offline, folders.path, WANDB_MODE="offline") == []
    (data,) = (folders.path / "wandb" / RUNS[0]).rglob("*.wandb")
    assert b"curve/loss" in data.read_bytes()


def test_a_logger_that_does_not_exist_is_reported(settings, folders):
    settings.loggers = ["comet"]
    with pytest.raises(ConfigError, match=r"tracking\.loggers=comet: allowed: a list of tensorboard, wandb, csv"):
        sync(settings, folders.path)


def test_the_hook_at_the_end_of_a_grid_gets_the_facts_and_never_fails(tmp_path, monkeypatch):
    message = tmp_path / "message"
    assert on_end(f'echo "$TINYLM_ABLATE_NAME $TINYLM_ABLATE_DONE" > {message}', {"name": "depths", "done": 4}) is None
    assert message.read_text() == "depths 4\n"
    assert on_end(None, {}) is None
    assert on_end("echo no network >&2; exit 3", {}) == (
        "grid.on_end=echo no network >&2; exit 3: ended with exit code 3: no network"
    )
    assert "secret" not in str(on_end("curl http://me:secret@127.0.0.1:1/", {}))
    monkeypatch.setattr("tinylm_ablate.tracking.hook.TIMEOUT", 0.2)
    assert "stopped after" in str(on_end("sleep 30", {}))
