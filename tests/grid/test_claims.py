"""One run, one worker: claims are made, kept alive, taken over and given free."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from tinylm_ablate.errors import Busy, Interrupted
from tinylm_ablate.grid import claims
from tinylm_ablate.execute.leases import claimed, file_time, held, holders, take

FORK: Any = multiprocessing.get_context("fork")


def files(runs: Path) -> list[str]:
    return sorted(path.name for path in (runs / "claims").iterdir())


def age(runs: Path, name: str, seconds: float) -> None:
    past = file_time(runs) - seconds
    os.utime(runs / "claims" / name, (past, past))


def foreign(runs: Path, identity: str, number: int = 1) -> Path:
    """A claim of another machine."""
    path = runs / "claims" / f"{identity}.{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"machine": "elsewhere/1", "pid": 7, "time": "", "lease_seconds": 60}')
    return path


def test_a_claimed_run_is_busy_until_it_is_given_free(tmp_path: Path) -> None:
    claim = take(tmp_path, "a", 60)
    with pytest.raises(Busy, match="process"):
        take(tmp_path, "a", 60)
    take(tmp_path, "b", 60).release(done=True)
    claim.release(done=False)
    assert files(tmp_path) == ["a.1"] and not holders(tmp_path)
    again = take(tmp_path, "a", 60)
    assert files(tmp_path) == ["a.2"]
    again.release(done=True)
    assert files(tmp_path) == []


def test_a_claim_is_kept_alive_past_its_lease(tmp_path: Path) -> None:
    claim = take(tmp_path, "a", 0.8)
    time.sleep(1.5)
    assert claimed(tmp_path)["a"].age < 0.8 and not claim.lost
    claim.release(done=True)


def test_of_many_that_find_a_claim_dead_one_gets_it(tmp_path: Path) -> None:
    workers, rounds = 6, 15
    barrier, won = FORK.Barrier(workers), FORK.Array("i", rounds)

    def work(barrier: Barrier) -> None:
        for number in range(rounds):
            barrier.wait(30)
            try:
                take(tmp_path, f"run{number}", 60)
            except Busy:
                continue
            with won.get_lock():
                won[number] += 1

    for number in range(rounds):
        foreign(tmp_path, f"run{number}", number + 1)
        age(tmp_path, f"run{number}.{number + 1}", 61)
    processes = [FORK.Process(target=work, args=(barrier,)) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert list(won) == [1] * rounds
    assert files(tmp_path) == sorted(f"run{number}.{number + 2}" for number in range(rounds))


def test_whoever_looked_long_ago_does_not_get_a_number_that_was_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path, "a", 5)  # others are at number 5 by now
    looks = iter([1])
    newest = claims._newest
    monkeypatch.setattr(claims, "_newest", lambda folder, identity: next(looks, None) or newest(folder, identity))
    with pytest.raises(Busy):
        take(tmp_path, "a", 60)
    assert files(tmp_path) == ["a.5"]


def test_the_clock_of_the_machine_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path, "a")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert holders(tmp_path)["a"].name == "elsewhere, process 7"
    with pytest.raises(Busy, match="elsewhere"):
        take(tmp_path, "a", 0.001)  # the lease that counts is the holder's
    age(tmp_path, "a.1", 61)
    assert not holders(tmp_path)
    take(tmp_path, "a", 60).release(done=True)


def test_a_claim_that_was_not_written_is_nobodys(tmp_path: Path) -> None:
    foreign(tmp_path, "a").write_text("")
    with pytest.raises(Busy):
        take(tmp_path, "a", 60)
    age(tmp_path, "a.1", 61)
    take(tmp_path, "a", 60).release(done=True)


def test_the_run_of_a_killed_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    run = tmp_path / "a"
    holds = FORK.Event()

    def work() -> None:
        with held(run, 600, wait=False):
            holds.set()
            time.sleep(600)

    process = FORK.Process(target=work)
    process.start()
    assert holds.wait(30)
    with pytest.raises(Busy), held(run, 600, wait=False):
        pass
    assert list(holders(tmp_path)) == ["a"]
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert not holders(tmp_path)
    with held(run, 600, wait=False):
        assert list(holders(tmp_path)) == ["a"]


def test_a_worker_waits_for_a_run_and_takes_it_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "a"
    claim = foreign(tmp_path, "a")
    timer = threading.Timer(0.5, lambda: age(tmp_path, "a.1", 61))
    timer.start()
    with held(run, 1, wait=True):
        assert not claim.exists()
    assert capsys.readouterr().err.count("waiting for another worker") == 1


def test_a_claim_that_is_taken_over_stops_its_holder(tmp_path: Path) -> None:
    run = tmp_path / "a"
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        with pytest.raises(Busy, match="taken over"), held(run, 0.4, wait=False):
            foreign(tmp_path, "a", 2)
            deadline = time.monotonic() + 20
            while not asked and time.monotonic() < deadline:
                time.sleep(0.02)
            raise Interrupted(signal.SIGTERM, "saved")  # as training does
    finally:
        signal.signal(signal.SIGTERM, before)
    assert asked and files(tmp_path) == ["a.1", "a.2"]
