"""How fast this machine trains a shape, from a few seconds of measurement.

A decoder costs a + b * depth for one sequence, since its layers are alike. One and two layers of the real width, on a real
sequence, give a and b, so that a model of a billion parameters is timed without ever being built.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from functools import lru_cache

from tinylm_ablate.arch.shapes import Shape

#: The least time of one timed step is repeated until it is worth measuring.
_LEAST_SECONDS = 0.2


@lru_cache(maxsize=256)
def seconds_per_sequence(shape: Shape, context_length: int, micro_batch: int, precision: str) -> float:
    """Seconds of forward and backward pass for one sequence of ``context_length`` tokens, on this machine's CPU or GPU."""
    one, two = (_time(dataclasses.replace(shape, depth=depth), context_length, micro_batch, precision) for depth in (1, 2))
    return one + max(0.0, two - one) * (shape.depth - 1)


def _time(shape: Shape, context_length: int, micro_batch: int, precision: str) -> float:
    import torch

    from tinylm_ablate.arch.decoder import Decoder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # A large model is timed on fewer sequences than it trains with: they are alike.
    sequences = max(1, min(micro_batch, 2**31 // (shape.width * context_length * 64)))
    decoder = Decoder(shape).to(device)
    tokens = torch.randint(shape.vocab_size, (sequences, context_length + 1), device=device)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = decoder.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        decoder.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    times = [step()]
    if times[0] < 10:
        while len(times) < 4 or (sum(times) < _LEAST_SECONDS and len(times) < 50):
            times.append(step())
        times = times[1:]
    return statistics.median(times) / sequences
