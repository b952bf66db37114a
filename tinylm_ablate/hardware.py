"""Resources of this machine for a process, detected without importing torch if there is no GPU."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

#: CPU flags in /proc/cpuinfo for matrix products in bf16, on x86 and Arm. Without such instructions, a bf16 product is
#: emulated and tens of times slower than in fp32 (docs/LAB.md).
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}

#: Devices of the NVIDIA, AMD and WSL drivers.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def fast_bf16(device: str) -> bool:
    """Return whether the training device has instructions for matrix products in bf16.

    Args:
        device: ``train.device``: "auto", "cpu", "cuda" or "mps".
    """
    if device == "cuda" or (device == "auto" and has_gpu_driver()):
        import torch

        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device in ("auto", "cpu") and not _BF16_FLAGS.isdisjoint(cpu_flags())


@functools.cache
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the CPU flags that Linux lists for the first processor; empty on other systems."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cores() -> int:
    """Return the number of cores that this process may use; a scheduler may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Return the memory of this machine, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def thread_count(threads: int | str, processes: int = 1) -> int:
    """Threads per process if ``processes`` share the machine, from ``train.threads``: "auto" is one per core."""
    return max(1, cores() // processes) if isinstance(threads, str) else threads


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick_device(wanted: str) -> str:
    """Resolve ``train.device``: "auto" is an NVIDIA or AMD GPU if PyTorch finds one, and otherwise the CPU.

    Apple GPUs must be requested as "mps", since no test has run on one.
    """
    if wanted != "auto":
        return wanted
    return "cuda" if gpus() else "cpu"


def gpus() -> int:
    """Return the number of GPUs that this process may use."""
    if not has_gpu_driver():
        return 0
    import torch

    return torch.cuda.device_count()


@functools.cache
def has_gpu_driver() -> bool:
    """Return whether this machine has a driver of a GPU, without loading torch or the driver."""
    return any(Path(path).exists() for path in _GPU_DEVICES)


@functools.cache
def can_compile() -> bool:
    """Return whether this machine has a C++ compiler and Python's headers, as torch.compile and Triton require."""
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    return compiler and (Path(sysconfig.get_path("include")) / "Python.h").is_file()
