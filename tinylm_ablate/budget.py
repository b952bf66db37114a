"""Budget of a run: start and end of its rounds, its branch point, and the part of these that enters its identity.

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
    """Rounds of a run, in optimizer steps.

    Attributes:
        count: Rounds.
        first: Steps of the first round, and so the number of batches that later rounds draw from.
        parts: Equal parts of the first round, in steps; batches are drawn per part.
        drawn: Number of batches that a later round draws from each part.
        rule: How batches are drawn; "none" takes all.
        sampling_rate: Share of batches that is drawn.
        temperature: Temperature of rule "loss", nats.
        schedule: "rewarm", "continue" or "constant": learning rate and optimizer state in later rounds.
        horizon: With schedule "continue", length of the one schedule in steps; for a branch, steps of the run that it leaves.
        branch: Step at which a branch leaves the run that it continues, to decay; 0 means that the run is no branch.
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
        """Steps before the last round or the branch begins."""
        return self.steps - self.later if self.count > 1 else self.branch

    def before(self) -> Rounds:
        """Rounds without the last one."""
        return _single(dataclasses.replace(self, count=self.count - 1))

    def place(self, step: int) -> tuple[int, int]:
        """Return the position of ``step`` in the learning rate schedule, and the length of the schedule."""
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
        """Return the part of the rounds that changes a run's results, apart from its steps."""
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
    """Compute the rounds of a run whose first round has ``steps`` optimizer steps; None with the mistakes.

    A sampling rate of 0 results in one round (Table 6), and a rate of 1 takes every batch whatever the rule.
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
            f"rounds.sampling_rate={config.sampling_rate:g}: draws none of {steps} batches in {len(sizes)} parts; "
            "allowed: 0 for one round, or a larger rate"
        ]
    horizon = steps + (count - 1) * sum(drawn)
    schedule = config.schedule if count > 1 else "rewarm"
    rule = "none" if whole else config.rule
    return _single(Rounds(count, steps, sizes, drawn, rule, config.sampling_rate, config.temperature, schedule, horizon)), []


def part_sizes(steps: int, parts: int) -> tuple[int, ...]:
    """Divide ``steps`` into ``parts`` consecutive parts whose sizes differ by at most one step."""
    edges = [part * steps // parts for part in range(parts + 1)]
    return tuple(after - before for before, after in itertools.pairwise(edges))


def _shares(sizes: tuple[int, ...], rate: float) -> tuple[int, ...]:
    """Take ``rate`` of each size, rounded so that the sum is ``rate`` of the total: two rounds equal a longer one in tokens."""
    edges = [math.floor(rate * edge + 1e-6) for edge in itertools.accumulate(sizes, initial=0)]
    return tuple(after - before for before, after in itertools.pairwise(edges))


def _single(rounds: Rounds) -> Rounds:
    """Remove settings of later rounds from a single round, which they do not affect unless its schedule spans them."""
    if rounds.count > 1 or rounds.schedule == "continue":
        return rounds
    return dataclasses.replace(rounds, schedule="rewarm", rule="none")


def branch_off(rounds: Rounds, branch: int, decay_share: float) -> Rounds:
    """Return the branch of a one-round run that leaves it after ``branch`` steps and decays over ``decay_share`` of its steps.

    If the run's learning rate is constant until then, the branch equals a run with schedule wsd and the same number of steps,
    as far as their warm-ups are equal.
    """
    steps = max(branch + 1, int(branch / (1 - decay_share)) - 2)
    while steps - max(1, round(decay_share * steps)) < branch:
        steps += 1
    parts = part_sizes(steps, len(rounds.parts))
    return dataclasses.replace(rounds, first=steps, parts=parts, drawn=parts, horizon=rounds.first, branch=branch)
