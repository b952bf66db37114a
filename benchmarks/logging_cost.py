"""Cost of tracking in MLflow: its processor time relative to that of the run, with SQLite or any other store.

    python benchmarks/logging_cost.py [OVERRIDE...]        (such as tracking.uri=http://127.0.0.1:5000)

Two runs in one process. The first also imports MLflow and connects, once for a whole grid, so that the second shows the cost
per run; exits with 1 if it is 2 % or more. Processor time is also meaningful on a busy machine.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinylm_ablate import tracking
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.modes import perform
from tinylm_ablate.tracking import Follower

DEFAULT = ["arch.depth=9", "train.tokens=100000", "train.threads=1", "evaluate.max_bytes=50000", "evaluate.cloze_questions=50"]
ALLOWED = 0.02

_spent = 0.0
_lock = threading.Lock()
_inside = threading.local()


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that the processor time of its thread is added to that of tracking; nested calls count once."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        global _spent
        if getattr(_inside, "yes", False):
            return function(*arguments, **named)
        _inside.yes, start = True, time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            _inside.yes = False
            with _lock:
                _spent += time.thread_time() - start

    return wrapper


def main(overrides: list[str]) -> int:
    """Run, count and print; return the exit code."""
    tracking.sync = counted(tracking.sync)  # type: ignore[assignment]  # after a run
    for name in ("add", "done", "_sync"):  # during training; the last one in a separate thread
        setattr(Follower, name, counted(getattr(Follower, name)))
    share = 1.0
    with tempfile.TemporaryDirectory() as folder:
        for seed in (0, 1):
            before, start, tracked = time.process_time(), time.monotonic(), _spent
            settings = [*DEFAULT, f"seed={seed}", f"runs_dir={folder}/runs", f"cache_dir={Path('runs/cache').resolve()}"]
            perform(compose([*settings, *overrides]))
            whole, logging = time.process_time() - before, _spent - tracked
            share = logging / (whole - logging)
            print(
                f"run {seed + 1}: {time.monotonic() - start:.0f} s, {whole:.1f} s of a processor, {logging:.2f} s of them for "
                f"tracking: {share:.2%}",
                flush=True,
            )
    return int(share >= ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
