"""Start of a round or branch: the weights of earlier rounds, and the drawn batches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.huggingface import load_model
from tinylm_ablate.rounds import NEED_LOSSES
from tinylm_ablate.rounds.draw import draw
from tinylm_ablate.rounds.losses import batch_losses
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.checkpoint import restore
from tinylm_ablate.train.member import CURVE, Start


def continued(
    settled: Settled, tokens: npt.NDArray[Any]
) -> tuple[Decoder, dict[str, Any], list[dict[str, Any]], Start, list[dict[str, Any]]]:
    """Starting point of the last round of a run, or of a branch.

    Args:
        settled: A run whose ``previous`` is finished.
        tokens: The training text as token ids, (n,).

    Returns:
        The decoder; the origin of its initial weights; their standard deviations; the starting point of the fit; and the
        record of all draws so far.

    Raises:
        UserError: Files of the previous rounds cannot be read.
    """
    previous = settled.previous
    assert previous is not None
    folder, branch = previous.folder, settled.rounds.branch
    models = dataclasses.replace(previous, at=branch).folder
    try:
        record = json.loads((folder / "metrics.json").read_text())
        seconds, origin, rounds = float(record["metrics"]["train/seconds"]), record["init"], list(record.get("rounds", []))
        initial_std = [{**row, "std": row["std"]} for row in json.loads((folder / "matrix_std.json").read_text())]
        skipped = record["metrics"].get("train/skipped_steps", 0)
        curve = "" if branch else _curve(folder / "curve.jsonl", None if skipped else previous.steps)
        decoder = load_model(models / "model")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder}: its weights and record cannot be read ({error}); remove it to train the run again"
        ) from error
    if branch:  # which continues the state and curve of its point, and nothing that the trunk did after it
        state = restore(models / "checkpoint")
        if state is None:
            raise UserError(f"{models / 'checkpoint'}: cannot be read; remove {models} to train {folder} again")
        start = Start(state.recorder["seconds"], None, models / "checkpoint", state.records[CURVE])
        return decoder, origin, initial_std, start, []
    losses = batch_losses(previous, decoder, tokens, folder) if settled.rounds.rule in NEED_LOSSES else None
    drawn = draw(settled.rounds, losses, settled.config.seed)
    start = Start(
        seconds=seconds,
        order=drawn.batches,
        checkpoints=folder / "checkpoint" if previous.keep_state else None,
        curve=curve,
    )
    return decoder, origin, initial_std, start, [*rounds, drawn.record]


def _curve(path: Path, steps: int | None) -> str:
    """Read a finished run's curve.

    Args:
        path: The file.
        steps: The step of its last row; None if steps were skipped, which have no row.

    Raises:
        ValueError: A line is damaged, or lines are missing at its end.
    """
    text = path.read_text(encoding="utf-8")
    reached = [int(json.loads(line)["step"]) for line in text.splitlines()]
    if not reached or reached != sorted(set(reached)) or steps not in (None, reached[-1]):
        raise ValueError(f"{path.name} is damaged: it has {len(reached)} rows")
    return text
