"""C kernels for a CPU, compiled on first use, and the threads that run them.

They need only a C compiler. If there is none, or it fails, callers compute the same with PyTorch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
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

from tinylm_ablate.hardware import cpu_flags
from tinylm_ablate.paths import user_cache

# Not -ffast-math, which changes how the whole process rounds tiny numbers.
_FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
    "-freciprocal-math", "-ffinite-math-only", "-shared", "-fPIC",
)  # fmt: skip


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """Return the compiled library of a C file in this folder, or None."""
    compiler = next((found for command in ("cc", "gcc", "clang") if (found := shutil.which(command))), None)
    if compiler is None:
        return None
    source = Path(__file__).with_name(f"{name}.c")
    content = source.read_bytes() + source.with_name("numbers.h").read_bytes()
    # Compilers avoid the widest registers by default.
    flags = (*_FLAGS, *(("-mprefer-vector-width=512",) if "avx512f" in cpu_flags() else ()))
    about = " ".join((compiler, *flags, *sorted(cpu_flags())))
    key = hashlib.sha256(content + about.encode()).hexdigest()[:16]
    folder = user_cache()
    path = folder / f"{name}-{key}.so"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if path.is_file():
            with contextlib.suppress(OSError):  # a damaged file is replaced
                return ctypes.CDLL(str(path))
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # If it cannot be cached, compile it for this process alone: other code would round differently.
        place = folder if os.access(folder, os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=place) as unfinished:  # other processes may compile it at the same time
            made = Path(unfinished) / path.name
            command = [compiler, *flags, "-o", str(made), str(source), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            compiled = ctypes.CDLL(str(made))  # it stays loaded if its file is moved or removed
            if place is not None:
                made.replace(path)
            return compiled
    return None


def fits(operand: Tensor) -> bool:
    """Return whether the kernels support the precision and device of an operand."""
    return operand.dtype in (torch.float32, torch.bfloat16) and operand.device.type == "cpu"


def pointers(operands: tuple[Tensor, ...]) -> list[int]:
    """Return the addresses of contiguous operands."""
    return [each.data_ptr() for each in operands]


def opaque(function: Callable[..., Any], operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator while torch.compile traces, and otherwise the function: calling an operator imports the compiler."""
    return operator if torch.compiler.is_compiling() else function


def scratch_for(operand: Tensor, numbers: int) -> Tensor:
    """Return memory for each thread; PyTorch's defaults may be another precision or device."""
    return operand.new_empty(torch.get_num_threads(), numbers, dtype=torch.float32)


def divide(count: int, do: Callable[[int, int, int], None]) -> None:
    """Call ``do(thread, first, last)`` for ranges that divide ``count`` items, with as many threads as torch has.

    ``do`` must hold the tensors whose memory it uses: after an interrupt, threads may still run when the caller has returned.
    """
    threads = max(1, min(torch.get_num_threads(), count))

    def part(thread: int) -> None:
        do(thread, count * thread // threads, count * (thread + 1) // threads)

    # The caller's thread takes part: what it has computed before is in the cache of its core.
    others = [_pool(threads - 1).submit(part, thread) for thread in range(1, threads)]
    part(0)
    for other in others:
        other.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
