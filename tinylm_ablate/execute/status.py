"""Progress of a grid (``mode=status``): the state of each cell and of each run that it needs, from the workers' files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate.execute.words import duration, read_failure
from tinylm_ablate.leases import Holder, Leases
from tinylm_ablate.settled import Settled
from tinylm_ablate.signals import Terminated
from tinylm_ablate.tasks.graph import Graph
from tinylm_ablate.tasks.measure import MeasureTask
from tinylm_ablate.tasks.run import RunTask

REFRESH_SECONDS = 2.0

#: Bytes to read from the end of a curve: a row has about 200 bytes.
_TAIL_BYTES = 4096

#: States in the line of totals.
_COUNTED = ("finished", "running", "measuring", "stopped", "failed", "trained", "waiting")

#: Order of states if a screen is too small for all cells.
_ORDER = ("running", "measuring", "failed", "stopped", "trained", "waiting", "finished")


@dataclass(frozen=True)
class Status:
    """State of a run.

    Attributes:
        name: Its name.
        state: "finished", "running", "measuring", "stopped" (it resumes from its last checkpoint), "failed", "trained" (and not
            yet measured) or "waiting".
        share: Share of its steps, according to its curve.
        rate: Tokens per second at its last point.
        left: Remaining seconds of training at that rate.
        note: Its worker, or why it failed.
    """

    name: str
    state: str
    share: float | None = None
    rate: float | None = None
    left: float | None = None
    note: str = ""


def status(task: RunTask, measures: Sequence[MeasureTask], held: Mapping[str, Holder]) -> Status:
    """Return the status of one run and of its measures.

    Args:
        task: The task that trains it.
        measures: The tasks that measure it.
        held: Workers by task.
    """
    name, settled = task.name, task.run
    if task.done():
        missing = [measure for measure in measures if not measure.done()]
        if not missing:
            return Status(name, "finished", 1.0)
        for measure in missing:
            if measure.key in held:
                return Status(name, "measuring", 1.0, note=f"{measure.request.measure.name}: {held[measure.key].name}")
        for measure in missing:
            if (error := read_failure(measure.log)) is not None:
                return Status(name, "failed", 1.0, note=f"{measure.request.measure.name}: {error}")
        kinds = ", ".join(dict.fromkeys(measure.request.measure.name for measure in missing))
        return Status(name, "trained", 1.0, note=f"{kinds} to measure")
    row = _last_row(settled.folder / "curve.jsonl")
    step, rate = int(row.get("step", 0)), row.get("tokens_per_second")
    share = step / settled.steps if row else None
    if task.key in held:
        if share is None:
            return Status(name, "running", note=held[task.key].name)
        left = (settled.steps - step) * settled.config.train.batch_tokens / rate if rate else None
        return Status(name, "running", share, rate, left, held[task.key].name)
    if (error := read_failure(task.log)) is not None:
        return Status(name, "failed", share, note=error)
    return Status(name, "stopped" if row else "waiting", share)


def statuses(cells: Sequence[tuple[str, Settled]], leases: Leases | None = None) -> list[Status]:
    """Return the status of each run of some cells, after the runs that they need; equal runs once."""
    graph = Graph(cells)
    leases = leases or _leases(cells)
    held = leases.held() if leases.folder.is_dir() else {}
    measures: dict[str, list[MeasureTask]] = {}
    for measure in graph.measures:
        measures.setdefault(measure.of.key, []).append(measure)
    return [status(task, measures.get(task.key, []), held) for task in graph.runs]


def _leases(cells: Sequence[tuple[str, Settled]]) -> Leases:
    config = cells[0][1].config
    return Leases(Path(config.runs_dir), config.grid.lease_seconds)


def table(rows: Sequence[Status], lines: int | None = None) -> str:
    """Format the table, with a line of totals.

    Args:
        rows: Status of each run.
        lines: Maximum number of lines; finished and waiting runs are omitted first.
    """
    from tabulate import tabulate

    counts = Counter(row.state for row in rows)
    total = ", ".join(f"{counts[state]} {state}" for state in _COUNTED if counts[state])
    left = 0
    if lines is not None and len(rows) + 4 > lines:
        rows = sorted(rows, key=lambda row: _ORDER.index(row.state))
        left = len(rows) - max(1, lines - 5)
        rows = rows[: len(rows) - left]
    shown = [
        [
            row.name,
            row.state,
            "" if row.share is None else f"{row.share:.0%}",
            "" if row.rate is None else f"{row.rate:,.0f}",
            "" if row.left is None else duration(row.left),
            row.note,
        ]
        for row in rows
    ]
    head = ["cell", "state", "steps", "tokens/s", "time left", "worker, or what is missing"]
    align = ["left", "left", "right", "right", "right", "left"]
    text = tabulate(shown, headers=head, disable_numparse=True, colalign=align)
    return "\n".join([text, *([f"and {left} more"] if left else []), total])


def show_status(cells: Sequence[tuple[str, Settled]]) -> None:
    """Print the table; on a terminal, repeat every two seconds until the state is final."""
    if not sys.stdout.isatty():
        print(table(statuses(cells)))
        return
    leases = _leases(cells)  # reused, since changes between two calls show which workers are active
    try:
        while True:
            rows = statuses(cells, leases)
            # Like watch(1): redraw from the top of the screen, and clear the rest.
            print(f"\x1b[H\x1b[2J{table(rows, shutil.get_terminal_size().lines - 1)}", flush=True)
            if all(row.state in {"finished", "failed"} for row in rows):
                return
            time.sleep(REFRESH_SECONDS)
    except Terminated:
        raise
    except KeyboardInterrupt:  # the usual way to end it
        return


def _last_row(path: Path) -> dict[str, Any]:
    """Return the last complete row of a curve, or an empty one."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                return row
    return {}
