"""The order in which workers do the tasks of a graph, and the treatment of failures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.helpers import TINY
from tinylm_ablate.config import Config
from tinylm_ablate.errors import Interrupted, RunFailed
from tinylm_ablate.execute.walk import DONE, FAILED, SKIPPED, WAITING, Walk
from tinylm_ablate.leases import Holder, Leases
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import Follower, follow


class Step(Task):
    """A task that fails ``failures`` times, and then writes a file."""

    kind = "step"

    def __init__(self, name: str, run: Settled, needs: Sequence[Task] = (), failures: int = 0) -> None:
        super().__init__(name, name, run, needs)
        self.failures, self.attempts, self.tidied = failures, 0, 0

    @property
    def product(self) -> Path:
        return self.run.folder.parent / "products" / self.name

    def do(self, tracked: Follower) -> None:
        del tracked
        self.attempts += 1
        if self.attempts <= self.failures:
            raise RunFailed(f"{self.name} broke")
        self.product.parent.mkdir(exist_ok=True)
        self.product.touch()

    def tidy(self) -> None:
        self.tidied += 1


class Member(Step):
    """A task that is done with all others of its group."""

    def __init__(self, name: str, run: Settled, group: str) -> None:
        super().__init__(name, run)
        self.group = group

    @property
    def together(self) -> str:
        return self.group

    def most_together(self, ready: int) -> int:
        return ready


class Place:
    """A folder for tasks."""

    def __init__(self, folder: Path, compose: Callable[[list[str]], Config]) -> None:
        self.run = settle(compose([*TINY, f"runs_dir={folder}"]))
        self.folder = folder
        folder.joinpath("products").mkdir()

    def step(self, name: str, *needs: Task, failures: int = 0) -> Step:
        return Step(name, self.run, needs, failures)

    def walk(self, *targets: Task, retries: int = 0, stop: bool = False, observe: bool = False) -> Walk:
        leases = Leases(self.folder, 0.4, "session")
        tracked = follow(self.run.config.tracking, self.folder)
        return Walk(targets, leases, tracked, retries=retries, stop=stop, observe=observe)


@pytest.fixture
def place(tmp_path: Path, compose: Callable[[list[str]], Config]) -> Place:
    return Place(tmp_path, compose)


def killed(work: Callable[..., None], *arguments: object) -> None:
    """Do ``work``, which kills its process, in a separate process."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL


def states(walk: Walk) -> dict[str, str]:
    return {state.task.name: state.state for state in walk.states.values()}


