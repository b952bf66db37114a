"""The sweeper behind ``-m``: a grid is checked whole before its first cell starts, and survives its cells.

Identical cells run once, finished ones are skipped, a run that several cells need is trained once, and one cell that fails
leaves the others alone. The same command started several times, also on several machines that share the folder of the runs,
works on one grid (``tinylm_ablate.grid.work``). What happens to each cell is told as it happens, and once more at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from tinylm_ablate.grid.compose import typed
from tinylm_ablate.grid.outcome import LOG, Outcome, one_line, say
from tinylm_ablate.grid.parts import Job, Part, parts, settle_all
from tinylm_ablate.grid.work import Walk, Work, gather, outcome_of
from tinylm_ablate.grid.workers import Team, divide, leader_since, wanted_workers
from tinylm_ablate.provenance import require_clean
from tinylm_ablate.run import Record, as_asked, complete, parameters_of

#: What installs the launchers that are not Hydra's own.
_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}


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
        assert self.config is not None and self.hydra_context is not None
        leader_since()
        base = typed(self.config)
        launcher = str(self.config.hydra.runtime.choices.get("hydra/launcher", "basic"))
        base.grid.workers = wanted_workers(base.grid.workers, launcher)
        params = OmegaConf.to_container(self.params) if isinstance(self.params, DictConfig) else self.params
        found = parts(self.config, self.hydra_context, params, arguments)
        jobs = settle_all(self.config, self.hydra_context, found)
        named = [(name, job.settled) for job in jobs for name in (job.name, *job.also)]
        if base.mode == "plan":
            from tinylm_ablate.grid.plan import plans

            print(plans(named, base.plan.format, base.grid.workers))
            return []
        if base.mode == "coverage":
            from tinylm_ablate.grid.coverage import write_coverage

            print(write_coverage([job.settled for job in jobs]))
            return []
        if base.mode == "status":
            from tinylm_ablate.grid.status import show_status

            show_status(named)
            return []
        if base.mode == "evaluate":
            from tinylm_ablate.grid.benchmarks import show_scores

            show_scores(_models(jobs), base)
            return []
        if base.mode != "run":
            raise ConfigError([f"mode={base.mode}: it is about one model; allowed without -m"])
        if base.grid.require_clean:
            require_clean()
        return self._run(jobs, base, {part: _write_grid(part) for part in found})

    def _run(self, jobs: Sequence[Job], base: Config, grids: Mapping[Part, _Grid]) -> list[Record]:
        from tinylm_ablate.tracking import open_tracker

        waiting = []
        for job in jobs:
            if as_asked(job.settled) is None:
                waiting.append(job)
            else:
                complete(job.settled)  # what is asked beside the run, such as the speed of generation
                say(f"skip   {job.name}: finished, see {job.settled.folder}")
            for twin in job.also:
                say(f"skip   {twin}: the same run as {job.name}")
        works: list[Work] = []
        if waiting:
            tracker = open_tracker(base.tracking, Path(base.runs_dir))
            nests: dict[Part, str | None] = {}
            for part, grid in grids.items():
                with locked(grid.path, "this grid's entry in MLflow"):
                    nests[part] = tracker.start_grid(grid.name, grid.title, identity=grid.path.stem)
            at_once, threads = divide([job.settled for job in waiting], base.grid.workers)
            shared = [f"train.threads={threads}"] if threads else []
            if at_once > 1:
                say(f"{at_once} runs at once" + (f", {threads} thread{'s' * (threads > 1)} each" if threads else ""))
            works = gather(
                [(job.name, job.settled, [*job.overrides, *_nested(job, nests[job.part]), *shared]) for job in waiting]
            )
            status = "KILLED"
            try:
                walk = Walk(
                    works,
                    self._launch,
                    together=type(self.launcher).__name__ != "BasicLauncher",  # Hydra may load the class a second time
                    stop=base.grid.on_failure == "stop",
                    team=at_once > 1,
                    since=leader_since(),
                )
                with Team(at_once - 1, threads, walk.since, Path(base.runs_dir) / "grids") as others:
                    walk.go()
                    if any(work.state == "waiting" for work in works):
                        others.stop()
                status = "FAILED" if any(work.error for work in works) else "FINISHED"
            finally:
                for part, nest in nests.items():
                    files = [grids[part].path, *_figures(part, grids[part])] if nest is not None else []
                    tracker.finish_grid(nest, _table(part), files, status, _columns(part.runs))
        return _conclude(jobs, works, grids)

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


def _nested(job: Job, nest: str | None) -> list[str]:
    """Overrides that give a run its name and its place in MLflow."""
    parent = "null" if nest is None else f"'{nest}'"
    return [f"tracking.parent={parent}", f"tracking.run_name={_quote(job.cell.name)}"]


def _models(jobs: Sequence[Job]) -> list[tuple[str, Path]]:
    """The models of a grid's finished cells.

    Raises:
        UserError: There is none.
    """
    folders = [(job.name, job.settled.folder / "model") for job in jobs]
    models = [(name, folder) for name, folder in folders if folder.is_dir()]
    if not models:
        raise UserError(
            "mode=evaluate: no cell of this grid has a model yet; the same command without mode=evaluate trains them"
        )
    for name, folder in folders:
        if not folder.is_dir():
            say(f"skip   {name}: has no model yet")
    return models


def _figures(part: Part, grid: _Grid) -> list[Path]:
    """The grid's loss curves, so far as there are any."""
    from tinylm_ablate.grid.figure import draw_losses

    cells = [(job.cell.name, job.settled.folder / "curve.jsonl") for job in part.runs]
    return draw_losses(cells, grid.path.with_name(f"{grid.path.stem}_loss"))


