"""Sweeper for ``-m``: checks a whole grid before its first task starts, and continues after failures.

Equivalent cells are trained once, finished ones are skipped, and a failed one does not affect the others. The same command,
started several times, also on several machines that share the folder of the runs, works on one grid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, UserError, listed, one_line
from tinylm_ablate.execute.perform import Launch, perform, results, unclaim
from tinylm_ablate.execute.walk import DONE, FAILED, SKIPPED, Walk, consequences
from tinylm_ablate.execute.words import say
from tinylm_ablate.files import fingerprint
from tinylm_ablate.grid.compose import Composer, typed
from tinylm_ablate.grid.describe import described, grid_path, write_grid
from tinylm_ablate.grid.parts import Job, Part, jobs_of, parts, settle_all
from tinylm_ablate.grid.result_table import JUDGED, summary_table
from tinylm_ablate.grid.tuned_arms import Search, first_runs, mistakes, tune_parts
from tinylm_ablate.provenance import require_clean
from tinylm_ablate.science.looks import LOOKS
from tinylm_ablate.settled import Settled
from tinylm_ablate.tracking import on_end, sync

if TYPE_CHECKING:
    from tinylm_ablate.science.evidence import Evidence

#: Extras that install launchers, except for Hydra's own.
_EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}

#: Maximum number of cells to list in a line at the end.
_MOST_NAMES = 100

#: Hydra's own launcher: workers are processes on this machine.
_HERE = "basic"


@dataclass(frozen=True)
class _Grid:
    """Name of a grid, and the file that describes it."""

    name: str
    title: str
    path: Path


class GridSweeper(Sweeper):
    """Hydra's interface to a grid.

    Args:
        params: Axes from an experiment file: key to values.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = params
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store Hydra's objects."""
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> list[str]:
        """Do the grid and print the results; returns the identities of its finished runs.

        Raises:
            ConfigError: Mistakes in any cell; nothing was run.
            SystemExit: With 1 if a cell failed.
        """
        assert self.config is not None and self.hydra_context is not None
        base = typed(self.config)
        launch = self._launch()
        params = OmegaConf.to_container(self.params) if isinstance(self.params, DictConfig) else self.params
        compose = Composer(self.hydra_context.config_loader, self.config)
        found = parts(base, compose, params, arguments)
        jobs = settle_all(compose, found)
        named = [(name, run) for job in jobs for name, run in job.cells]
        match base.mode:
            case "run":
                if base.grid.require_clean:
                    require_clean()
                unclaim(base)
                return _run(found, base, launch)
            case "plan":
                from tinylm_ablate.execute.plan import plans

                workers = base.grid.workers if launch is None else 1
                if base.seeds == "sequential":
                    say(f"seeds=sequential: {LOOKS[0]} seeds per arm first; undecided comparisons add up to {LOOKS[-1]}")
                print(plans([*named, *first_runs(found)], base.plan.format, workers, base.plan.read_text))
            case "coverage":
                from tinylm_ablate.grid.coverage import write_coverage

                print(write_coverage([job.settled for job in jobs]))
            case "status":
                from tinylm_ablate.execute.status import show_status

                show_status(named)
            case "evaluate":
                _evaluate(jobs, found, base, launch)
            case _:
                raise ConfigError([f"mode={base.mode}: applies to one model; allowed without -m"])
        return []

    def _launch(self) -> Launch | None:
        """Return the function that starts workers with the config's launcher; None for processes on this machine.

        Raises:
            UserError: The launcher is not installed.
        """
        assert self.config is not None and self.hydra_context is not None and self.task_function is not None
        name = str(self.config.hydra.runtime.choices.get("hydra/launcher", _HERE))
        if name == _HERE:
            return None
        try:
            launcher: Launcher = Plugins.instance().instantiate_launcher(
                hydra_context=self.hydra_context, task_function=self.task_function, config=self.config
            )
        except Exception as error:
            if name not in _EXTRAS:
                raise
            raise UserError(
                f"hydra/launcher={name}: cannot be used ({one_line(error)}); "
                f"install it with pip install 'tinylm-ablate[{_EXTRAS[name]}]'"
            ) from error

        def launch(workers: int, order: Path) -> None:
            jobs = launcher.launch([[f"grid.work='{order}'"]] * workers, initial_job_idx=0)
            for job in jobs:
                job.return_value  # noqa: B018 - raises what ended the worker

        return launch


