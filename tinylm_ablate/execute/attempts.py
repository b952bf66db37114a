"""What becomes of a cell: attempts, the log of the last one that failed, and the words for it."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tinylm_ablate.errors import Busy, Interrupted, RunFailed, UserError
from tinylm_ablate.files import write_atomic

T = TypeVar("T")

#: The log of a run that failed, in its folder: one line that says why, one that says where, and the traceback.
LOG = "error.txt"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell that was launched, as plain data that any launcher can carry.

    Attributes:
        state: "done", "skipped" (another worker had finished it), "busy" (another worker does it, or makes what it needs),
            "failed" or "stopped".
        text: Why, in one line, where it is not done.
        signum: The signal that stopped it.
    """

    state: str
    text: str = ""
    signum: int = 0


def attempts(do: Callable[[], T], folder: Path, retries: int) -> T:
    """Do something about the run in ``folder``, again if it fails; what is raised is the last failure.

    Each failure is written to ``LOG``, which is removed when an attempt ends well.
    """
    for number in range(1, retries + 2):
        try:
            result = do()
        except (Interrupted, Busy):
            raise
        except Exception as error:
            where = f"attempt {number} of {retries + 1}, {socket.gethostname()}, process {os.getpid()}"
            told = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_atomic(folder / LOG, f"{one_line(error)}\n{where}, {told}\n\n{traceback.format_exc()}")
            if number > retries:
                raise
            say(f"{folder}: attempt {number} of {retries + 1} failed: {one_line(error)}")
        else:
            (folder / LOG).unlink(missing_ok=True)
            return result
    raise AssertionError("there is at least one attempt")


def failure(folder: Path, since: float = 0.0) -> str | None:
    """Why the run in ``folder`` failed, in one line; None if it did not, or not after ``since`` by the clock of its folder."""
    try:
        if (folder / LOG).stat().st_mtime <= since:
            return None
        lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return None
    return lines[0] if lines else "no message"


def one_line(error: BaseException) -> str:
    """An error in one line, without the name of its class where the message is meant for users."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError | RunFailed):
        return " ".join(line.strip() for line in lines)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def say(text: str) -> None:
    """Tell the user how a grid goes on."""
    print(text, file=sys.stderr, flush=True)