def _columns(jobs: Sequence[Job]) -> list[str]:
    """The parameters that differ between the cells, as MLflow knows them."""
    rows = [parameters_of(job.settled) for job in jobs]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({str(row.get(key)) for row in rows}) > 1]


def _write_grid(part: Part) -> _Grid:
    """Describe the grid for the report: its axes and cells, before the first of them runs."""
    base = part.base
    cells = list(zip(part.jobs, part.cells, strict=True))
    named = base.experiment.name != "adhoc"
    identity = fingerprint([base.experiment.name, sorted([job.settled.identity, cell.name] for job, cell in cells)])
    name = base.experiment.name if named else f"grid-{identity[:8]}"
    title = base.experiment.title if named else " ".join(part.arguments)
    content = {
        "identity": identity,
        "name": name,
        "title": title,
        "scale": base.scale.name,
        "axis": list(dict.fromkeys(key for cell in part.cells for key in cell.values)),
        "paper": base.experiment.paper,
        "paper_axis": base.experiment.paper_axis,
        "note": base.experiment.note,
        "correlate": base.experiment.correlate,
        "figures": base.experiment.figures,
        "cells": [{"identity": job.settled.identity, "name": cell.name, "overrides": dict(cell.values)} for job, cell in cells],
    }
    path = Path(base.runs_dir) / "grids" / f"{identity}.json"
    if leader_since() is None:
        write_atomic(path, json.dumps(content, indent=1, sort_keys=True))
    elif path.exists():  # as the leader has described it
        title = str(json.loads(path.read_text())["title"])
    return _Grid(name, title, path)


def _conclude(jobs: Sequence[Job], works: Sequence[Work], grids: Mapping[Part, _Grid]) -> list[Record]:
    """Tell what became of each cell, at the end."""
    states = {work.identity: work.state for work in works}
    done = [job for job in jobs if states.get(job.settled.identity) == "done"]
    skipped = [job for job in jobs if states.get(job.settled.identity, "skipped") == "skipped"]
    failed = [work for work in works if work.state == "failed"]
    left = sum(work.state == "waiting" for work in works)
    for part, grid in grids.items():
        if part.name:
            print(f"\n{grid.name}: {grid.title}\n")
        print(_table(part))
    counts = [f"{len(done)} done", *([f"{len(skipped)} skipped"] if skipped else []), f"{len(failed)} failed"]
    paths = [grid.path for grid in grids.values()]
    described = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}"
    say(f"{', '.join(counts)}{f', {left} not started' if left else ''}; described in {described}")
    for title, names in (("done", done), ("skipped", skipped)):
        if names and (failed or skipped):
            say(f"{title}: {', '.join(job.name for job in names)}")
    for work in failed:
        log = work.settled.folder / LOG
        say(f"failed {work.name}: {work.error}{f' (see {log})' if log.exists() else ''}")
    if failed and leader_since() is None:  # a leader tells of failed cells itself
        raise SystemExit(1)
    return [record for job in jobs if (record := as_asked(job.settled)) is not None]


def _table(part: Part) -> str:
    from tinylm_ablate.report import summary_table

    records = {job: as_asked(job.settled) for job in part.runs}
    rows = [
        (dict(cell.values), record)
        for job, cell in zip(part.jobs, part.cells, strict=True)
        if (record := records[job]) is not None
    ]
    return summary_table(rows)


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
