"""An Optuna study in an SQLite file: resumable, and shared by several processes.

Optuna leaves a trial that was started and never reported in the state RUNNING. Here, each active trial holds a lock, which the
system releases when its process ends in any way; a RUNNING trial whose lock is free was abandoned, and its parameters are tried
again. They result in the same run, which resumes from its last checkpoint.
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

#: Number of points at which a run's loss is reported to the pruner, at the same shares of every run.
POINTS = 20

#: Number of points before pruning starts, since losses during warm-up are not informative.
_FIRST_POINT = 4

#: Outcomes of a trial. "rejected" trials cost nothing and are not counted: their shape is outside the budget or impossible.
DONE, PRUNED, FAILED, REJECTED = "done", "pruned", "failed", "rejected"

#: Attributes: the trial that a trial repeats, and the definition of a study.
_AGAIN, _DEFINITION = "tries_again", "asked"


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
        folder: Folder of ``<name>.db``.
        name: Its name.
        axes: Its axes.
        objectives: Its objectives.
        search: Number of trials, sampler, pruner and seed.
        definition: What the study is about, as plain data: a study with the same name and another definition is refused.

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
        definition: Mapping[str, Any],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.name, self.axes, self.search = folder / f"{name}.db", name, axes, search
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._alone():
            if not self.path.exists():
                self.path.touch()  # with the mode of the umask; SQLite would allow only its owner
            try:
                storage = optuna.storages.RDBStorage(f"sqlite:///{self.path}", engine_kwargs={"connect_args": {"timeout": 60}})
                self._study = optuna.create_study(
                    storage=storage, study_name=name, pruner=_pruner(search.pruner), load_if_exists=True,
                    directions=["maximize" if objective.maximize else "minimize" for objective in objectives],
                )  # fmt: skip
            except (SQLAlchemyError, RuntimeError) as error:
                raise UserError(f"{self.path}: not readable as an Optuna study ({first_line(error)})") from None
            self._check_definition(dict(definition))
        self._locks: dict[int, filelock.BaseFileLock] = {}

    def ask(self) -> optuna.Trial | None:
        """Return the next trial, an abandoned one first; None if the study is complete."""
        with self._alone():
            self._take_up()
            trials = self._known()
            if sum(_counts(trial) for trial in trials) >= self.search.trials:
                return None
            proposed = [trial for trial in trials if trial.state != TrialState.WAITING]
            self._study.sampler = _sampler(self.search, len(proposed))
            trial = self._study.ask({axis.key: axis.distribution for axis in self.axes})
            lock = self._lock(trial.number)
            lock.acquire(timeout=0)
            self._locks[trial.number] = lock
            return trial

    def place(self, trial: optuna.Trial | FrozenTrial) -> dict[str, str]:
        """Return the value of a trial on each axis, by the axis' key, as on the command line."""
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
            violation: For a rejected one, its distance from what is allowed, which the sampler avoids.
            broken: Whether it failed for a reason unrelated to its parameters, so that the sampler must ignore it.
        """
        about = {"state": state, "identity": identity, "parameters": parameters, "reason": reason}
        with self._alone():  # otherwise another process might see a free lock of a running trial
            trial.set_user_attr("outcome", about)
            if violation > 0:
                trial.set_constraint("possible", violation)
            if state == DONE:
                self._study.tell(trial, list(values))
            else:
                # A run that diverged is reported as a bad one, since Optuna's samplers ignore failed trials.
                self._study.tell(trial, state=TrialState.FAIL if broken else TrialState.PRUNED)
            _let_go(self._locks.pop(trial.number))
        return Result(trial.number, state, self.place(trial), list(values), identity, parameters, reason)

    def results(self) -> list[Result]:
        """Return all trials with an outcome, in order, except for those that were repeated."""
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
        """Return the numbers of the trials that no other dominates; with one objective, of the best."""
        return [trial.number for trial in self._study.best_trials]

    def running(self) -> int:
        """Number of active trials of other processes."""
        return sum(trial.state == TrialState.RUNNING and trial.number not in self._locks for trial in self._known())

    def counted(self) -> int:
        """Number of trials that count towards the total, including active ones."""
        return sum(_counts(trial) for trial in self._known())

    def _known(self) -> list[FrozenTrial]:
        """Return all trials except abandoned ones."""
        trials = self._study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(_AGAIN) for trial in trials}
        return [
            trial
            for trial in trials
            if trial.number not in again and (trial.state != TrialState.FAIL or "outcome" in trial.user_attrs)
        ]

    def _take_up(self) -> None:
        """Enqueue the parameters of abandoned trials."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        again = {trial.user_attrs.get(_AGAIN) for trial in self._study.get_trials(deepcopy=False)}
        for trial in trials:
            if trial.number in self._locks:
                continue
            lock = self._lock(trial.number)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue  # it is active
            # Enqueued before its failure is reported, so that a crash in between loses nothing; it is not enqueued twice.
            if trial.params and trial.number not in again:
                self._study.enqueue_trial(trial.params, user_attrs={_AGAIN: trial.number})
            self._study.tell(trial.number, state=TrialState.FAIL)
            _let_go(lock)

    def _check_definition(self, definition: dict[str, Any]) -> None:
        before = self._study.user_attrs.get(_DEFINITION)
        definition = json.loads(json.dumps(definition))
        if before is None:
            self._study.set_user_attr(_DEFINITION, definition)
        elif before != definition:
            what = [f"{key} was {before.get(key)}, and is {new}" for key, new in definition.items() if before.get(key) != new]
            raise ConfigError(
                [f"search.name={self.name}: {self.path} is a study of something else; allowed: a new name. {'; '.join(what)}"]
            )

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        return filelock.FileLock(self.path.with_suffix(".lock"))

    def _lock(self, number: int) -> filelock.BaseFileLock:
        return filelock.FileLock(self.path.with_name(f"{self.name}.{number}.lock"))


class Watch:
    """Reports the loss of a run in training to the pruner.

    It reports the mean training loss of each twentieth of the run, nats per token, or its negative for an objective that is
    maximized, since Optuna has one direction for both.

    Args:
        trial: The trial.
        curve: The run's ``curve.jsonl``, so that losses from earlier sessions are reported too.
        tokens: Tokens of the whole run.
        maximize: Whether the objective is maximized.
    """

    def __init__(self, trial: optuna.Trial, curve: Path, tokens: int, maximize: bool) -> None:
        self._trial, self._curve, self._tokens, self._sign = trial, curve, tokens, -1.0 if maximize else 1.0
        self._rows: list[dict[str, float]] = []
        self._reported = 0

    def __call__(self, row: dict[str, float]) -> bool:
        """Record a new row of the curve; return whether to prune the run."""
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


def _sampler(search: SearchConfig, proposed: int) -> BaseSampler:
    """Create a sampler for one trial.

    Its seed depends on the number of trials, so that a resumed study makes the same proposals as without interruption.
    """
    seed = int(np.random.SeedSequence([search.seed, proposed]).generate_state(1)[0])
    return RandomSampler(seed=seed) if search.sampler == "random" else TPESampler(seed=seed)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=_FIRST_POINT)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=_FIRST_POINT, max_resource=POINTS)
    return optuna.pruners.NopPruner()
