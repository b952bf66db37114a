"""Sweeper for ``hydra/sweeper=optuna``: a resumable search over ranges, one run per trial.

Before the first trial, the ends of every range and every choice are settled, so that mistakes are reported early. A trial whose
shape is outside the parameter budget is settled, but not trained. By default, objectives use validation text, so that the test
text stays unseen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from tinylm_ablate.arch.shapes import parameters
from tinylm_ablate.config import Config, SearchConfig
from tinylm_ablate.disk import writing
from tinylm_ablate.errors import ConfigError, one_line
from tinylm_ablate.execute.words import duration, say
from tinylm_ablate.files import fingerprint
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS, Composer, typed
from tinylm_ablate.grid.describe import Described, described, write_grid
from tinylm_ablate.grid.diagnosis import diagnose
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.tracking import sync

if TYPE_CHECKING:
    from tinylm_ablate.grid.objectives import Objective
    from tinylm_ablate.grid.space import Axis
    from tinylm_ablate.grid.study import Study


#: A trial at an end of the space: its overrides, and its run.
_Probe = tuple[str, Settled]


class OptunaSweeper(Sweeper):
    """Hydra's interface to a search.

    Args:
        params: Axes from an experiment file: key to values.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = params
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.compose: Composer | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store Hydra's objects; trials are trained in this process, without a launcher."""
        del task_function
        self.config, self.hydra_context = config, hydra_context
        self.compose = Composer(hydra_context.config_loader, config)

    def sweep(self, arguments: list[str]) -> list[str]:
        """Search until the study has its trials, and print the results; returns the identities of finished runs.

        Raises:
            ConfigError: Mistakes in the settings or the space; nothing was run.
            SystemExit: With 1 if a trial failed for any reason other than a loss that is not finite, or if none is done.
        """
        from tinylm_ablate.grid.study import REJECTED, Study

        assert self.config is not None
        base = typed(self.config)
        shared, axes, objectives, probes = self._check(base, arguments)
        if base.mode == "plan":
            print(_preview(base, axes, objectives, probes))
            return []
        definition = _definition(base.search, axes, objectives, [run for _, run in probes])
        name = base.search.name or f"search-{fingerprint(definition)[:8]}"
        folder = Path(base.runs_dir) / "search"
        with writing(folder, "the search"):
            study = Study(folder, name, axes, objectives, base.search, definition)
        done = sum(result.state != REJECTED for result in study.results())
        say(f"search {name}: {done} of {base.search.trials} trials so far, kept in {study.path}")
        return self._search(base, shared, study, objectives, probes[0][1])

    def _check(self, base: Config, arguments: Sequence[str]) -> tuple[list[str], list[Axis], list[Objective], list[_Probe]]:
        """Check everything before the first trial, and report all mistakes at once."""
        from tinylm_ablate.grid.objectives import check_languages, parse_objectives
        from tinylm_ablate.grid.space import parse_space
        from tinylm_ablate.measure.speed import METRIC as DECODE_SPEED

        params = OmegaConf.to_container(self.params) if isinstance(self.params, DictConfig) else self.params
        objectives, mistakes = parse_objectives(base.search.objectives, base.evaluate)
        assert self.config is not None
        mistakes += _search_mistakes(base, str(self.config.hydra.runtime.choices.get("hydra/launcher", "basic")))
        try:
            shared, axes = parse_space(params, arguments)
            if any(objective.name == DECODE_SPEED for objective in objectives):
                shared.append("evaluate.decode.measure=true")
            probes, found = self._probe(shared, axes)
        except (ConfigError, *COMPOSITION_ERRORS) as error:
            # Each override is tried alone, so that other mistakes are reported too.
            first = error.mistakes if isinstance(error, ConfigError) else []
            problems = [*mistakes, *first, *diagnose(["hydra/sweeper=optuna", *arguments])]
            raise ConfigError(problems or [one_line(error.__cause__ or error)]) from None
        mistakes += found
        if len({probe.config.data.source for _, probe in probes}) > 1:  # data=auto, and budgets on both sides of its limit
            shared.append("data.source=large")
            probes, _ = self._probe(shared, axes)
        if base.search.pruner != "none" and len({(probe.text, probe.vocabulary) for _, probe in probes}) > 1:
            mistakes.append(
                f"search.pruner={base.search.pruner}: losses per token cannot be compared between texts or tokenizers; "
                "allowed: none"
            )
        if mistakes:
            raise ConfigError(mistakes)
        check_languages(objectives, probes[0][1].config)
        for objective in objectives:
            if objective.name.startswith("test/"):
                say(f"note: {objective.name}: the result is biased on the text that selected it; use validation text")
        return shared, axes, objectives, probes

    def _probe(self, shared: Sequence[str], axes: Sequence[Axis]) -> tuple[list[_Probe], list[str]]:
        """Settle the first value of every axis, then every other probe in its place."""
        first = [axis.probes()[0] for axis in axes]
        trials = [("", first)] + [
            (probe, [*first[:place], probe, *first[place + 1 :]])
            for place, axis in enumerate(axes)
            for probe in axis.probes()[1:]
        ]
        probes: list[_Probe] = []
        mistakes: dict[str, list[str]] = {}
        for name, overrides in trials:
            try:
                probes.append((name or " ".join(first) or "the only trial", self._settle(shared, overrides)))
            except ConfigError as error:
                for mistake in error.mistakes:
                    mistakes.setdefault(mistake, []).append(name or " ".join(first))
        return probes, [
            mistake if len(names) == len(trials) or names[0].partition("=")[0] in mistake else f"{mistake} (with {names[0]})"
            for mistake, names in mistakes.items()
        ]

    def _settle(self, shared: Sequence[str], overrides: Sequence[str]) -> Settled:
        assert self.compose is not None
        return settle(typed(self.compose([*shared, *overrides, "seeds=null"])))

    def _search(
        self,
        base: Config,
        shared: Sequence[str],
        study: Study,
        objectives: Sequence[Objective],
        first: Settled,
    ) -> list[str]:
        from tinylm_ablate.grid.front import found_table, summary, write_search
        from tinylm_ablate.grid.trials import Trials

        runs_dir = Path(base.runs_dir)
        title = base.experiment.title or " ".join(f"{axis.key}={axis.text}" for axis in study.axes)
        grid = fingerprint(["search", study.name])
        cells: list[Described] = []

        def begins(name: str, run: Settled, place: Mapping[str, str]) -> None:
            cells.append((run, name, place, "untuned"))
            write_grid(Path(base.runs_dir), described(grid, study.name, title, base, cells, search=study.name))

        trials = Trials(base, study, objectives, lambda overrides: self._settle(shared, overrides), begins)
        try:
            trials.go()
        finally:
            found, front = study.results(), study.front()
            path = study.path.with_suffix(".json")
            about = {
                "name": study.name, "title": title, "experiment": base.experiment.name, "scale": base.scale.name,
                "space": {axis.key: axis.text for axis in study.axes}, "budget": list(base.search.parameters),
                "sampler": base.search.sampler, "pruner": base.search.pruner, "seed": base.search.seed,
            }  # fmt: skip
            write_search(path, about, objectives, found, front)
            sync(base.tracking, runs_dir, grids=[grid])
        stems = [request.stem for request in requested(first)]
        print(found_table(objectives, found, front, runs_dir, stems), flush=True)
        say(f"{summary(found)}; described in {path}")
        if others := study.running():
            say(f"{others} more trials run in other processes")
        done = [result.identity for result in found if result.values]
        if trials.broken or not done:
            raise SystemExit(1)
        return list(dict.fromkeys(done))


