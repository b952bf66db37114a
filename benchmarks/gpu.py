"""Training tokens per second on a GPU: single runs and stacks, compared with transformers' compiled step.

A window is a block of steps of each path, alternating. The results include the throughput of the complete harness, from the
first row of the curve to the last, and the seconds for compiling and capturing before the first step.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Result, interleaved, quartiles
from benchmarks.models import Case, transformers_step

#: By part: scale, runs, steps of the harness, steps of a window, tokens/s to reach; alone at s16, s8 and s4 those of the faster
#: one of ours and transformers' compiled step on an H200.
PARTS: dict[str, tuple[str, int, int, int, float]] = {
    "s32 x 1": ("s32", 1, 2000, 64, 0.8e6),
    "s32 x 16": ("s32", 16, 1000, 50, 4e6),
    "s32 x 64": ("s32", 64, 500, 20, 6e6),
    "s16 x 1": ("s16", 1, 1000, 50, 194e3),
    "s8 x 1": ("s8", 1, 300, 10, 539e3),
    "s4 x 1": ("s4", 1, 100, 5, 518e3),
    "s16 x 6": ("s16", 6, 1000, 50, 2.5e6),
    "s8 x 4": ("s8", 4, 200, 10, 1.3e6),
    "1B x 1": ("paper", 1, 24, 4, 93e3),
}

#: Tokens per step of the model of a billion parameters, a fifteenth of its scale's: a step takes less than a second.
_BATCH_OF_1B = 65_536

#: Tokens per forward pass of the peer: with more, both do not fit at 1B.
_PEER_TOKENS = 16_384


def run(part: str, windows: int) -> Result:
    """Measure one scale and number of runs."""
    import numpy as np
    import torch

    from tinylm_ablate import progress
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize
    from tinylm_ablate.settle import settle
    from tinylm_ablate.train import stack as driver
    from tinylm_ablate.train.compile import compiled
    from tinylm_ablate.train.member import Member
    from tinylm_ablate.train.program import Program

    if not torch.cuda.is_available():
        sys.exit("python -m benchmarks gpu: PyTorch finds no GPU here; nothing was measured")
    scale, runs, steps, block, wanted = PARTS[part]
    progress.configure("auto")
    with tempfile.TemporaryDirectory() as folder:
        base = [f"scale={scale}", "train.device=cuda", "train.compile=true", "train.precision=bf16", "tracking=none"]
        if scale == "paper":
            base += [f"train.batch_tokens={_BATCH_OF_1B}", "train.micro_batch=16"]
        batch_tokens = compose(base).train.batch_tokens
        settled = [
            settle(compose([*base, f"seed={seed}", f"train.tokens={steps * batch_tokens}", f"runs_dir={folder}"]))
            for seed in range(runs)
        ]
        shape, length = settled[0].shape, settled[0].config.train.context_length
        tokens = np.random.default_rng(0).integers(0, shape.vocab_size, 200 * length * 64).astype(np.uint16)

        def decoder(seed: int) -> Decoder:
            made = Decoder(shape)
            initialize(made, settled[0].init, seed)
            return made

        rows: list[dict[str, float]] = []
        began = time.perf_counter()
        first_row: list[float] = []

        def on_rows(new: list[dict[str, float]]) -> None:
            first_row.append(time.perf_counter())
            rows.extend(new)

        members = [
            Member(decoder(seed), tokens, each, Path(folder) / str(seed), on_rows if seed == 0 else lambda _: None)
            for seed, each in enumerate(settled)
        ]
        outcomes = driver.train_stack(members)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failed:
            raise failed[0]
        spent = rows[-1]["seconds"] - rows[0]["seconds"]
        harness = runs * (rows[-1]["tokens"] - rows[0]["tokens"]) / spent
        memory = torch.cuda.max_memory_allocated()

        weights = [dict(member.decoder.named_parameters()) for member in members]
        program = Program(settled, weights, "cuda", block, compiles=True)
        ids = np.random.default_rng(1).integers(0, shape.vocab_size, (block, *program.ids.shape[1:])).astype(np.int32)
        rates = np.full((block, runs), 1e-4)

        def ours() -> None:
            program.start_block(ids[: program.block], rates[: program.block], [True] * runs)
            program.finish_block(program.block)

        sequences = settled[0].micro_batch * settled[0].accumulation
        parts = math.ceil(settled[0].micro_batch * length / _PEER_TOKENS) * settled[0].accumulation
        theirs = transformers_step(Case(shape, length, sequences), "bf16", compile=True, device="cuda", parts=parts)
        paths: dict[str, Callable[[], object]] = {
            "ours": ours,
            "transformers, bf16, compiled, one run": lambda: [theirs() for _ in range(program.block)],
        }
        with compiled(program.decoder, True):
            times = interleaved(paths, windows)
    batch = program.block * batch_tokens
    rates_of = {name: [batch * (runs if name == "ours" else 1) / seconds for seconds in each] for name, each in times.items()}
    peer = rates_of["transformers, bf16, compiled, one run"]
    return {
        "gpu": torch.cuda.get_device_name(),
        "runs": runs,
        "tokens_per_step": runs * batch_tokens,
        "wanted_tokens_per_second": wanted,
        "harness_tokens_per_second": harness,
        "seconds_to_first_row": first_row[0] - began,
        "overhead_percent": 100 * (1 - harness / quartiles(rates_of["ours"])["median"]),
        "peak_bytes": memory,
        "tokens_per_second": {name: quartiles(each) | {"windows": each} for name, each in rates_of.items()},
        "ratio": {
            "transformers, bf16, compiled, one run": quartiles([a / b for a, b in zip(rates_of["ours"], peer, strict=True)])
        },
    }
