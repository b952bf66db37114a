"""How fast arms converge (Figure 6): losses at the start and at the end, and the tokens that an arm needs to come down to the
final loss of the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tinylm_ablate.report.arms import Arm, Section
from tinylm_ablate.report.curves import POINTS, Curve, read
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.measures import count
from tinylm_ablate.report.statistics import mean_and_deviation

#: The word in ``experiment.figures`` that asks for this table.
NAME = "convergence"

#: The arm that the others are held against; without one of this name it is the first.
_BASE = "base"


def shown(section: Section, results: Path) -> list[str]:
    """The table in Markdown, with what it means; nothing where the base has no curve.

    Args:
        section: The arms.
        results: Folder of the results, which holds the thinned curves.
    """
    curves = {
        run.identity: curve
        for arm in section.arms
        for run in arm.runs.values()
        if (curve := read(results / "curves" / f"{run.identity}.csv")) is not None
    }
    base = base_of(section.arms)
    goals = (
        {seed: final_loss(curves[run.identity]) for seed, run in base.runs.items() if run.identity in curves} if base else {}
    )
    if base is None or not goals:
        return []
    rows = [
        [*arm.place.values(), *_cells(arm, curves, goals)]
        for arm in section.arms
        if any(run.identity in curves for run in arm.runs.values())
    ]
    name = " ".join(base.place.values()) or "the base"
    head = [
        *section.axis,
        "loss at the start",
        "loss at the end",
        f"tokens to the final loss of {name}",
        "of its tokens %",
        "seeds",
    ]
    return [
        "### Convergence",
        table(head, rows, words=len(section.axis)),
        f"Training losses in nats a token, means over a {POINTS}th of the training: the first is the start, the last the end. "
        f"The tokens are those after which a run's loss first is at most that of {name} at its end, with the same seed and so "
        "the same text in the same order; mean ± standard deviation over the seeds that come there.",
    ]


def base_of(arms: Sequence[Arm]) -> Arm | None:
    """The arm called "base", or the first; None without arms."""
    return next((arm for arm in arms if _BASE in arm.place.values()), arms[0] if arms else None)


def final_loss(curve: Curve) -> float:
    """The loss at the end of a thinned curve."""
    return float(curve[1][-1])


def tokens_to(curve: Curve, loss: float) -> float | None:
    """Tokens after which a curve first is at ``loss`` or below, on straight lines between its points; None if it never is."""
    tokens, losses = curve
    for index, value in enumerate(losses):
        if value <= loss:
            if index == 0:
                return float(tokens[0])
            before = float(losses[index - 1])
            share = (before - loss) / (before - float(value))
            return float(tokens[index - 1] + share * (tokens[index] - tokens[index - 1]))
    return None


def _cells(arm: Arm, curves: Mapping[str, Curve], goals: Mapping[int, float]) -> list[str]:
    own = {seed: curves[run.identity] for seed, run in sorted(arm.runs.items()) if run.identity in curves}
    needed = {seed: tokens_to(curve, goals[seed]) for seed, curve in own.items() if seed in goals}
    reached = [float(round(value)) for value in needed.values() if value is not None]
    shares = [100 * value / float(own[seed][0][-1]) for seed, value in needed.items() if value is not None]
    if not needed:
        words = "–"
    elif not reached:
        words = "not reached"
    else:
        words = _spread(reached, count)
        if len(reached) < len(needed):
            words += f", {len(needed) - len(reached)} of {len(needed)} seeds not reached"
    return [
        _spread([float(losses[0]) for _, losses in own.values()], _nats),
        _spread([final_loss(curve) for curve in own.values()], _nats),
        words,
        _spread(shares, lambda share: f"{share:.1f}") if shares else "–",
        str(len(own)),
    ]


def _spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    mean, deviation = mean_and_deviation(values)
    return text(mean) + ("" if math.isnan(deviation) else f" ± {text(deviation)}")


def _nats(value: float) -> str:
    return f"{value:.4f}"
