"""Learning rate schedules, in closed form."""

from __future__ import annotations

import math
from typing import Protocol

from tinylm_ablate.budget import Rounds
from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.extension import part


class Schedule(Protocol):
    """Interface of a user-defined schedule of the learning rate: a dataclass with this method."""

    def factor(self, done: float) -> float:
        """Return the learning rate divided by the peak when the share ``done`` of the steps after warm-up is done."""


def warmup_steps(optimizer: OptimizerConfig, steps: int, batch_tokens: int) -> int:
    """Steps of warm-up: a share of all steps if ``optimizer.warmup`` is below 1, otherwise a number of tokens."""
    wanted = optimizer.warmup * steps if optimizer.warmup < 1 else optimizer.warmup / batch_tokens
    return min(steps, math.ceil(wanted))


def run_factor(optimizer: OptimizerConfig, rounds: Rounds, step: int, batch_tokens: int) -> float:
    """Return the learning rate of step ``step`` (from 0) of a run divided by the peak, in any round.

    In a branch, it decreases linearly from the rate of the run that it leaves to ``optimizer.final``.
    """
    place, steps = rounds.place(step)
    rate = factor(optimizer, place, steps, warmup_steps(optimizer, steps, batch_tokens))
    if rounds.branch and step > rounds.branch:
        rate -= (rate - optimizer.final) * ((step - rounds.branch) / (rounds.steps - rounds.branch))
    return rate


def drawn(optimizer: OptimizerConfig, rounds: Rounds, batch_tokens: int, columns: int = 32) -> str:
    """The course of the learning rate over all rounds as a line of blocks, the highest being the peak."""
    blocks = "▁▂▃▄▅▆▇█"
    columns = min(columns, rounds.steps)
    middles = [(2 * column + 1) * rounds.steps // (2 * columns) for column in range(columns)]
    heights = (run_factor(optimizer, rounds, step, batch_tokens) for step in middles)
    return "".join(blocks[min(7, int(8 * height))] for height in heights)


def factor(optimizer: OptimizerConfig, step: int, steps: int, warmup: int) -> float:
    """The learning rate of optimizer step ``step`` (from 0) over the peak.

    Linear warm-up reaches the peak at step ``warmup``. From there, with x from 0 to 1 over the other steps and f the final
    share: cosine f + (1 - f)(1 + cos pi x)/2; linear 1 - (1 - f)x; constant 1; wsd (warm-up, stable, decay; Hu et al. 2024,
    arXiv 2404.06395) is constant and falls linearly to f over the last ``decay_share`` of all steps.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    fall = 1.0 - optimizer.final
    match optimizer.schedule:
        case "cosine":
            return optimizer.final + fall * 0.5 * (1.0 + math.cos(math.pi * done))
        case "linear":
            return 1.0 - fall * done
        case "wsd":
            decay = max(1, round(optimizer.decay_share * steps))
            return 1.0 - fall * max(0.0, (step - (steps - decay)) / decay)
        case "own":
            course: Schedule = part(optimizer.own_schedule, "optimizer.own_schedule")
            return course.factor(done)
        case _:
            return 1.0
