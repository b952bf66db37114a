"""An Optuna study in an sqlite file: resumable, and shared by several processes.

Optuna leaves a trial that was started and never reported in the state RUNNING. Here each trial that is worked on holds a lock,
which the system lets go when its process ends in whatever way; a RUNNING trial whose lock is free was left behind, and its
parameters are tried again. They mean the same run, which resumes from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from tinylm_ablate.config import SearchConfig
from tinylm_ablate.errors import ConfigError, UserError, first_line
from tinylm_ablate.grid.objectives import Objective
from tinylm_ablate.grid.space import Axis

#: At how many points of a run its loss is reported to the pruner: the same shares of every run, whatever its batch.
POINTS = 20

#: The pruner stays quiet before this point, since losses in the warm-up of the learning rate say little.
_FIRST_POINT = 4

#: What became of a trial. "rejected" trials cost nothing and are not counted: their shape is off the budget, or impossible.
DONE, PRUNED, FAILED, REJECTED = "done", "pruned", "failed", "rejected"

#: The trial that a trial tries again, and what a study was made for.
_AGAIN, _ASKED = "tries_again", "asked"


@dataclass(frozen=True)
class Result:
    """A trial with its outcome.

    Attributes:
        number: Its number.
        state: DONE, PRUNED, FAILED or REJECTED.
        place: Its value on each axis, by the axis' key, as on the command line.
        values: The objectives, in their order; empty unless it is done.
        identity: Its run; empty if there is none.
        parameters: Parameters of its model; 0 if there is none.
        reason: Why it was not done.
    """

    number: int
    state: str
    place: Mapping[str, str]
    values: Sequence[float]
    identity: str
    parameters: int
    reason: str


class Study:
    """A study.

    Args:
        folder: Where ``<name>.db`` is kept.
        name: Its name.
        axes: What it ranges over.
        objectives: What it looks at.
        search: Trials in all, sampler, pruner and seed.
        asked: What the study means, as plain data: a study of the same name that was made for something else is refused.

    Raises:
        ConfigError: The name belongs to another study.
        UserError: The file is not a study.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        axes: Sequence[Axis],
        objectives: Sequence[Objective],
        search: SearchConfig,
        asked: Mapping[str, Any],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.name, self.axes, self.search = folder / f"{name}.db", name, axes, search
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._alone():
            if not self.path.exists():
                self.path.touch()  # with a mode by the umask; sqlite would leave it to its owner
            try:
                storage = optuna.storages.RDBStorage(f"sqlite:///{self.path}", engine_kwargs={"connect_args": {"timeout": 60}})
                self._study = optuna.create_study(
                    storage=storage, study_name=name, pruner=_pruner(search.pruner), load_if_exists=True,
                    directions=["maximize" if objective.maximize else "minimize" for objective in objectives],
                )  # fmt: skip
            except (SQLAlchemyError, RuntimeError) as error:
                raise UserError(f"{self.path}: not readable as an Optuna study ({first_line(error)})") from None
            self._check_asked(dict(asked))
        self._locks: dict[int, filelock.BaseFileLock] = {}

    def ask(self) -> optuna.Trial | None:
        """The next trial, first of all one that a process left behind; None if the study has all it is to have."""
        with self._alone():
            self._take_up()
            trials = self._known()
            if sum(_counts(trial) for trial in trials) >= self.search.trials:
                return None
            asked = [trial for trial in trials if trial.state != TrialState.WAITING]
            self._study.sampler = _sampler(self.search, len(asked))
            trial = self._study.ask({axis.key: axis.distribution for axis in self.axes})
            lock = self._lock(trial.number)
            lock.acquire(timeout=0)
            self._locks[trial.number] = lock
            return trial

    def place(self, trial: optuna.Trial | FrozenTrial) -> dict[str, str]:
        """The value of a trial on each axis, by the axis' key, as on the command line."""
        return {axis.key: axis.value(trial.params[axis.key]) for axis in self.axes}

    def tell(
        self,
        trial: optuna.Trial,
        state: str,
        values: Sequence[float] = (),
        *,
        identity: str = "",
        parameters: int = 0,
        reason: str = "",
        violation: float = 0.0,
        broken: bool = False,
    ) -> Result:
        """End a trial.

        Args:
            trial: As `ask` returned it.
            state: DONE, PRUNED, FAILED or REJECTED.
            values: The objectives, if it is done.
            identity: Its run.
            parameters: Parameters of its model.
            reason: Why it was not done.
            violation: For a rejected one, how far it is from what is possible: the sampler keeps away from it.
            broken: It failed of something that says nothing about its parameters, so that the sampler is to forget it.
        """
        about = {"state": state, "identity": identity, "parameters": parameters, "reason": reason}
        with self._alone():  # or another process would find the lock free, and the trial still running
            trial.set_user_attr("outcome", about)
            if violation > 0:
                trial.set_constraint("possible", violation)
            if state == DONE:
                self._study.tell(trial, list(values))
            else:
                # A run that diverged is reported like a weak one: Optuna's samplers learn nothing from a trial that failed.
                self._study.tell(trial, state=TrialState.FAIL if broken else TrialState.PRUNED)
            _let_go(self._locks.pop(trial.number))
        return Result(trial.number, state, self.place(trial), list(values), identity, parameters, reason)

    def results(self) -> list[Result]:
        """All trials with an outcome, in order; those that were tried again are left out."""
        results = []
        for trial in self._known():
            about = trial.user_attrs.get("outcome")
            if trial.state.is_finished() and about is not None:
                values = trial.values if about["state"] == DONE else []
                results.append(
                    Result(
                        trial.number, about["state"], self.place(trial), values, about["identity"], about["parameters"],
                        about["reason"],
                    )
                )  # fmt: skip
        return results

    def front(self) -> list[int]:
        """Numbers of the trials that no other beats in every objective; with one objective, of the best."""
        return [trial.number for trial in self._study.best_trials]

    def running(self) -> int:
        """Trials that other processes are working on."""
        return sum(trial.state == TrialState.RUNNING and trial.number not in self._locks for trial in self._known())

    def counted(self) -> int:
        """Trials that count towards the total, those under way among them."""
        return sum(_counts(trial) for trial in self._known())

    def _known(self) -> list[FrozenTrial]:
        """All trials but those that were left behind."""
        trials = self._study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(_AGAIN) for trial in trials}
        return [
            trial
            for trial in trials
            if trial.number not in again and (trial.state != TrialState.FAIL or "outcome" in trial.user_attrs)
        ]

    def _take_up(self) -> None:
        """Enqueue anew what processes that ended left behind."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        again = {trial.user_attrs.get(_AGAIN) for trial in self._study.get_trials(deepcopy=False)}
        for trial in trials:
            if trial.number in self._locks:
                continue
            lock = self._lock(trial.number)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue  # somebody is at work on it
            # Enqueued before its failure is reported, so that a crash between the two loses nothing; nor is it enqueued twice.
            if trial.params and trial.number not in again:
                self._study.enqueue_trial(trial.params, user_attrs={_AGAIN: trial.number})
            self._study.tell(trial.number, state=TrialState.FAIL)
            _let_go(lock)

    def _check_asked(self, asked: dict[str, Any]) -> None:
        before = self._study.user_attrs.get(_ASKED)
        asked = json.loads(json.dumps(asked))
        if before is None:
            self._study.set_user_attr(_ASKED, asked)
        elif before != asked:
            what = [f"{key} was {before.get(key)}, and is {asked.get(key)}" for key in asked if before.get(key) != asked[key]]
            raise ConfigError(
                [f"search.name={self.name}: {self.path} is a study of something else; allowed: a new name. {'; '.join(what)}"]
            )

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        return filelock.FileLock(self.path.with_suffix(".lock"))

    def _lock(self, number: int) -> filelock.BaseFileLock:
        return filelock.FileLock(self.path.with_name(f"{self.name}.{number}.lock"))


class Watch:
    """Reports the loss of a run to the pruner while it trains.

    What is reported is the mean training loss of each twentieth of the run, nats per token; for an objective of which more
    is better its negative, since Optuna has one direction for both.

    Args:
        trial: The trial.
        curve: The run's ``curve.jsonl``: what earlier sessions of the run have written of it is reported too.
        tokens: Tokens of the whole run.
        maximize: Whether more of the objective is better.
    """

    def __init__(self, trial: optuna.Trial, curve: Path, tokens: int, maximize: bool) -> None:
        self._trial, self._curve, self._tokens, self._sign = trial, curve, tokens, -1.0 if maximize else 1.0
        self._rows: list[dict[str, float]] = []
        self._reported = 0

    def __call__(self, row: dict[str, float]) -> bool:
        """Record a new row of the curve; return whether the run is to be pruned."""
        if not self._rows:
            earlier = (json.loads(line) for line in self._curve.read_text().splitlines())
            self._rows = [before for before in earlier if before["tokens"] < row["tokens"]]
        self._rows.append(row)
        reached = int(POINTS * row["tokens"]) // self._tokens
        new = False
        for point in range(self._reported + 1, reached + 1):
            losses = [
                row["loss"] for row in self._rows if (point - 1) * self._tokens < POINTS * row["tokens"] <= point * self._tokens
            ]
            if losses:
                self._trial.report(self._sign * math.fsum(losses) / len(losses), point)
                new = True
        self._reported = reached
        return new and reached < POINTS and self._trial.should_prune()


def _let_go(lock: filelock.BaseFileLock) -> None:
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _counts(trial: FrozenTrial) -> bool:
    """Return whether a trial counts towards the total: it was trained, or is being trained."""
    if trial.state == TrialState.RUNNING:
        return True
    about = trial.user_attrs.get("outcome")
    return trial.state.is_finished() and about is not None and about["state"] != REJECTED


def _sampler(search: SearchConfig, asked: int) -> BaseSampler:
    """A sampler for one trial. Its seed follows from the number of trials, or a resumed study would begin with the same
    points again; so it draws what it would have drawn without the stop."""
    seed = int(np.random.SeedSequence([search.seed, asked]).generate_state(1)[0])
    return RandomSampler(seed=seed) if search.sampler == "random" else TPESampler(seed=seed)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=_FIRST_POINT)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=_FIRST_POINT, max_resource=POINTS)
    return optuna.pruners.NopPruner()
