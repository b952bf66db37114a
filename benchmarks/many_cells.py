"""A grid of 200 tiny cells, 10 of which fail in training: overhead per cell, and the effect of failures.

    python benchmarks/many_cells.py [CELLS [FAILURES]]

The failing cells have a learning rate that overflows. Prints seconds per cell, from the times at which cells end, and exits
with 1 if the grid did not end as expected, or if a cell after the first took longer than a second.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time

TINY = [
    "arch.depth=1", "arch.width=16", "arch.ffn_width=24", "tokenizer=bpe", "tokenizer.vocab_size=300",
    "tokenizer.train_bytes=20000", "train.context_length=32", "train.batch_tokens=128", "train.tokens=2560",
    "train.threads=1", "train.compile=false", "evaluate.max_bytes=2000", "evaluate.cloze_questions=4", "tracking=none",
    "optimizer.clip=1e30", "optimizer.scaling.exponent=0", "optimizer.weight_decay=1.0",
]  # fmt: skip


def main(cells: int, failures: int) -> int:
    """Run the grid; returns the exit code."""
    seeds = cells - failures
    # Every seed with a normal learning rate, and the first seeds also with one that overflows.
    exclude = ",".join(f"'optimizer.scaling.base_lr=900 seed={seed}'" for seed in range(failures, seeds))
    with tempfile.TemporaryDirectory() as folder:
        grid = [sys.executable, "-m", "tinylm_ablate", "-m", *TINY, "optimizer.scaling.base_lr=900,0.003", f"seeds={seeds}"]
        grid += [f"grid.exclude=[{exclude}]", f"runs_dir={folder}/runs", "cache_dir=runs/cache"]
        ends: list[float] = []
        last = ""
        with subprocess.Popen(grid, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(("done   cloze of", "failed cloze of")):  # the last task of a cell
                    ends.append(time.monotonic())
                last = line if " done, " in line else last
    each = [after - before for before, after in itertools.pairwise(ends)]
    median = statistics.median(each)
    print(f"{len(ends)} cells; {last.strip().split(';')[0]}; {median:.2f} s a cell (median), {max(each):.2f} s at most")
    sound = process.returncode == 1 and f"{cells - failures} done, {failures} failed" in last
    return int(not sound or median > 1)


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    raise SystemExit(main(*[*given, *(200, 10)[len(given) :]]))
