"""A worker: ``python -m tinylm_ablate.execute.worker FILE`` walks the tasks of an order until nothing is left to do."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tinylm_ablate import progress
from tinylm_ablate.errors import Interrupted, UserError
from tinylm_ablate.execute.walk import Walk
from tinylm_ablate.execute.words import say
from tinylm_ablate.execute.work_order import Order
from tinylm_ablate.leases import Leases
from tinylm_ablate.provenance import COMMAND
from tinylm_ablate.tasks.graph import Graph
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import follow

#: Names the process that started this one; a worker ends with it.
LEADER = "TINYLM_ABLATE_LEADER"

_LOOK_SECONDS = 1.0


def targets(graph: Graph, train: bool) -> list[Task]:
    """Tasks of a graph that a command requests: everything, or the measures of runs that are finished."""
    if train:
        return graph.tasks
    return [task for task in graph.measures if task.of.product.exists()]


def work(path: Path) -> None:
    """Walk the tasks of the order in ``path``.

    Raises:
        UserError: There is no such order.
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
    """End this process with SIGTERM, which saves what is in training, once the process that started it is gone."""
    leader = os.environ.pop(LEADER, None)
    if leader is None:
        return

    def watch() -> None:
        while os.getppid() == int(leader):
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """The command line of a worker."""
    end_with_leader()
    try:
        work(Path(sys.argv[1]))
    except UserError as error:
        say(str(error))
        raise SystemExit(2) from None
    except Interrupted as stop:
        say(str(stop))
        raise SystemExit(128 + stop.signum) from None


if __name__ == "__main__":
    main()
