"""The work of a grid: its cells and the runs that they need, done together with whichever other workers do the same grid."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus

from tinylm_ablate.data.once import without_waiting
from tinylm_ablate.errors import Busy, Interrupted, UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.execute.leases import LOOK_SECONDS, Holder, claimed, file_time, holders
from tinylm_ablate.grid.needs import before, needs
from tinylm_ablate.execute.attempts import LOG, Outcome, failure, one_line, say
from tinylm_ablate.run import as_asked, complete
from tinylm_ablate.settled import Settled


@dataclass
class Work:
    """A run that a grid wants.

    Attributes:
        name: How it is called.
        cell: The name of the cell that wants it.
        settled: The run.
        overrides: What composes the config of its job.
        state: "waiting", "done", "skipped" (it was finished already, or another worker finished it) or "failed".
        error: Why it failed, in one line.
    """

    name: str
    cell: str
    settled: Settled
    overrides: Sequence[str]
    state: str = "waiting"
    error: str = ""
    suspect: str = ""
    crashes: int = 0

    @property
    def identity(self) -> str:
        """The run's identity."""
        return self.settled.identity


#: Launches works, from a number on, and returns what became of each.
Launch = Callable[[Sequence[Work], int], Sequence[Outcome]]


def gather(cells: Iterable[tuple[str, Settled, Sequence[str]]]) -> list[Work]:
    """The works of cells (name, run, overrides) and of the runs that they need and that are not finished, each once.

    A run that another one goes on from must keep its weights, and maybe the state of its optimizer, also where it is a cell
    that was not asked to.
    """
    works: dict[str, Work] = {}
    for name, settled, overrides in cells:
        for run in before(settled):
            if as_asked(run) is None:
                kind = "parent" if run.rounds.count == 1 and run.parent is None else f"{run.rounds.count} rounds"
                work = Work(f"{kind} {run.identity}", name, run, [*overrides, f"grid.part={run.identity}"])
                known = works.setdefault(run.identity, work)
                if _keeps(run) > _keeps(known.settled):
                    known.settled, known.overrides = work.settled, work.overrides
        known = works.setdefault(settled.identity, Work(name, name, settled, overrides))
        known.name = name
        if _keeps(settled) >= _keeps(known.settled):  # the cell may ask for more beside the run than who needs it does
            known.settled, known.overrides = settled, overrides
    return list(works.values())


def _keeps(settled: Settled) -> tuple[bool, bool]:
    return settled.keep_state, settled.config.train.keep_model


def attempt(settled: Settled) -> Outcome:
    """Do a run that a grid has launched, unless another worker does it or has done it."""
    if as_asked(settled) is not None:
        complete(settled)  # what is asked beside the run, such as the speed of generation
        return Outcome("skipped")
    try:
        complete(settled, wait=False)
    except Busy as busy:
        return Outcome("busy", str(busy))
    except Interrupted as stop:
        return Outcome("stopped", str(stop), stop.signum)
    except Exception as error:
        return Outcome("failed", one_line(error))
    return Outcome("done")


def outcome_of(result: JobReturn) -> Outcome:
    """What a job of Hydra's returned, which is what ``attempt`` did.

    Raises:
        BaseException: The job was ended by something that is to end the grid.
    """
    value = result._return_value  # its property would print the overrides before it raises
    if result.status == JobStatus.COMPLETED:
        return value if isinstance(value, Outcome) else Outcome("failed", "ended without an outcome")
    if isinstance(value, Interrupted) or not isinstance(value, Exception):
        raise value
    return Outcome("failed", one_line(value))


