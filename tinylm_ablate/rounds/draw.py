"""Selection of the batches of the first round that the next one repeats (Section 4.2)."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinylm_ablate.budget import Rounds
from tinylm_ablate.data.permutation import Permutation

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """The batches of a round.

    Attributes:
        batches: Ids of the first round's batches, in the order of the new round.
        record: Statistics of the draw, for JSON.
    """

    batches: Int64s
    record: dict[str, Any]


def draw(rounds: Rounds, losses: Float64s | None, seed: int) -> Drawn:
    """Draw the batches of the last round of ``rounds``.

    Within each part, N0 of its N batches are drawn without replacement: rule "loss" draws one at a time with
    p = softmax(loss / temperature) over the remaining batches (as in the paper, with temperature 1), "uniform" draws all sets
    of N0 with equal probability, "top" takes the highest losses, "none" takes all. The drawn batches are shuffled over the
    whole round, in an order that depends on seed and round, but not on the rule.

    The paper lacks the uniform control. If batch losses differ by hundredths of a nat, softmax is nearly uniform; the record
    therefore has the effective sample size 1 / sum(p^2) of each part, as a share of its batches.

    Args:
        rounds: The rounds of the run, at least two.
        losses: (first,) mean loss in nats of every batch under the model at the start of the round; None with rules that do
            not use losses.
        seed: The run's seed.
    """
    chosen: list[Int64s] = []
    parts: list[dict[str, Any]] = []
    start = 0
    for part, (size, wanted) in enumerate(zip(rounds.parts, rounds.drawn, strict=True)):
        batches = np.arange(start, start + size)
        start += size
        part_losses = None if losses is None else losses[batches]
        if rounds.rule == "none":
            picked = batches
        elif rounds.rule == "top":
            assert part_losses is not None
            picked = batches[np.argsort(-part_losses, kind="stable")[:wanted]]
        else:
            # The largest values of log p + Gumbel noise are a draw without replacement (Kool et al. 2019, arXiv 1903.06059).
            keys = _gumbel(size, seed, rounds.count, part)
            if rounds.rule == "loss":
                assert part_losses is not None
                keys = keys + part_losses / rounds.temperature
            picked = batches[np.argsort(-keys, kind="stable")[:wanted]]
        chosen.append(np.sort(picked))
        parts.append({"batches": size, "drawn": len(picked)} | _spread(part_losses, chosen[-1] - batches[0], rounds))
    ids = np.concatenate(chosen)
    order = Permutation(len(ids), (seed, rounds.count))(np.arange(len(ids)))
    record = {
        "round": rounds.count, "rule": rounds.rule, "schedule": rounds.schedule, "batches": rounds.first, "drawn": len(ids),
        "parts": parts,
    }  # fmt: skip
    if losses is not None:
        record["loss"] = describe(losses)
    return Drawn(ids[order], record)


def describe(losses: Float64s) -> dict[str, float]:
    """Mean, standard deviation and range of batch losses, nats."""
    return {
        "mean": float(losses.mean()),
        "std": float(losses.std(ddof=1)) if len(losses) > 1 else 0.0,
        "min": float(losses.min()),
        "max": float(losses.max()),
    }


def effective_share(losses: Float64s, temperature: float) -> float:
    """Effective sample size 1 / sum(p^2) of p = softmax(losses / temperature), as a share of the losses: 1 is uniform."""
    weights = np.exp((losses - losses.max()) / temperature)
    p = weights / weights.sum()
    return float(1.0 / np.square(p).sum() / len(p))


def _spread(losses: Float64s | None, picked: Int64s, rounds: Rounds) -> dict[str, Any]:
    if losses is None or not len(picked):
        return {}
    described: dict[str, Any] = {"loss": describe(losses), "drawn_loss": float(losses[picked].mean())}
    if rounds.rule == "loss":
        described["effective_share"] = effective_share(losses, rounds.temperature)
    return described


def _gumbel(count: int, *key: int) -> Float64s:
    """Standard Gumbel noise (count,) as a function of the key; Philox's raw numbers are the same in all numpy versions."""
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}Q", *key), digest_size=16, person=b"rounds").digest()
    raw = np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(count)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise: Float64s = -np.log(-np.log(uniform))
    return noise
