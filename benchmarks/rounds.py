"""Speed of computing batch losses for a later round, compared with training on the same tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import THREADS, Result, interleaved, quartiles

PARTS = ("N",)


def run(part: str, windows: int) -> Result:
    """Measure tokens per second of both on the baseline of scale s32 with random tokens, each as in a real run."""
    del part
    import numpy as np
    import torch

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize
    from tinylm_ablate.rounds.losses import first_batches, measure
    from tinylm_ablate.settle import settle
    from tinylm_ablate.train.fit import fit

    steps = 10
    with tempfile.TemporaryDirectory() as folder:
        settled = settle(
            compose([
                "scale=s32", f"train.tokens={2048 * steps}", "train.compile=true", f"train.threads={THREADS}",
                f"runs_dir={folder}", "cache_dir=runs/cache", "progress=off",
            ])
        )  # fmt: skip
        tokens = np.random.default_rng(0).integers(0, settled.shape.vocab_size, 256 * 8 * steps + 1).astype(np.uint16)
        decoder = Decoder(settled.shape)
        initialize(decoder, settled.init, 0)
        number = iter(range(1000))
        seconds: list[float] = []

        def train() -> None:
            seconds.append(fit(decoder, tokens, settled, Path(folder) / str(next(number)), lambda _: None).seconds)

        def losses() -> None:
            list(measure(settled, decoder, first_batches(settled, tokens), range(settled.steps)))

        paths: dict[str, Callable[[], object]] = {"training": train, "loss pass": losses}
        times = interleaved(paths, windows)
        torch.set_num_threads(THREADS)
    # The fit's own clock, without the start of Lightning and the last checkpoint.
    times["training"] = seconds[-windows:]
    rates = {name: [settled.tokens / each for each in times_] for name, times_ in times.items()}
    return {
        "tokens": settled.tokens,
        "tokens_per_second": {name: quartiles(rate) | {"windows": rate} for name, rate in rates.items()},
        "ratio": quartiles([a / b for a, b in zip(rates["loss pass"], rates["training"], strict=True)]),
    }
