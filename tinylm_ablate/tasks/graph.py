"""Graph of the tasks of one or many runs, without duplicates."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable

from tinylm_ablate import points
from tinylm_ablate.init.choice import reads_text
from tinylm_ablate.measure.registry import Request, requested
from tinylm_ablate.rounds import NEED_LOSSES
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.data import CorpusTask, ShardsTask, TokenizerTask
from tinylm_ablate.tasks.measure import MeasureTask
from tinylm_ablate.tasks.run import RunTask
from tinylm_ablate.tasks.start import LossesTask, ScoresTask
from tinylm_ablate.tasks.task import Task


class Graph:
    """Tasks in topological order: each follows those that it needs.

    Args:
        cells: Names and runs; equal runs are trained once, with all of their requested measures.
    """

    def __init__(self, cells: Iterable[tuple[str, Settled]]) -> None:
        self._tasks: dict[str, Task] = {}
        cells = list(cells)
        self._kept = _keeping(cells)
        self._runs: dict[str, RunTask] = {}
        for name, settled in cells:
            task = self._run(name, settled)
            for request in requested(settled):
                if self._measure(task, settled, request):
                    task.stems.append(request.stem)
            for step in points.evaluated_steps(settled):
                there, stems = points.at(settled, step), task.points.setdefault(step, [])
                wanted = [one for one in requested(there) if one.measure.name in settled.config.evaluate.every_measures]
                stems += [request.stem for request in wanted if self._measure(task, there, request)]

    @property
    def tasks(self) -> list[Task]:
        """All tasks."""
        return list(self._tasks.values())

    @property
    def measures(self) -> list[MeasureTask]:
        """Return the tasks that measure."""
        return [task for task in self._tasks.values() if isinstance(task, MeasureTask)]

    @property
    def runs(self) -> list[RunTask]:
        """Return the tasks that train."""
        return list(self._runs.values())

    def run(self, identity: str) -> RunTask:
        """Return the task that trains a run."""
        return self._runs[identity]

    def _measure(self, of: RunTask, run: Settled, request: Request) -> bool:
        """Add the task that measures a run; False if it exists already."""
        measure = MeasureTask(of, run, request)
        return self._add(measure) is measure

    def _add(self, task: Task) -> Task:
        return self._tasks.setdefault(task.key, task)

    def _run(self, name: str, settled: Settled, cell: bool = True) -> RunTask:
        known = self._runs.get(settled.identity)
        if known is not None:
            if cell and not known.cell:  # a cell keeps its name, even if another run needs it
                known.name, known.cell = name, True
            return known
        run = self._kept[settled.identity]
        data = self._data(settled)
        needs: list[Task] = [data]
        for other in settled.needs:
            kind = "parent" if other is settled.parent else "trunk" if settled.rounds.branch else f"{other.rounds.count} rounds"
            needs.append(self._run(f"needed: {kind} {other.identity}", other, cell=False))
        if settled.previous is not None and settled.rounds.rule in NEED_LOSSES:
            previous = settled.previous
            needs.append(self._add(LossesTask(previous.identity, f"batch losses of {previous.identity}", previous, needs)))
        elif reads_text(settled.config.init) and settled.previous is None:
            needs.append(self._add(ScoresTask(f"scores for {name}", run, needs)))
        task = RunTask(name, run, needs, [])
        task.cell = cell
        self._runs[settled.identity] = task
        self._add(task)
        return task

    def _data(self, settled: Settled) -> Task:
        corpus = self._add(CorpusTask(settled.text, f"text {settled.text}", settled))
        tokenizer = TokenizerTask(settled.vocabulary, f"tokenizer {settled.vocabulary}", settled, [corpus])
        known = self._add(tokenizer)
        assert isinstance(known, TokenizerTask)
        return self._add(ShardsTask(f"token shards {known.run.shards.name}", known)) if settled.steps else known


def _keeping(cells: list[tuple[str, Settled]]) -> dict[str, Settled]:
    """Return each run and its needs once.

    A run keeps weights, including intermediate ones, and optimizer state if any of its duplicates requests it.
    """
    found: dict[str, Settled] = {}

    def visit(run: Settled) -> None:
        for other in run.needs:
            visit(other)
        known = found.setdefault(run.identity, run)
        keep_model = known.config.train.keep_model or run.config.train.keep_model
        keep_state = known.keep_state or run.keep_state
        places = sorted({*known.config.train.keep_checkpoints, *run.config.train.keep_checkpoints})
        found_there = (known.config.train.keep_model, known.keep_state, sorted(known.config.train.keep_checkpoints))
        if (keep_model, keep_state, places) != found_there:
            config = copy.deepcopy(known.config)
            config.train.keep_model, config.train.keep_checkpoints = keep_model, places
            found[run.identity] = dataclasses.replace(known, config=config, keep_state=keep_state)

    for _, settled in cells:
        visit(settled)
    return found
