"""Compilation of the layers of a decoder: the decision, and the settings."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.hardware import pick_device

if TYPE_CHECKING:
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.settled import Settled

#: Compiling takes half a minute and then saves about an eighth (docs/LAB.md), which some four minutes of training win back: on
#: a processor, and on a GPU, at the rates that they usually attain.
_COMPILE_FROM_FLOPS = {"cpu": 8e12, "cuda": 2e16, "mps": 4e14}


#: Shapes that one process compiles.
_SHAPES = 256

#: A step that is a graph on a GPU is short enough that compiling pays from so many steps on; an estimate.
_COMPILE_FROM_GRAPH_STEPS = 2000


def worth_compiling(settled: Settled, flops: float, graph_steps: int = 0) -> bool:
    """Return whether work of ``flops`` floating-point operations is long enough to win back the time that compiling takes.

    Args:
        settled: The run.
        flops: Of the work.
        graph_steps: Steps that are replayed as a graph; 0 where there is none.
    """
    wanted = settled.config.train.compile
    if isinstance(wanted, bool):
        return wanted
    long = flops > _COMPILE_FROM_FLOPS[pick_device(settled.config.train.device)]
    return can_compile() and (long or graph_steps >= _COMPILE_FROM_GRAPH_STEPS)


@functools.cache
def can_compile() -> bool:
    """Return whether this machine has a C++ compiler and Python's headers, which compiled layers include."""
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    return compiler and (Path(sysconfig.get_path("include")) / "Python.h").is_file()


@contextlib.contextmanager
def compiled(decoder: Decoder, wanted: bool) -> Iterator[None]:
    """Compile the layers within the block: one piece of code for all of them, since they are alike, for the batch's shape.

    Afterwards they are plain again, so that the many shapes of an evaluation do not compile anew each.
    """
    if not wanted:
        yield
        return
    import torch._dynamo

    for layer in decoder.layers:
        layer.compile(dynamic=False)
    try:
        # One process may train many shapes, and beyond the compiler's own limit of eight it would quietly stop compiling.
        with torch._dynamo.config.patch(recompile_limit=_SHAPES):
            yield
    finally:
        for layer in decoder.layers:
            layer._compiled_call_impl = None