def _run(found: Sequence[Part], base: Config, launch: Launch | None) -> list[str]:
    """Tune the arms, do the cells, and add seeds for undecided comparisons, as requested.

    Raises:
        ConfigError: Something cannot be tuned.
        SystemExit: With 1 if a cell failed.
    """
    if wrong := mistakes(found):
        raise ConfigError(wrong)
    for job in jobs_of(found):
        for twin in job.names[1:]:
            say(f"skip   {twin}: the same run as {job.name}")
    if all(not part.base.grid.tune for part in found) and any(len(part.arms) > 1 for part in found):
        say("note: learning rates are not tuned for each arm; grid.tune=true tunes them before the comparison")
    grids = {part: _write_grid(part) for part in found}
    walks: list[Walk] = []

    def do(cells: Sequence[tuple[str, Settled]]) -> None:
        walks.append(perform(cells, base, launch=launch))

    ended = False
    try:
        searches = tune_parts(found, do)
        for part in grids:
            own = [search for search in searches if search.part is part]
            if own:
                part.tuned = {
                    search.arm: search.tuning.state for search in sorted(own, key=lambda one: one.tuning.state == "edge")
                }
                _write_grid(part, grids[part].path.stem, [search.described() for search in own])
        walks.clear()
        while True:
            do([cell for job in jobs_of(found) for cell in job.cells])
            more = [_more_seeds(part, grids[part].path.stem, searches) for part in found]
            if not any(more):
                break
        ended = True
    finally:
        report = sync(base.tracking, Path(base.runs_dir), grids=[grid.path.stem for grid in grids.values()])
        for problem in [*report.problems, *_end(base, walks if ended else [], grids)]:
            say(problem)
    return _conclude(jobs_of(found), walks, grids)


def _more_seeds(part: Part, identity: str, searches: Sequence[Search]) -> bool:
    """Add seeds for undecided comparisons (``seeds=sequential``); False if there are none."""
    if part.base.seeds != "sequential":
        return False
    from tinylm_ablate.frames.arms import claim_keys
    from tinylm_ablate.frames.grid_file import label
    from tinylm_ablate.science.claim_files import read_claims
    from tinylm_ablate.science.seeds import open_questions, seeds_wanted

    found = _evidence(part, json.loads(grid_path(Path(part.base.runs_dir), identity).read_text()))
    if found is None:
        return False
    labels = {arm: label(cells[0].values) for arm, cells in part.arms.items()}
    claims = read_claims(keys=claim_keys())
    by_label = seeds_wanted(found, claims, list(labels.values()))
    wanted = {arm: by_label[name] for arm, name in labels.items()}
    added = {arm: part.add_seeds(arm, seeds) for arm, seeds in wanted.items()}
    if not any(added.values()):
        for line in open_questions(found, claims):
            say(f"seeds  {part.called_arm(line)}")
        return False
    names = ", ".join(f"{arm} to {wanted[arm]}" for arm, cells in added.items() if cells)
    say(f"seeds  {part.called_arm(names)}: these comparisons are undecided")
    _write_grid(part, identity, [search.described() for search in searches if search.part is part])
    return True


def _end(base: Config, walks: Sequence[Walk], grids: Mapping[Part, _Grid]) -> list[str]:
    """Run ``grid.on_end`` for each grid; returns any problems. No walk means that it was interrupted."""
    status = "interrupted" if not walks else "failed" if any(walk.failed() for walk in walks) else "finished"
    facts = [{"grid": grid.path.stem, "name": grid.name, "status": status, "file": grid.path} for grid in grids.values()]
    return [problem for fact in facts if (problem := on_end(base.grid.on_end, fact)) is not None]


def _evaluate(jobs: Sequence[Job], found: Sequence[Part], base: Config, launch: Launch | None) -> None:
    """Measure finished cells and print the scores.

    Raises:
        UserError: Nothing is finished.
    """
    done = [job for job in jobs if (job.settled.folder / "metrics.json").exists()]
    if not done:
        raise UserError("mode=evaluate: no cell of this grid is finished; the same command without mode=evaluate trains them")
    for job in jobs:
        if job not in done:
            say(f"skip   {job.name}: not finished")
    walk = perform([cell for job in done for cell in job.cells], base, train=False, launch=launch)
    for problem in sync(base.tracking, Path(base.runs_dir), folders=[job.settled.folder for job in done]).problems:
        say(problem)
    if base.evaluate.tasks or base.evaluate.task_folder is not None:
        from tinylm_ablate.measure.benchmarks import score_table

        print(score_table([(job.name, job.settled.folder) for job in done], base.evaluate))
    else:
        for part in found:
            print(summary_table(_evidence(part, _described(part))))
    if walk.failed():
        raise SystemExit(1)


