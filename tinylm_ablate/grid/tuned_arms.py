"""Tuned arms: before the comparison, the learning rate of each arm is tuned (``grid.tune``).

Every arm tries factors on its rate with a seed that is excluded from comparisons, and selects on validation text; further
factors are tried while the best is at an edge. All seeds of the arm use the tuned value.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.execute.perform import results
from tinylm_ablate.execute.words import say
from tinylm_ablate.grid.parts import Part
from tinylm_ablate.measure.bits import BitsPerByte
from tinylm_ablate.science.tuning import START, Tuning, tune
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

#: Metric for the selection of rates.
METRIC = "validation/bits_per_byte/all"

#: Function that does the tasks of some runs.
Do = Callable[[Sequence[tuple[str, Settled]]], None]


@dataclass
class Search:
    """Tuning of one arm along one key.

    Attributes:
        part: The experiment that the arm belongs to.
        arm: Its label.
        key: The key.
        run: The arm's run at factor 1, on the tuning seed.
        runs: Factor to run.
        tuning: Results so far.
    """

    part: Part
    arm: str
    key: str
    run: Settled
    runs: dict[float, Settled] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=lambda: tune({}))

    def described(self) -> dict[str, Any]:
        """Return plain data for the report: ``curve`` has one entry per tried factor."""
        curve = [
            {"factor": factor, "identity": self.runs[factor].identity, "loss": loss if math.isfinite(loss) else None}
            for factor, loss in self.tuning.tried.items()
        ]
        return {"arm": self.arm, "key": self.key, "best": self.tuning.best, "state": self.tuning.state, "curve": curve}


def mistakes(parts: Sequence[Part]) -> list[str]:
    """Return mistakes: settings that cannot be tuned."""
    found = []
    for part in parts:
        grid = part.base.grid
        if not grid.tune:
            continue
        found += [
            f"grid.tune_keys=[{key}]: allowed: keys whose value is a real number, such as {_RATE}"
            for key in grid.tune_keys
            if not isinstance(_get(part.base, key), float) and key != _RATE
        ]
        if any(cell.values.get("seed") == str(grid.tune_seed) for cell in part.cells):
            found.append(f"grid.tune_seed={grid.tune_seed}: allowed: a seed that no cell of the grid uses")
    return found


def tune_parts(parts: Sequence[Part], do: Do) -> list[Search]:
    """Tune every arm of the parts with ``grid.tune``, and set the tuned values in all of its cells.

    Args:
        parts: Experiments of a grid, settled.
        do: Trains and measures runs.

    Returns:
        The tuning curves, for the report.
    """
    searches: list[Search] = []
    wanted = [part for part in parts if part.base.grid.tune]
    for key in dict.fromkeys(key for part in wanted for key in part.base.grid.tune_keys):
        own = [search for part in wanted if key in part.base.grid.tune_keys for search in _searches(part, key)]
        while open_searches := [search for search in own if search.tuning.next]:
            cells = []
            for search in open_searches:
                for factor in search.tuning.next:
                    search.runs[factor] = run = scaled(search.run, key, factor)
                    cells.append((f"tuning {search.part.called_arm(search.arm)} {key} x {factor:g}", run))
            do(cells)
            for search in open_searches:
                search.tuning = tune({factor: _loss(run) for factor, run in search.runs.items()})
        for search in own:
            best, state = search.tuning.best, search.tuning.state
            say(f"tuned  {search.part.called_arm(search.arm)}: {key} x {best or math.nan:g} ({state})")
            if best is not None:
                search.part.apply(search.arm, partial(scaled, key=key, factor=best))
        searches += own
    return searches


def first_runs(parts: Sequence[Part]) -> list[tuple[str, Settled]]:
    """Return the first runs of tuning, for the plan."""
    return [
        (f"tuning {part.called_arm(search.arm)} {key} x {factor:g}", scaled(search.run, key, factor))
        for part in parts
        if part.base.grid.tune
        for key in part.base.grid.tune_keys
        for search in _searches(part, key)
        for factor in START
    ]


def scaled(run: Settled, key: str, factor: float) -> Settled:
    """Return a run with one real number in its config multiplied."""
    config = copy.deepcopy(run.config)
    value = _get(config, key)
    if value is None:  # the scale's rate becomes an explicit value
        train, scaling = config.train, config.optimizer.scaling
        value = run.learning_rate / ((train.batch_tokens / scaling.base_batch_tokens) ** scaling.exponent * scaling.multiplier)
    _set(config, key, value * factor)
    return settle(config)


_RATE = "optimizer.scaling.base_lr"


def _searches(part: Part, key: str) -> list[Search]:
    """Start one search per arm; arms that differ in the key itself are not tuned along it."""
    if any(key in cell.values for cell in part.cells):
        say(f"note: {key} is an axis of this grid and is therefore not tuned")
        return []
    found = []
    for arm, cells in part.arms.items():
        config = copy.deepcopy(part.settled[cells[0]].config)
        config.seed = part.base.grid.tune_seed
        # Everything else is only for the compared runs.
        config.evaluate.measures, config.evaluate.every, config.train.keep_checkpoints = [BitsPerByte.name], None, []
        found.append(Search(part, arm, key, settle(config)))
    return found


def _loss(run: Settled) -> float:
    """Return the run's loss; infinite if it failed, for example because its loss was not finite."""
    record = results(run)
    return math.inf if record is None else float(record["metrics"].get(METRIC, math.inf))


def _get(config: Config, key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = getattr(node, name, None)
    return node


def _set(config: Config, key: str, value: float) -> None:
    *path, last = key.split(".")
    node: Any = config
    for name in path:
        node = getattr(node, name)
    if not hasattr(node, last):
        raise ConfigError([f"grid.tune_keys=[{key}]: no such key"])
    setattr(node, last, value)
