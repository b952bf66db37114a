"""One worker's walk over a graph of tasks, together with any other workers on the same graph.

A worker takes the first task that can start and that no other worker holds, does it, and continues, until every task is done or
has failed. Workers may start late, stop early or be killed: others, or the next command, take over their tasks.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinylm_ablate import progress
from tinylm_ablate.disk import in_words
from tinylm_ablate.errors import Busy, DiskError, Interrupted, listed, one_line
from tinylm_ablate.execute.words import failure_mark, read_failure, say, write_failure
from tinylm_ablate.leases import LOOK_SECONDS, Holder, Lease, Leases
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import Follower

WAITING, DONE, SKIPPED, FAILED = "waiting", "done", "skipped", "failed"


@dataclass
class State:
    """Outcome of a task in this walk.

    Attributes:
        task: The task.
        state: WAITING, DONE (by this command), SKIPPED (done before) or FAILED.
        error: Why it failed, in one line.
        exception: The exception, if it was raised in this process.
        cause: The failed task that it needs, directly or indirectly, if that is why.
    """

    task: Task
    state: str = WAITING
    error: str = ""
    exception: Exception | None = None
    cause: Task | None = None


def consequences(states: Iterable[State]) -> list[str]:
    """Describe failures of tasks whose needs have failed, in one line per cause."""
    by_cause: dict[str, list[str]] = {}
    for state in states:
        if state.cause is not None:
            by_cause.setdefault(state.cause.name, []).append(state.task.name)
    lines = []
    for cause, names in by_cause.items():
        lines.append(f"failed {listed(names)}: {'needs' if len(names) == 1 else 'need'} {cause}, which failed")
    return lines


class Walk:
    """Does tasks, each after those that it needs.

    Args:
        targets: The requested tasks. Tasks that only finished ones need are not done.
        leases: Leases of the folder of runs.
        tracked: Syncs the trackers with the folders of runs.
        retries: Times to retry a failed task.
        stop: Whether to end at the first failure.
        quiet: Whether to report only waiting.
        observe: Whether to do nothing, and only report what other workers do.
        failures: Marks of failures before the command started, by key of the task; None to determine them now.
        workers: Number of workers of the command, which share the ready tasks.
    """

    def __init__(
        self,
        targets: Sequence[Task],
        leases: Leases,
        tracked: Follower,
        *,
        retries: int = 0,
        stop: bool = False,
        quiet: bool = False,
        observe: bool = False,
        failures: dict[str, int] | None = None,
        workers: int = 1,
    ) -> None:
        self.tracked, self.workers = tracked, workers
        self.leases, self.retries, self.stop, self.quiet, self.observe = leases, retries, stop, quiet, observe
        self.ended = threading.Event()
        self.states: dict[str, State] = {}
        self._left = leases.names()
        self._of: dict[str, list[Task]] = {}
        for task in targets:
            self._want(task)
            if task.kind in ("run", "measure"):
                self._of.setdefault(task.run.identity, []).append(task)
        self.order = [state for state in self.states.values() if state.state == WAITING]
        self.leases.sweep({key for key, state in self.states.items() if state.state == SKIPPED})
        self.failures = self.marks() if failures is None else failures
        self._reported: set[str] = set()

    def marks(self) -> dict[str, int]:
        """Return the marks of current failures, by key of the task."""
        marks = {state.task.key: failure_mark(state.task.log) for state in self.order}
        return {key: mark for key, mark in marks.items() if mark}

    def _want(self, task: Task) -> None:
        if task.key in self.states:
            return
        if task.done():
            self._tidy(task, self._left)
            task.log.unlink(missing_ok=True)  # of an earlier attempt
            self.states[task.key] = State(task, SKIPPED)
            return
        for need in task.needs:
            self._want(need)
        self.states[task.key] = State(task)

    def _tidy(self, task: Task, left: Container[str]) -> None:
        """Clean up after a finished task; for one in ``left``, including the lease of a worker that died before doing so."""
        if task.key not in left:
            task.tidy()
        elif not self.observe:
            with contextlib.suppress(Busy), self.leases.hold(task.key, task.product):
                task.tidy()

    def failed(self) -> list[State]:
        """Tasks that failed, in order."""
        return [state for state in self.order if state.state == FAILED]

    def waiting(self) -> list[State]:
        """Tasks that are neither done nor failed."""
        return [state for state in self.order if state.state == WAITING]

    def tasks_of(self, identity: str) -> list[Task]:
        """The tasks that train and measure a run."""
        return list(self._of.get(identity, []))

    def go(self) -> None:
        """Walk until no task is left that can be done, or ``ended`` is set.

        Raises:
            Interrupted: A signal stopped a task; its state is saved.
            DiskError: No disk space, or no permission to write.
        """
        waiting = self.order
        while waiting := [state for state in waiting if state.state == WAITING]:
            if self.stop and self.failed():
                return
            if not self._step(waiting) and self.ended.wait(min(LOOK_SECONDS, self.leases.seconds / 4)):
                return

    def _step(self, waiting: Sequence[State]) -> bool:
        """Do the first task that can start; False if there is none."""
        held = self.leases.held()
        busy: list[tuple[State, Holder]] = []
        changed = self._fail_dependents(waiting)
        for state in waiting:
            task = state.task
            needs = {self.states[need.key].state for need in task.needs}
            if state.state != WAITING or FAILED in needs or (WAITING in needs and not task.can_start_early()):
                continue
            if task.key in held:
                busy.append((state, held[task.key]))
            elif self._settled_by_others(state):
                changed = True
            elif not self.observe and self._do(self._companions(state, waiting, held)):
                return True
        if not changed and busy and not self.observe:
            self._report_busy(busy)
        return changed

    def _fail_dependents(self, waiting: Sequence[State]) -> bool:
        """Fail the tasks of which a need has failed; returns whether there are any."""
        affected = []
        for state in waiting:
            broken = next((own for need in state.task.needs if (own := self.states[need.key]).state == FAILED), None)
            if broken is not None:
                state.cause = broken.cause or broken.task
                state.state, state.error = FAILED, f"needs {state.cause.name}, which failed"
                affected.append(state)
        for line in consequences(affected):
            self._say(line)
        return bool(affected)

    def _settled_by_others(self, state: State) -> bool:
        """Return whether another worker has done a task, or failed at it."""
        task = state.task
        if task.done():
            state.state = DONE
            if task.key in (left := self.leases.names()):
                self._tidy(task, left)
            self._say(f"done   {task.name}{_said(task)}")
        elif failure_mark(task.log) not in (0, self.failures.get(task.key, 0)):
            self._fail(state, read_failure(task.log) or "no message")
        return state.state != WAITING

    def _companions(self, first: State, waiting: Sequence[State], held: Mapping[str, Holder]) -> list[State]:
        """Return the first of ``waiting`` that can start, and the tasks to do with it as one program."""
        task = first.task
        if task.most_together(len(waiting)) == 1:
            return [first]
        ready = [
            state
            for state in waiting
            if state.state == WAITING
            and state.task.kind == task.kind
            and all(self.states[need.key].state in (DONE, SKIPPED) for need in state.task.needs)
        ]
        group, groups = task.together, Counter(state.task.together for state in ready)  # of those that others hold too
        own = [
            state
            for state in ready
            if state is not first
            and state.task.together == group
            and state.task.key not in held
            and not self._settled_by_others(state)
        ]
        # Workers share a group only if there are more workers than groups: large programs are faster.
        shares = max(1, self.workers // len(groups))
        return [first, *own][: task.most_together(math.ceil(groups[group] / shares))]

    def _do(self, states: Sequence[State]) -> bool:
        """Do tasks that no other worker holds; False if there are none."""
        with contextlib.ExitStack() as leases:
            pending = []
            held: dict[str, Lease] = {}
            for state in states:
                with contextlib.suppress(Busy):
                    lease = leases.enter_context(self.leases.hold(state.task.key, state.task.product))
                    held[state.task.key] = lease
                    if state.task.done():  # another worker has done it meanwhile
                        continue
                    if lease.crashes > self.retries + 1:
                        text = (
                            f"{lease.crashes} workers died at this task without an error (killed by the system, out of memory?)"
                        )
                        write_failure(state.task.log, RuntimeError(text), f"attempt {lease.crashes}")
                        self._fail(state, text)
                        continue
                    pending.append(state)
            started = bool(pending)
            for state in pending:
                self._say(f"start  {state.task.name}")
            for number in range(1, self.retries + 2):
                if not pending:  # all were done meanwhile
                    break
                pending = self._attempt(pending, number, held)
        return started

    def _attempt(self, states: Sequence[State], number: int, held: Mapping[str, Lease]) -> list[State]:
        """Attempt tasks together; returns those to retry.

        A task whose lease was lost now belongs to another worker, and its outcome here is ignored.

        Raises:
            Interrupted: A signal stopped one; completed work is kept.
            DiskError: No disk space, or no permission to write, which no task is to blame for.
        """
        again = []
        stopped: Interrupted | DiskError | None = None
        for state, error in zip(states, self._ended(states), strict=True):
            task = state.task
            if held[task.key].lost or (error is not None and not held[task.key].renew()):
                self._say(f"lost   {task.name}: another worker took it over, since this one did not renew its lease in time")
                if task.done():
                    task.tidy()
            elif isinstance(error, Busy) or (isinstance(error, Interrupted) and any(lease.lost for lease in held.values())):
                continue  # another worker did it, or it was stopped along with a lost one and can start again
            elif error is None or (task.done() and not isinstance(error, DiskError | Interrupted)):
                # In spite of an error, it was finished by the worker that held the lease before: it was only suspended, and
                # removed what this one still used.
                task.log.unlink(missing_ok=True)
                task.tidy()
                state.state = DONE
                self._say(f"done   {task.name}{_said(task)}")
            elif isinstance(error, Interrupted | DiskError):
                stopped = error
            else:
                write_failure(task.log, error, f"attempt {number} of {self.retries + 1}")
                if number > self.retries:
                    state.exception = error
                    self._fail(state, one_line(error))
                else:
                    say(f"{task.name}: attempt {number} of {self.retries + 1} failed: {one_line(error)}")
                    again.append(state)
        if stopped is not None:
            raise stopped
        return again

    def _ended(self, states: Sequence[State]) -> list[Exception | None]:
        """Do tasks; returns the exception that ended each, or None on success."""
        tasks = [state.task for state in states]
        progress.begin(f"{tasks[0].name} and {len(tasks) - 1} more" if len(tasks) > 1 else tasks[0].name)
        try:
            if len(tasks) > 1:
                self._say(f"stack  {len(tasks)} {tasks[0].plural} as one program")
                errors = tasks[0].do_together(tasks, self.tracked)
            else:
                tasks[0].do(self.tracked)
                errors = [None]
        except Exception as error:
            errors = [error] * len(tasks)
        return [
            None if error is None else in_words(error, task.product.parent, f"the {task.kind}") or error
            for task, error in zip(tasks, errors, strict=True)
        ]

    def _fail(self, state: State, error: str) -> None:
        state.state, state.error = FAILED, error
        self._say(f"failed {state.task.name}: {error}")

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(text)

    def _report_busy(self, busy: Sequence[tuple[State, Holder]]) -> None:
        new = [(state, holder) for state, holder in busy if state.task.key not in self._reported]
        if new:
            say(f"wait   for other workers: {'; '.join(f'{state.task.name} ({holder.name})' for state, holder in new)}")
            self._reported |= {state.task.key for state, _ in new}


def _said(task: Task) -> str:
    result = task.result()
    return f": {result}" if result else ""
