"""The points along a run: where its model is kept, and where it is measured."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled

#: Most points of a run, and the least text that is scored at one by default, bytes.
MOST, LEAST_BYTES = 1000, 5000


def steps_at(place: float, steps: int, batch_tokens: int) -> int:
    """Optimizer steps at a place in a run: a share of its steps up to 1, or else that many tokens."""
    return max(1, round(place * steps if place <= 1 else place / batch_tokens))


def kept(run: Settled) -> list[int]:
    """Steps after which the model and the state of the optimizer are kept (``train.keep_checkpoints``), ascending."""
    train = run.config.train
    found = {steps_at(place, run.steps, train.batch_tokens) for place in train.keep_checkpoints}
    return sorted(step for step in found if run.rounds.start < step <= run.steps)


def evaluated(every: float | None, first: int, steps: int, batch_tokens: int) -> list[int]:
    """Steps after which a run is measured (``evaluate.every``), ascending; the last is always one of them.

    Args:
        every: The distance: a share of the steps up to 1, or else tokens.
        first: Steps that were done before this run began.
        steps: Steps of the run.
        batch_tokens: Tokens of a step.
    """
    if every is None:
        return []
    distance = every * steps if every <= 1 else every / batch_tokens
    found = {max(1, round(number * distance)) for number in range(1, int(steps / distance + 1e-9) + 1)}
    return sorted({*(step for step in found if first < step <= steps), steps})


def evaluated_steps(run: Settled) -> list[int]:
    """``evaluated`` of a run."""
    return evaluated(run.config.evaluate.every, run.rounds.start, run.steps, run.config.train.batch_tokens)


def at(run: Settled, step: int) -> Settled:
    """The model of a run after ``step`` steps, to be measured on the text of a point."""
    config = copy.copy(run.config)
    evaluate = run.config.evaluate
    config.evaluate = dataclasses.replace(evaluate, max_bytes=evaluate.every_bytes)
    return dataclasses.replace(run, config=config, at=step)
