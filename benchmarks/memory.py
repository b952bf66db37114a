"""Peak memory of a training step, each path in a separate process, and of the 1B shape with everything in bf16."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from benchmarks.measure import THREADS, Result
from benchmarks.models import CASES, ours, transformers_step

PARTS = ("M", "1B")

#: One step of one sequence at ``scale=paper``. Without bf16 instructions, products are in fp32, which needs more memory.
LARGE = [
    "scale=paper", "train.precision=bf16-true", "train.recompute=true", "train.micro_batch=1", "train.compile=false",
    "train.keep_model=false", "evaluate.max_bytes=2000", "evaluate.cloze_questions=0", "tracking=none",
    "tokenizer=bpe", "train.batch_tokens=2048", "train.tokens=2048", "progress=off",
]  # fmt: skip


def run(part: str, windows: int) -> Result:
    """Measure; the number of windows is ignored, since peaks of equal runs are equal within a few megabytes."""
    del windows
    if part == "1B":
        return _child("large")
    paths = {name: _child(name) for name in ("ours", "train.recompute=true", "transformers")}
    own, recomputed, peer = (path["peak_bytes"] for path in paths.values())
    beyond = {name: path["peak_bytes"] - path["idle_bytes"] for name, path in paths.items()}
    return {
        "paths": paths,
        "ratio": own / peer,
        "ratio_beyond_libraries": beyond["ours"] / beyond["transformers"],
        "ratio_recomputed": recomputed / peer,
    }


def _child(name: str) -> Result:
    done = subprocess.run([sys.executable, "-m", "benchmarks.memory", name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak() -> int:
    """Return the maximum resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _measure(name: str) -> Result:
    import torch

    torch.set_num_threads(THREADS)
    if name == "large":
        return _large()
    case = CASES["M"]
    if name == "transformers":
        import transformers  # noqa: F401

        idle = _peak()
        step = transformers_step(case, "fp32", compile=False)
    else:
        from tinylm_ablate.arch import decoder  # noqa: F401

        idle = _peak()
        step = ours(case, "fp32", compile=False, recompute=name == "train.recompute=true")
    for _ in range(2):
        step()
    return {"idle_bytes": idle, "peak_bytes": _peak()}


def _large() -> Result:
    """Run one step of the 1B shape like ``fit``, on one sequence of random tokens of the paper's length."""
    import tempfile
    import time
    from pathlib import Path

    import numpy as np
    import torch

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.arch.shapes import parameters
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize
    from tinylm_ablate.settle import settle
    from tinylm_ablate.train.fit import fit

    idle = _peak()
    with tempfile.TemporaryDirectory() as folder:
        settled = settle(compose([*LARGE, f"runs_dir={folder}", "cache_dir=runs/cache"]))
        tokens = np.random.default_rng(0).integers(0, settled.shape.vocab_size, 4097).astype(np.uint16)
        decoder = Decoder(settled.shape)
        initialize(decoder, settled.init, 0)
        start = time.perf_counter()
        trained = fit(decoder, tokens, settled, Path(folder), lambda _: None)
        seconds = time.perf_counter() - start
    return {
        "parameters": parameters(settled.shape)["total"], "tokens": settled.tokens, "threads": torch.get_num_threads(),
        "loss": trained.loss, "seconds": seconds, "idle_bytes": idle, "peak_bytes": _peak(),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
