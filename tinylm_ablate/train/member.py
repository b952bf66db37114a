"""Input and result of a driver of training. Nothing here imports torch."""

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

#: Takes new rows of the curve; True prunes the run.
OnRows = Callable[[list[Row]], bool | None]


@dataclass(frozen=True)
class Checkpoint:
    """A run between two optimizer steps.

    Attributes:
        step: Optimizer steps done.
        weights: By the names of the parameters.
        kept: The optimizer's tensors: kind of state -> name of the parameter -> tensor.
        counters: The optimizer's numbers.
        recorder: The state of the recorder.
        records: The content of the curve and of the events.
    """

    step: int
    weights: Mapping[str, Tensor]
    kept: Mapping[str, Mapping[str, Tensor]]
    counters: dict[str, float]
    recorder: dict[str, Any]
    records: dict[str, str]


#: Takes the weights that the model is used with, and the whole state, at a point.
OnPoint = Callable[["Mapping[str, Tensor]", Checkpoint], None]


def nothing(weights: Mapping[str, Tensor], state: Checkpoint) -> None:
    """Default of ``on_point``: keep no intermediate model."""
    del weights, state


@dataclass(frozen=True)
class Start:
    """Starting point of a run that continues another run's rounds.

    Attributes:
        seconds: Time that was spent in training before.
        order: Ids of the batches of this round in their order, (steps of the round,); None is the order of the first round.
        checkpoints: Folder of a checkpoint at that point, whose state of the optimizer is used; None starts a new one.
        curve: The curve of the rounds before, as lines of JSON.
    """

    seconds: float = 0.0
    order: np.ndarray | None = None
    checkpoints: Path | None = None
    curve: str = ""


@dataclass
class Member:
    """One run to train.

    Attributes:
        decoder: The weights that the round begins with; they are replaced by the trained ones.
        tokens: The training text as token ids, (n,).
        settled: The run.
        folder: The run's folder; the curve, ``events.jsonl`` (loss spikes and skipped steps) and the checkpoints go there.
        on_rows: Called with every new row of the curve; True prunes the run.
        start: What earlier rounds left.
        points: Optimizer steps after which ``on_point`` is called.
        on_point: Keeps the model on the way.
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
        """Steps from ``step`` to the next point; None where no more comes."""
        return min((point - step for point in self.points if point > step), default=None)


@dataclass(frozen=True)
class Trained:
    """The result of training a run.

    Attributes:
        loss: Mean training loss of the last twentieth of the steps, nats per token.
        seconds: Time in training, over all sessions of the run; in a stack, the time that the whole stack took meanwhile.
        tokens_per_second: Tokens of the run over that time: in a stack, the run's share of the throughput.
        skipped: Steps that were skipped, since their loss or gradient was not finite.
        runs: How many runs trained together in the last session; 1 is a run alone.
    """

    loss: float
    seconds: float
    tokens_per_second: float
    skipped: int
    runs: int = 1
