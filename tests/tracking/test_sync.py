"""The state of MLflow depends only on the folders, whatever the number and timing of syncs."""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from tests.helpers import FORKS
from tests.tracking.conftest import EXPERIMENT, GRID, RUNS
from tinylm_ablate import leases
from tinylm_ablate.config import TrackingConfig
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.leases import Leases
from tinylm_ablate.tracking import mlflow_client, sync
from tinylm_ablate.tracking.mlflow_client import ARRIVED, local_artifacts


class View:
    """MLflow's own view of a store."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.database = Path(uri.removeprefix("sqlite:///"))

    @property
    def experiment(self):
        return self.client.get_experiment_by_name(EXPERIMENT)

    def runs(self):
        return self.client.search_runs([self.experiment.experiment_id])

    def run(self, key):
        (run,) = [run for run in self.runs() if run.data.tags["tinylm.key"] == key]
        return run

    def curve(self, key, name="curve/loss"):
        ids = [run.info.run_id for run in self.runs() if run.data.tags["tinylm.key"] == key]
        points = [point for run in ids for point in self.client.get_metric_history(run, name)]
        return [(point.step, point.value) for point in sorted(points, key=lambda point: point.step)]

    def files(self, key):
        root = local_artifacts(self.database, self.run(key).info.artifact_uri)
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    def everything(self):
        """Return the whole content of the store in a comparable form."""
        found = {}
        for run in self.runs():
            histories = {name: self.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
            points = {name: sorted((p.step, p.value, p.timestamp) for p in history) for name, history in histories.items()}
            data = run.data
            found[run.info.run_id] = (run.info.status, run.info.run_name, run.info.end_time, data.params, data.tags, points)
        return found


@pytest.fixture
def view(folders):
    return View(f"sqlite:///{folders.path / 'mlflow.db'}")


def losses(first, last):
    return [(100 * n, 5 - n / 100) for n in range(first, last + 1)]


def test_a_grid_with_replicates_is_complete_and_a_second_sync_changes_nothing(settings, replicated, view):
    report = sync(settings, replicated.path)
    assert report.problems == [] and report.counts == {"created": 7}
    assert sorted(run.info.run_name for run in view.runs()) == [
        "depths",
        "depths depth=20 mean of 2",
        "depths depth=20 seed=0",
        "depths depth=20 seed=1",
        "depths depth=40 mean of 2",
        "depths depth=40 seed=0",
        "depths depth=40 seed=1",
    ]
    grid, cell = view.run(GRID), view.run(RUNS[2])
    assert {run.info.status for run in view.runs()} == {"FINISHED"}
    assert cell.data.tags["mlflow.parentRunId"] == grid.info.run_id
    assert cell.data.tags["mlflow.source.git.commit"] == "c" * 40
    assert {key: cell.data.tags[key] for key in ("experiment", "arm", "seed", "scale")} == {
        "experiment": "depths", "arm": "depth=40", "seed": "0", "scale": "s32",
    }  # fmt: skip
    assert cell.data.params["arch.depth"] == "40" and cell.data.params["arch.width"] == "64"
    assert not [key for key in cell.data.params if key.startswith(("evaluate.", "tracking."))]
    # Results are at step 0, where MLflow draws bars; constants are parameters.
    assert view.curve(RUNS[2], "test/bits_per_byte/all") == [(0, 2.2)]
    assert cell.data.params["test/bits_per_byte/all/bytes"] == "2000"
    assert view.curve(RUNS[2]) == losses(1, 30)
    assert view.files(RUNS[2]) == [
        "config.yaml", "curve.jsonl", f"measures/bits_per_byte.{'0' * 16}.json", "metrics.json",
        "provenance.json", "settled.json",
    ]  # fmt: skip
    (dataset,) = cell.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("small.jsonl", "0123456789abcdef")
    (mean,) = [run for run in view.runs() if run.info.run_name.startswith("depths depth=40 mean")]
    assert mean.data.metrics["test/bits_per_byte/all"] == pytest.approx(2.25)
    assert mean.data.metrics["test/bits_per_byte/all/sd"] == pytest.approx(math.sqrt(0.005), rel=1e-5)
    assert "| depth=40 | 2 of 2 | 2.25 ± 0.071 |" in grid.data.tags["mlflow.note.content"]

    before = view.everything()
    assert sync(settings, replicated.path).counts == {"unchanged": 7}
    assert view.everything() == before


def test_a_grid_without_a_name_is_named_by_what_differs_and_choices_of_groups_are_columns(settings, replicated, view):
    (replicated.path / "grids" / f"{GRID}.json").unlink()
    choices = [("gpt2", "0"), ("gpt2", "1"), ("constant", "0"), ("constant", "1")]
    cells = {run: {"init": init, "seed": seed} for run, (init, seed) in zip(RUNS, choices, strict=True)}
    replicated.grid(GRID, cells, name=f"grid-{GRID[:8]}")
    assert sync(settings, replicated.path).problems == []
    assert sorted(run.info.run_name for run in view.runs()) == [
        "init (00000000)",
        "init=constant mean of 2",
        "init=constant seed=0",
        "init=constant seed=1",
        "init=gpt2 mean of 2",
        "init=gpt2 seed=0",
        "init=gpt2 seed=1",
    ]
    assert view.run(RUNS[2]).data.tags["init"] == "constant"
    tags = view.experiment.tags
    for key, name in ((GRID, "init (00000000)"), (f"{GRID}-means", "init (00000000): mean and sd")):
        saved = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        state = json.loads(zlib.decompress(base64.b64decode(saved["state"].removeprefix("deflate;"))))
        assert saved["name"] == name and state["selectedColumns"][0] == "tags.`init`"
        assert state["isAccordionReordered"]


def test_a_run_is_followed_closed_and_extended(settings, folders, view):
    folder = folders.start(RUNS[0])
    folders.grid(GRID, {RUNS[0]: {"arch.depth": "20"}, RUNS[1]: {"arch.depth": "40"}})
    folders.train(RUNS[0], 1, 5, tail='{"step": 6, "tok')
    with folders.lease(RUNS[0]):
        assert sync(settings, folders.path).counts == {"created": 2}
        assert view.run(RUNS[0]).info.status == view.run(GRID).info.status == "RUNNING"
        assert view.curve(RUNS[0]) == losses(1, 5)
        assert "curve.jsonl" not in view.files(RUNS[0])
        # The incomplete line is complete now; the run and its lease end.
        (folder / "curve.jsonl").write_text("")
        folders.train(RUNS[0], 1, 30)
        folders.finish(RUNS[0])
    assert sync(settings, folders.path, folders=[folder]).counts == {"closed": 2}
    assert view.run(RUNS[0]).info.status == "FINISHED"
    assert view.run(GRID).info.status == "KILLED"  # one cell has not started, and no worker has it
    assert view.curve(RUNS[0]) == losses(1, 30)
    # Later measurements reach the same run; a repeated measurement replaces the old value.
    folders.measure(RUNS[0], "cloze", {"test/cloze/all": 0.25})
    folders.measure(RUNS[0], "bits_per_byte", {"test/bits_per_byte/all": 1.5}, settings="1" * 16)
    assert sync(settings, folders.path, grids=[GRID]).counts == {"updated": 2}
    data = view.run(RUNS[0]).data
    assert (data.metrics["test/cloze/all"], data.metrics["test/bits_per_byte/all"]) == (0.25, 1.5)


def test_a_row_that_could_not_be_read_in_training_is_sent_at_the_end(settings, folders, view):
    folder = folders.start(RUNS[0])
    folders.train(RUNS[0], 1, 5)
    folders.train(RUNS[0], 7, 10)
    with folders.lease(RUNS[0]):
        sync(settings, folders.path)
        assert view.curve(RUNS[0]) == losses(1, 5) + losses(7, 10)
    (folder / "curve.jsonl").unlink()
    folders.train(RUNS[0], 1, 30)
    folders.finish(RUNS[0])
    assert sync(settings, folders.path).problems == []
    assert view.curve(RUNS[0]) == losses(1, 30)
    # A store filled by an earlier version does not contain the number of its rows.
    client, run = view.client, view.run(RUNS[0]).info.run_id
    client.set_tag(run, "tinylm.arrived", '{"tokens": 3000, "files": {}}')
    folders.measure(RUNS[0], "cloze", {"test/cloze/all": 0.25})
    assert sync(settings, folders.path).counts == {"updated": 1}
    assert view.curve(RUNS[0]) == losses(1, 30)


def hold(runs: Path, run: str) -> None:
    """Hold the lease of a run until this process is killed."""
    with Leases(runs, 60.0).hold(f"run-{run}", runs / run / "metrics.json"):
        time.sleep(600)


def test_runs_left_running_by_a_kill_are_repaired_and_have_each_point_once(settings, folders, view):
    folders.start(RUNS[0])
    folders.train(RUNS[0], 1, 12)
    worker = FORKS.Process(target=hold, args=(folders.path, RUNS[0]))
    worker.start()
    while f"run-{RUNS[0]}" not in Leases(folders.path, 60.0).held():
        assert worker.is_alive()
    sync(settings, folders.path)
    assert view.run(RUNS[0]).info.status == "RUNNING"
    worker.kill()
    worker.join()
    assert sync(settings, folders.path).counts == {"closed": 1}
    assert view.run(RUNS[0]).info.status == "KILLED"
    # The run resumes from a checkpoint at step 10, so rows 11 and 12 are written again with other times.
    curve = folders.path / RUNS[0] / "curve.jsonl"
    lines = [json.loads(line) for line in curve.read_text().splitlines()][:10]
    curve.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folders.train(RUNS[0], 11, 30)
    rows = [json.loads(line) for line in curve.read_text().splitlines()]
    curve.write_text("".join(json.dumps(row | {"seconds": row["seconds"] + 60 * (row["step"] > 10)}) + "\n" for row in rows))
    with folders.lease(RUNS[0]):
        sync(settings, folders.path)
        assert view.run(RUNS[0]).info.status == "RUNNING"
        assert view.curve(RUNS[0]) == losses(1, 30)
    # It fails, and is repeated successfully.
    (folders.path / RUNS[0] / "error.txt").write_text("the loss is not finite\n")
    sync(settings, folders.path)
    assert view.run(RUNS[0]).info.status == "FAILED" and "error.txt" in view.files(RUNS[0])
    folders.finish(RUNS[0])
    sync(settings, folders.path)
    assert view.run(RUNS[0]).info.status == "FINISHED"
    assert view.curve(RUNS[0]) == losses(1, 30)


@pytest.mark.parametrize("content", ["", "[]", "5", '{"pid": "x", "seconds": null}', "\x00garbage"])
def test_a_lease_of_any_content_breaks_nothing_and_is_dead_once_it_was_watched(settings, folders, view, content, monkeypatch):
    monkeypatch.setattr(leases, "UNREADABLE_SECONDS", 0.2)
    folders.start(RUNS[0])
    lease = folders.path / "claims" / f"run-{RUNS[0]}.1"
    lease.parent.mkdir()
    lease.write_text(content)
    os.utime(lease, (time.time() + 10**7,) * 2)  # a clock that was wrong
    assert sync(settings, folders.path).problems == []
    assert view.run(RUNS[0]).info.status == "RUNNING"
    time.sleep(0.3)
    assert sync(settings, folders.path).problems == []
    assert view.run(RUNS[0]).info.status == "KILLED"


def test_ancestors_of_a_cell_belong_to_its_grid(settings, folders, view):
    folders.start(RUNS[0], depth=29)
    parent = json.loads((folders.path / RUNS[0] / "settled.json").read_text())
    folders.start(RUNS[1], parent=parent)
    folders.grid(GRID, {RUNS[1]: {"arch.depth": "20"}})
    assert sync(settings, folders.path, grids=[GRID]).counts == {"created": 3}
    assert view.run(RUNS[0]).data.tags["mlflow.parentRunId"] == view.run(GRID).info.run_id
    assert view.run(RUNS[0]).data.tags[f"grid.{GRID}"] == "needed"
    assert view.run(RUNS[1]).data.params["init.parent"] == RUNS[0]


def test_a_moved_folder_keeps_its_store(settings, replicated, view, tmp_path):
    sync(settings, replicated.path)
    before = view.everything()
    elsewhere = tmp_path / "elsewhere"
    shutil.move(replicated.path, elsewhere)
    moved = View(f"sqlite:///{elsewhere / 'mlflow.db'}")
    assert str(tmp_path) not in (elsewhere / "mlflow.db").read_bytes().decode("latin-1").replace("texts/small.jsonl", "")
    assert "metrics.json" in moved.files(RUNS[0])
    assert sync(settings, elsewhere).counts == {"unchanged": 7}
    assert moved.everything() == before


def test_a_store_with_lost_or_duplicate_runs_is_repaired(settings, replicated, view):
    sync(settings, replicated.path)
    lost, kept = view.run(RUNS[0]).info.run_id, view.run(RUNS[1])
    view.client.delete_run(lost)
    twin = view.client.create_run(view.experiment.experiment_id, tags={"tinylm.key": RUNS[1]})
    assert sync(settings, replicated.path).counts == {"created": 1, "unchanged": 6}
    assert view.run(RUNS[0]).info.run_id != lost
    assert view.curve(RUNS[0]) == losses(1, 30)
    assert view.run(RUNS[1]).info.run_id == kept.info.run_id
    assert view.client.get_run(twin.info.run_id).info.lifecycle_stage == "deleted"


def test_a_run_whose_folder_was_removed_does_not_stay_running(settings, folders, view):
    for run in RUNS[:2]:
        folders.start(run)
    with folders.lease(RUNS[0]), folders.lease(RUNS[1]):
        sync(settings, folders.path)
        shutil.rmtree(folders.path / RUNS[0])
        assert sync(settings, folders.path).counts == {"unchanged": 1, "closed": 1}
        assert (view.run(RUNS[0]).info.status, view.run(RUNS[1]).info.status) == ("KILLED", "RUNNING")


def test_a_model_that_was_kept_is_logged_once_and_loads(settings, folders, view):
    transformers = pytest.importorskip("transformers")
    folder = folders.start(RUNS[0])
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer = Tokenizer(BPE({"a": 0, "b": 1}, []))
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    (folder / "model" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    folders.finish(RUNS[0])
    for _ in range(2):
        assert sync(settings, folders.path).problems == []
    (output,) = view.run(RUNS[0]).outputs.model_outputs
    logged = view.client.get_logged_model(output.model_id)
    assert str(logged.status) == "READY" and logged.tags["folder"] == f"{RUNS[0]}/model"
    place = local_artifacts(view.database, logged.artifact_location)
    import mlflow

    parts = mlflow.transformers.load_model(str(place), return_type="components")
    assert parts["model"].config.hidden_size == 16 and parts["tokenizer"].encode("ab") == [0, 1]
    # The files are hard links to the run's files, and need no disk space.
    weights = next((folder / "model").glob("*.safetensors"))
    assert (place / "model" / weights.name).stat().st_ino == weights.stat().st_ino


def test_long_curves_odd_names_and_long_values_fit(settings, folders, view):
    folder = folders.start(RUNS[0])
    folders.train(RUNS[0], 1, 1300)
    settled = json.loads((folder / "settled.json").read_text())
    settled["config"]["data"] |= {f"key{n}": n for n in range(250)} | {"long": "x" * 7000}
    (folder / "settled.json").write_text(json.dumps(settled))
    folders.finish(RUNS[0])
    folders.measure(RUNS[0], "odd", {"odd (name)|en": 1.0})
    assert sync(settings, folders.path).problems == []
    data = view.run(RUNS[0]).data
    assert view.curve(RUNS[0]) == losses(1, 1300)
    assert data.params["data.long"] == "x" * 6000 and data.params["data.key249"] == "249"
    assert data.metrics["odd _name__en"] == 1.0


def test_a_damaged_folder_does_not_stop_the_others(settings, replicated, view):
    (replicated.path / RUNS[0] / "settled.json").write_text("{")
    (replicated.path / "grids" / f"{'e' * 16}.json").write_text("[]")
    report = sync(settings, replicated.path)
    assert len(report.problems) == 1 and RUNS[0] in report.problems[0]
    assert view.run(RUNS[1]).info.status == "FINISHED"


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "localhost:5000"])
def test_an_address_that_cannot_work_is_reported_at_once(settings, folders, uri):
    settings.uri = uri
    with pytest.raises(ConfigError, match=r"tracking\.uri=.*allowed: sqlite:///FILE"):
        sync(settings, folders.path)


def test_without_a_tracker_nothing_is_written(settings, replicated):
    settings.kind = "none"
    before = sorted(replicated.path.rglob("*"))
    assert str(sync(settings, replicated.path)) == ""
    assert sorted(replicated.path.rglob("*")) == before


def test_a_store_that_is_up_to_date_is_recognized_without_importing_mlflow(settings, replicated):
    sync(settings, replicated.path)
    code = (
        "import pathlib, sys, tinylm_ablate.tracking.ui; from tinylm_ablate.config import TrackingConfig; "
        f"print(tinylm_ablate.tracking.sync(TrackingConfig(**{vars(settings)}), pathlib.Path({str(replicated.path)!r}))); "
        "sys.exit('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "MLflow: 7 up to date\n", "")


def test_a_store_whose_tables_cannot_be_read_directly_is_read_with_mlflow(settings, replicated, view, monkeypatch):
    monkeypatch.setattr(mlflow_client, "_STATES", "SELECT * FROM tables_of_another_version WHERE name = ?")
    assert sync(settings, replicated.path).counts == {"created": 7}
    view.client.delete_run(view.run(RUNS[0]).info.run_id)
    assert sync(settings, replicated.path).counts == {"created": 1, "unchanged": 6}


def sync_alone(settings: TrackingConfig, runs: Path) -> None:
    """Sync in a separate process."""
    report = sync(settings, runs)
    print(report)
    sys.exit(bool(report.problems))


@pytest.mark.slow
def test_concurrent_syncs_create_each_run_and_point_once(settings, replicated, tmp_path):
    new = shutil.copytree(replicated.path, tmp_path / "new", ignore=shutil.ignore_patterns("mlflow.db"))
    processes = [FORKS.Process(target=sync_alone, args=(settings, new)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    view = View(f"sqlite:///{new / 'mlflow.db'}")
    assert len(view.runs()) == 7
    for run in RUNS:
        assert view.curve(run) == losses(1, 30)


@pytest.mark.slow
def test_a_killed_sync_is_completed_by_the_next(settings, replicated, view):
    for run in RUNS:
        (replicated.path / run / "curve.jsonl").unlink()
        replicated.train(run, 1, 2000)
    for n in range(4):
        database = replicated.path / "mlflow.db"
        changed = database.stat().st_mtime_ns
        process = FORKS.Process(target=sync_alone, args=(settings, replicated.path))
        process.start()
        while process.is_alive() and database.stat().st_mtime_ns == changed:  # it has started to write
            time.sleep(0.005)
        time.sleep(0.15 * n)
        process.kill()
        process.join()
    assert sync(settings, replicated.path).problems == []
    assert len(view.runs()) == 7
    for run in RUNS:
        assert view.curve(run) == losses(1, 2000)
        assert view.run(run).info.status == "FINISHED"


def test_rows_sent_before_a_kill_and_trained_again_are_stored_once(settings, folders, view):
    folder = folders.start(RUNS[0])
    folders.train(RUNS[0], 1, 10)
    sync(settings, folders.path)
    before = view.run(RUNS[0]).data.tags[ARRIVED]
    folders.train(RUNS[0], 11, 20)
    sync(settings, folders.path)
    # Like after a kill between sending rows and recording it; the run resumes from its tenth step, more slowly.
    view.client.set_tag(view.run(RUNS[0]).info.run_id, ARRIVED, before)
    mlflow_client._store.cache_clear()
    (folder / "curve.jsonl").write_text("".join((folder / "curve.jsonl").read_text().splitlines(keepends=True)[:10]))
    folders.train(RUNS[0], 11, 30, seconds=7.0)
    folders.finish(RUNS[0])
    sync(settings, folders.path)
    assert view.curve(RUNS[0]) == losses(1, 30)


def test_measurements_along_a_run_are_a_curve_in_any_order(settings, folders, view):
    folder = folders.start(RUNS[0])
    settled = json.loads((folder / "settled.json").read_text())
    settled["config"]["train"]["batch_tokens"] = 100
    (folder / "settled.json").write_text(json.dumps(settled))
    folders.train(RUNS[0], 1, 30)
    folders.finish(RUNS[0])

    def point(step, bits):
        path = folder / "points" / f"{step:09d}" / "measures" / f"bits_per_byte.{'0' * 16}.json"
        path.parent.mkdir(parents=True)
        metrics = {
            "test/bits_per_byte/all": bits,
            "test/bits_per_byte/all/standard_error": 0.1,
            "test/bits_per_byte/all/bytes": 9,
        }
        content = {
            "schema": 1,
            "measure": "bits_per_byte",
            "settings": {},
            "metrics": metrics,
            "seconds": 1.0,
            "provenance": {},
        }
        path.write_text(json.dumps(content))

    name = "along/test/bits_per_byte/all"
    point(20, 3.0)
    sync(settings, folders.path)
    assert view.curve(RUNS[0], name) == [(2000, 3.0)]
    point(10, 4.0)  # another worker measured it later
    point(30, 2.5)
    for _ in range(2):
        sync(settings, folders.path)
        assert view.curve(RUNS[0], name) == [(1000, 4.0), (2000, 3.0), (3000, 2.5)]
    metrics = view.run(RUNS[0]).data.metrics
    assert metrics["test/bits_per_byte/all"] == 2.0
    assert not [key for key in metrics if key.startswith("along/") and key != name]
    assert f"points/000000010/measures/bits_per_byte.{'0' * 16}.json" in view.files(RUNS[0])
