"""Accuracy of ``mode=plan``: a small grid is planned, trained, and both times are compared.

    python benchmarks/plan_truth.py [OVERRIDE...]

Exits with 1 if the plan is off by more than 30 %. The default is four cells at scale s32 of about a minute each on one thread.
The output includes the processor time, which is the time of a grid on one thread on an idle machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

DEFAULT = [
    "arch.depth=9,20", "seeds=2", "train.tokens=60000", "train.threads=1", "tracking=none", "evaluate.max_bytes=50000",
    "evaluate.cloze_questions=50",
]  # fmt: skip
ALLOWED = 0.3


def main(overrides: list[str]) -> int:
    """Plan, train and compare; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        grid = [sys.executable, "-m", "tinylm_ablate", "-m", *(overrides or DEFAULT), f"runs_dir={folder}/runs"]
        grid.append("cache_dir=runs/cache")
        # The first cell alone creates corpus, tokenizer and shards, which a plan does not count.
        subprocess.run([*grid, "train.share=0.05"], check=True)
        printed = subprocess.run([*grid, "mode=plan", "plan.format=json"], check=True, capture_output=True, text=True).stdout
        planned = sum(json.loads(line)["seconds"] for line in printed.splitlines())
        start, before = time.monotonic(), os.times()
        subprocess.run(grid, check=True)
        took, after = time.monotonic() - start, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    print(
        f"planned {planned:.0f} s, took {took:.0f} s ({planned / took - 1:+.0%}), {busy:.0f} s of them on a processor", end=" "
    )
    error = planned / (busy if "train.threads=1" in grid else took) - 1
    print(f"({error:+.0%})")
    return int(abs(error) > ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
