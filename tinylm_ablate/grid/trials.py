"""The trials of a search, one after another: settled, trained if they are within the budget, and reported to the study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from tinylm_ablate.arch.shapes import parameters
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, Interrupted, Pruned, RunFailed
from tinylm_ablate.execute.perform import perform, results
from tinylm_ablate.execute.words import one_line, say
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS
from tinylm_ablate.grid.objectives import Objective
from tinylm_ablate.grid.study import DONE, FAILED, PRUNED, REJECTED, Result, Study, Watch
from tinylm_ablate.settled import Settled

#: So many proposals in a row that are off the budget, or impossible, mean that the space holds hardly anything else; so do so
#: many that were rejected before.
_MOST_REJECTED, _MOST_REPEATED = 200, 20


class Trials:
    """Take trials from a study and report their outcomes to it.

    Args:
        base: The settings of the search.
        study: The study.
        objectives: What it looks at.
        settle: Settles the run of a trial's overrides.
        begins: Called with the name, run and values of each trial before it trains.

    Attributes:
        broken: Trials that failed of something that is not their parameters' doing.
    """

    def __init__(
        self,
        base: Config,
        study: Study,
        objectives: Sequence[Objective],
        settle: Callable[[Sequence[str]], Settled],
        begins: Callable[[str, Settled, Mapping[str, str]], None],
    ) -> None:
        self.base, self.study, self.objectives, self.settle, self.begins = base, study, objectives, settle, begins
        self.broken = 0

    def go(self) -> None:
        """Do trials until the study has its total.

        Raises:
            Interrupted: SIGTERM or Ctrl-C; the trial is tried again by the next command, from where its run was stopped.
        """
        rejected = repeated = 0
        before = {_spelled(result.place) for result in self.study.results() if result.state == REJECTED}
        while (trial := self.study.ask()) is not None:
            overrides = [f"{key}={value}" for key, value in self.study.place(trial).items()]
            say(f"[{self.study.counted()}/{self.base.search.trials}] trial {trial.number}: {' '.join(overrides)}")
            result = self._try(trial, overrides)
            values = (f"{o.name} {value:.5g}" for o, value in zip(self.objectives, result.values, strict=False))
            say(f"{result.state:<8} trial {trial.number}: {', '.join(values) or result.reason}")
            place = _spelled(result.place)
            rejected, repeated = (rejected + 1, repeated + (place in before)) if result.state == REJECTED else (0, 0)
            before.add(place)
            if rejected == _MOST_REJECTED or repeated == _MOST_REPEATED:
                say(f"{rejected} proposals in a row were not possible, so the search ends; the last: {result.reason}")
                return
            if result.state == FAILED and self.base.grid.on_failure == "stop":
                return

    def _try(self, trial: optuna.Trial, overrides: Sequence[str]) -> Result:
        try:
            settled = self.settle(overrides)
        except (ConfigError, *COMPOSITION_ERRORS) as error:
            reason = error.mistakes[0] if isinstance(error, ConfigError) else one_line(error.__cause__ or error)
            return self.study.tell(trial, REJECTED, reason=reason, violation=1.0)
        count = parameters(settled.shape)["total"]
        about: dict[str, Any] = {"identity": settled.identity, "parameters": count}
        if distance := off_budget(count, self.base.search.parameters):
            low, high = self.base.search.parameters
            reason = f"{count:,} parameters, off search.parameters=[{low:,}, {high:,}]"
            return self.study.tell(trial, REJECTED, **about, reason=reason, violation=distance)
        watch = None
        if self.base.search.pruner != "none":
            watch = Watch(trial, settled.folder / "curve.jsonl", settled.tokens, self.objectives[0].maximize)
        try:
            name = f"trial {trial.number}"
            self.begins(name, settled, self.study.place(trial))
            walk = perform([(name, settled)], self.base, watch=watch, quiet=True)
            if failed := walk.failed():
                raise failed[0].exception or RunFailed(failed[0].error)
            record = results(settled)
            assert record is not None
            values = [record["metrics"][objective.name] for objective in self.objectives]
        except Pruned as error:
            return self.study.tell(trial, PRUNED, **about, reason=str(error))
        except Interrupted:
            raise
        except RunFailed as error:
            return self.study.tell(trial, FAILED, **about, reason=one_line(error))
        except Exception as error:
            self.broken += 1
            return self.study.tell(trial, FAILED, **about, reason=one_line(error), broken=True)
        return self.study.tell(trial, DONE, values, **about)


def _spelled(place: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(place.items()))


def off_budget(count: int, budget: Sequence[int]) -> float:
    """How far a number of parameters is off the budget, as a share of the end that it misses; 0 within, or without one."""
    if not budget:
        return 0.0
    low, high = budget
    return max(0.0, (low - count) / low, (count - high) / high)
