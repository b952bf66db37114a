"""Points along a run at which its model is kept or measured."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled

#: Maximum number of points of a run, and minimum text scored at a point by default, bytes.
MOST, LEAST_BYTES = 1000, 5000


def steps_at(place: float, steps: int, batch_tokens: int) -> int:
    """Convert a position in a run, a share of its steps up to 1 or a number of tokens, to optimizer steps."""
    return max(1, round(place * steps if place <= 1 else place / batch_tokens))


def kept(run: Settled) -> list[int]:
    """Steps after which model and optimizer state are kept (``train.keep_checkpoints``), ascending."""
    train = run.config.train
    found = {steps_at(place, run.steps, train.batch_tokens) for place in train.keep_checkpoints}
    return sorted(step for step in found if run.rounds.start < step <= run.steps)


def evaluated(every: float | None, first: int, steps: int, batch_tokens: int) -> list[int]:
    """Steps after which a run is measured (``evaluate.every``), ascending and including the last.

    Args:
        every: The interval: a share of the steps up to 1, or tokens.
        first: Steps before this run began.
        steps: Steps of the run.
        batch_tokens: Tokens per step.
    """
    if every is None:
        return []
    distance = every * steps if every <= 1 else every / batch_tokens
    found = {max(1, round(number * distance)) for number in range(1, int(steps / distance + 1e-9) + 1)}
    return sorted({*(step for step in found if first < step <= steps), steps})


def evaluated_steps(run: Settled) -> list[int]:
    """Steps after which a settled run is measured."""
    return evaluated(run.config.evaluate.every, run.rounds.start, run.steps, run.config.train.batch_tokens)


def at(run: Settled, step: int) -> Settled:
    """Return the run as its model after ``step`` steps, to be measured on the text for a point."""
    config = copy.copy(run.config)
    evaluate = run.config.evaluate
    config.evaluate = dataclasses.replace(evaluate, max_bytes=evaluate.every_bytes)
    return dataclasses.replace(run, config=config, at=step)
