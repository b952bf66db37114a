"""C kernels for a CPU, compiled on first use, and run by PyTorch's threads.

They need a C compiler. If there is none, or it fails, callers compute the same with PyTorch.
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
from collections.abc import Callable, Sequence
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
    threads = _threads()
    if threads is None or (found := _compiled(name)) is None:
        return None
    found.use(*threads)
    found.divide.argtypes = [*[ctypes.c_void_p] * 2, ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_long]
    return found


def _threads() -> list[ctypes.c_void_p] | None:
    """Return the functions of PyTorch's OpenMP that ``threads.h`` uses, or None."""
    process, names = ctypes.CDLL(None), ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    with contextlib.suppress(AttributeError):
        return [ctypes.cast(getattr(process, name), ctypes.c_void_p) for name in names]
    return None


def _compiled(name: str) -> ctypes.CDLL | None:
    compiler = next((found for command in ("cc", "gcc", "clang") if (found := shutil.which(command))), None)
    if compiler is None:
        return None
    source = Path(__file__).with_name(f"{name}.c")
    content = b"".join(each.read_bytes() for each in (source, *sorted(source.parent.glob("*.h"))))
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


def like(operand: Tensor) -> Tensor:
    """Return uninitialized contiguous memory for a result of an operand's shape and precision."""
    return torch.empty_like(operand, memory_format=torch.contiguous_format)


def check_alike(operands: Sequence[Tensor]) -> None:
    """Refuse operands of attention with different shapes or precisions, of which a kernel would read foreign memory."""
    if any(each.shape != operands[0].shape or each.dtype != operands[0].dtype for each in operands):
        raise ValueError("queries, keys and values must have the same shape and precision")


def opaque(function: Callable[..., Any], operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator while torch.compile traces, and otherwise the function: calling an operator imports the compiler."""
    return operator if torch.compiler.is_compiling() else function


def run(library: ctypes.CDLL, function: str, job: ctypes.Structure, count: int, scratch: int) -> None:
    """Run a function of a library; PyTorch's threads divide ``count`` items.

    Args:
        library: See ``library``.
        function: Its name; it takes the job, the first item, the one after the last, and a thread's scratch memory.
        job: Addresses and sizes of operands, which the caller keeps.
        count: Number of items.
        scratch: Bytes that each thread needs.
    """
    threads, size = max(1, min(torch.get_num_threads(), count)), math.ceil(scratch / 64) * 64
    memory = torch.empty(threads, size, dtype=torch.uint8, device="cpu")
    start = ctypes.cast(getattr(library, function), ctypes.c_void_p)
    library.divide(start, ctypes.addressof(job), count, threads, memory.data_ptr(), size)
