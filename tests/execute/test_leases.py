"""One worker per task: leases are acquired, renewed, taken over and released."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm_ablate import leases as module
from tinylm_ablate.errors import Busy
from tinylm_ablate.leases import Leases, machine
from tinylm_ablate.signals import Stop

FORK: Any = multiprocessing.get_context("fork")

#: Lease time of leases that expire in a test, seconds.
SHORT = 0.2

#: Content that a file with a lease's name may have instead of a lease.
DAMAGED = {
    "empty": b"",
    "cut off": b'{"machine": "elsew',
    "not JSON": b"\x00\xff garbage",
    "not UTF-8": b'{"machine": "\xff\xfe"}',
    "a number": b"5",
    "null": b"null",
    "a list": b'[{"machine": "elsewhere"}]',
    "text": b'"elsewhere"',
    "fields of other types": b'{"machine": 7, "pid": "x", "since": [], "seconds": "long", "session": null, "crashes": {}}',
    "booleans": b'{"machine": true, "pid": false, "seconds": true, "crashes": true}',
    "infinite lease": b'{"machine": "elsewhere/1", "seconds": Infinity}',
    "no number": b'{"machine": "elsewhere/1", "seconds": NaN}',
    "negative lease": b'{"machine": "elsewhere/1", "seconds": -5.0}',
    "a whole number of seconds": b'{"machine": "elsewhere/1", "seconds": 7}',
    "deep nesting": b"[" * 100_000,
}


def files(runs: Path) -> list[str]:
    return sorted(path.name for path in (runs / "claims").iterdir())


def foreign(runs: Path, key: str, number: int = 1, seconds: float = SHORT, content: bytes | None = None) -> Path:
    """Write a lease of another machine, which nobody renews."""
    path = runs / "claims" / f"{key}.{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    lease = {"machine": "elsewhere/1", "pid": 7, "since": "", "seconds": seconds, "session": "other", "crashes": 0}
    path.write_bytes(json.dumps(lease).encode() if content is None else content)
    return path


def expire(leases: Leases) -> None:
    """Watch all leases until those with a short lease time that nobody renews are dead."""
    leases.held()
    time.sleep(2 * SHORT)


def take(leases: Leases, key: str, product: Path) -> None:
    """Acquire a task, do it, and release it."""
    with leases.hold(key, product):
        product.touch()


def test_a_held_task_is_busy_until_it_is_released(tmp_path: Path) -> None:
    one, other = Leases(tmp_path, 60), Leases(tmp_path, 60)
    done, undone = tmp_path / "done", tmp_path / "undone"
    with one.hold("a", undone):
        with pytest.raises(Busy, match="held by another process"), other.hold("a", undone):
            pass
        assert list(other.held()) == ["a"]
        take(other, "b", done)
    assert files(tmp_path) == ["a.1", "a.lock"] and not other.held()
    with other.hold("a", undone):
        assert files(tmp_path) == ["a.2", "a.lock"]
    take(one, "a", done)
    assert files(tmp_path) == [], "a finished task leaves nothing behind"


def test_a_lease_is_renewed_beyond_its_time(tmp_path: Path) -> None:
    observer = Leases(tmp_path, SHORT)
    with Leases(tmp_path, SHORT).hold("a", tmp_path / "done") as lease:
        for _ in range(4):
            expire(observer)
            assert list(observer.held()) == ["a"] and not lease.lost


def test_only_one_of_many_takes_over_a_dead_lease(tmp_path: Path) -> None:
    workers, rounds = 6, 8
    barrier, won = FORK.Barrier(workers), FORK.Array("i", rounds)

    def work(barrier: Barrier) -> None:
        leases, mine = Leases(tmp_path, 60), []
        expire(leases)
        for number in range(rounds):
            barrier.wait(30)
            try:
                mine.append(leases.hold(f"run{number}", tmp_path / "none"))  # held until the process ends
                mine[-1].__enter__()
            except Busy:
                continue
            with won.get_lock():
                won[number] += 1
        barrier.wait(30)
        os._exit(0)

    for number in range(rounds):
        foreign(tmp_path, f"run{number}", number + 1)
    processes = [FORK.Process(target=work, args=(barrier,)) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert list(won) == [1] * rounds
    assert [name for name in files(tmp_path) if not name.endswith(".lock")] == sorted(
        f"run{number}.{number + 2}" for number in range(rounds)
    )


def test_an_outdated_lease_number_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path, "a", 5, seconds=60)  # others are at number 5 by then
    looks = iter([1])  # and this process looked much earlier
    newest = module._newest
    monkeypatch.setattr(module, "_newest", lambda folder, key: next(looks, None) or newest(folder, key))
    with pytest.raises(Busy), Leases(tmp_path, 60).hold("a", tmp_path / "done"):
        pass
    assert [name for name in files(tmp_path) if not name.endswith(".lock")] == ["a.5"]


def test_the_holders_lease_time_counts(tmp_path: Path) -> None:
    foreign(tmp_path, "a", seconds=60)
    leases = Leases(tmp_path, SHORT)
    expire(leases)
    assert leases.held()["a"].name == "elsewhere, process 7"
    with pytest.raises(Busy, match="elsewhere, process 7"), leases.hold("a", tmp_path / "done"):
        pass


def test_clocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease from the future, an old one, or one of a machine whose clock stepped: each is dead if it does not change."""
    leases = Leases(tmp_path, SHORT)
    for key, when in (("future", 4e9), ("past", 1.0), ("now", time.time())):
        os.utime(foreign(tmp_path, key), (when, when))
    monkeypatch.setattr(time, "time", lambda: 9e9)
    assert set(leases.held()) == {"future", "past", "now"}
    for key in ("future", "past", "now"):
        with pytest.raises(Busy), leases.hold(key, tmp_path / "none"):
            pass
    expire(leases)
    assert not leases.held()
    for key in ("future", "past", "now"):
        take(leases, key, tmp_path / "done")
    assert files(tmp_path) == []