def _described(part: Part, identity: str | None = None, tuning: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Describe a part of the grid as plain data: its axes and cells.

    Args:
        part: The part.
        identity: Its identity, if it was described before: neither tuning nor more seeds change it.
        tuning: Tuning curves of its arms.
    """
    base = part.base
    cells = [(part.settled[cell], cell.name, cell.values, part.tuned.get(part.arm_of(cell), "untuned")) for cell in part.cells]
    named = base.experiment.name != "adhoc"
    if identity is None:
        how = [base.grid.tune_keys, base.grid.tune_seed] if base.grid.tune else []
        identity = fingerprint([base.experiment.name, sorted([run.identity, name] for run, name, _, _ in cells), how])
    name = base.experiment.name if named else f"grid-{identity[:8]}"
    axes = dict.fromkeys(key for cell in part.cells for key in cell.values if key != "seed")
    title = base.experiment.title or " × ".join(axes) or "one arm"
    return described(identity, name, title, base, cells, tuning=tuning)


def _write_grid(part: Part, identity: str | None = None, tuning: Sequence[dict[str, Any]] = ()) -> _Grid:
    """Describe a part of the grid before the first of its cells runs; see ``_described``."""
    runs_dir = Path(part.base.runs_dir)
    content = write_grid(runs_dir, _described(part, identity, tuning))
    return _Grid(content["name"], content["title"], grid_path(runs_dir, content["identity"]))


def _conclude(jobs: Sequence[Job], walks: Sequence[Walk], grids: Mapping[Part, _Grid]) -> list[str]:
    """Report the outcome of each cell; returns the identities of finished runs."""
    from tinylm_ablate.frames.arms import best_arms_of, evidence_of
    from tinylm_ablate.frames.grid_file import parse_grid

    damaged: list[str] = []
    states = {job: _state(job, walks) for job in jobs}
    done, skipped, failed = ([job for job in jobs if states[job] == state] for state in (DONE, SKIPPED, FAILED))
    for part, grid in grids.items():
        if part.name:
            print(f"\n{grid.name}: {grid.title}\n")
        whole = parse_grid(json.loads(grid.path.read_text()))
        best = best_arms_of(Path(part.base.runs_dir), whole, JUDGED, damaged)
        arms = 0 if best is whole else len({cell.arm for cell in whole.cells})
        print(summary_table(evidence_of(Path(part.base.runs_dir), best, damaged), arms))
    left = len(jobs) - len(done) - len(skipped) - len(failed)
    counts = [f"{len(done)} done", *([f"{len(skipped)} skipped"] if skipped else []), f"{len(failed)} failed"]
    paths = [grid.path for grid in grids.values()]
    described = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}"
    say(f"{', '.join(counts)}{f', {left} not started' if left else ''}; described in {described}")
    for title, some in (("done", done), ("skipped", skipped)):
        if some and (failed or skipped):
            say(f"{title}: {listed([job.name for job in some], _MOST_NAMES)}")
    failures = {state.task.key: state for walk in walks for state in walk.failed()}
    for state in failures.values():
        if state.cause is None:
            log = state.task.log
            say(f"failed {state.task.name}: {state.error}{f' (see {log})' if log.exists() else ''}")
    for line in consequences(failures.values()):
        say(line)
    if failures:
        raise SystemExit(1)
    for job in jobs if damaged else ():
        results(job.settled)  # raises for records that the table would omit
    return [job.settled.identity for job in jobs if (job.settled.folder / "metrics.json").exists()]


def _state(job: Job, walks: Sequence[Walk]) -> str:
    """Outcome of a cell: its run and its measures together, over all walks of the command."""
    own = [[walk.states[task.key].state for task in walk.tasks_of(job.settled.identity)] for walk in walks]
    states = [states for states in own if states]
    if any(FAILED in found for found in states):
        return FAILED
    if all(state == SKIPPED for found in states for state in found):
        return SKIPPED
    return DONE if all(state in (DONE, SKIPPED) for state in states[-1]) else ""


def _evidence(part: Part, content: Mapping[str, Any]) -> Evidence | None:
    """Return the finished part of a described part of the grid; None if nothing is finished."""
    from tinylm_ablate.frames.arms import evidence_of
    from tinylm_ablate.frames.grid_file import parse_grid

    return evidence_of(Path(part.base.runs_dir), parse_grid(content))
