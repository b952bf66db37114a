"""How a round begins, from the weights that the rounds before it left with the batches that are drawn for it; and a branch."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy.typing as npt

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.huggingface import load_model
from tinylm_ablate.rounds import NEED_LOSSES
from tinylm_ablate.rounds.draw import draw
from tinylm_ablate.rounds.losses import batch_losses
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.member import Start


def continued(
    settled: Settled, tokens: npt.NDArray[Any]
) -> tuple[Decoder, dict[str, Any], list[dict[str, Any]], Start, list[dict[str, Any]]]:
    """Everything that the last round of a run, or a branch, begins with.

    Args:
        settled: A run whose ``previous`` is finished.
        tokens: The training text as token ids, (n,).

    Returns:
        The decoder; where its first weights came from; the standard deviations that they had; where the fit starts; and the
        record of all draws so far.

    Raises:
        UserError: What the previous rounds left cannot be read.
    """
    previous = settled.previous
    assert previous is not None
    folder, branch = previous.folder, settled.rounds.branch
    models = dataclasses.replace(previous, at=branch).folder
    try:
        record = json.loads((folder / "metrics.json").read_text())
        initial_std = json.loads((folder / "matrix_std.json").read_text())
        curve = (folder / "curve.jsonl").read_text(encoding="utf-8")
        decoder = load_model(models / "model")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: its weights and record cannot be read ({error}); remove it, and it is done again"
        ) from error
    if branch:
        rows = [line for line in curve.splitlines(keepends=True) if json.loads(line)["step"] <= branch]
        seconds = json.loads(rows[-1])["seconds"] if rows else 0.0
        return decoder, record["init"], initial_std, Start(seconds, None, models / "checkpoint", "".join(rows)), []
    losses = batch_losses(previous, decoder, tokens, folder) if settled.rounds.rule in NEED_LOSSES else None
    drawn = draw(settled.rounds, losses, settled.config.seed)
    start = Start(
        seconds=record["metrics"]["train/seconds"],
        order=drawn.batches,
        checkpoints=folder / "checkpoint" if previous.keep_state else None,
        curve=curve,
    )
    return decoder, record["init"], initial_std, start, [*record.get("rounds", []), drawn.record]
