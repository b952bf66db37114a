"""The stacks that the runs of a plan would train in."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from tinylm_ablate.settled import Settled
from tinylm_ablate.train.stack_key import stack_key, stack_size


def stacks(runs: Sequence[Settled], workers: int = 1) -> list[list[Settled]]:
    """Runs that are to be trained as the executor would group them, each run once; most groups are of one run.

    Runs that are ready at the same time train together: those that need equally many others before them.

    Args:
        runs: Different runs, none finished.
        workers: Workers, who divide what is ready among themselves.
    """
    groups: dict[tuple[int, Hashable], list[Settled]] = {}
    for run in runs:
        groups.setdefault((_generation(run), stack_key(run)), []).append(run)
    found = []
    for group in groups.values():
        while group:
            size = stack_size(group[0], math.ceil(len(group) / workers))
            found.append(group[:size])
            group = group[size:]
    return found


def _generation(run: Settled) -> int:
    """Return how many runs stand before this one, each of which needs the one before it."""
    return max((1 + _generation(need) for need in run.needs), default=0)
