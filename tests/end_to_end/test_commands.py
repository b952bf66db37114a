"""The commands in the README, as a user types them, on a small real text."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.helpers import TINY, Command, run_command


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in (folder / "runs").glob("*/metrics.json")}


def stamps(folder: Path) -> dict[Path, int]:
    """Return the modification time of each file of the runs."""
    runs = [path.parent for path in (folder / "runs").glob("*/settled.json")]
    return {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def settings(small_data: list[str], small_cache: str) -> list[str]:
    return [*small_data, *TINY, small_cache]


@pytest.fixture(scope="module")
def grid(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """Two arms with two seeds, tracked by MLflow: the folder, the arguments and the output."""
    folder = tmp_path_factory.mktemp("grid")
    arguments = ["-m", *settings, "tracking=mlflow", "experiment.title=Depth, twice (ours)", "arch.depth=1,2", "seeds=2"]
    done = run_command(*arguments, folder=folder)
    assert done.code == 0, done.text
    return folder, arguments, done.text


def test_a_grid_trains_and_measures_every_cell_and_prints_a_table(grid: tuple[Path, list[str], str]) -> None:
    folder, _, output = grid
    assert "4 done, 0 failed" in output
    assert "| arch.depth" in output
    kept = records(folder)
    assert sorted((r["shape"]["depth"], r["seed"]) for r in kept.values()) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    (described,) = (json.loads(path.read_text()) for path in (folder / "runs" / "grids").glob("*.json"))
    assert described["title"] == "Depth, twice (ours)"
    assert {cell["identity"] for cell in described["cells"]} == kept.keys()
    for cell in described["cells"]:
        run, record = folder / "runs" / cell["identity"], kept[cell["identity"]]
        assert record["tokens"] == 512 and set(record["metrics"]) >= {"train/loss", "train/tokens_per_second"}
        metrics = {}
        for stem in cell["measures"]:
            metrics |= json.loads((run / "measures" / f"{stem}.json").read_text())["metrics"]
            assert (run / "measures" / f"{stem}.parquet").exists()
        for name in ("validation/bits_per_byte/en", "test/bits_per_byte/zh", "test/cloze/all"):
            assert metrics[name] >= 0
        for name in ("config.yaml", "settled.json", "provenance.json", "curve.jsonl", "model/model.safetensors"):
            assert (run / name).exists(), name
        assert not (run / "checkpoint").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["runs"]
    assert not list((folder / "runs" / "claims").iterdir())


def test_the_same_command_again_changes_nothing(grid: tuple[Path, list[str], str]) -> None:
    folder, arguments, _ = grid
    before = stamps(folder)
    again = run_command(*arguments, folder=folder)
    assert again.code == 0 and "0 done, 4 skipped, 0 failed" in again.err, again.text
    assert before == stamps(folder)


def test_one_cell_requested_alone_is_the_same_run(grid: tuple[Path, list[str], str]) -> None:
    folder, arguments, _ = grid
    before = stamps(folder)
    alone = run_command(*arguments[1:-2], "arch.depth=2", "seed=1", folder=folder)
    assert alone.code == 0 and "already finished" in alone.out, alone.text
    assert before == stamps(folder)


def test_more_test_text_is_measured_and_not_trained(
    settings: list[str], grid: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    """A finished grid is requested with four times the test text, and then with the original text."""
    shutil.copytree(grid[0] / "runs", tmp_path / "runs")
    arguments = ["-m", *settings, "arch.depth=1,2", "seeds=2"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in stamps(tmp_path)}
    more = run_command(*arguments, "evaluate.max_bytes=8000", folder=tmp_path)
    assert more.code == 0 and "4 done, 0 failed" in more.err, more.text
    started = [line.split()[1] for line in more.err.splitlines() if line.startswith("start  ")]
    assert started == ["bits_per_byte", "bigrams"] * 4, "what depends on the text, and nothing else"
    assert all((path.stat().st_mtime_ns, path.read_bytes()) == content for path, content in before.items())
    added = stamps(tmp_path).keys() - before.keys()
    assert {path.parent.name for path in added} == {"measures"} and len(list(added)) % 4 == 0
    assert {path.name.split(".")[0] for path in added} == {"bits_per_byte", "bigrams"}
    bytes_scored = sorted(
        json.loads(path.read_text())["metrics"]["test/bits_per_byte/en/bytes"]
        for path in (tmp_path / "runs").glob("*/measures/bits_per_byte.*.json")
    )
    assert bytes_scored[:4] == [bytes_scored[0]] * 4 and bytes_scored[4] > 3 * bytes_scored[0]
    assert "0 done, 4 skipped" in run_command(*arguments, folder=tmp_path).err


def test_evaluate_measures_finished_runs_and_trains_nothing(
    settings: list[str], grid: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    shutil.copytree(grid[0] / "runs", tmp_path / "runs")
    arguments = ["-m", *settings, "arch.depth=1,2", "seed=0,7", "evaluate.cloze_questions=2", "mode=evaluate"]
    done = run_command(*arguments, folder=tmp_path)
    assert done.code == 0, done.text
    assert done.err.count("skip   ") == 2 == done.err.count("not finished") and done.err.count("start  cloze of ") == 2
    assert "| arch.depth" in done.out and len(records(tmp_path)) == 4
    alone = run_command(*settings, "seed=7", "mode=evaluate", folder=tmp_path)
    assert alone.code == 2 and "is not finished; the same command without mode=evaluate trains it" in alone.err
    none = run_command("-m", *settings, "seed=7,8", "mode=evaluate", folder=tmp_path)
    assert none.code == 2 and "no cell of this grid is finished" in none.err


def test_weights_that_were_not_kept_cannot_be_measured_again(settings: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *settings, "seeds=2", "train.keep_model=false"]
    first = run_command(*arguments, folder=tmp_path)
    assert first.code == 0 and "2 done, 0 failed" in first.err, first.text
    assert not list((tmp_path / "runs").glob("*/model"))
    assert len(list((tmp_path / "runs").glob("*/measures/bits_per_byte.*.json"))) == 2
    before = stamps(tmp_path)
    more = run_command(*arguments, "evaluate.max_bytes=8000", "evaluate.cloze_questions=2", folder=tmp_path)
    assert more.code == 2 and more.err.count("train.keep_model=false: the weights of ") == 1, more.text
    assert "and 1 more runs were not kept, so bits_per_byte, cloze cannot be measured" in more.err
    assert "Traceback" not in more.err and before == stamps(tmp_path)
    assert "0 done, 2 skipped" in run_command(*arguments, folder=tmp_path).err
    # With weights kept, they are trained again and measured, with the same numbers.
    old = {path: json.loads(path.read_text())["metrics"] for path in (tmp_path / "runs").glob("*/measures/*.json")}
    again = run_command(*arguments[:-1], folder=tmp_path)
    assert again.code == 0 and len(list((tmp_path / "runs").glob("*/model"))) == 2, again.text
    assert old == {path: json.loads(path.read_text())["metrics"] for path in old}


def test_two_commands_that_request_a_measure_at_once_make_it_once(
    settings: list[str], grid: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    shutil.copytree(grid[0] / "runs", tmp_path / "runs")
    words = ["-m", *settings, "arch.depth=1,2", "seeds=2", "evaluate.max_bytes=9000"]
    with Command(*words, folder=tmp_path) as first, Command(*words, folder=tmp_path) as second:
        output = [first.wait(), second.wait()]
    assert [ended.code for ended in output] == [0, 0], output
    lines = [line for ended in output for line in ended.err.splitlines()]
    started = [line for line in lines if line.startswith("start  ")]
    assert len(started) == len(set(started)) == 8, output
    assert not list((tmp_path / "runs" / "claims").iterdir())


def test_mlflow_holds_the_grid_with_its_cells_nested(grid: tuple[Path, list[str], str]) -> None:
    from mlflow import MlflowClient

    folder, _, _ = grid
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tinylm_ablate"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.info.run_name.startswith("depth (")
    assert sorted(run.info.run_name for run in nested) == sorted(
        [f"depth={d} seed={s}" for d in (1, 2) for s in (0, 1)] + [f"depth={d} mean of 2" for d in (1, 2)]
    )
    assert "±" in parent.data.tags["mlflow.note.content"]
    for run in (run for run in nested if "identity" in run.data.tags):
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "curve/loss")
        assert [point.step for point in history] == sorted({point.step for point in history})
        assert max(point.step for point in history) == 512
        assert "test/bits_per_byte/all" in run.data.metrics
        assert run.inputs.dataset_inputs and run.data.tags["seed"] in "01"


def test_the_report_writes_its_tables(grid: tuple[Path, list[str], str]) -> None:
    folder, _, _ = grid
    from tinylm_ablate.report.__main__ import main as report

    arguments = ["--runs-dir", str(folder / "runs"), "--results", str(folder / "results")]
    assert report(arguments) == 0
    tables = list((folder / "results").glob("*.md"))
    assert any("±" in table.read_text() for table in tables)
    files = {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}
    assert report(arguments) == 0
    assert files == {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}


def test_inheritance_trains_one_parent_for_both_children(settings: list[str], tmp_path: Path) -> None:
    parent = [
        "init.parent_depth=3",
        "init.parent_width=32",
        "init.parent_ffn_width=48",
        "init.keep_first=1",
        "init.keep_last=1",
        "init.parent_vocab_size=320",
    ]
    pangu = ["arch=pangu_pi", "arch.shortcut_ratio=4"]
    done = run_command("-m", *settings, *pangu, "arch.depth=2,5", "init=inherit", *parent, folder=tmp_path)
    assert done.code == 0, done.text
    kept = records(tmp_path)
    assert sorted(record["shape"]["depth"] for record in kept.values()) == [2, 3, 5]
    origin = {record["shape"]["depth"]: record["init"] for record in kept.values()}
    assert origin[3]["method"] == "random"
    shapes = {record["shape"]["depth"]: record["shape"] for record in kept.values()}
    assert [(shapes[n]["vocab_size"], shapes[n]["activations"]) for n in (2, 3, 5)] == [(300, 2), (320, 1), (300, 2)]
    assert origin[2]["vocabulary"]["copied_percent"] > 50
    assert origin[2]["layers"]["dropped"] == [1]
    assert sum(origin[5]["layers"]["repeated"].values()) > 0


def test_a_failed_cell_does_not_stop_the_others(settings: list[str], tmp_path: Path) -> None:
    rates = "optimizer.scaling.base_lr=0.003,900"
    overflow = ["optimizer.clip=1e30", "optimizer.scaling.exponent=0", "train.tokens=2560"]
    done = run_command("-m", *settings, "optimizer.weight_decay=1.0", rates, *overflow, folder=tmp_path)
    assert done.code == 1, done.text
    assert "1 done, 1 failed" in done.err and "The best" not in done.out
    assert "the weights were not changed" in done.err
    cause = "optimizer.scaling.base_lr=900"
    measured = ", ".join(f"{name} of {cause}" for name in ("bits_per_byte", "bigrams", "cloze"))
    assert done.err.count(f"failed {measured}: need {cause}, which failed") == 2, "when it happens, and at the end"
    assert "Traceback" not in done.err
    assert len(records(tmp_path)) == 1
    (log,) = (tmp_path / "runs").glob("*/error.txt")
    assert "RunFailed" in log.read_text()


def test_a_resumed_run_ends_with_the_same_weights(settings: list[str], tmp_path: Path) -> None:
    arguments = [*settings, "train.tokens=9600", "train.checkpoint_minutes=0.001"]
    whole = run_command(*arguments, "runs_dir=whole", folder=tmp_path)
    assert whole.code == 0, whole.text
    with Command(*arguments, "runs_dir=runs", folder=tmp_path) as command:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "runs").glob("*/checkpoint/step-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(command.pid, signal.SIGTERM)
        ended = command.wait()
    assert ended.code == 143, ended.text
    assert "The same command resumes from there" in ended.err
    assert not records(tmp_path)
    rest = run_command(*arguments, "runs_dir=runs", folder=tmp_path)
    assert rest.code == 0, rest.text
    (first,), (second,) = ((tmp_path / name).glob("*/model/model.safetensors") for name in ("whole", "runs"))
    one, other = load_file(first), load_file(second)
    assert all((one[name] == other[name]).all() for name in one)


def test_sigterm_outside_of_training_ends_the_command_in_an_orderly_way(
    settings: list[str], empty_database: Path, tmp_path: Path
) -> None:
    """The lease is released, MLflow's record is closed, and the same command does the rest."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    tracked = [setting for setting in settings if setting != "tracking=none"]
    arguments = ["-m", *tracked, "seed=0,1", "tracking.flush_seconds=0.2", "evaluate.decode.measure=true"]
    with Command(*arguments, "evaluate.decode.repeats=1000", folder=tmp_path) as command:
        while not (held := list((tmp_path / "runs" / "claims").glob("*decoding_speed*.1"))):
            assert command.running(), command.wait().text
            time.sleep(0.01)
        time.sleep(0.5)
        for _ in range(2):  # a scheduler may signal a process more than once
            os.kill(command.pid, signal.SIGTERM)
            time.sleep(0.05)
        ended = command.wait()
    assert ended.code == 143, ended.text
    assert "the same command resumes" in ended.err and "Traceback" not in ended.err
    (lease,) = held
    assert lease.stat().st_mtime == 0, "released, not left to expire"
    with closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        assert "RUNNING" not in {status for (status,) in database.execute("select status from runs")}
    rest = run_command(*arguments, folder=tmp_path)
    assert rest.code == 0, rest.text


