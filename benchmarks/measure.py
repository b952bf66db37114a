"""Shared parts of all benchmarks: interleaved windows, the limit of matrix products, the machine, and files of results."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinylm_ablate.files import write_atomic
from tinylm_ablate.provenance import provenance

RESULTS = Path("results/reference/bench")

#: Threads of each path, and the clock: "wall", or "cpu" for one thread on a busy machine. Set by the command line.
THREADS = int(os.environ.get("BENCH_THREADS", os.cpu_count() or 1))
CLOCK = os.environ.get("BENCH_CLOCK", "wall")
clock = time.process_time if CLOCK == "cpu" else time.perf_counter

#: Seconds after which no further window begins, to split a measurement into slices.
SECONDS = float(os.environ.get("BENCH_SECONDS", "inf"))

Result = dict[str, Any]


def interleaved(paths: Mapping[str, Callable[[], object]], windows: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Measure the seconds of each path in each window, alternating between the paths.

    Every second window has the reverse order, so that no path always follows the same one. Warm-up rounds, which also compile,
    are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(-warm_up, windows):
        if number == 0:
            began = time.monotonic()
        if number > 0 and time.monotonic() - began > SECONDS:
            break
        order = list(paths) if number % 2 == 0 else list(paths)[::-1]
        for name in order:
            start = clock()
            paths[name]()
            seconds = clock() - start
            print(f"  window {number:2d}  {name}: {seconds:.3f} s", file=sys.stderr, flush=True)
            if number >= 0:
                times[name].append(seconds)
    return times


def product(dtype: str, size: int = 2048) -> tuple[Callable[[], object], float]:
    """Return a product of two square matrices, and its floating-point operations: the machine's upper limit."""
    import torch

    left, right = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
    return lambda: left @ right, 2.0 * size**3


def quartiles(values: list[float]) -> dict[str, float]:
    """Median, and the lowest and the highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def machine() -> Result:
    """Return the machine and the versions of packages for a result."""
    import torch

    record = provenance()
    peers = {name: _version(name) for name in ("transformers", "litgpt", "tokenizers")}
    return {
        **record["machine"],
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": THREADS,
        "clock": CLOCK,
        "python": record["python"],
        "packages": record["packages"] | peers,
        "commit": record["commit"],
        "dirty": record["dirty"],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def load(name: str) -> dict[str, Result]:
    """Return the results of a benchmark by part; empty if it was not run."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Result] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save(name: str, part: str, result: Result) -> None:
    """Replace the result of a part, and of its kind of ``processor`` if it has one."""
    part = ", ".join(filter(None, (part, result.get("processor"))))
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = load(name) | {part: result | {"machine": machine()}}
    write_atomic(RESULTS / f"{name}.json", json.dumps(dict(sorted(content.items())), indent=1) + "\n")
