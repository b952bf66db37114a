"""How far a grid is (``mode=status``): what each cell and each run that it needs is doing, by the files of its workers."""

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

from tinylm_ablate.execute.leases import Holder, holders
from tinylm_ablate.grid.needs import before
from tinylm_ablate.execute.attempts import failure
from tinylm_ablate.execute.plan import duration
from tinylm_ablate.run import as_asked
from tinylm_ablate.settled import Settled

REFRESH_SECONDS = 2.0

#: Most of a curve's end that is read: a row is about 200 bytes.
_TAIL_BYTES = 4096

#: What comes first where a screen is too small for all cells.
_ORDER = ("running", "failed", "stopped", "waiting", "finished")


@dataclass(frozen=True)
class Status:
    """What a run is doing.

    Attributes:
        name: How it is called.
        state: "finished", "running", "stopped" (it goes on from its last checkpoint), "failed" or "waiting".
        share: Of its steps, as far as its curve tells.
        rate: Tokens a second, at its last point.
        left: Seconds of training that are left at that rate.
        note: Who runs it, or why it failed.
    """

    name: str
    state: str
    share: float | None = None
    rate: float | None = None
    left: float | None = None
    note: str = ""


def status(name: str, settled: Settled, held: Mapping[str, Holder]) -> Status:
    """The status of one run.

    Args:
        name: How it is called.
        settled: The run.
        held: Who does which run at this moment, from ``claims.holders``.
    """
    if as_asked(settled) is not None:
        return Status(name, "finished", 1.0)
    row = _last_row(settled.folder / "curve.jsonl")
    step, rate = int(row.get("step", 0)), row.get("tokens_per_second")
    share = step / settled.steps if row else None
    if settled.identity in held:
        if share is None:
            return Status(name, "running", note=held[settled.identity].name)
        left = (settled.steps - step) * settled.config.train.batch_tokens / rate if rate else None
        return Status(name, "running", share, rate, left, held[settled.identity].name)
    if (error := failure(settled.folder)) is not None:
        return Status(name, "failed", share, note=error)
    return Status(name, "stopped" if row else "waiting", share)


def statuses(cells: Sequence[tuple[str, Settled]]) -> list[Status]:
    """The status of each cell (name, run), and before it of the runs that it needs and that are no cells; equal runs once."""
    runs: dict[str, tuple[str, Settled]] = {}
    for _, settled in cells:
        for run in before(settled):
            runs.setdefault(run.identity, (f"needed: {run.identity}", run))
    for name, settled in cells:
        known = runs.get(settled.identity)
        runs[settled.identity] = (name, settled) if known is None or known[0].startswith("needed: ") else known
    held = holders(Path(cells[0][1].config.runs_dir)) if (Path(cells[0][1].config.runs_dir) / "claims").is_dir() else {}
    return [status(name, settled, held) for name, settled in runs.values()]


def table(rows: Sequence[Status], lines: int | None = None) -> str:
    """The table, with a line of totals.

    Args:
        rows: What each run is doing.
        lines: Most lines it may take; what is finished or waits is then left out first.
    """
    from tabulate import tabulate

    counts = Counter(row.state for row in rows)
    total = ", ".join(
        f"{counts[state]} {state}" for state in ("finished", "running", "stopped", "failed", "waiting") if counts[state]
    )
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
    head = ["cell", "state", "steps", "tokens/s", "time left", ""]
    align = ["left", "left", "right", "right", "right", "left"]
    text = tabulate(shown, headers=head, disable_numparse=True, colalign=align)
    return "\n".join([text, *([f"and {left} more"] if left else []), total])


def show_status(cells: Sequence[tuple[str, Settled]]) -> None:
    """Print the table; on a terminal, again every two seconds until nothing is left that could change by itself."""
    if not sys.stdout.isatty():
        print(table(statuses(cells)))
        return
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            rows = statuses(cells)
            # As watch(1) does: from the top of the screen, without what stood there.
            print(f"\x1b[H\x1b[2J{table(rows, shutil.get_terminal_size().lines - 1)}", flush=True)
            if all(row.state in {"finished", "failed"} for row in rows):
                return
            time.sleep(REFRESH_SECONDS)


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a curve; empty where there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            row: dict[str, Any] = json.loads(line)
            return row
    return {}