def test_tuning_measures_what_it_selects_by_and_the_compared_runs_everything(settings: list[str], tmp_path: Path) -> None:
    done = run_command("-m", *settings, "arch.depth=1,2", "seed=0,1", "grid.tune=true", folder=tmp_path)
    assert done.code == 0, done.text
    (grid,) = (json.loads(path.read_text()) for path in (tmp_path / "runs" / "grids").glob("*.json"))
    curves = {search["arm"]: search for search in grid["tuning"]}
    kept = records(tmp_path)
    assert len(curves) == 2 and len(grid["cells"]) == 4
    compared = {cell["identity"] for cell in grid["cells"]}
    tried = {point["identity"]: point for search in curves.values() for point in search["curve"]}
    assert kept.keys() == compared | tried.keys() and not compared & tried.keys()

    def measured(identity: str) -> set[str]:
        return {path.name.split(".")[0] for path in (tmp_path / "runs" / identity / "measures").glob("*.json")}

    assert all(measured(identity) == {"bits_per_byte"} for identity in tried)
    assert all(measured(identity) == {"bits_per_byte", "bigrams", "cloze"} for identity in compared)
    for search in curves.values():
        losses = {point["factor"]: point["loss"] for point in search["curve"]}
        assert losses.keys() >= {0.5, 1.0, 2.0} and search["best"] == min(losses, key=lambda factor: losses[factor])
    for depth in (1, 2):
        own = [kept[identity] for identity in (*compared, *tried) if kept[identity]["shape"]["depth"] == depth]
        (base,) = {run["learning_rate"] for run in own if tried.get(run["identity"], {}).get("factor") == 1}
        (rate,) = {run["learning_rate"] for run in own if run["identity"] in compared}
        (best,) = (search["best"] for arm, search in curves.items() if f"depth={depth}" in arm)
        assert rate == pytest.approx(base * best)
