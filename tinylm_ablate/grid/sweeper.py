"""The sweeper behind ``-m``: a grid is checked whole before its first cell starts, and survives its cells.

Identical cells run once, finished ones are skipped, a parent that several cells need is trained once, and one cell that fails
leaves the others alone. What happens to each cell is told as it happens, and once more at the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, Interrupted, UserError
from tinylm_ablate.files import fingerprint, write_atomic
from tinylm_ablate.grid.cells import Cell, expand
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS, typed
from tinylm_ablate.run import Record, complete, finished, parameters_of
from tinylm_ablate.settle import Settled, settle


@dataclass
class _Job:
    """A cell with its settled run; ``also`` are cells that mean the same run."""

    cell: Cell
    settled: Settled
    also: list[Cell] = field(default_factory=list)
    error: str = ""


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
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

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
        if base.mode != "run":
            raise ConfigError([f"mode={base.mode}: it is about one model; allowed without -m"])
        grid = _write_grid(base, jobs, arguments)
        records = self._walk(shared, jobs, base, grid)
        return _conclude(jobs, records, grid)

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
                mistakes.setdefault(_one_line(error.__cause__ or error), []).append(cell.name)
            else:
                job = jobs.setdefault(settled.identity, _Job(cell, settled))
                if job.cell is not cell:
                    job.also.append(cell)
        if mistakes:
            raise ConfigError([f"{mistake}{_where(names, len(cells))}" for mistake, names in mistakes.items()])
        return list(jobs.values())

    def _walk(self, shared: Sequence[str], jobs: Sequence[_Job], base: Config, grid: _Grid) -> dict[str, Record]:
        from tinylm_ablate.tracking import open_tracker

        records = {job.settled.identity: complete(job.settled) for job in jobs if finished(job.settled.folder)}
        for job in jobs:
            if job.settled.identity in records:
                _say(f"skip   {job.cell.name}: finished, see {job.settled.folder}")
            for twin in job.also:
                _say(f"skip   {twin.name}: the same run as {job.cell.name}")
        waiting = [job for job in jobs if job.settled.identity not in records]
        if not waiting:
            return records
        tracker = open_tracker(base.tracking, Path(base.runs_dir))
        nest = tracker.start_grid(grid.name, grid.title, identity=grid.path.stem)
        status = "KILLED"
        try:
            self._train(shared, waiting, base, nest, records)
            status = "FAILED" if any(job.error for job in waiting) else "FINISHED"
        finally:
            figures = _figures(jobs, grid) if nest is not None else []
            tracker.finish_grid(nest, _table(jobs, records), figures, status, _columns(jobs))
        return records

    def _train(
        self, shared: Sequence[str], waiting: Sequence[_Job], base: Config, nest: str | None, records: dict[str, Record]
    ) -> None:
        """Train what is not finished: parents first, then cell by cell."""
        assert self.launcher is not None
        for parent in {job.settled.parent.identity: job.settled.parent for job in waiting if job.settled.parent}.values():
            if finished(parent.folder) is None:
                shape = parent.shape
                _say(f"parent {parent.identity}: {shape.depth} layers, width {shape.width}, {parent.tokens:,} tokens")
                parent.config.tracking.parent = nest
                try:
                    complete(parent)
                except Interrupted:
                    raise
                except Exception as error:
                    for job in waiting:
                        if job.settled.parent is not None and job.settled.parent.identity == parent.identity:
                            job.error = f"its parent {parent.identity} failed: {_one_line(error)}"
        for number, job in enumerate(waiting, 1):
            _say(f"[{number}/{len(waiting)}] {job.cell.name}")
            if not job.error:  # a parent that failed has said so already
                extra = [
                    "tracking.parent=null" if nest is None else f"tracking.parent='{nest}'",
                    f"tracking.run_name={_quote(job.cell.name)}",
                ]
                (result,) = self.launcher.launch([[*shared, *job.cell.overrides, *extra]], initial_job_idx=number - 1)
                _take(job, result, records)
            _say(_outcome(job, records))
            if job.error and base.grid.on_failure == "stop":
                break


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


def _take(job: _Job, result: JobReturn, records: dict[str, Record]) -> None:
    """Put a job's result where it belongs; an interruption ends the grid."""
    if result.status == JobStatus.COMPLETED:
        record = finished(job.settled.folder)
        if record is None:
            job.error = "ended without a record"
        else:
            records[job.settled.identity] = record
        return
    error = result._return_value  # its property would print the overrides before it raises
    if isinstance(error, Interrupted) or not isinstance(error, Exception):
        raise error
    job.error = _one_line(error)


def _outcome(job: _Job, records: dict[str, Record]) -> str:
    """The line that ends a cell."""
    if job.error:
        return f"failed {job.cell.name}: {job.error}"
    metrics = records[job.settled.identity]["metrics"]
    return (
        f"done   {job.cell.name}: {metrics['test/bits_per_byte/all']:.4f} bits per byte on test, "
        f"{metrics['train/seconds']:.0f} s of training"
    )


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


def _conclude(jobs: Sequence[_Job], records: dict[str, Record], grid: _Grid) -> list[Record]:
    done = [job for job in jobs if job.settled.identity in records]
    failed = [job for job in jobs if job.error]
    left = len(jobs) - len(done) - len(failed)
    print(_table(jobs, records))
    _say(f"{len(done)} done, {len(failed)} failed{f', {left} not started' if left else ''}; described in {grid.path}")
    for job in failed:
        log = job.settled.folder / "error.txt"
        _say(f"failed {job.cell.name}: {job.error}{f' (see {log})' if log.exists() else ''}")
    if failed:
        raise SystemExit(1)
    return [records[job.settled.identity] for job in done]


def _table(jobs: Sequence[_Job], records: dict[str, Record]) -> str:
    from tinylm_ablate.report import summary_table

    rows = [
        (dict(cell.values), records[job.settled.identity])
        for job in jobs
        for cell in (job.cell, *job.also)
        if job.settled.identity in records
    ]
    return summary_table(rows)


def _where(names: Sequence[str], cells: int) -> str:
    if len(names) == cells:
        return ""
    return f" (in {names[0]}{f' and {len(names) - 1} more cells' if len(names) > 1 else ''})"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError):
        return " ".join(line.strip() for line in lines)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
