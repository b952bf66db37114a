"""Progress messages, and the recorded reasons of failures."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tinylm_ablate.errors import RunFailed, UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.secrets import cut

#: Prints a line above what is drawn on the screen, while something is.
_print: Callable[[str], None] | None = None


def through(printer: Callable[[str], None] | None) -> None:
    """Print lines through a screen that is being drawn; None prints them to standard error."""
    global _print
    _print = printer


def say(text: str) -> None:
    """Report progress to the user."""
    if _print is not None:
        _print(cut(text))
    else:
        print(cut(text), file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """An error in one line, without the name of its class where the message is meant for users."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError | RunFailed):
        return " ".join(line.strip() for line in lines)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def write_failure(log: Path, error: BaseException, attempt: str) -> None:
    """Record why a task failed: one line that says why, one that says where and when, and the traceback."""
    where = f"{attempt}, {socket.gethostname()}, process {os.getpid()}"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    trace = "".join(traceback.format_exception(error))
    write_atomic(log, cut(f"{one_line(error)}\n{where}, {now}\n\n{trace}"))


def read_failure(log: Path) -> str | None:
    """Reason why a task failed, in one line; None if it did not."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return None
    return lines[0] if lines else "no message"


def failure_mark(log: Path) -> int:
    """What changes with every failure that is written; 0 where there is none."""
    try:
        return log.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
