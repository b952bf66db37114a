"""Budget of a run: start and end of its rounds, its branch point, and the part of these that changes its numbers.

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any

from tinylm_ablate.config import RoundsConfig


@dataclass(frozen=True)
class Rounds:
    """The rounds of a run, in optimizer steps.

    Attributes:
        count: Rounds.
        first: Steps of the first round, which are the batches that later rounds draw from.
        parts: Equal parts of the first round, in steps; batches are drawn within each.
        drawn: Batches that a later round draws from each part.
        rule: How they are drawn; "none" takes every batch.
        sampling_rate: Share that is drawn.
        temperature: Of rule "loss", in nats.
        schedule: "rewarm", "continue" or "constant"; what the learning rate and the optimizer's state do in later rounds.
        horizon: schedule "continue": steps that the one schedule is laid out for. Of a branch: steps of the run that it leaves.
        branch: Steps that were done when a branch leaves the run that it continues, to decay; 0 is no branch.
    """

    count: int
    first: int
    parts: tuple[int, ...]
    drawn: tuple[int, ...]
    rule: str
    sampling_rate: float
    temperature: float
    schedule: str
    horizon: int
    branch: int = 0

    @property
    def later(self) -> int:
        """Steps of each later round."""
        return sum(self.drawn)

    @property
    def steps(self) -> int:
        """Steps of all rounds."""
        return self.first + (self.count - 1) * self.later

    @property
    def start(self) -> int:
        """Steps that were done when the last round, or the branch, begins."""
        return self.steps - self.later if self.count > 1 else self.branch

    def before(self) -> Rounds:
        """All rounds but the last."""
        return _single(dataclasses.replace(self, count=self.count - 1))

    def place(self, step: int) -> tuple[int, int]:
        """Position of ``step`` of the run in its schedule of the learning rate: (step of it, steps of it)."""
        if self.branch:
            return min(step, self.branch), self.horizon
        if self.schedule == "continue":
            return step, self.horizon
        if step < self.first or self.count == 1:
            return step, self.first
        if self.schedule == "constant":
            return self.first - 1, self.first
        return (step - self.first) % self.later, self.later

    def meaning(self) -> dict[str, Any]:
        """The part of the rounds that changes a run's numbers, besides its steps."""
        content: dict[str, Any] = {"count": self.count}
        if self.branch:
            content |= {"branch": self.branch, "horizon": self.horizon}
        if self.schedule == "continue":
            content |= {"schedule": "continue", "horizon": self.horizon}
        if self.count == 1:
            return content
        content |= {"schedule": self.schedule, "rule": self.rule}
        if self.rule != "none":
            content |= {"sampling_rate": self.sampling_rate, "parts": len(self.parts)}
        if self.rule == "loss":
            content["temperature"] = self.temperature
        return content


def split_rounds(config: RoundsConfig, steps: int) -> tuple[Rounds | None, list[str]]:
    """Lay out the rounds of a run whose first round has ``steps`` optimizer steps; None with the mistakes.

    A sampling rate of 0 is one round (Table 6), and one of 1 takes every batch whatever the rule.
    """
    needs_parts = config.forgetting or (config.count > 1 and config.sampling_rate > 0 and config.rule != "none")
    if needs_parts and config.parts > steps:
        return None, [f"rounds.parts={config.parts}: allowed: at most the first round's {steps} batches"]
    sizes = part_sizes(steps, min(config.parts, steps))
    whole = config.rule == "none" or config.sampling_rate == 1
    drawn = sizes if whole else _shares(sizes, config.sampling_rate)
    count = 1 if config.sampling_rate == 0 else config.count
    if count > 1 and not sum(drawn):
        return None, [
            f"rounds.sampling_rate={config.sampling_rate:g}: no batch of {steps} in {len(sizes)} parts is drawn; "
            "allowed: 0 for one round, or more"
        ]
    horizon = steps + (count - 1) * sum(drawn)
    schedule = config.schedule if count > 1 else "rewarm"
    rule = "none" if whole else config.rule
    return _single(Rounds(count, steps, sizes, drawn, rule, config.sampling_rate, config.temperature, schedule, horizon)), []


def part_sizes(steps: int, parts: int) -> tuple[int, ...]:
    """``steps`` in ``parts`` consecutive parts that differ by one step at most."""
    edges = [part * steps // parts for part in range(parts + 1)]
    return tuple(after - before for before, after in itertools.pairwise(edges))


def _shares(sizes: tuple[int, ...], rate: float) -> tuple[int, ...]:
    """``rate`` of each size, up to one, such that they are ``rate`` of their sum: two rounds equal a longer one in tokens."""
    edges = [math.floor(rate * edge + 1e-6) for edge in itertools.accumulate(sizes, initial=0)]
    return tuple(after - before for before, after in itertools.pairwise(edges))


def _single(rounds: Rounds) -> Rounds:
    """One round means the same whatever was to come after it, unless its schedule is laid out for more."""
    if rounds.count > 1 or rounds.schedule == "continue":
        return rounds
    return dataclasses.replace(rounds, schedule="rewarm", rule="none")


def branch_off(rounds: Rounds, branch: int, decay_share: float) -> Rounds:
    """The branch that leaves a run of one round after ``branch`` steps and decays over ``decay_share`` of its own steps.

    Where the run's rate is constant until then, this is the run that schedule wsd makes of the branch's steps, as far as their
    warm-ups are equal.
    """
    steps = max(branch + 1, int(branch / (1 - decay_share)) - 2)
    while steps - max(1, round(decay_share * steps)) < branch:
        steps += 1
    parts = part_sizes(steps, len(rounds.parts))
    return dataclasses.replace(rounds, first=steps, parts=parts, drawn=parts, horizon=rounds.first, branch=branch)