class Walk:
    """Does works, each after those that it needs, until each is finished or has failed, here or in another worker.

    Args:
        works: What is to be done; a work stands behind those that it needs.
        launch: Does some of them.
        together: Launch all works that can start at once; otherwise one by one, each as soon as it is free.
        stop: End at the first failure.
        team: Other workers are this one's own: what they have done is told as done.
        since: When the grid was started, by the clock of its folder; None is now.
    """

    def __init__(
        self,
        works: Sequence[Work],
        launch: Launch,
        *,
        together: bool,
        stop: bool,
        team: bool = False,
        since: float | None = None,
    ) -> None:
        self.works, self.launch, self.together, self.stop, self.team = works, launch, together, stop, team
        self._by_identity = {work.identity: work for work in works}
        self._runs_dir = Path(works[0].settled.config.runs_dir)
        self.since = file_time(self._runs_dir) if since is None else since
        self._launched = 0
        self._paused: set[str] = set()
        self._told: set[str] = set()

    def go(self) -> None:
        """Do the works; each ends as "done", "skipped" or "failed", but where ``stop`` ended the walk.

        Raises:
            Interrupted: A work was stopped by a signal; its state is saved.
        """
        while waiting := [work for work in self.works if work.state == "waiting"]:
            ready = self._ready(waiting)
            if self._stops():
                return
            if ready:
                # What another worker makes, such as the scores of a parent, is waited for only by who has nothing else to do.
                others = not self.together and len(ready) > 1
                self._do(ready[:1] if others else ready, others)
            elif any(work.state == "waiting" for work in waiting):
                time.sleep(min(LOOK_SECONDS, waiting[0].settled.config.grid.lease_seconds / 4))
                self._paused.clear()
            if self._stops():
                return

    def _stops(self) -> bool:
        return self.stop and any(work.state == "failed" for work in self.works)

    def _ready(self, waiting: Sequence[Work]) -> list[Work]:
        """What can start now: all of it, or the first two, of which one is done."""
        held = holders(self._runs_dir)
        ready = []
        for work in waiting:
            if self._can_start(work, held):
                ready.append(work)
                if not self.together and len(ready) == 2:
                    break
        if not ready:
            self._tell_waiting([work for work in waiting if work.state == "waiting"], held)
        return ready

    def _can_start(self, work: Work, held: dict[str, Holder]) -> bool:
        """Whether a work can start; what other workers have made of it meanwhile is taken over."""
        failed = failure(work.settled.folder, self.since)
        if work.identity in held or work.identity in self._paused:
            return False
        if as_asked(work.settled) is not None:
            work.state = "done" if self.team else "skipped"
            say(f"done   {work.name}: {_result(work)}" if self.team else f"skip   {work.name}: finished by another worker")
            return False
        if failed is None and work.suspect:
            failed = self._crashed(work)
        for run in needs(work.settled):
            needed = self._by_identity.get(run.identity)
            if needed is not None and needed.state == "failed":
                failed = f"its {needed.name} failed: {needed.error}"
        if failed is not None:
            self._fail(work, failed)
            return False
        return not any(
            self._by_identity[run.identity].state == "waiting"
            for run in needs(work.settled)
            if run.identity in self._by_identity
        )

    def _do(self, ready: Sequence[Work], others: bool) -> None:
        """Launch works; ``others`` says that there is more to do now."""
        for number, work in enumerate(ready, self._launched + 1):
            say(f"[{min(number, len(self.works))}/{len(self.works)}] {work.name}")
        self._launched += len(ready)
        try:
            with without_waiting() if others else contextlib.nullcontext():
                outcomes = self.launch(ready, self._launched - len(ready))
        except (UserError, Interrupted):
            raise
        except Exception as error:
            outcomes = self._remains(ready, error)
        stopped = None
        for work, outcome in zip(ready, outcomes, strict=True):
            match outcome.state:
                case "done" | "skipped":
                    work.state = outcome.state
                    say(f"{'done' if outcome.state == 'done' else 'skip':<6} {work.name}: {_result(work)}")
                case "failed":
                    self._fail(work, outcome.text)
                case "stopped" if not self.together:
                    stopped = outcome
                case "stopped":  # by whoever lends the machine: its own time was up, say, and not the grid's
                    work.crashes += 1
                    if work.crashes > work.settled.config.grid.retries:
                        self._fail(work, outcome.text)
                case _:
                    if others:
                        say(f"later  {work.name}: {outcome.text}")
                    self._launched -= 1
                    self._paused.add(work.identity)
        if stopped is not None:
            raise Interrupted(stopped.signum, stopped.text)

    def _fail(self, work: Work, error: str) -> None:
        work.state, work.error = "failed", error
        say(f"failed {work.name}: {error}")

    def _remains(self, works: Sequence[Work], error: Exception) -> list[Outcome]:
        """What became of works whose launcher ended with an error, as it does where a job's process was killed."""
        claims = claimed(self._runs_dir)
        outcomes = []
        for work in works:
            if as_asked(work.settled) is not None:
                outcomes.append(Outcome("done"))
            elif (text := failure(work.settled.folder, self.since)) is not None:
                outcomes.append(Outcome("failed", text))
            else:
                if work.identity in claims and not claims[work.identity].released:
                    work.suspect = one_line(error)
                outcomes.append(Outcome("busy"))
        if all(outcome.state == "busy" for outcome in outcomes) and not any(work.suspect for work in works):
            raise error  # nothing was started: it is the launcher that does not work
        return outcomes

    def _crashed(self, work: Work) -> str | None:
        """Count a job that ended without a word; the last straw is its failure."""
        claim = claimed(self._runs_dir).get(work.identity)
        if claim is None or claim.released:
            return None
        work.crashes += 1
        error, work.suspect = work.suspect, ""
        if work.crashes <= work.settled.config.grid.retries:
            say(f"{work.name}: its job ended without a word ({error}); it is tried again")
            return None
        text = f"its job ended without a word: {error}"
        write_atomic(work.settled.folder / LOG, text + "\n")
        return text

    def _tell_waiting(self, waiting: Sequence[Work], held: dict[str, Holder]) -> None:
        busy = {work.identity: work for work in waiting if work.identity in held}
        if busy.keys() - self._told:
            told = "; ".join(f"{work.name} ({held[identity].name})" for identity, work in busy.items())
            say(f"wait   for other workers: {told}")
            self._told |= busy.keys()


def _result(work: Work) -> str:
    record = as_asked(work.settled)
    if record is None:
        return "no record"
    metrics = record["metrics"]
    return f"{metrics['test/bits_per_byte/all']:.4f} bits per byte on test, {metrics['train/seconds']:.0f} s of training"
