"""Stacks of the runs in a plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from tinylm_ablate.settled import Settled
from tinylm_ablate.train.stack_key import stack_key, stack_size


def stacks(runs: Sequence[Settled], workers: int = 1) -> list[list[Settled]]:
    """Group runs like the executor, each run once; most groups have one run.

    Runs that are ready at the same time train together: those with equally long chains of needs.

    Args:
        runs: Different runs, none finished.
        workers: Number of workers that share the ready runs.
    """
    groups: dict[tuple[int, Hashable], list[Settled]] = {}
    for run in runs:
        groups.setdefault((_generation(run), stack_key(run)), []).append(run)
    per_generation = Counter(generation for generation, _ in groups)
    found = []
    for (generation, _), group in groups.items():
        share = math.ceil(len(group) / max(1, workers // per_generation[generation]))
        while group:
            size = stack_size(group[0], min(share, len(group)))
            found.append(group[:size])
            group = group[size:]
    return found


def _generation(run: Settled) -> int:
    """Return the length of the chain of runs that must be trained before this one."""
    return max((1 + _generation(need) for need in run.needs), default=0)
