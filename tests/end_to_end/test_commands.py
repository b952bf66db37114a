"""The commands of the README, as a user types them, on a small real text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.helpers import TINY


def command(folder: Path, *arguments: str, module: str = "tinylm_ablate") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=500
    )


def records(folder: Path) -> dict[str, dict[str, object]]:
    return {path.parent.name: json.loads(path.read_text()) for path in (folder / "runs").glob("*/metrics.json")}


def settings(small_data: list[str], cache: Path) -> list[str]:
    return [*small_data, *(entry for entry in TINY if entry != "tracking=none"), f"cache_dir={cache}"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def grid(small_data: list[str], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """Two arms with two seeds: the folder, the arguments and what was told."""
    folder = tmp_path_factory.mktemp("grid")
    arguments = ["-m", *settings(small_data, cache), "arch.depth=1,2", "seeds=2"]
    done = command(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return folder, arguments, done.stdout + done.stderr


def test_a_grid_trains_every_cell_and_prints_a_table(grid: tuple[Path, list[str], str]) -> None:
    folder, _, told = grid
    assert "4 done, 0 failed" in told
    assert "| arch.depth" in told
    kept = records(folder)
    assert sorted((r["shape"]["depth"], r["seed"]) for r in kept.values()) == [(1, 0), (1, 1), (2, 0), (2, 1)]  # type: ignore[index]
    for identity, record in kept.items():
        run = folder / "runs" / identity
        assert record["tokens"] == 512
        metrics = record["metrics"]
        assert isinstance(metrics, dict)
        for name in ("validation/bits_per_byte/en", "test/bits_per_byte/zh", "test/cloze/all", "train/tokens_per_second"):
            assert metrics[name] >= 0
        for name in ("config.yaml", "provenance.json", "curve.jsonl", "model/model.safetensors", "documents.parquet"):
            assert (run / name).exists(), name
        assert not (run / "checkpoint").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["runs"]


def test_asking_again_trains_nothing(grid: tuple[Path, list[str], str]) -> None:
    folder, arguments, _ = grid
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/metrics.json")}
    again = command(folder, *arguments)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("finished, see") == 4
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/metrics.json")}


def test_one_cell_asked_for_alone_is_the_same_run(grid: tuple[Path, list[str], str]) -> None:
    folder, arguments, _ = grid
    alone = command(folder, *arguments[1:-2], "arch.depth=2", "seed=1")
    assert alone.returncode == 0, alone.stderr
    assert "already finished" in alone.stdout
    assert len(records(folder)) == 4


def test_mlflow_holds_the_grid_with_its_cells_nested(grid: tuple[Path, list[str], str]) -> None:
    from mlflow import MlflowClient

    folder, _, _ = grid
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tinylm_ablate"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    names = [run.info.run_name.removeprefix(f"{parent.info.run_name} ") for run in nested]
    assert sorted(names) == sorted(
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


def test_the_report_makes_its_tables(grid: tuple[Path, list[str], str]) -> None:
    folder, _, _ = grid
    done = command(folder, "--runs-dir", "runs", "--results", "results", module="tinylm_ablate.report")
    assert done.returncode == 0, done.stderr
    tables = list((folder / "results").glob("*.md"))
    assert any("±" in table.read_text() for table in tables)
    files = {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}
    assert command(folder, "--runs-dir", "runs", "--results", "results", module="tinylm_ablate.report").returncode == 0
    assert files == {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}


def test_inheritance_trains_one_parent_for_both_children(small_data: list[str], cache: Path, tmp_path: Path) -> None:
    parent = [
        "init.parent_depth=3",
        "init.parent_width=32",
        "init.parent_ffn_width=48",
        "init.keep_first=1",
        "init.keep_last=1",
    ]
    done = command(tmp_path, "-m", *settings(small_data, cache), "tracking=none", "arch.depth=2,5", "init=inherit", *parent)
    assert done.returncode == 0, done.stderr
    kept = records(tmp_path)
    assert sorted(record["shape"]["depth"] for record in kept.values()) == [2, 3, 5]  # type: ignore[index]
    origin = {record["shape"]["depth"]: record["init"] for record in kept.values()}  # type: ignore[index]
    assert origin[3]["method"] == "random"  # type: ignore[index]
    assert origin[2]["layers"]["dropped"] == [1]  # type: ignore[index]
    assert sum(origin[5]["layers"]["repeated"].values()) > 0  # type: ignore[index]


def test_a_cell_that_fails_leaves_the_others(small_data: list[str], cache: Path, tmp_path: Path) -> None:
    rates = "optimizer.scaling.base_lr=0.003,900"
    overflow = ["optimizer.clip=1e30", "optimizer.scaling.exponent=0", "train.tokens=2560"]
    done = command(
        tmp_path, "-m", *settings(small_data, cache), "tracking=none", "optimizer.weight_decay=1.0", rates, *overflow
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 done, 1 failed" in done.stderr
    assert "the weights were not changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(records(tmp_path)) == 1
    (log,) = (tmp_path / "runs").glob("*/error.txt")
    assert "RunFailed" in log.read_text()


def test_a_run_that_is_stopped_ends_with_the_same_weights(small_data: list[str], cache: Path, tmp_path: Path) -> None:
    arguments = [*settings(small_data, cache), "tracking=none", "train.tokens=38400", "train.checkpoint_minutes=0.001"]
    whole = command(tmp_path, *arguments, "runs_dir=whole")
    assert whole.returncode == 0, whole.stderr
    start = [sys.executable, "-m", "tinylm_ablate", *arguments, "runs_dir=runs"]
    with subprocess.Popen(start, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "runs").glob("*/checkpoint/step-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        _, told = process.communicate()
    assert process.returncode == 143, told
    assert "The same command goes on from there" in told
    assert not records(tmp_path)
    rest = command(tmp_path, *arguments, "runs_dir=runs")
    assert rest.returncode == 0, rest.stderr
    (first,), (second,) = ((tmp_path / name).glob("*/model/model.safetensors") for name in ("whole", "runs"))
    one, other = load_file(first), load_file(second)
    assert all((one[name] == other[name]).all() for name in one)
