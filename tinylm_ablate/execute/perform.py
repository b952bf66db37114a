"""Execution of a command's tasks in this process, with other workers on this machine, or with a launcher's workers."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, Interrupted, UserError, one_line
from tinylm_ablate.execute.live import Live
from tinylm_ablate.execute.walk import Walk
from tinylm_ablate.execute.words import say
from tinylm_ablate.execute.work_order import Order
from tinylm_ablate.execute.worker import targets
from tinylm_ablate.execute.workers import LocalWorkers, divide
from tinylm_ablate.leases import Leases
from tinylm_ablate.measure.registry import measured, requested
from tinylm_ablate.provenance import command
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.graph import Graph
from tinylm_ablate.tasks.measure import lost_weights
from tinylm_ablate.tasks.run import Record, Watch, read_metrics
from tinylm_ablate.tracking import follow

#: Function that starts a number of workers elsewhere, for the order in a file; returns when they have ended.
Launch = Callable[[int, Path], None]


def perform(
    cells: Sequence[tuple[str, Settled]],
    base: Config,
    *,
    train: bool = True,
    launch: Launch | None = None,
    watch: Watch | None = None,
    quiet: bool = False,
) -> Walk:
    """Do the tasks of some cells.

    Args:
        cells: Names and runs.
        base: ``grid`` and ``train.threads`` are used.
        train: Whether to train; otherwise only finished runs are measured.
        launch: Starts the workers; by default, this process is one and starts the others on this machine.
        watch: Called with every new row of a curve; True prunes the run. Only if this process does everything.
        quiet: Whether to report only waiting.

    Returns:
        The outcome of each task.

    Raises:
        ConfigError: The weights for a requested measure were not kept; nothing was done.
        Interrupted: A signal stopped a task; its state is saved.
    """
    grid = base.grid
    graph = Graph(cells)
    if lost := [task for task in graph.measures if task.lost]:
        raise ConfigError([lost_weights(lost)])
    order = Order(cells, train, grid.retries, grid.on_failure == "stop", grid.lease_seconds, command=command())
    leases = Leases(order.runs_dir, order.lease_seconds, order.session)
    with follow(base.tracking, order.runs_dir) as tracked:
        walk = Walk(
            targets(graph, train), leases, tracked, retries=order.retries, stop=order.stop, quiet=quiet,
            observe=launch is not None,
        )  # fmt: skip
        waiting = [state.task for state in walk.waiting()]
        order = dataclasses.replace(order, failures=walk.failures)
        if watch is not None:
            for _, run in cells:
                graph.run(run.identity).watch = watch
        here = bool(waiting) and launch is None
        extra = _workers(walk, graph, order, base, 1 if watch is not None else grid.workers) if here else nullcontext()
        with extra as others, Live(walk, order.runs_dir / "orders", order.session, "off" if quiet else base.progress):
            if waiting and launch is not None:
                _launch(walk, order, launch, grid.workers if isinstance(grid.workers, int) else len(waiting))
            elif waiting:
                walk.go()
                if others is not None and walk.waiting():  # it stopped at the first failure
                    others.stop()
    return walk


@contextlib.contextmanager
def _workers(walk: Walk, graph: Graph, order: Order, base: Config, wanted: int | str) -> Iterator[LocalWorkers | None]:
    """Return workers on this machine in addition to this process, if any."""
    waiting = [state.task for state in walk.waiting()]
    trained = [task.run for task in waiting if task.kind == "run"] or [waiting[0].run]
    workers, threads = divide(trained, wanted)
    if threads is not None:
        for task in graph.tasks:
            task.run.config.train.threads = threads
    if workers == 1:
        yield None
        return
    say(f"{workers} workers" + (f" of {threads} thread{'s' * (threads > 1)}" if threads else ""))
    walk.workers = workers
    with _written(order, threads, workers) as path, LocalWorkers(workers - 1, path, base.tracking) as others:
        yield others


def unclaim(config: Config) -> None:
    """Revoke the lease in ``grid.unclaim`` before any task is taken."""
    if config.grid.unclaim is None:
        return
    leases = Leases(Path(config.runs_dir), config.grid.lease_seconds)
    found = leases.unclaim(config.grid.unclaim)
    for key, holder in found.items():
        say(f"unclaimed {key}, which {holder.name} held")
    if not found:
        held = ", ".join(leases.held())
        say(f"grid.unclaim={config.grid.unclaim}: no worker holds it; " + (f"held are {held}" if held else "none is held"))


def results(run: Settled) -> Record | None:
    """Return the record of a finished run, with the requested metrics in addition to those of training; None before."""
    if not (run.folder / "metrics.json").exists():
        return None
    record = read_metrics(run.folder)
    return record | {"metrics": record["metrics"] | measured(run, requested(run))}


@contextlib.contextmanager
def _written(order: Order, threads: int | None, workers: int) -> Iterator[Path]:
    """Provide the order as a file while workers may start."""
    path = dataclasses.replace(order, threads=threads, workers=workers).write()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _launch(walk: Walk, order: Order, launch: Launch, workers: int) -> None:
    """Let a launcher start workers until everything is done, and report their progress."""
    observer = threading.Thread(target=walk.go, name="observer", daemon=True)
    observer.start()
    try:
        with _written(order, None, workers) as path:
            left, barren = len(walk.waiting()), 0
            while left:
                error: Exception | None = None
                say(f"{min(workers, left)} workers start")
                try:
                    launch(min(workers, left), path)
                except (UserError, Interrupted):
                    raise
                except Exception as failure:  # any exception of a launcher whose worker was killed
                    error = failure
                observer.join(2 * order.lease_seconds if error is None else 5.0)
                before, left = left, len(walk.waiting())
                if walk.stop and walk.failed():
                    return
                # Remaining workers, or those started elsewhere, may be busy with tasks that take longer than a launch.
                barren = 0 if left < before or walk.leases.held() else barren + 1
                if error is not None and left:
                    if barren > 1:
                        raise error  # nothing was done in two attempts: the launcher does not work
                    say(f"a worker ended early ({one_line(error)}); {left} tasks are left")
                elif left and barren:
                    raise UserError(f"the workers ended and left {left} tasks; the same command resumes")
    finally:
        walk.ended.set()
        observer.join()
