"""Compilation of a decoder's layers: when to compile, and settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tinylm_ablate.hardware import can_compile, pick_device

if TYPE_CHECKING:
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.settled import Settled

#: Training FLOPs from which compilation saves time: it takes half a minute and then saves about an eighth (docs/LAB.md), so it
#: pays off after about four minutes of training, on a CPU and on a GPU at typical speeds.
_COMPILE_FROM_FLOPS = {"cpu": 8e12, "cuda": 2e16, "mps": 4e14}


#: Maximum number of shapes that one process compiles.
_SHAPES = 256

#: Number of steps in a CUDA graph from which compilation saves time: for 16 runs at s32 on an H200, it takes 8 s, and a step
#: then takes 8.8 ms instead of 15.6 (docs/LAB.md).
_COMPILE_FROM_GRAPH_STEPS = 1200


def worth_compiling(settled: Settled, flops: float, graph_steps: int = 0) -> bool:
    """Return whether training with ``flops`` floating-point operations is long enough for compilation to save time.

    Args:
        settled: The run.
        flops: Floating-point operations of training.
        graph_steps: Steps that are replayed as a graph; 0 if there is none.
    """
    wanted = settled.config.train.compile
    if isinstance(wanted, bool):
        return wanted
    long = flops > _COMPILE_FROM_FLOPS[pick_device(settled.config.train.device)]
    return can_compile() and (long or graph_steps >= _COMPILE_FROM_GRAPH_STEPS)


@contextlib.contextmanager
def compiled(decoder: Decoder, wanted: bool) -> Iterator[None]:
    """Compile the layers within the block: one compiled function for all layers, which are alike, at the batch's shape.

    Afterwards the layers are plain again, so that the many shapes of an evaluation are not compiled.
    """
    if not wanted:
        yield
        return
    import torch._dynamo

    assume_kernels()
    for layer in decoder.layers:
        layer.compile(dynamic=False)
    try:
        # One process may train many shapes; beyond the compiler's default limit of eight, it would silently stop compiling.
        with torch._dynamo.config.patch(recompile_limit=_SHAPES):
            yield
    finally:
        for layer in decoder.layers:
            layer._compiled_call_impl = None


def assume_kernels() -> None:
    """Let the compiler ask whether this machine has our kernels, instead of tracing how their libraries are found."""
    import torch._dynamo

    from tinylm_ablate.arch import bf16_attention, small_heads

    for kernel in (bf16_attention, small_heads):
        torch._dynamo.assume_constant_result(kernel.available)  # type: ignore[no-untyped-call]
