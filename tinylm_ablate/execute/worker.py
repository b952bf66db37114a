"""A worker: ``python -m tinylm_ablate.execute.worker FILE`` does the tasks of an order until none is left."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate import progress
from tinylm_ablate.errors import Interrupted, UserError
from tinylm_ablate.execute.walk import Walk
from tinylm_ablate.execute.words import say
from tinylm_ablate.execute.work_order import Order
from tinylm_ablate.leases import Leases
from tinylm_ablate.provenance import COMMAND
from tinylm_ablate.signals import ending_in_order, exit_code
from tinylm_ablate.tasks.graph import Graph
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import follow, prepare_environment

if TYPE_CHECKING:
    from tinylm_ablate.config import TrackingConfig

#: Environment variable with the process that started this one; a worker ends with it.
LEADER = "TINYLM_ABLATE_LEADER"

_LOOK_SECONDS = 1.0

#: What tasks import when they are done.
_IMPORTED = ("tinylm_ablate.train.fit", "tinylm_ablate.train.stack", "tinylm_ablate.init.initial")


def targets(graph: Graph, train: bool) -> list[Task]:
    """Return the requested tasks of a graph: runs and their measures, or only the measures of finished runs.

    Corpora, tokenizers and so on are included if an unfinished task needs them.
    """
    if train:
        return [*graph.runs, *graph.measures]
    return [task for task in graph.measures if task.of.product.exists()]


def work(path: Path) -> None:
    """Walk the tasks of the order in ``path``.

    Raises:
        UserError: The order does not exist.
        Interrupted: A signal stopped it.
    """
    order = Order.read(path)
    os.environ[COMMAND] = json.dumps(list(order.command))
    for _, run in order.cells:
        run.config.progress = "off"
        if order.threads is not None:
            run.config.train.threads = order.threads
    progress.report_to(path.with_suffix(f".{os.getpid()}.live"))
    graph = Graph(order.cells)
    leases = Leases(order.runs_dir, order.lease_seconds, order.session)
    with follow(order.cells[0][1].config.tracking, order.runs_dir) as tracked:
        wanted = targets(graph, order.train)
        try:
            Walk(
                wanted, leases, tracked, retries=order.retries, stop=order.stop, failures=order.failures, workers=order.workers
            ).go()
        finally:
            progress.report_to(None)


def end_with_leader() -> None:
    """End this process with SIGTERM, which it handles like a command, once the process that started it has ended."""
    leader = os.environ.pop(LEADER, None)
    if leader is None:
        return

    def watch() -> None:
        while os.getppid() == int(leader):
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def preload(tracking: TrackingConfig) -> None:
    """Import what a worker imports sooner or later, so that forks of this process need not. It starts no threads."""
    from tinylm_ablate.train.lean import import_lightning

    import_lightning()
    for name in _IMPORTED:
        importlib.import_module(name)
    if tracking.kind == "mlflow":
        prepare_environment()
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")


def main(order: Path) -> None:
    """Work on an order, as a process."""
    end_with_leader()
    try:
        with ending_in_order():
            work(order)
    except UserError as error:
        say(str(error))
        raise SystemExit(2) from None
    except Interrupted as stop:
        say(str(stop))
        raise SystemExit(128 + stop.signum) from None
    except KeyboardInterrupt as stop:
        raise SystemExit(exit_code(stop)) from None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
