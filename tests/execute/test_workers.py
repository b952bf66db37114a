"""Number of workers that share a machine, and their threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import TINY, last_of_each
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.execute import workers
from tinylm_ablate.execute.workers import divide
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

Compose = Callable[[list[str]], Config]


def runs(compose: Compose, count: int, *overrides: str) -> list[Settled]:
    return [settle(compose([f"seed={seed}", "arch.depth=2", *overrides])) for seed in range(count)]


@pytest.mark.parametrize(("count", "requested", "cores", "expected"), [
    (8, 2, 8, (2, 4)), (8, 3, 8, (3, 2)), (3, 8, 12, (3, 4)), (8, 4, 2, (4, 1)), (1, 4, 4, (1, None)), (5, 1, 4, (1, None)),
])  # fmt: skip
def test_workers_share_the_cores(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, count: int, requested: int, cores: int, expected: tuple[int, int | None]
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: cores)
    assert divide(runs(compose, count), requested) == expected


def test_a_chosen_number_of_threads_is_kept(compose: Compose) -> None:
    assert divide(runs(compose, 3, "train.threads=1"), 2) == (2, None)
    assert divide(runs(compose, 3, "train.threads=1"), "auto") == (1, None)


def test_the_measured_division_uses_every_core_once(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    assert divide(runs(compose, 4, *TINY, "train.threads=auto"), "auto") in [(2, 1), (1, None)]


@pytest.mark.parametrize(("count", "gpus", "devices", "expected"), [(4, 2, 1, 2), (1, 8, 1, 1), (4, 2, 2, 1)])
def test_each_gpu_has_one_worker(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, count: int, gpus: int, devices: int, expected: int
) -> None:
    """The number of GPUs is simulated: the runs are settled for a CPU and then moved."""
    settled = runs(compose, count)
    for run in settled:
        run.config.train.device, run.config.train.devices = "cuda", devices
    monkeypatch.setattr(workers, "gpus", lambda: gpus)
    assert divide(settled, "auto") == (expected, None)


@pytest.mark.parametrize("wrong", ["0", "some", "1025"])
def test_a_wrong_number_of_workers_is_reported(compose: Compose, wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"grid.workers={wrong}: allowed: "):
        settle(compose([f"grid.workers={wrong}"]))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["to its end", "until its leader is killed"])
def test_workers_are_forks_if_torch_has_not_started(
    killed: bool, small_data: list[str], small_cache: str, empty_database: Path, tmp_path: Path
) -> None:
    """In a new interpreter, since this one has imported torch."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    forbid = "from tinylm_ablate.execute import workers; workers._interpreter = None"
    code = f"{forbid}; from tinylm_ablate.__main__ import main; main()"
    tokens = 10**6 if killed else 1280
    words = last_of_each([
        "-m", *TINY, *small_data, small_cache, f"train.tokens={tokens}", "train.log_every=1", "seeds=4", "grid.workers=2",
        f"tracking={'none' if killed else 'mlflow'}",
    ])  # fmt: skip
    command = [sys.executable, "-c", code, *words, f"runs_dir={tmp_path}/runs"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as leader:
        if killed:
            until(lambda: sum(curve.stat().st_size > 0 for curve in tmp_path.glob("runs/*/curve.jsonl")) == 2)
            leader.kill()
        _, errors = leader.communicate()
    if killed:
        until(lambda: not processes_about(tmp_path))
        assert len(list(tmp_path.glob("runs/*/checkpoint/step-*"))) == 1, (
            "the worker saves its run, and the leader had no time to"
        )
        return
    assert leader.returncode == 0, errors
    lines = [line.split(":")[0].split(maxsplit=1) for line in errors.splitlines() if line.startswith(("start ", "done "))]
    done, started = ({name for word, name in lines if word == kind} for kind in ("done", "start"))
    assert len(list(tmp_path.glob("runs/*/metrics.json"))) == 4 and done - started, "the other worker did nothing"


def until(reached: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def processes_about(folder: Path) -> list[str]:
    """Return processes whose command line contains a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder) in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found
