"""Whether ``mode=plan`` tells the truth: a small grid is planned, trained on an idle machine, and both times are compared.

    python benchmarks/plan_truth.py [OVERRIDE...]

Exits with 1 where the plan is more than 30 % off. By default four cells of the scale s32 of about a minute each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time

DEFAULT = ["arch.depth=9,20", "seeds=2", "train.tokens=200000", "tracking=none"]
ALLOWED = 0.3


def main(overrides: list[str]) -> int:
    """Plan, train, compare; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        grid = [sys.executable, "-m", "tinylm_ablate", "-m", *(overrides or DEFAULT), f"runs_dir={folder}/runs"]
        grid.append("cache_dir=runs/cache")
        # The first cell alone makes text, tokenizer and shards, which a plan does not count.
        subprocess.run([*grid, "train.share=0.05"], check=True)
        told = subprocess.run([*grid, "mode=plan", "plan.format=json"], check=True, capture_output=True, text=True).stdout
        planned = sum(json.loads(line)["seconds"] for line in told.splitlines())
        start = time.monotonic()
        subprocess.run(grid, check=True)
        took = time.monotonic() - start
    error = planned / took - 1
    print(f"planned {planned:.0f} s, took {took:.0f} s: {error:+.0%}")
    return int(abs(error) > ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
