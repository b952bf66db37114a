"""Batches and learning rate of each step of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinylm_ablate.data.training import training_batches
from tinylm_ablate.optimizer.schedule import run_factor

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled

Int64s = npt.NDArray[np.int64]


class Order:
    """The batches of a run: those of the first round in order, or those drawn for a later round.

    Args:
        tokens: The training text as token ids, (n,).
        settled: The run.
        drawn: Ids of the batches of the last round, or None for the first round's own.
    """

    def __init__(self, tokens: npt.NDArray[Any], settled: Settled, drawn: Int64s | None = None) -> None:
        self.settled, self.drawn = settled, drawn
        self.batches = training_batches(tokens, settled.config, settled.shards)
        self.sequences = settled.accumulation * settled.micro_batch

    def batch(self, step: int) -> int:
        """Return the id of the first round's batch that step ``step`` (from 0) trains on."""
        return step if self.drawn is None else int(self.drawn[step - self.settled.rounds.start])

    def positions(self, step: int) -> Int64s:
        """Return the positions of a step's sequences in the order of the first round, (sequences,)."""
        batch = self.batch(step)
        return np.arange(batch * self.sequences, (batch + 1) * self.sequences, dtype=np.int64)

    def inputs(self, steps: range) -> Int64s:
        """Return the token ids of some steps, (steps, sequences, T + 1)."""
        ids = self.batches.inputs(np.concatenate([self.positions(step) for step in steps]))
        return ids.reshape(len(steps), self.sequences, -1)

    def windows(self, step: int) -> list[int]:
        """Return the start of these sequences in the shard."""
        return [int(window) for window in self.batches.windows(self.positions(step))]


def learning_rate(settled: Settled, step: int) -> float:
    """Return the learning rate of step ``step`` (from 0) of a run."""
    config = settled.config
    return settled.learning_rate * run_factor(config.optimizer, settled.rounds, step, config.train.batch_tokens)
