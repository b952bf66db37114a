"""The sweeper behind ``-m``: a grid is checked whole before its first cell starts, and survives its cells.

Identical cells run once, finished ones are skipped, a run that several cells need is trained once, and one cell that fails
leaves the others alone. The same command started several times, also on several machines that share the folder of the runs,
works on one grid (``tinylm_ablate.grid.work``). What happens to each cell is told as it happens, and once more at the end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from tinylm_ablate.config import Config
from tinylm_ablate.data.once import locked
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.files import fingerprint, write_atomic
from tinylm_ablate.grid.cells import Cell, expand
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS, typed
from tinylm_ablate.grid.outcome import LOG, Outcome, one_line, say
from tinylm_ablate.grid.work import Walk, Work, gather, outcome_of
from tinylm_ablate.provenance import require_clean
from tinylm_ablate.run import Record, as_asked, complete, parameters_of
from tinylm_ablate.settle import Settled, settle

#: What installs the launchers that are not Hydra's own.
_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}


@dataclass
class _Job:
    """A cell with its settled run; ``also`` are cells that mean the same run."""

    cell: Cell
    settled: Settled
    also: list[Cell] = field(default_factory=list)


@dataclass(frozen=True)
class _Grid:
    """How a grid is called, and the file that describes it."""

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
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over, and make the launcher."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = launcher_of(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> list[Record]:
        """Run the grid and print what became of it.

        Raises:
            ConfigError: Mistakes in any cell; nothing was run.
            SystemExit: With 1 if a cell failed.
        """
        assert self.config is not None
        base = typed(self.config)
        params = OmegaConf.to_container(self.params) if isinstance(self.params, DictConfig) else self.params
        shared, cells = expand(params, arguments, base.grid, base.seeds)
        jobs = self._settle(shared, cells)
        if base.mode == "plan":
            from tinylm_ablate.grid.plan import plans

            print(plans([(cell.name, job.settled) for job in jobs for cell in (job.cell, *job.also)], base.plan.format))
            return []
        if base.mode == "coverage":
            from tinylm_ablate.grid.coverage import write_coverage

            print(write_coverage([job.settled for job in jobs]))
            return []
        if base.mode == "status":
            from tinylm_ablate.grid.status import show_status

            show_status([(cell.name, job.settled) for job in jobs for cell in (job.cell, *job.also)])
            return []
        if base.mode == "evaluate":
            from tinylm_ablate.grid.benchmarks import show_scores

            show_scores(_models(jobs), base)
            return []
        if base.mode != "run":
            raise ConfigError([f"mode={base.mode}: it is about one model; allowed without -m"])
        if base.grid.require_clean:
            require_clean()
        grid = _write_grid(base, jobs, arguments)
        return self._run(shared, jobs, base, grid)

    def _settle(self, shared: Sequence[str], cells: Sequence[Cell]) -> list[_Job]:
        """Compose and settle every cell; equal runs become one job."""
        assert self.config is not None and self.hydra_context is not None
        jobs: dict[str, _Job] = {}
        mistakes: dict[str, list[str]] = {}
        for cell in cells:
            try:
                composed = self.hydra_context.config_loader.load_sweep_config(self.config, [*shared, *cell.overrides])
                settled = settle(typed(composed))
            except ConfigError as error:
                for mistake in error.mistakes:
                    mistakes.setdefault(mistake, []).append(cell.name)
            except COMPOSITION_ERRORS as error:
                mistakes.setdefault(one_line(error.__cause__ or error), []).append(cell.name)
            else:
                job = jobs.setdefault(settled.identity, _Job(cell, settled))
                if job.cell is not cell:
                    job.also.append(cell)
        if mistakes:
            raise ConfigError([f"{mistake}{_where(names, len(cells))}" for mistake, names in mistakes.items()])
        return list(jobs.values())

    def _run(self, shared: Sequence[str], jobs: Sequence[_Job], base: Config, grid: _Grid) -> list[Record]:
        from tinylm_ablate.tracking import open_tracker

        cells = [(job.cell.name, job.settled, [*shared, *job.cell.overrides]) for job in jobs]
        for job in jobs:
            if as_asked(job.settled) is not None:
                complete(job.settled)  # what is asked beside the run, such as the speed of generation
                say(f"skip   {job.cell.name}: finished, see {job.settled.folder}")
            for twin in job.also:
                say(f"skip   {twin.name}: the same run as {job.cell.name}")
        works = gather([cell for cell in cells if as_asked(cell[1]) is None])
        if works:
            tracker = open_tracker(base.tracking, Path(base.runs_dir))
            with locked(grid.path, "this grid's entry in MLflow"):
                nest = tracker.start_grid(grid.name, grid.title, identity=grid.path.stem)
            for work in works:
                parent = "null" if nest is None else f"'{nest}'"
                work.overrides = [*work.overrides, f"tracking.parent={parent}", f"tracking.run_name={_quote(work.cell)}"]
            status = "KILLED"
            try:
                walk = Walk(
                    works,
                    self._launch,
                    together=type(self.launcher).__name__ != "BasicLauncher",  # Hydra may load the class a second time
                    stop=base.grid.on_failure == "stop",
                )
                walk.go()
                status = "FAILED" if any(work.error for work in works) else "FINISHED"
            finally:
                figures = _figures(jobs, grid) if nest is not None else []
                tracker.finish_grid(nest, _table(jobs), figures, status, _columns(jobs))
        return _conclude(jobs, works, grid)

    def _launch(self, works: Sequence[Work], first: int) -> list[Outcome]:
        assert self.launcher is not None
        results = self.launcher.launch([list(work.overrides) for work in works], initial_job_idx=first)
        return [outcome_of(result) for result in results]


def launcher_of(hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Launcher:
    """The launcher that the config names.

    Raises:
        UserError: It is not installed.
    """
    try:
        return Plugins.instance().instantiate_launcher(hydra_context=hydra_context, task_function=task_function, config=config)
    except Exception as error:
        name = str(config.hydra.runtime.choices.get("hydra/launcher"))
        if name not in _EXTRAS:
            raise
        raise UserError(
            f"hydra/launcher={name}: cannot be used ({one_line(error)}); "
            f"install it with pip install 'tinylm-ablate[{_EXTRAS[name]}]'"
        ) from error


def _models(jobs: Sequence[_Job]) -> list[tuple[str, Path]]:
    """The models of a grid's finished cells.

    Raises:
        UserError: There is none.
    """
    folders = [(job.cell.name, job.settled.folder / "model") for job in jobs]
    models = [(name, folder) for name, folder in folders if folder.is_dir()]
    if not models:
        raise UserError(
            "mode=evaluate: no cell of this grid has a model yet; the same command without mode=evaluate trains them"
        )
    for name, folder in folders:
        if not folder.is_dir():
            say(f"skip   {name}: has no model yet")
    return models


def _figures(jobs: Sequence[_Job], grid: _Grid) -> list[Path]:
    """The grid's loss curves, so far as there are any."""
    from tinylm_ablate.grid.figure import draw_losses

    cells = [(job.cell.name, job.settled.folder / "curve.jsonl") for job in jobs]
    return draw_losses(cells, grid.name, grid.path.with_name(f"{grid.path.stem}_loss"))


