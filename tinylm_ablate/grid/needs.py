"""Which runs a run needs before it can start."""

from __future__ import annotations

from collections.abc import Iterator

from tinylm_ablate.settled import Settled


def needs(settled: Settled) -> list[Settled]:
    """The runs that must be finished before this one can start: its parent, or its earlier rounds."""
    return [run for run in (settled.previous, settled.parent) if run is not None]


def before(settled: Settled) -> Iterator[Settled]:
    """All runs that this one needs, and those that they need, first things first."""
    for run in needs(settled):
        yield from before(run)
        yield run


def part(settled: Settled, identity: str | None) -> Settled:
    """The run of this identity among a run and those that it needs; None is the run itself."""
    runs = {run.identity: run for run in (*before(settled), settled)}
    return settled if identity is None else runs[identity]
