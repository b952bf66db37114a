"""Startup time of the program: ``--help``, and a run with existing shards until its first step."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Result, quartiles

PARTS = ("help", "first step")
RUN = [
    "scale=s32", "train.tokens=2048", "train.compile=false", "evaluate.max_bytes=2000", "evaluate.cloze_questions=0",
    "cache_dir=runs/cache", "progress=off",
]  # fmt: skip


def run(part: str, windows: int) -> Result:
    """Measure the seconds from the start of the process, with MLflow (the default) and without it."""
    if part == "help":
        return {"seconds": quartiles([_help() for _ in range(windows + 1)][1:])}
    return {
        "mlflow": quartiles([_first_step("tracking=mlflow") for _ in range(windows)]),
        "none": quartiles([_first_step("tracking=none") for _ in range(windows)]),
        "slowest_imports": _imports(),
    }


def _help() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tinylm_ablate", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def _first_step(tracking: str) -> float:
    """Return the time from the start of the process to the first step, from the first row of the curve."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        command = [sys.executable, "-m", "tinylm_ablate", *RUN, tracking, f"runs_dir={folder}", "train.log_every=1"]
        subprocess.run(command, capture_output=True, check=True)
        (curve,) = Path(folder).glob("*/curve.jsonl")
        row = json.loads(curve.read_text().splitlines()[0])
        seconds = curve.stat().st_mtime - row["seconds"] - start
    print(f"  {tracking}: {seconds:.2f} s", file=sys.stderr, flush=True)
    return seconds


def _imports() -> dict[str, float]:
    """Return modules that take over 0.4 s to import, including their own imports, in seconds by ``-X importtime``."""
    code = "from tinylm_ablate.train.lean import import_lightning as first; first(); import tinylm_ablate.train.fit"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stderr.splitlines() if line.count("|") == 2 and "[us]" not in line]
    long = {name.strip(): round(int(total) / 1e6, 2) for _, total, name in rows if int(total) > 400_000}
    return dict(sorted(long.items(), key=lambda item: -item[1]))