def _columns(jobs: Sequence[_Job]) -> list[str]:
    """The parameters that differ between the cells, as MLflow knows them."""
    rows = [parameters_of(job.settled) for job in jobs]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({str(row.get(key)) for row in rows}) > 1]


def _write_grid(base: Config, jobs: Sequence[_Job], arguments: Sequence[str]) -> _Grid:
    """Describe the grid for the report: its axes and cells, before the first of them runs."""
    cells = [(job, cell) for job in jobs for cell in (job.cell, *job.also)]
    named = base.experiment.name != "adhoc"
    identity = fingerprint([base.experiment.name, sorted([job.settled.identity, cell.name] for job, cell in cells)])
    name = base.experiment.name if named else f"grid-{identity[:8]}"
    title = base.experiment.title if named else " ".join(arguments)
    content = {
        "identity": identity,
        "name": name,
        "title": title,
        "scale": base.scale.name,
        "axis": list(dict.fromkeys(key for _, cell in cells for key in cell.values)),
        "paper": base.experiment.paper,
        "paper_axis": base.experiment.paper_axis,
        "note": base.experiment.note,
        "correlate": base.experiment.correlate,
        "figures": base.experiment.figures,
        "cells": [{"identity": job.settled.identity, "name": cell.name, "overrides": dict(cell.values)} for job, cell in cells],
    }
    path = Path(base.runs_dir) / "grids" / f"{identity}.json"
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True))
    return _Grid(name, title, path)


def _conclude(jobs: Sequence[_Job], works: Sequence[Work], grid: _Grid) -> list[Record]:
    """Tell what became of each cell, at the end."""
    states = {work.identity: work.state for work in works}
    done = [job for job in jobs if states.get(job.settled.identity) == "done"]
    skipped = [job for job in jobs if states.get(job.settled.identity, "skipped") == "skipped"]
    failed = [work for work in works if work.state == "failed"]
    left = sum(work.state == "waiting" for work in works)
    print(_table(jobs))
    counts = [f"{len(done)} done", *([f"{len(skipped)} skipped"] if skipped else []), f"{len(failed)} failed"]
    say(f"{', '.join(counts)}{f', {left} not started' if left else ''}; described in {grid.path}")
    for title, names in (("done", done), ("skipped", skipped)):
        if names and (failed or skipped):
            say(f"{title}: {', '.join(job.cell.name for job in names)}")
    for work in failed:
        log = work.settled.folder / LOG
        say(f"failed {work.name}: {work.error}{f' (see {log})' if log.exists() else ''}")
    if failed:
        raise SystemExit(1)
    return [record for job in jobs if (record := as_asked(job.settled)) is not None]


def _table(jobs: Sequence[_Job]) -> str:
    from tinylm_ablate.report import summary_table

    records = {job.settled.identity: as_asked(job.settled) for job in jobs}
    rows = [
        (dict(cell.values), record)
        for job in jobs
        for cell in (job.cell, *job.also)
        if (record := records[job.settled.identity]) is not None
    ]
    return summary_table(rows)


def _where(names: Sequence[str], cells: int) -> str:
    if len(names) == cells:
        return ""
    return f" (in {names[0]}{f' and {len(names) - 1} more cells' if len(names) > 1 else ''})"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
