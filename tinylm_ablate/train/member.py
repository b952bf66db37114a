"""Input and result of training. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.settled import Settled

Row = dict[str, float]

CURVE, EVENTS = "curve.jsonl", "events.jsonl"

#: Function that takes new rows of the curve; True prunes the run.
OnRows = Callable[[list[Row]], bool | None]


@dataclass(frozen=True)
class Checkpoint:
    """State of a run between two optimizer steps.

    Attributes:
        step: Optimizer steps done.
        weights: Weights by the names of the parameters.
        kept: The optimizer's tensors: kind of state -> name of the parameter -> tensor.
        counters: The optimizer's numbers.
        recorder: The state of the recorder.
        records: The content of the curve and the events.
    """

    step: int
    weights: Mapping[str, Tensor]
    kept: Mapping[str, Mapping[str, Tensor]]
    counters: dict[str, float]
    recorder: dict[str, Any]
    records: dict[str, str]


#: Function that takes the weights to use the model with, and the complete state, at a point.
OnPoint = Callable[["Mapping[str, Tensor]", Checkpoint], None]


def nothing(weights: Mapping[str, Tensor], state: Checkpoint) -> None:
    """Default of ``on_point``: keep no intermediate model."""
    del weights, state


@dataclass(frozen=True)
class Start:
    """Starting point of a run that continues another run's rounds.

    Attributes:
        seconds: Training time of earlier rounds.
        order: Ids of this round's batches in order, (steps of the round,); None is the order of the first round.
        checkpoints: Folder with a checkpoint at that point, whose optimizer state is used; None starts a new optimizer.
        curve: The curve of earlier rounds, as lines of JSON.
    """

    seconds: float = 0.0
    order: np.ndarray | None = None
    checkpoints: Path | None = None
    curve: str = ""


@dataclass
class Member:
    """One run to train.

    Attributes:
        decoder: The initial weights of the round, which training replaces.
        tokens: The training text as token ids, (n,).
        settled: The run.
        folder: The run's folder, for the curve, ``events.jsonl`` (loss spikes and skipped steps) and the checkpoints.
        on_rows: Called with every new row of the curve; True prunes the run.
        start: State after earlier rounds.
        points: Optimizer steps after which ``on_point`` is called.
        on_point: Stores the model at a point.
    """

    decoder: Decoder
    tokens: np.ndarray
    settled: Settled
    folder: Path
    on_rows: OnRows
    start: Start = field(default_factory=Start)
    points: frozenset[int] = frozenset()
    on_point: OnPoint = nothing

    def before_point(self, step: int) -> int | None:
        """Return the steps from ``step`` to the next point; None if there are no more."""
        return min((point - step for point in self.points if point > step), default=None)


@dataclass(frozen=True)
class Trained:
    """Result of training a run.

    Attributes:
        loss: Mean training loss of the last twentieth of the steps, nats per token.
        seconds: Training time over all sessions of the run; in a stack, that of the whole stack.
        tokens_per_second: Tokens of the run divided by that time; in a stack, the run's share of the throughput.
        skipped: Steps skipped because their loss or gradient was not finite.
        runs: Number of runs that trained together in the last session; 1 is a run alone.
    """

    loss: float
    seconds: float
    tokens_per_second: float
    skipped: int
    runs: int = 1
