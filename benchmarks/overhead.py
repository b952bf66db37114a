"""Overhead of Lightning, the log, the progress bar and checkpoints over the raw loop, on the baseline of scale s32.

Both train on the same tokens with the same compiled layers. A window is the time from the end of the first step to the end of
the last; a checkpoint is measured by itself and spread over the ten minutes between two.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import THREADS, Result, clock, interleaved, quartiles

PARTS = ("N",)
STEPS = 10


def run(part: str, windows: int) -> Result:
    """Measure both, in turn, with the eight sequences a step that runs at this scale have."""
    del part
    import numpy as np
    import torch

    from tinylm_ablate import progress
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.data.batches import Batches
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize
    from tinylm_ablate.optimizer.optimizers import build_optimizer, optimizer_state
    from tinylm_ablate.settle import settle
    from tinylm_ablate.train import checkpoint
    from tinylm_ablate.train.compile import compiled
    from tinylm_ablate.train.fit import fit

    progress.configure("on")
    with tempfile.TemporaryDirectory() as folder:
        settled = settle(
            compose([
                "scale=s32", f"train.tokens={2048 * STEPS}", "train.compile=true",
                f"train.threads={THREADS}", f"runs_dir={folder}", "cache_dir=runs/cache",
            ])
        )  # fmt: skip
        tokens = np.random.default_rng(0).integers(0, settled.shape.vocab_size, 2048 * STEPS + 257).astype(np.uint16)
        decoder = Decoder(settled.shape)
        initialize(decoder, settled.init, 0)
        fast = settled.precision == "bf16"
        number = iter(range(1000))
        seconds: dict[str, list[float]] = {"ours": [], "raw loop": []}

        def ours() -> None:
            marks: list[float] = []
            fit(decoder, tokens, settled, Path(folder) / str(next(number)), lambda _: marks.append(clock()))
            # A row of the curve comes after every log_every steps, before the last checkpoint.
            seconds["ours"].append((marks[-1] - marks[0]) / (STEPS - settled.config.train.log_every))

        def raw() -> None:
            torch.set_num_threads(THREADS)
            optimizer = build_optimizer(decoder, settled.optimizer, settled.learning_rate)
            batches = Batches(tokens, 256, 0, round=0)
            with contextlib.ExitStack() as stack:
                stack.enter_context(compiled(decoder, True))
                for step in range(STEPS):
                    if step == settled.config.train.log_every:
                        start = clock()
                    ids = torch.from_numpy(batches.inputs(np.arange(step * 8, (step + 1) * 8, dtype=np.int64)))
                    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                        loss = decoder.loss(ids[:, :-1], ids[:, 1:])
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                seconds["raw loop"].append((clock() - start) / (STEPS - settled.config.train.log_every))

        paths: dict[str, Callable[[], object]] = {"ours": ours, "raw loop": raw}
        interleaved(paths, windows)
        saving = []
        optimizer = build_optimizer(decoder, settled.optimizer, settled.learning_rate)
        decoder.loss(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long)).backward()
        optimizer.step()
        for step in range(5):
            start = clock()
            kept, counters = optimizer_state(optimizer, decoder)
            records = {"curve.jsonl": "", "events.jsonl": ""}
            saved = checkpoint.Checkpoint(step, decoder.state_dict(), kept, counters, {}, records)
            checkpoint.save(Path(folder) / "saved", saved)
            saving.append(clock() - start)
    counted = {name: each[1:] for name, each in seconds.items()}
    ratio = quartiles([a / b for a, b in zip(counted["ours"], counted["raw loop"], strict=True)])
    between = 60 * settled.config.train.checkpoint_minutes
    return {
        "seconds_per_step": {name: quartiles(each) | {"windows": each} for name, each in counted.items()},
        "ratio": ratio,
        "checkpoint_seconds": quartiles(saving),
        "overhead_percent": 100 * (ratio["median"] - 1 + quartiles(saving)["median"] / between),
    }
