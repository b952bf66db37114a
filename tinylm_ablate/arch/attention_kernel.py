"""Attention with heads of 8 channels on a CPU, in a C kernel that is compiled on first use (attention_heads.c).

Small decoders spend more than half of a step on attention, mostly on moving scores through memory. The kernel needs only a C
compiler; if there is none, or it fails, ``kernel`` is None and these heads are computed as others are.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinylm_ablate.arch.shapes import KERNEL_CHANNELS
from tinylm_ablate.hardware import cpu_flags
from tinylm_ablate.paths import user_cache

_SOURCE = Path(__file__).with_name("attention_heads.c")

# Not -ffast-math, which changes how the whole process rounds tiny numbers.
_FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
    "-freciprocal-math", "-ffinite-math-only", "-shared", "-fPIC",
)  # fmt: skip

#: Maximum scratch numbers per token of a sequence.
_SCRATCH = 8 * KERNEL_CHANNELS + 1


class Kernel:
    """The compiled kernel; operands and results are (N, 8, T), contiguous, fp32 or bf16."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, count = ctypes.c_void_p, ctypes.c_long
        rest: list[Any] = [count, count, count, ctypes.c_int, ctypes.c_float, pointer]
        self._forward, self._backward = library.forward, library.backward
        self._forward.argtypes, self._backward.argtypes = [pointer] * 4 + rest, [pointer] * 8 + rest
        self._forward.restype = self._backward.restype = None

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The mixed values."""
        mixed = torch.empty_like(queries, memory_format=torch.contiguous_format)
        self._call(self._forward, queries, keys, values, mixed)
        return mixed

    def backward(
        self, grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values, from that of the mixed values."""
        of_queries, of_keys, of_values = (torch.empty_like(queries, memory_format=torch.contiguous_format) for _ in range(3))
        self._call(self._backward, grad, queries, keys, values, mixed, of_queries, of_keys, of_values)
        return of_queries, of_keys, of_values

    def _call(self, function: Callable[..., None], *operands: Tensor) -> None:
        """Call a function of the kernel with as many threads as torch has; the threads divide the N products."""
        operands = tuple(operand.contiguous() for operand in operands)
        number, _, length = operands[0].shape
        bf16, scale = int(operands[0].dtype == torch.bfloat16), 1 / math.sqrt(KERNEL_CHANNELS)
        pointers = [operand.data_ptr() for operand in operands]
        threads = min(torch.get_num_threads(), number)
        scratch = torch.empty(threads, _SCRATCH * length)

        def part(thread: int) -> None:
            first, last = number * thread // threads, number * (thread + 1) // threads
            function(*pointers, first, last, length, bf16, scale, scratch[thread].data_ptr())

        if threads == 1:
            part(0)
        else:
            list(_pool(threads).map(part, range(threads)))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="attention")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def kernel(operand: Tensor) -> Kernel | None:
    """Return the kernel for an operand (N, T, head_dim), or None."""
    fits = (
        operand.shape[2] == KERNEL_CHANNELS
        and operand.dtype in (torch.float32, torch.bfloat16)
        and operand.device.type == "cpu"
    )
    return _compiled() if fits else None


@functools.cache
def _compiled() -> Kernel | None:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    # Compilers avoid the widest registers by default.
    flags = (*_FLAGS, *(("-mprefer-vector-width=512",) if "avx512f" in cpu_flags() else ()))
    about = " ".join((compiler, *flags, *sorted(cpu_flags())))
    key = hashlib.sha256(_SOURCE.read_bytes() + about.encode()).hexdigest()[:16]
    folder = user_cache()
    path = folder / f"attention-{key}.so"
    with contextlib.suppress(OSError, subprocess.SubprocessError, AttributeError, RuntimeError):
        if path.is_file():
            return Kernel(ctypes.CDLL(str(path)))
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # If it cannot be cached, compile it for this process alone: other code would round differently.
        place = folder if os.access(folder, os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=place) as unfinished:  # other processes may compile it at the same time
            made = Path(unfinished) / path.name
            command = [compiler, *flags, "-o", str(made), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            compiled = Kernel(ctypes.CDLL(str(made)))  # it stays loaded if its file is moved or removed
            if place is not None:
                made.replace(path)
            return compiled
    return None
