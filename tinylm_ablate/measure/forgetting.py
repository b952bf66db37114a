"""Loss of a trained model on each part of its training data (Figure 9)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinylm_ablate.measure.subject import Result, Settings, Subject
from tinylm_ablate.rounds.draw import Float64s
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from tinylm_ablate.arch.decoder import Decoder


class Forgetting:
    """Loss of the final model on each part of the training data (``rounds.forgetting``)."""

    name = "forgetting"
    weights = True

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One, if ``rounds.forgetting`` requests it."""
        return [{"parts": list(run.rounds.parts)}] * run.config.rounds.forgetting

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Pass over the training batches once."""
        del settings  # the parts are the run's own
        return Result(forgetting(subject.run, subject.decoder, subject.shards.tokens("train"), subject.run.folder))


def forgetting(settled: Settled, decoder: Decoder, tokens: npt.NDArray[Any], folder: Path) -> dict[str, float]:
    """Compute the mean loss of the final model on each part of the first round, as metrics.

    Returns:
        ``forgetting/part_1`` and so on, in training order, in nats per token, each with the standard error of its mean over
        batches (``…/se``); and ``forgetting/unseen``, the same for text of the same epoch that was not trained on, if there is
        any, with up to as many batches as a part has. The paper's figure has no such bar, without which an increase from part
        to part cannot be distinguished from parts that are harder.
    """
    from tinylm_ablate.rounds.losses import Passed, batch_losses, measure

    losses = batch_losses(settled, decoder, tokens, folder)
    metrics: dict[str, float] = {}
    for number, part in enumerate(np.split(losses, np.cumsum(settled.rounds.parts)[:-1]), 1):
        metrics |= _mean(f"forgetting/part_{number}", part)
    unseen = _unseen(settled, tokens)
    if unseen:
        run = Passed(settled, decoder, tokens, folder)
        metrics |= _mean("forgetting/unseen", np.concatenate(list(measure([run], unseen)))[:, 0])
    return metrics


def _unseen(settled: Settled, tokens: npt.NDArray[Any]) -> range:
    """Return the next batches of the first round's order that are entirely in its first epoch."""
    from tinylm_ablate.rounds.losses import first_batches

    sequences = settled.config.train.batch_tokens // settled.config.train.context_length
    in_epoch = first_batches(settled, tokens).fresh // sequences
    first = settled.rounds.first
    return range(first, max(first, min(in_epoch, first + max(settled.rounds.parts))))


def _mean(name: str, losses: Float64s) -> dict[str, float]:
    error = float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0
    return {name: float(losses.mean()), f"{name}/se": error}
