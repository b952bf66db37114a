"""Progress messages, times in words, and the recorded reasons of failures."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tinylm_ablate.errors import one_line
from tinylm_ablate.files import write_atomic
from tinylm_ablate.secrets import cut

#: Function that prints a line above a live display, while there is one.
_print: Callable[[str], None] | None = None


def through(printer: Callable[[str], None] | None) -> None:
    """Print lines through a live display; None prints them to standard error."""
    global _print
    _print = printer


def say(text: str) -> None:
    """Report progress to the user."""
    if _print is not None:
        _print(cut(text))
    else:
        print(cut(text), file=sys.stderr, flush=True)


def write_failure(log: Path, error: BaseException, attempt: str) -> None:
    """Record the failure of a task: one line with the reason, one with place and time, and the traceback."""
    where = f"{attempt}, {socket.gethostname()}, process {os.getpid()}"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    trace = "".join(traceback.format_exception(error))
    write_atomic(log, cut(f"{one_line(error)}\n{where}, {now}\n\n{trace}"))


def read_failure(log: Path) -> str | None:
    """Return the reason why a task failed, in one line; None if it did not."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return None
    return lines[0] if lines else "no message"


def failure_mark(log: Path) -> int:
    """Return a value that changes with every recorded failure; 0 if there is none."""
    try:
        return log.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def duration(seconds: float) -> str:
    """Format a time in a suitable unit."""
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
