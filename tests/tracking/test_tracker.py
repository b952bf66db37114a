from __future__ import annotations

import atexit
import base64
import json
import math
import os
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from tinylm_ablate.errors import UserError
from tinylm_ablate.tracking import open_tracker
from tinylm_ablate.tracking.store import Store
from tinylm_ablate.tracking.tracker import MlflowTracker, Tracker


def rows(first, last):
    return [{"step": n, "tokens": 1000 * n, "loss": 5.0 - n / 100, "learning_rate": 1e-3} for n in range(first, last)]


def history(client, run_id, name="loss"):
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def test_a_grid_holds_its_cells(client, settings, runs_dir):
    tracker = open_tracker(settings, runs_dir)
    grid = tracker.start_grid("table02_depth_width", "Depth against width", {"tinylm.scale": "s32"})
    ids = []
    for depth in (20, 40):
        folder = runs_dir / f"run{depth}"
        folder.mkdir()
        (folder / "config.yaml").write_text("arch: {}")
        run = tracker.start_run(
            folder,
            f"arch.depth={depth} seed=0",
            grid,
            {"arch.depth": depth, "init.parent": None},
            {"tinylm.overrides": f"arch.depth={depth}"},
        )
        run.log(rows(1, 4))
        run.finish({"test/bits_per_byte/en": 2.0}, [folder / "config.yaml", folder / "absent.json"])
        ids.append(run.id)
    (runs_dir / "curve.svg").write_text("<svg/>")
    tracker.finish_grid(grid, "| depth |\n|---|\n| 20 |", [runs_dir / "curve.svg"])

    parent = client.get_run(grid)
    assert parent.info.run_name == "table02_depth_width"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"].startswith("table02_depth_width: Depth against width\n\n| depth |")
    assert {file.path for file in client.list_artifacts(grid)} == {"table.md", "curve.svg"}
    assert (runs_dir / "mlartifacts").is_dir()
    cells = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{grid}'")
    assert {cell.info.run_id for cell in cells} == set(ids)
    cell = client.get_run(ids[1])
    assert cell.info.run_name == "arch.depth=40 seed=0"
    assert cell.data.params == {"arch.depth": "40", "init.parent": "null"}
    assert cell.data.tags["tinylm.overrides"] == "arch.depth=40"
    assert cell.data.metrics["test/bits_per_byte/en"] == 2.0
    assert history(client, ids[1]) == [(1000, 4.99), (2000, 4.98), (3000, 4.97)]
    assert history(client, ids[1], "test/bits_per_byte/en") == [(3000, 2.0)]
    assert "step" not in cell.data.metrics and "tokens" not in cell.data.metrics
    assert [file.path for file in client.list_artifacts(ids[1])] == ["config.yaml"]
    assert not list(runs_dir.rglob("*pending*"))


def test_a_run_goes_on_where_its_folder_was_tracked(client, store, folder, runs_dir):
    first = MlflowTracker(store, runs_dir, 1000)
    run = first.start_run(folder, "run", None, {"train.threads": 2}, {})
    run.log(rows(1, 3))
    run.finish({}, [], "KILLED")
    assert client.get_run(run.id).info.status == "KILLED"

    again = MlflowTracker(store, runs_dir, 1000).start_run(folder, "run", None, {"train.threads": 4, "new": 1}, {})
    assert again.id == run.id
    assert client.get_run(run.id).info.status == "RUNNING"
    again.log(rows(2, 5))
    again.finish({"test/cloze/en": 0.5}, [], tokens=9000)
    assert {step for step, _ in history(client, run.id)} == {1000, 2000, 3000, 4000}
    assert history(client, run.id, "test/cloze/en") == [(9000, 0.5)]
    # MLflow does not change parameters: the first value stays, the missing one is added, and nothing is lost over it.
    assert client.get_run(run.id).data.params == {"train.threads": "2", "new": "1"}


def test_a_run_that_was_deleted_in_mlflow_is_made_anew(client, tracker, folder):
    run = tracker.start_run(folder, "run", None, {}, {})
    first = run.id
    run.finish({}, [], "KILLED")
    client.delete_run(first)
    again = tracker.start_run(folder, "run", None, {}, {})
    assert again.id != first
    assert client.get_run(again.id).info.status == "RUNNING"


