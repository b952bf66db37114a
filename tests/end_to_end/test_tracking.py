"""Tracking of real runs: kills leave no errors in MLflow, and passwords are never written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.helpers import TINY, Command, last_of_each, run_command

USER, PASSWORD, BUCKET = "dormouse-4", "queen0fHearts-7", "cheshire-cat-bucket"


def arguments(small_data: list[str], cache: str) -> list[str]:
    return [*small_data, *(entry for entry in TINY if entry != "tracking=none"), cache]


@pytest.mark.slow
def test_a_grid_that_was_killed_and_repeated_is_complete_in_mlflow(
    small_data: list[str], small_cache: str, empty_database: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    grid = last_of_each([*arguments(small_data, small_cache), "arch.depth=1,2", "train.tokens=25600", "train.log_every=1"])
    command = ["-m", *grid, "tracking.flush_seconds=0.2", "train.checkpoint_minutes=0.001"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")

    def runs() -> dict[str, tuple[str, list[int]]]:
        """Return status and steps of the loss of each run."""
        found = {}
        experiment = client.get_experiment_by_name("tinylm_ablate")
        for run in client.search_runs([experiment.experiment_id]) if experiment is not None else []:
            points = client.get_metric_history(run.info.run_id, "curve/loss") if "identity" in run.data.tags else []
            found[str(run.info.run_name)] = (run.info.status, sorted(point.step for point in points))
        return found

    for sign in (signal.SIGKILL, signal.SIGTERM):
        with Command(*command, folder=tmp_path) as process:
            deadline, before = time.monotonic() + 300, sum(len(steps) for _, steps in runs().values())
            while sum(len(steps) for _, steps in runs().values()) < before + 20:
                assert time.monotonic() < deadline and (process.running() or process.wait().text == "")
                time.sleep(0.1)
            os.kill(process.pid, sign)
            process.wait()
        assert "RUNNING" in {status for status, _ in runs().values()} or sign == signal.SIGTERM
    assert "RUNNING" not in {status for status, _ in runs().values()}
    done = run_command(*command, folder=tmp_path)
    assert done.code == 0, done.text
    assert sorted(status for status, _ in runs().values()) == ["FINISHED"] * 3
    cells = [steps for _, steps in runs().values() if steps]
    assert cells == [list(range(128, 25601, 128))] * 2
    # A repetition changes nothing.
    before_again = runs()
    done = run_command("mode=sync", folder=tmp_path)
    assert done.out == "MLflow: 3 up to date\n", done.text
    assert runs() == before_again


def test_passwords_are_never_written(
    small_data: list[str], empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a grid nor by later commands: plan, status, search, sync, report, generated text and exports."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    token = "hf_" + "q7" * 20
    for name, value in (("TEAM_BUCKET", BUCKET), ("HF_TOKEN", token)):
        monkeypatch.setenv(name, value)
    address = f"http://{USER}:{PASSWORD}@127.0.0.1:1"  # no server is there
    hook = f"grid.on_end='curl -s -H \"Authorization: Bearer {PASSWORD}\" http://{USER}:{PASSWORD}@127.0.0.1:1/done'"
    words = [*arguments(small_data, f"cache_dir={tmp_path}/cache"), r"experiment.note='of ${oc.env:TEAM_BUCKET}'", hook]
    away, grid = f"tracking.uri='{address}'", ["arch.depth=1,2", "seeds=1"]
    output: dict[str, str] = {}

    def command(name: str, *more: str, code: int = 0) -> None:
        ended = run_command(*more, folder=tmp_path)
        assert ended.code == code and "Traceback" not in ended.err, ended.text
        output[name] = ended.text

    command("grid", "-m", *words, away, *grid)
    assert "does not answer" in output["grid"] and "grid.on_end=" in output["grid"]
    command("plan", "plan", "-m", *words, away, *grid, "seeds=2")
    command("plan as JSON", "plan", "-m", *words, away, *grid, "seeds=2", "plan.format=json")
    command("status", "status", "-m", *words, away, *grid)
    command("search", "-m", "hydra/sweeper=optuna", *words, away, "arch.depth=1,2", "search.trials=2")
    command("sync away", "sync", *words, away, code=1)
    command("sync", "sync", *words)
    command("coverage", "coverage", "-m", *words, away, *grid, "tokenizer.source_vocab_size=400")
    command("export", "export", *words, away, "arch.depth=1", "folder=exported")
    command("report", "report", "--runs-dir", "runs", "--results", "results")
    (described,) = [json.loads(path.read_text()) for path in tmp_path.glob("runs/grids/*.json") if not search_of(path)]
    assert "127.0.0.1" in " ".join(described["command"])
    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(written) > 30 and any("mlflow.db" in name for name in written) and any("results/" in name for name in written)
    written |= {name: text.encode() for name, text in output.items()}
    for secret in (PASSWORD, USER, BUCKET, token):
        assert [name for name, content in written.items() if secret.encode() in content] == []
    (folder,) = {path.parent for path in (tmp_path / "runs").glob("*/config.yaml") if "depth: 1\n" in path.read_text()}
    assert "${oc.env:TEAM_BUCKET}" in (folder / "config.yaml").read_text()


def search_of(path: Path) -> bool:
    """Return whether the file of a grid belongs to a search."""
    return bool(json.loads(path.read_text()).get("search"))
