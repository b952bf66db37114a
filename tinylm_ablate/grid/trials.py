"""Trials of a search, one after another: settled, trained if they are within the budget, and reported to the study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from tinylm_ablate.arch.shapes import parameters
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, Interrupted, Pruned, RunFailed, one_line
from tinylm_ablate.execute.perform import perform, results
from tinylm_ablate.execute.words import say
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS
from tinylm_ablate.grid.objectives import Objective
from tinylm_ablate.grid.study import DONE, FAILED, PRUNED, REJECTED, Result, Study, Watch
from tinylm_ablate.settled import Settled

#: Number of consecutive proposals outside the budget, impossible, or repeated after which a search ends, since its space has
#: hardly any others.
_MOST_REJECTED, _MOST_REPEATED = 50, 20


class Trials:
    """Take trials from a study and report their outcomes to it.

    Args:
        base: The settings of the search.
        study: The study.
        objectives: The objectives.
        settle: Settles the run of a trial's overrides.
        begins: Called with the name, run and values of each trial before it trains.

    Attributes:
        broken: Number of trials that failed for reasons unrelated to their parameters.
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
        """Do trials until the study is complete, or its space is exhausted.

        Raises:
            Interrupted: SIGTERM or Ctrl-C; the next command repeats the trial and resumes its run.
        """
        points = math.prod(axis.count() for axis in self.study.axes)
        rejected = repeated = 0
        while True:
            before = self.study.results()
            places = {_spelled(result.place) for result in before}
            if len(places) >= points:
                self._report_end(f"all {len(places)} points of the space were tried", before)
                return
            if (trial := self.study.ask()) is None:
                return
            overrides = [f"{key}={value}" for key, value in self.study.place(trial).items()]
            say(f"[{self.study.counted()}/{self.base.search.trials}] trial {trial.number}: {' '.join(overrides)}")
            result = self._try(trial, overrides)
            values = (f"{o.name} {value:.5g}" for o, value in zip(self.objectives, result.values, strict=False))
            say(f"{result.state:<8} trial {trial.number}: {', '.join(values) or result.reason}")
            rejected = rejected + 1 if result.state == REJECTED else 0
            known = _spelled(result.place) in places or result.identity in {other.identity for other in before} - {""}
            repeated = repeated + 1 if known else 0
            if rejected == _MOST_REJECTED:
                self._report_end(f"{rejected} proposals in a row were outside the budget or impossible", [*before, result])
                return
            if repeated == _MOST_REPEATED:
                self._report_end(f"{repeated} proposals in a row were tried before", [*before, result])
                return
            if result.state == FAILED and self.base.grid.on_failure == "stop":
                return

    def _report_end(self, why: str, results: Sequence[Result]) -> None:
        """Report why a search ends early."""
        if (left := self.base.search.trials - self.study.counted()) <= 0:
            return
        off = sorted(result.parameters for result in results if result.state == REJECTED and result.parameters)
        low_high = self.base.search.parameters
        sizes = f"; shapes outside search.parameters={low_high} had {off[0]:,} to {off[-1]:,} parameters" if off else ""
        impossible = [result.reason for result in results if result.state == REJECTED and not result.parameters]
        words = f"; the last impossible one: {impossible[-1]}" if impossible else ""
        say(f"the search ends {left} trials early: {why}{sizes}{words}")

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
            reason = f"{count:,} parameters, outside search.parameters=[{low:,}, {high:,}]"
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
    """Distance of a number of parameters from the budget, as a share of the closer end; 0 within, or without one."""
    if not budget:
        return 0.0
    low, high = budget
    return max(0.0, (low - count) / low, (count - high) / high)