def test_damaged_leases_neither_block_nor_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are respected as long as they may still be written, and taken over once nothing changes."""
    monkeypatch.setattr(module, "UNREADABLE_SECONDS", SHORT)
    future = time.time() + 1e6
    keys = {content: f"key{number}" for number, content in enumerate(DAMAGED.values())}
    for content, key in keys.items():
        foreign(tmp_path, key, content=content)
        os.utime(tmp_path / "claims" / f"{key}.1", (future, future))
    leases = Leases(tmp_path, SHORT)
    held = leases.held()
    for content, key in keys.items():
        assert held[key].name, content
        with pytest.raises(Busy), leases.hold(key, tmp_path / key):
            pass
    expire(leases)
    long = keys[DAMAGED["a whole number of seconds"]]
    assert {key: holder.seconds for key, holder in leases.held().items()} == {long: 7}
    for key in keys.values():
        if key != long:
            take(leases, key, tmp_path / key)
    assert {Path(name).stem for name in files(tmp_path)} == {long}


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["machine", "pid", "since", "seconds", "session", "crashes", "x"]), inner
        ),
        max_leaves=5,
    )
)  # fmt: skip
def test_any_json_reads_as_a_holder(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.1"
    path.write_text(json.dumps(content))
    holder = module._read(path)
    assert holder is not None and 0 < holder.seconds <= module.MOST_SECONDS and holder.name and holder.crashes >= 0


def test_a_folder_instead_of_a_lease_does_not_crash(tmp_path: Path) -> None:
    (tmp_path / "claims" / "a.1").mkdir(parents=True)
    leases = Leases(tmp_path, SHORT)
    assert "a" in leases.held()
    take(leases, "b", tmp_path / "done")


def test_a_lease_is_released_manually(tmp_path: Path) -> None:
    foreign(tmp_path, "a", seconds=3600)
    leases = Leases(tmp_path, 60)
    assert leases.give_back("a") and not leases.give_back("a")
    take(leases, "a", tmp_path / "done")


def test_the_task_of_a_killed_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    holds, product = FORK.Event(), tmp_path / "done"

    def work() -> None:
        with Leases(tmp_path, 600).hold("a", product):
            holds.set()
            time.sleep(600)

    process = FORK.Process(target=work)
    process.start()
    assert holds.wait(30)
    leases = Leases(tmp_path, 600)
    with pytest.raises(Busy), leases.hold("a", product):
        pass
    holder = leases.held()["a"]
    assert (holder.machine, holder.pid) == (machine(), process.pid) and ", since 20" in holder.name
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert not leases.held()
    with leases.hold("a", product):
        assert list(leases.held()) == ["a"]


@pytest.mark.parametrize(("session", "counted"), [("mine", 3), ("another", 0)])
def test_deaths_in_a_task_are_counted_per_command(session: str, counted: int, tmp_path: Path) -> None:
    def die() -> None:
        with Leases(tmp_path, 600, "mine").hold("a", tmp_path / "done"):
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        process = FORK.Process(target=die)
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
    with Leases(tmp_path, 600, session).hold("a", tmp_path / "done") as lease:
        assert lease.crashes == counted


def test_a_released_task_counts_no_death(tmp_path: Path) -> None:
    leases = Leases(tmp_path, 60, "mine")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), leases.hold("a", tmp_path / "done"):
            raise KeyboardInterrupt
    with leases.hold("a", tmp_path / "done") as lease:
        assert lease.crashes == 0


def test_a_lease_that_is_taken_over_stops_its_holder(tmp_path: Path) -> None:
    stop = Stop()
    stop.watch()
    try:
        with Leases(tmp_path, 0.4).hold("a", tmp_path / "done") as lease:
            foreign(tmp_path, "a", 2)
            deadline = time.monotonic() + 20
            while not stop.signum and time.monotonic() < deadline:
                time.sleep(0.02)
            assert lease.lost
    finally:
        stop.close()
    assert stop.signum == signal.SIGTERM and [name for name in files(tmp_path) if not name.endswith(".lock")] == ["a.1", "a.2"]


def test_a_folder_without_locks_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks, a lease of this machine is also dead only after its time."""
    import errno

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(module.fcntl, "flock", no_locks)
    path = foreign(tmp_path, "a", content=json.dumps({"machine": machine(), "pid": 1, "seconds": SHORT}).encode())
    leases = Leases(tmp_path, SHORT)
    with pytest.raises(Busy), leases.hold("a", tmp_path / "done"):
        pass
    expire(leases)
    with leases.hold("a", tmp_path / "done") as lease:
        assert not path.exists() and not lease.lost