def test_each_task_is_done_after_its_needs(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    first = place.step("first")
    second = place.step("second", first)
    third = place.step("third", second, first)
    walk = place.walk(third)  # its needs are done without being requested
    walk.go()
    assert states(walk) == {"first": DONE, "second": DONE, "third": DONE}
    output = [line for line in capsys.readouterr().err.splitlines() if line.startswith("done")]
    assert output == ["done   first", "done   second", "done   third"]
    assert not list((place.folder / "claims").iterdir())


@pytest.mark.parametrize(
    ("groups", "workers", "taken"),
    [
        ("A" * 16 + "B" * 16, 2, ["A" * 16, "B" * 16]),
        ("A" * 5 + "B" * 3 + "C", 2, ["A" * 5, "B" * 3]),
        ("A" * 60, 6, ["A" * 10] * 6),
        ("A" * 30 + "B" * 30, 6, ["A" * 10] * 3 + ["B" * 10] * 3),
        ("AB", 1, ["A"]),
    ],
)
def test_workers_share_a_group_only_if_there_are_more_workers_than_groups(
    place: Place, groups: str, workers: int, taken: list[str]
) -> None:
    tasks = [Member(f"{group}{number}", place.run, group) for number, group in enumerate(groups)]
    walk = Walk(tasks, Leases(place.folder, 60, "session"), follow(place.run.config.tracking, place.folder), workers=workers)
    held: dict[str, Holder] = {}
    found = []
    for _ in range(workers):
        first = next(state for state in walk.order if state.task.key not in held)
        own = walk._companions(first, walk.order, held)
        held |= {state.task.key: Holder("elsewhere", 1, "now", 60, 1, False, "session", 0) for state in own}
        found.append("".join(state.task.together for state in own))
    assert found == taken


def test_done_tasks_are_tidied_and_skipped_with_their_needs(place: Place) -> None:
    first = place.step("first")
    second = place.step("second", first)
    second.product.touch()
    walk = place.walk(second)
    walk.go()
    assert states(walk) == {"second": SKIPPED}
    assert (first.attempts, second.attempts, second.tidied) == (0, 0, 1)


def test_the_lease_of_a_worker_that_died_after_its_task_was_done_is_removed(place: Place) -> None:
    """At the start of a command, and while it runs."""

    def die(task: Step) -> None:
        with Leases(place.folder, 60, "session").hold(task.key, task.product):
            task.product.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    class Deadly(Step):
        def do(self, tracked: Follower) -> None:
            killed(die, later)
            super().do(tracked)

    before, later = place.step("before"), place.step("later")
    killed(die, before)
    walk = place.walk(before, Deadly("first", place.run), later)
    walk.go()
    assert states(walk) == {"before": SKIPPED, "first": DONE, "later": DONE}
    assert (before.tidied, later.tidied, later.attempts) == (1, 1, 0)
    assert not list((place.folder / "claims").iterdir())


def test_a_failure_affects_only_dependent_tasks(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    broken, sound = place.step("broken", failures=9), place.step("sound")
    above, independent = place.step("above", broken), place.step("independent", sound)
    walk = place.walk(place.step("top", above), independent)
    walk.go()
    assert states(walk) == {"broken": FAILED, "above": FAILED, "top": FAILED, "sound": DONE, "independent": DONE}
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed")] == [
        "failed broken: broken broke",
        "failed above, top: need broken, which failed",
    ]
    assert isinstance(walk.failed()[0].exception, RunFailed)
    lines = broken.log.read_text().splitlines()
    assert lines[0] == "broken broke" and lines[1].startswith("attempt 1 of 1") and "Traceback" in broken.log.read_text()
    assert not above.log.exists() and above.attempts == 0


def test_what_needs_a_task_that_another_worker_failed_at_is_not_started(place: Place) -> None:
    broken = place.step("broken", failures=9)
    above = place.step("above", broken)
    walk, other = place.walk(above), place.walk(place.step("broken", failures=9))
    other.go()
    walk.go()
    assert states(walk) == {"broken": FAILED, "above": FAILED}
    assert broken.attempts == above.attempts == 0


def test_a_task_is_retried_and_its_log_is_removed_when_it_is_done(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    task = place.step("flaky", failures=2)
    walk = place.walk(task, retries=2)
    walk.go()
    assert states(walk) == {"flaky": DONE} and task.attempts == 3 and not task.log.exists()
    assert "flaky: attempt 2 of 3 failed: flaky broke" in capsys.readouterr().err


def test_the_walk_can_end_at_the_first_failure(place: Place) -> None:
    walk = place.walk(place.step("one"), place.step("broken", failures=9), place.step("two"), stop=True)
    walk.go()
    assert states(walk) == {"one": DONE, "broken": FAILED, "two": WAITING}


def test_a_failure_of_an_earlier_command_is_retried(place: Place) -> None:
    task = place.step("flaky", failures=1)
    first, again = place.walk(task), None
    first.go()
    assert task.log.exists()
    again = place.walk(task)
    again.go()
    assert states(first) == {"flaky": FAILED} and states(again) == {"flaky": DONE}


def test_an_interrupted_task_is_released(place: Place) -> None:
    class Stopped(Step):
        def do(self, tracked: Follower) -> None:
            del tracked
            raise Interrupted(15, "saved")

    task = Stopped("stopped", place.run)
    with pytest.raises(Interrupted):
        place.walk(task).go()
    assert not Leases(place.folder, 60).held() and not task.log.exists()


def test_tasks_held_by_another_worker_come_last(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    held, free = place.step("held"), place.step("free")
    release = threading.Event()

    def other() -> None:
        with Leases(place.folder, 60, "other").hold(held.key, held.product):
            assert release.wait(30)
            held.product.touch()

    class Last(Step):
        def do(self, tracked: Follower) -> None:
            super().do(tracked)
            release.set()

    thread = threading.Thread(target=other)
    thread.start()
    while "step-held" not in Leases(place.folder, 60).held():
        pass
    walk = place.walk(held, free, Last("last", place.run))
    walk.go()
    thread.join()
    assert states(walk) == {"held": DONE, "free": DONE, "last": DONE} and held.attempts == 0
    output = capsys.readouterr().err
    assert output.index("done   last") < output.index("done   held") and "start  held" not in output


def test_an_observer_reports_other_workers_and_does_no_task(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = place.step("good"), place.step("bad", failures=9)
    observer = place.walk(good, bad, observe=True)
    thread = threading.Thread(target=observer.go)
    thread.start()
    Walk(
        [Step("good", place.run), Step("bad", place.run, failures=9)], Leases(place.folder, 0.4, "session"),
        follow(place.run.config.tracking, place.folder), quiet=True,
    ).go()  # fmt: skip
    thread.join(30)
    assert states(observer) == {"good": DONE, "bad": FAILED} and (good.attempts, bad.attempts) == (0, 0)
    output = capsys.readouterr().err
    assert "done   good" in output and "failed bad: bad broke" in output and "start" not in output


def test_an_observer_ends_when_it_is_no_longer_needed(place: Place) -> None:
    walk = place.walk(place.step("never"), observe=True)
    walk.ended.set()
    walk.go()
    assert states(walk) == {"never": WAITING}


@pytest.mark.parametrize(("deaths", "state"), [(1, DONE), (2, FAILED)])
def test_a_task_that_kills_its_workers_is_a_failure(deaths: int, state: str, place: Place) -> None:
    """One death is an accident; the second in the same task of the same command, without retries, is a failure of the task."""
    task = place.step("deadly")

    def die() -> None:
        with Leases(place.folder, 60, "session").hold(task.key, task.product):
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(deaths):
        killed(die)
    walk = place.walk(task)
    walk.go()
    assert states(walk) == {"deadly": state} and task.attempts == (state == DONE)
    if state == FAILED:
        assert walk.failed()[0].error == "2 workers died at this task without an error (killed by the system, out of memory?)"
        assert "2 workers died" in task.log.read_text()


def test_a_task_finished_by_a_suspended_worker_is_done(place: Place) -> None:
    class Late(Step):
        def do(self, tracked: Follower) -> None:
            super().do(tracked)  # by the other worker, which was suspended, and then removed the needs
            raise FileNotFoundError(2, "No such file or directory", "checkpoint/.step-000000047.0a/optimizer.safetensors")

    late = Late("late", place.run)
    after = place.step("after", late)
    walk = place.walk(after)
    walk.go()
    assert states(walk) == {"late": DONE, "after": DONE}
    assert not late.log.exists()
