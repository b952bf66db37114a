"""How fast this machine trains a shape, from a second or two of measurement.

A decoder costs a + b * depth for one sequence, since its layers are alike, so one and two layers of the real width, on a real
sequence, give a and b. A shape whose two layers are too much for that is estimated from a model of medium size, by the ratio
of their FLOPs: on matrices of that size a machine is about as fast as on larger ones. A model of a billion parameters is
timed without ever being built.
"""

from __future__ import annotations

import dataclasses
import os
import time
from functools import lru_cache

from tinylm_ablate.arch.shapes import Shape, flops_per_token

#: Training FLOPs of a step that is measured; about a tenth of a second on two cores, less on a GPU.
_STEP_FLOPS = {"cpu": 1e10, "cuda": 2e13}

#: Stands for all shapes that are too large to be measured, and the tokens of its sequences.
_MEDIUM = Shape(depth=20, width=512, ffn_width=1408, heads=4, kv_heads=4, head_dim=128, vocab_size=4096)
_MEDIUM_TOKENS = 256

#: A step is measured at least this often and this long, after one that is not counted.
_LEAST_STEPS = 2
_LEAST_SECONDS = 0.1


def seconds_per_token(shape: Shape, context_length: int, micro_batch: int, precision: str, threads: int | str) -> float:
    """Seconds of forward and backward pass for one token of training, on this machine's CPU or GPU.

    Optimizer steps and evaluation are not counted, and layers are not compiled: a compiled run is faster.

    Args:
        shape: The decoder.
        context_length: Tokens of a sequence.
        micro_batch: Sequences in one forward pass.
        precision: "fp32" or "bf16".
        threads: CPU threads; "auto" is one a core.
    """
    limit = _STEP_FLOPS[_device()]
    measured, tokens, sequences = shape, context_length, micro_batch
    if _two_layers(shape, context_length) > limit:
        measured, tokens, sequences = _MEDIUM, _MEDIUM_TOKENS, micro_batch
    sequences = max(1, min(sequences, int(limit / _two_layers(measured, tokens))))
    seconds = _measured(measured, tokens, sequences, precision, threads)
    return seconds * _flops(shape, context_length) / _flops(measured, tokens)


def _two_layers(shape: Shape, context_length: int) -> int:
    """FLOPs of a training step of two layers on one sequence."""
    return context_length * _flops(dataclasses.replace(shape, depth=2), context_length)


def _flops(shape: Shape, context_length: int) -> int:
    return flops_per_token(shape, context_length)["training"]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=256)
def _measured(shape: Shape, tokens: int, sequences: int, precision: str, threads: int | str) -> float:
    """Seconds a token of a shape at its whole depth, from one and two of its layers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads((os.cpu_count() or 1) if isinstance(threads, str) else threads)
    try:
        one, two = (_step_seconds(dataclasses.replace(shape, depth=depth), tokens, sequences, precision) for depth in (1, 2))
    finally:
        torch.set_num_threads(before)
    return (one + max(0.0, two - one) * (shape.depth - 1)) / (sequences * tokens)


def _step_seconds(shape: Shape, tokens: int, sequences: int, precision: str) -> float:
    """The shortest of some steps: what else the machine does can only make a step longer."""
    import torch

    from tinylm_ablate.arch.decoder import Decoder

    device = _device()
    decoder = Decoder(shape).to(device)
    ids = torch.randint(shape.vocab_size, (sequences, tokens + 1), device=device)
    times: list[float] = []
    while len(times) < 1 + _LEAST_STEPS or sum(times) < _LEAST_SECONDS:
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = decoder.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        decoder.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
