"""Grids as users start them: retries, failures, workers, status, and errors before anything is spent."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import pytest

from tests.helpers import TINY, Command, run_command
from tinylm_ablate.leases import Leases

ROOT = Path(__file__).resolve().parents[2]

#: A learning rate that overflows after some steps, and settings that permit it.
OVERFLOW = ["optimizer.clip=1e30", "optimizer.scaling.exponent=0", "train.tokens=2560", "optimizer.weight_decay=1.0"]


def start(folder: Path, *arguments: str) -> Command:
    """Start a command in a process of its own."""
    return Command(*arguments, folder=folder)


def command(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run a command in this process and return its output."""
    done = run_command(*arguments, folder=folder)
    assert done.code == code, done.text
    return done.text


def process(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the code in the working folder in a new interpreter and return its output."""
    words = [sys.executable, "-m", "tinylm_ablate", *arguments]
    done = subprocess.run(
        words, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def settings(small_data: list[str], small_cache: str) -> list[str]:
    return ["-m", *TINY, *small_data, small_cache]


def finished(folder: Path) -> int:
    return len(list((folder / "runs").glob("*/metrics.json")))


def holders(folder: Path) -> dict[str, int]:
    """Return the processes that train, by the identity of the run, except for one that is just writing its lease."""
    leases = Leases(folder / "runs", 60)
    held = leases.held() if leases.folder.is_dir() else {}
    return {key.removeprefix("run-"): holder.pid for key, holder in held.items() if key.startswith("run-") and holder.pid > 0}


def wait_until(condition: object, seconds: float = 200) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_failed_cell_is_retried_and_its_log_is_kept(settings: list[str], tmp_path: Path) -> None:
    rates = "optimizer.scaling.base_lr=900,0.003"
    output = command(tmp_path, *settings, rates, *OVERFLOW, "grid.retries=2", code=1)
    assert "attempt 1 of 3 failed" in output and "attempt 2 of 3 failed" in output
    assert "1 done, 1 failed" in output and "done: optimizer.scaling.base_lr=0.003" in output
    (log,) = (tmp_path / "runs").glob("*/error.txt")
    lines = log.read_text().splitlines()
    assert "the weights were not changed" in lines[0] and lines[1].startswith("attempt 3 of 3")
    assert "Traceback" in log.read_text() and "RunFailed" in lines[-1]
    assert f"failed optimizer.scaling.base_lr=900: {lines[0]} (see {log.relative_to(tmp_path)})" in output
    status = command(tmp_path, *settings, rates, *OVERFLOW, "mode=status")
    assert "1 finished, 1 failed" in status and lines[0][:40] in status
    again = command(tmp_path, *settings, rates, *OVERFLOW, code=1)
    assert "0 done, 1 skipped, 1 failed" in again and "attempt" not in again


def test_a_grid_can_stop_at_the_first_failure(settings: list[str], tmp_path: Path) -> None:
    rates = "optimizer.scaling.base_lr=900,0.003,0.002"
    output = command(tmp_path, *settings, rates, *OVERFLOW, "grid.on_failure=stop", code=1)
    assert "0 done, 1 failed, 2 not started" in output
    assert finished(tmp_path) == 0


def test_experiments_that_are_one_grid_share_their_runs(settings: list[str], tmp_path: Path) -> None:
    """Two experiments share a cell, for which the second requests more; wrong names are reported first."""
    (tmp_path / "experiments").mkdir()
    for name, content in {
        "decays": "hydra: {sweeper: {params: {optimizer.weight_decay: '0.1,0.2'}}}",
        "rules": "evaluate: {decode: {measure: true, new_tokens: 4, repeats: 1}}\n"
        "grid: {arms: {one: [], other: [init=constant]}}",
        "both": "grid: {experiments: [decays, rules]}",
        "broken": "grid: {experiments: [decays, both, nothing]}",
    }.items():
        head = "" if "experiments" in content else f"experiment: {{name: {name}, title: About {name}}}\n"
        (tmp_path / "experiments" / f"{name}.yaml").write_text(f"# @package _global_\n{head}{content}\n")
    output = command(tmp_path, *settings, "+experiments=broken", code=2)
    assert "+experiments=both: is not an experiment that trains a grid" in output
    assert "+experiments=nothing: " in output and not (tmp_path / "runs").exists()
    both = [*settings, "+experiments=both"]
    output = command(tmp_path, *both)
    assert "skip   rules: arm=one: the same run as decays: optimizer.weight_decay=0.1" in output
    assert "3 done, 0 failed" in output and "decays: About decays" in output and "rules: About rules" in output
    grids = {json.loads(path.read_text())["name"]: path for path in (tmp_path / "runs" / "grids").glob("*.json")}
    assert grids.keys() == {"decays", "rules"}
    assert finished(tmp_path) == 3
    for cell in json.loads(grids["rules"].read_text())["cells"]:
        (speed,) = (tmp_path / "runs" / cell["identity"] / "measures").glob("decoding_speed.*.json")
        assert speed.stem in cell["measures"] and "decode/tokens_per_second" in json.loads(speed.read_text())["metrics"]
    before = grids["decays"].read_bytes()
    assert "0 done, 2 skipped" in command(tmp_path, *settings, "+experiments=decays")
    assert grids["decays"].read_bytes() == before and len(list((tmp_path / "runs" / "grids").glob("*.json"))) == 2


def test_a_dirty_checkout_is_refused_before_anything_is_spent(settings: list[str], tmp_path: Path) -> None:
    """A copy of the package in a separate checkout, first clean, then with an additional line."""
    checkout = tmp_path / "checkout"
    for name in ("tinylm_ablate", "hydra_plugins", "conf", "experiments"):
        shutil.copytree(ROOT / name, checkout / name)  # with the compiled files, as for a user who has run it before
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    (checkout / ".gitignore").write_text("__pycache__/\nruns/\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True)
    output = process(checkout, *settings, "seeds=1", "grid.require_clean=true")
    assert "1 done, 0 failed" in output
    (checkout / "tinylm_ablate" / "more.py").write_text("")
    output = process(checkout, *settings, "seed=1,2", "grid.require_clean=true", code=2)
    assert "grid.require_clean=true" in output and "tinylm_ablate/more.py" in output and "nothing was run" in output
    assert finished(checkout) == 1


def test_the_status_of_a_grid(settings: list[str], tmp_path: Path) -> None:
    """Before it starts, while it runs, after its worker was killed, and on a terminal until it has finished."""
    cells = [*settings, "seeds=2", "train.tokens=64000", "train.log_every=1", "train.checkpoint_minutes=0.001"]
    assert "2 waiting" in command(tmp_path, *cells, "mode=status")
    assert not (tmp_path / "runs").exists()
    with start(tmp_path, *cells) as worker:
        deadline = time.monotonic() + 200
        curves = (tmp_path / "runs").glob  # training has begun once there is a row; the file exists before
        while not any(b"\n" in path.read_bytes() for path in curves("*/curve.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(worker.pid, signal.SIGSTOP)  # a stopped process keeps its lease
        output = command(tmp_path, *cells, "mode=status")
        assert "1 running, 1 waiting" in output and f"process {worker.pid}" in output
        os.kill(worker.pid, signal.SIGKILL)
    assert "1 stopped, 1 waiting" in command(tmp_path, *cells, "mode=status")
    short = [*settings, "seeds=2"]
    command(tmp_path, *short)
    screen, theirs = pty.openpty()
    with Command(*short, "mode=status", folder=tmp_path, prepare=functools.partial(use_terminal, os.ttyname(theirs))) as watch:
        done = watch.wait()
    assert done.code == 0, done.err
    assert "2 finished" in os.read(screen, 100_000).decode()


def use_terminal(name: str) -> None:
    """Write the output of this process to a terminal."""
    sys.stdout = Path(name).open("w", encoding="utf-8")  # noqa: SIM115


needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None, reason="the extra slurm is not installed"
)

#: A grid with some seconds per cell, so that workers can be killed during a task.
LONGER = ["seeds=3", "train.tokens=19200", "train.checkpoint_minutes=0.001", "grid.workers=2", "grid.lease_seconds=2"]


def be_impatient() -> None:
    """Let submitit wait not as long for the results of a job that was killed as if they were on a slow file system."""
    from submitit.core.core import Job

    Job._results_timeout_s = 5


@pytest.mark.slow
def test_workers_share_a_grid_and_end_with_the_command_that_started_them(settings: list[str], tmp_path: Path) -> None:
    cells = [*settings, "seeds=3", "grid.workers=2", "grid.lease_seconds=2"]
    with start(tmp_path, *cells, "train.tokens=6400000") as grid:
        wait_until(lambda: len(holders(tmp_path)) == 2)
        workers = set(holders(tmp_path).values())
        assert grid.pid in workers
        grid.kill()
        (helper,) = workers - {grid.pid}
        wait_until(lambda: not Path(f"/proc/{helper}").exists())
    assert finished(tmp_path) == 0
    output = command(tmp_path, *cells, "train.tokens=2048")
    assert "2 workers" in output and "3 done, 0 failed" in output
    assert not holders(tmp_path)


@pytest.mark.slow
def test_a_local_worker_that_is_killed_is_replaced_by_the_others(settings: list[str], tmp_path: Path) -> None:
    with start(tmp_path, *settings, *LONGER) as grid:
        helpers: set[int] = set()
        wait_until(lambda: helpers.update(set(holders(tmp_path).values()) - {grid.pid}) or helpers)
        os.kill(helpers.pop(), signal.SIGKILL)
        ended = grid.wait()
    assert ended.code == 0, ended.text
    assert "a worker ended with exit code -9; the others continue" in ended.err and "3 done, 0 failed" in ended.err
    assert finished(tmp_path) == 3 and not list((tmp_path / "runs" / "claims").iterdir())


@pytest.mark.slow
@needs_submitit
def test_a_killed_submitit_job_is_restarted(settings: list[str], tmp_path: Path) -> None:
    with Command(
        *settings, *LONGER, "train.tokens=6400", "hydra/launcher=submitit_local", folder=tmp_path, prepare=be_impatient
    ) as grid:
        wait_until(lambda: holders(tmp_path))
        victim = next(iter(holders(tmp_path).values()))
        assert victim != grid.pid
        os.kill(victim, signal.SIGKILL)
        ended = grid.wait()
    assert ended.code == 0, ended.text
    assert "2 workers start" in ended.err and "3 done, 0 failed" in ended.err
    assert finished(tmp_path) == 3 and not list((tmp_path / "runs" / "claims").iterdir())
    assert (tmp_path / "runs" / ".submitit").is_dir()
    assert all(
        "hydra/launcher=submitit_local" in json.loads(path.read_text())["command"]
        for path in (tmp_path / "runs").glob("*/provenance.json")
    )


@pytest.mark.slow
def test_a_large_grid_survives_planted_failures(settings: list[str], tmp_path: Path) -> None:
    """A grid of 40 cells (200 in the profile "deep"), of which ten overflow; one of its two workers is killed meanwhile."""
    cells_in_all = 200 if hypothesis.settings.get_current_profile_name() == "deep" else 40
    rates = ",".join(["900", *(f"0.0{number}" for number in range(11, 10 + cells_in_all // 10))])
    cells = [
        *settings, *OVERFLOW, f"optimizer.scaling.base_lr={rates}", "seeds=10", "arch.depth=1", "arch.width=8",
        "arch.ffn_width=8", "arch.head_dim=4", "train.tokens=2048", "train.keep_model=false", "evaluate.max_bytes=500",
        "evaluate.cloze_questions=0", "grid.workers=2",
    ]  # fmt: skip
    with start(tmp_path, *cells) as grid:
        wait_until(lambda: finished(tmp_path) > 5 and set(holders(tmp_path).values()) - {grid.pid})
        victims = set(holders(tmp_path).values()) - {grid.pid}
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        ended = grid.wait()
    assert ended.code == 1, ended.text
    sound = cells_in_all - 10
    assert f"{sound} done, 10 failed" in ended.err, ended.err
    failed = [line for line in ended.err.splitlines() if line.startswith("failed ") and "error.txt" in line]
    assert len(failed) == 10 and all("optimizer.scaling.base_lr=900" in line for line in failed)
    assert finished(tmp_path) == sound == len(list((tmp_path / "runs").glob("*/measures/bits_per_byte.*.json")))
    assert not list((tmp_path / "runs").glob("*/model")) and not holders(tmp_path)
    status = command(tmp_path, *cells, "mode=status")
    assert f"{sound} finished, 10 failed" in status


@pytest.mark.slow
@needs_submitit
def test_slurm_runs_a_grid_and_replaces_a_killed_worker(settings: list[str], tmp_path: Path) -> None:
    grid = [*settings, *LONGER, "train.tokens=6400", "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]
    place = tmp_path / "environment"
    words = [str(ROOT / "tests" / "slurm" / "run.sh"), "sh", "-c", f"env -0 > {place}.part; mv {place}.part {place}; read end"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as slurm:
        wait_until(lambda: slurm.poll() is not None or place.exists())
        if slurm.poll() is not None:
            _, err = slurm.communicate()
            assert slurm.returncode == 77, err
            pytest.skip(err.strip())
        variables = dict(entry.split("=", 1) for entry in place.read_text().split("\0") if entry)
        with Command(*grid, folder=tmp_path, environment=variables, prepare=be_impatient) as command:
            wait_until(lambda: not command.running() or holders(tmp_path))
            for victim in list(holders(tmp_path).values())[:1]:
                os.kill(victim, signal.SIGKILL)
            ended = command.wait()
        slurm.communicate("\n")
    assert ended.code == 0, ended.text
    assert "3 done, 0 failed" in ended.err and finished(tmp_path) == 3
    assert not list((tmp_path / "runs" / "claims").iterdir())
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/metrics.json")]
    assert sorted(record["seed"] for record in records) == [0, 1, 2]
    assert len(list((tmp_path / "runs" / ".submitit").glob("*/*_submission.sh"))) >= 1
