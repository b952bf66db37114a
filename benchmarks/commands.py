"""Time of commands that do no work: plans, ``status``, and finished grids, with up to 10,000 cells."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Result
from benchmarks.synthetic import SHARED, axes, write_runs

PARTS = ("two cells", "the paper", "200 cells", "10,000 cells")

#: Rates of a finished grid of 40 depths and 5 seeds.
_RATES = {"200 cells": 1, "10,000 cells": 50}


def run(part: str, windows: int) -> Result:
    """Processor time (user and system) and time of each command, medians, seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if part in _RATES:
            return _finished(folder, _RATES[part], windows if part == "200 cells" else 1)
        words = ["arch.depth=9,20"] if part == "two cells" else ["+experiments=paper"]
        wanted = 4 if part == "two cells" else 20
        found = {
            "first plan": _time(folder, [*words, "mode=plan"], 1, wanted),
            "plan": _time(folder, [*words, "mode=plan"], windows, wanted),
        }
        return found | {"status": _time(folder, [*words, "mode=status"], windows, 2)}


def _finished(folder: Path, rates: int, windows: int) -> Result:
    """Measure the commands on a grid before it starts, and after it has finished."""
    many = rates > 1
    words = [*SHARED, *axes(rates)]
    waiting = _time(folder, [*words, "mode=plan"], windows, 30 if many else 4)
    write_runs(folder / "runs", rates)
    return {
        "plan": waiting,
        "already finished": _time(folder, words, windows, 30 if many else 2),
        "status": _time(folder, [*words, "mode=status"], windows, 30 if many else 2),
    }


def _time(folder: Path, words: list[str], windows: int, wanted: float) -> dict[str, float]:
    """Measure the seconds of a multirun in ``folder``, with the cache in it."""
    command = [sys.executable, "-m", "tinylm_ablate", "-m", f"runs_dir={folder / 'runs'}", *words]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling the package takes 0.3 s, once for a user
    used, took = [], []
    for _ in range(windows):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        took.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"  {' '.join(words)[:60]}: {used[-1]:.1f} s on a processor, {took[-1]:.1f} s", file=sys.stderr, flush=True)
    return {"processor": statistics.median(used), "wall": statistics.median(took), "wanted": wanted}