def test_many_values_odd_names_and_long_parameters_fit(client, tracker, folder):
    parameters = {f"key.{n}": n for n in range(250)} | {"long": "x" * 7000, "list": [1, 2]}
    run = tracker.start_run(folder, "run", None, parameters, {"long": "y" * 9000})
    run.log(rows(1, 1301))
    run.finish({"odd (name)|en": 1.0, "infinite": math.inf, "text": "no number", "count": 3}, [])
    data = client.get_run(run.id).data
    assert len(history(client, run.id)) == len(history(client, run.id, "learning_rate")) == 1300
    assert len(data.params) == 252
    assert data.params["long"] == "x" * 6000 and data.params["list"] == "[1, 2]"
    assert json.loads(client_text(client, run.id, "parameters.json"))["long"] == "x" * 7000
    assert data.metrics["odd _name__en"] == 1.0 and data.metrics["count"] == 3
    assert [math.isnan(value) for _, value in history(client, run.id, "infinite")] == [True]
    assert "text" not in data.metrics


def client_text(client, run_id, name):
    return Path(client.download_artifacts(run_id, name)).read_text()


def test_the_thread_sends_while_training_goes_on(client, store, folder, runs_dir):
    tracker = MlflowTracker(store, runs_dir, flush_seconds=0.05)
    run = tracker.start_run(folder, "run", None, {}, {})
    run.log(rows(1, 3))
    deadline = time.monotonic() + 30
    while len(history(client, run.id)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(history(client, run.id)) == 2
    thread = tracker._thread
    run.finish({}, [])
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()


def test_an_outage_costs_nothing(client, store, folder, runs_dir, caplog):
    tracker = MlflowTracker(store, runs_dir, flush_seconds=0.02)
    run = tracker.start_run(folder, "run", None, {}, {})
    run.log(rows(1, 3))
    store.away = True
    run.log(rows(3, 5))
    pending = folder / "tracking_pending.jsonl"
    deadline = time.monotonic() + 30
    while not pending.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert pending.exists()
    run.log(rows(5, 7))
    time.sleep(0.3)
    assert [record.message.count("does not answer") for record in caplog.records].count(1) == 1
    store.away = False
    run.finish({"test/bits_per_byte/en": 2.0}, [])
    assert history(client, run.id) == [(1000 * n, 5.0 - n / 100) for n in range(1, 7)]
    assert client.get_run(run.id).info.status == "FINISHED"
    assert not pending.exists()


def test_what_was_never_sent_is_sent_by_the_next_command(client, store, runs_dir):
    store.away = True
    tracker = MlflowTracker(store, runs_dir, 1000)
    grid = tracker.start_grid("grid", "title")
    assert grid.startswith("unsent-")
    folders = [runs_dir / "run1", runs_dir / "run2"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        run = tracker.start_run(folder, f"seed={number}", grid, {"seed": number}, {})
        run.log(rows(1, 4))
        run.finish({"test/cloze/en": 0.25}, [])
    tracker.finish_grid(grid, "table")
    assert len(list(runs_dir.rglob("*tracking_pending.jsonl"))) == 3
    assert MlflowTracker(store, runs_dir, 1000).send_pending() == 0

    store.away = False
    assert MlflowTracker(store, runs_dir, 1000).send_pending() == 3
    assert not list(runs_dir.rglob("*tracking_pending.jsonl"))
    runs = client.search_runs([store._connect()[1]])
    assert sorted(run.info.run_name for run in runs) == ["grid", "seed=0", "seed=1"]
    parent = next(run for run in runs if run.info.run_name == "grid")
    for run in runs:
        assert run.info.status == "FINISHED"
        if run is not parent:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert history(client, run.info.run_id) == [(1000, 4.99), (2000, 4.98), (3000, 4.97)]


def test_any_new_run_sends_what_was_left_behind(client, store, folder, runs_dir):
    store.away = True
    lost = MlflowTracker(store, runs_dir, 1000).start_run(folder, "lost", None, {}, {})
    lost.finish({"a": 1.0}, [])
    store.away = False
    (runs_dir / "other").mkdir()
    MlflowTracker(store, runs_dir, 1000).start_run(runs_dir / "other", "other", None, {}, {}).finish({}, [])
    names = {run.info.run_name for run in client.search_runs([store._connect()[1]])}
    assert names == {"lost", "other"}


def test_a_process_that_died_in_an_outage_goes_on_with_one_run(client, store, folder, runs_dir):
    store.away = True
    dead = MlflowTracker(store, runs_dir, flush_seconds=1000)
    run = dead.start_run(folder, "run", None, {"seed": 0}, {})
    run.log(rows(1, 4))
    dead._send(run._outbox)  # the attempt that the thread would have made; then the process is killed
    atexit.unregister(dead.close)
    store.away = False
    # Others leave the file alone: its process may be alive.
    assert MlflowTracker(store, runs_dir, 1000).send_pending() == 0
    again = MlflowTracker(store, runs_dir, 1000).start_run(folder, "run", None, {"seed": 0}, {})
    again.log(rows(4, 6))
    again.finish({}, [])
    (only,) = client.search_runs([store._connect()[1]])
    assert history(client, only.info.run_id) == [(1000 * n, 5.0 - n / 100) for n in range(1, 6)]


def test_a_file_of_a_dead_process_is_sent_once_it_is_old(client, store, folder, runs_dir):
    store.away = True
    dead = MlflowTracker(store, runs_dir, 1000)
    dead.start_run(folder, "run", None, {}, {})
    atexit.unregister(dead.close)
    store.away = False
    os.utime(folder / "tracking_pending.jsonl", (time.time() - 2000,) * 2)
    assert MlflowTracker(store, runs_dir, 1000).send_pending() == 1
    assert len(client.search_runs([store._connect()[1]])) == 1


def test_an_attempt_that_arrived_without_an_answer_is_not_repeated(client, store, folder, runs_dir, monkeypatch):
    original = Store.open

    def unanswered(self, *arguments, **options):
        original(self, *arguments, **options)
        raise ConnectionError("the answer was lost")

    monkeypatch.setattr(Store, "open", unanswered)
    tracker = MlflowTracker(store, runs_dir, 1000)
    run = tracker.start_run(folder, "run", None, {}, {})
    assert run.id.startswith("unsent-")
    monkeypatch.setattr(Store, "open", original)
    run.finish({"a": 1.0}, [])
    (only,) = client.search_runs([store._connect()[1]])
    assert only.data.metrics == {"a": 1.0}


def test_a_run_deleted_while_it_trains_ends_quietly(client, tracker, folder, caplog):
    run = tracker.start_run(folder, "run", None, {}, {})
    client.delete_run(run.id)
    run.log(rows(1, 3))
    run.finish({"a": 1.0}, [])
    assert "refuses" in caplog.text
    assert not (folder / "tracking_pending.jsonl").exists()


def test_a_locked_database_is_waited_for(client, store, folder, runs_dir):
    tracker = MlflowTracker(store, runs_dir, flush_seconds=0.02)
    run = tracker.start_run(folder, "run", None, {}, {})
    lock = sqlite3.connect(runs_dir / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    run.log(rows(1, 3))
    time.sleep(0.5)
    lock.execute("ROLLBACK")
    run.finish({}, [])
    assert len(history(client, run.id)) == 2


def test_a_broken_pending_file_is_left_alone(tracker, folder, caplog):
    file = folder / "tracking_pending.jsonl"
    file.write_text('{"ended": true}\n{"do": ')
    assert tracker.send_pending() == 0
    assert "left alone" in caplog.text
    assert file.exists()


def test_no_tracking(settings, runs_dir, folder):
    settings.kind = "none"
    tracker = open_tracker(settings, runs_dir)
    assert type(tracker) is Tracker
    assert tracker.start_grid("grid") is None
    run = tracker.start_run(folder, "run", None, {}, {})
    run.log(rows(1, 2))
    run.finish({"a": 1.0}, [])
    tracker.finish_grid(None, "")
    assert run.id is None
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "localhost:5000"])
def test_an_address_that_cannot_work_is_told_at_once(settings, runs_dir, uri):
    settings.uri = uri
    with pytest.raises(UserError, match=r"tracking\.uri=.*allowed: sqlite:///FILE"):
        open_tracker(settings, runs_dir)


def test_mlflow_is_not_imported_before_it_is_used():
    code = "import sys, tinylm_ablate.tracking, tinylm_ablate.tracking.ui; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_grid_that_goes_on_is_the_same_run_and_gets_a_view(client, settings, runs_dir):
    for status in ("KILLED", "FINISHED"):
        tracker = open_tracker(settings, runs_dir)
        grid = tracker.start_grid("grid", "title", identity="0123456789abcdef")
        tracker.finish_grid(grid, "table", status=status, columns=["arch.depth"])
    (run,) = client.search_runs([client.get_experiment_by_name(settings.experiment).experiment_id])
    assert run.info.status == "FINISHED"
    (view,) = [
        json.loads(value)
        for key, value in client.get_experiment(run.info.experiment_id).tags.items()
        if key.startswith("mlflow.sharedViewState.")
    ]
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert state["selectedColumns"][:2] == ["params.`arch.depth`", "metrics.`test/bits_per_byte/all`"]