def _preview(base: Config, axes: Sequence[Axis], objectives: Sequence[Objective], probes: Sequence[_Probe]) -> str:
    """Describe a search: its settings and space, and the plan of the trials at the ends of the space."""
    from tinylm_ablate.execute.plan import plan, plans

    search = base.search
    low, high = search.parameters or (0, math.inf)
    seconds = [plan(name, run)["seconds"] for name, run in probes if low <= parameters(run.shape)["total"] <= high]
    off = len(probes) - len(seconds)
    lines = [
        f"search: {search.trials} trials by {search.sampler}, pruner {search.pruner}, on "
        + ", ".join(f"{objective.name} ({'largest' if objective.maximize else 'smallest'})" for objective in objectives),
        *(f"  {axis.key}: {axis.text}" for axis in axes),
        *([f"  only shapes of {low:,} to {high:,} parameters are trained"] if search.parameters else []),
        f"  {off} of the {len(probes)} trials below are outside this range" if off else "",
    ]
    if seconds:
        ends = dict.fromkeys(duration(search.trials * bound) for bound in (min(seconds), max(seconds)))
        lines.append(f"  time here for all trials, without pruning: {' to '.join(ends)}")
    trials = plans(probes, base.plan.format, read_text=base.plan.read_text)
    if base.plan.format == "json":
        return trials
    return "\n".join([*filter(None, lines), "", "the first trial, and one at each other end of the space:", trials])


def _search_mistakes(base: Config, launcher: str) -> list[str]:
    """Return mistakes: settings that a search does not support."""
    search, mistakes = base.search, []
    if base.mode not in ("run", "plan"):
        mistakes.append(f"mode={base.mode}: allowed with hydra/sweeper=grid")
    if base.seeds is not None:
        mistakes.append(f"seeds={base.seeds}: a trial is one run; allowed with hydra/sweeper=grid")
    mistakes += [
        f"grid.{name}: allowed with hydra/sweeper=grid" for name in ("zip", "exclude", "arms") if getattr(base.grid, name)
    ]
    if base.grid.workers not in (1, "auto"):
        mistakes.append(
            f"grid.workers={base.grid.workers}: a search does one trial at a time; to train several at once, start the same "
            "command several times"
        )
    if launcher != "basic":
        mistakes.append(
            f"hydra/launcher={launcher}: allowed: basic; to train several trials at once, start the same command several times"
        )
    if search.name is not None and not re.fullmatch(r"[\w.-]+", search.name):
        mistakes.append(f"search.name={search.name}: allowed: letters, digits, and the signs _ . -")
    budget = search.parameters
    if budget and (len(budget) != 2 or not 0 < budget[0] <= budget[1]):
        mistakes.append(f"search.parameters={budget}: allowed: [low,high], the minimum and maximum of parameters, or []")
    if search.pruner != "none" and len(search.objectives) > 1:
        mistakes.append(f"search.pruner={search.pruner}: allowed with one objective; with several: none")
    return mistakes


def _definition(
    search: SearchConfig, axes: Sequence[Axis], objectives: Sequence[Objective], probes: Sequence[Settled]
) -> dict[str, Any]:
    """Identity of a study: everything that affects its trials and their values."""
    return {
        "space": {axis.key: axis.text for axis in axes},
        "objectives": [objective.name for objective in objectives],
        "search.parameters": list(search.parameters),
        "search.sampler": search.sampler,
        "search.pruner": search.pruner,
        "search.seed": search.seed,
        "fingerprint of the other settings": fingerprint([probe.identity for probe in probes]),
    }
