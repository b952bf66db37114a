"""What of this machine a process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may run on; a scheduler may have lent it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | str, processes: int = 1) -> int:
    """Threads of one of so many processes that work together, by ``train.threads``: "auto" is one a core."""
    return max(1, cores() // processes) if isinstance(threads, str) else threads
