"""Eight runs of the baseline's size as one grid with ``grid.workers=auto``, compared with eight consecutive processes.

The processes run the same command without ``-m``, each with one thread per core. Since they are equivalent, only some of them
are run, and the time of eight is computed from their mean. Corpus, tokenizer and shards exist in both cases.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.measure import Result

PARTS = ("N",)
RUNS, MEASURED = 8, 2
RATES = (0.002, 0.003, 0.004, 0.006)
CELL = [
    "scale=s32", "train.tokens=32768", "tracking=none", "evaluate.max_bytes=20000", "evaluate.cloze_questions=20",
    "cache_dir=runs/cache", "progress=off",
]  # fmt: skip


def run(part: str, windows: int) -> Result:
    """Measure both once; the number of windows is ignored."""
    del part, windows
    with tempfile.TemporaryDirectory() as folder:
        single = [
            _seconds([*CELL, f"runs_dir={folder}/{seed}", f"optimizer.scaling.base_lr={RATES[0]}", f"seed={seed}"])
            for seed in range(MEASURED)
        ]
        rates = ",".join(map(str, RATES))
        grid = _seconds([
            "-m", *CELL, f"runs_dir={folder}/grid", f"optimizer.scaling.base_lr={rates}", "seeds=2", "grid.workers=auto",
        ])  # fmt: skip
    apart = RUNS * statistics.fmean(single)
    return {"process_seconds": single, "processes_seconds": apart, "grid_seconds": grid, "ratio": grid / apart}


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "tinylm_ablate", *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    seconds = time.perf_counter() - start
    print(f"  {seconds:.1f} s: {' '.join(arguments)}", file=sys.stderr, flush=True)
    return seconds
