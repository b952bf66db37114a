"""Resources of this machine for a process, found without importing torch where there is no GPU."""

from __future__ import annotations

import functools
import os
from pathlib import Path

#: Instructions that multiply matrices in bf16: x86's and Arm's names for them in /proc/cpuinfo. Without them a product in bf16
#: is emulated, tens of times slower than in fp32 (docs/LAB.md).
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}

#: One of these is there where a driver of NVIDIA, of AMD or of WSL runs.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def fast_bf16(device: str) -> bool:
    """Return whether matrix products in bf16 are native to what a run would train on.

    Args:
        device: ``train.device``: "auto", "cpu", "cuda" or "mps".
    """
    if device == "cuda" or (device == "auto" and any(Path(path).exists() for path in _GPU_DEVICES)):
        import torch

        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device in ("auto", "cpu") and not _BF16_FLAGS.isdisjoint(cpu_flags())


@functools.cache
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The extensions that Linux lists for the first processor; empty on other systems."""
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
    """Cores that this process may run on; a scheduler may have lent it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def thread_count(threads: int | str, processes: int = 1) -> int:
    """Threads per process when ``processes`` of them share the machine, by ``train.threads``: "auto" is one per core."""
    return max(1, cores() // processes) if isinstance(threads, str) else threads


def pick_device(wanted: str) -> str:
    """The device that ``train.device`` means: "auto" is a GPU of NVIDIA or AMD where PyTorch finds one.

    Apple's is used only by its name, "mps", since no test has run on one.
    """
    if wanted != "auto":
        return wanted
    return "cuda" if gpus() else "cpu"


def gpus() -> int:
    """GPUs that this process may use."""
    if not any(Path(path).exists() for path in _GPU_DEVICES):
        return 0
    import torch

    return torch.cuda.device_count()
