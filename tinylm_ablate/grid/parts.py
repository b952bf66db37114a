"""Parts of a grid, which combines one or several experiments, and the runs of their cells.

``grid.experiments`` lists the experiments of a combined grid, as in ``experiments/paper.yaml``. Each has its own axes, its own
file for the report and its own entry in MLflow; a run that is in several of them is done once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, one_line
from tinylm_ablate.execute.words import say
from tinylm_ablate.grid.cells import Cell, expand, read_arms
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS, Composer, typed
from tinylm_ablate.grid.diagnosis import diagnose
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled


@dataclass(eq=False)
class Part:
    """One experiment of a grid.

    Attributes:
        name: Its name if there are several, otherwise empty.
        base: Its config, without its axes.
        shared: The overrides that all of its cells share.
        cells: Its cells.
        jobs: The run of each cell.
        settled: Each settled cell: the run with its requested measures.
        tuned: Result of tuning each arm, by its label: "interior" or "edge"; absent if it was not tuned.
    """

    name: str
    base: Config
    shared: Sequence[str]
    cells: Sequence[Cell]
    jobs: list[Job] = field(default_factory=list)
    settled: dict[Cell, Settled] = field(default_factory=dict)
    tuned: dict[str, str] = field(default_factory=dict)

    @property
    def arms(self) -> dict[str, list[Cell]]:
        """Return the cells of each arm, by its label."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(self.arm_of(cell), []).append(cell)
        return found

    def arm_of(self, cell: Cell) -> str:
        """Return the label of a cell's arm: its values on all axes except the seed."""
        return " ".join(f"{key}={value}" for key, value in cell.values.items() if key != "seed") or "the only arm"

    def called_arm(self, arm: str) -> str:
        """Return a name for one of its arms, unique over all parts."""
        return f"{self.name}: {arm}" if self.name else arm

    def apply(self, arm: str, change: Callable[[Settled], Settled]) -> None:
        """Settle the cells of an arm again."""
        for cell in self.arms[arm]:
            self.settled[cell] = change(self.settled[cell])

    def add_seeds(self, arm: str, seeds: int) -> list[Cell]:
        """Increase the seeds of an arm to a number; returns the new cells."""
        cells = self.arms[arm]
        known = {self.settled[cell].config.seed for cell in cells}
        added = []
        for seed in range(seeds):
            if seed not in known:
                first = cells[0]
                config = copy.deepcopy(self.settled[first].config)
                config.seed = seed
                cell = Cell((*first.overrides, f"seed={seed}"), {**first.values, "seed": str(seed)})
                self.settled[cell] = settle(config)
                added.append(cell)
        self.cells = [*self.cells, *added]
        return added

    def called(self, cell: Cell) -> str:
        """Return a name for one of its cells, unique over all parts."""
        return f"{self.name}: {cell.name}" if self.name else cell.name

    @property
    def runs(self) -> list[Job]:
        """Return its runs, without duplicates."""
        return list(dict.fromkeys(self.jobs))


@dataclass(eq=False)
class Job:
    """A run of a grid, with all its cells.

    Attributes:
        cell: Its first cell.
        cells: Name and settled run of each of its cells, in order.
    """

    cell: Cell
    cells: list[tuple[str, Settled]]

    @property
    def names(self) -> list[str]:
        """The names of its cells."""
        return [name for name, _ in self.cells]

    @property
    def name(self) -> str:
        """That of its first cell."""
        return self.cells[0][0]

    @property
    def settled(self) -> Settled:
        """That of its first cell."""
        return self.cells[0][1]


def parts(base: Config, compose: Composer, params: Mapping[str, Any] | None, arguments: Sequence[str]) -> list[Part]:
    """Return the parts of the grid in a command line, without their runs.

    Args:
        base: The config of the whole grid.
        compose: Composes other configs.
        params: Axes from an experiment file.
        arguments: The command line's overrides.

    Raises:
        ConfigError: An experiment in ``grid.experiments`` does not exist or does not train a grid, or axes have mistakes.
    """
    parser = OverridesParser.create()
    given = [parser.parse_override(text) for text in arguments]
    swept = [one for one in given if one.key_or_group == "experiments" and one.is_sweep_override()]
    experiments = base.grid.experiments or [name for one in swept for name in one.sweep_string_iterator()]
    if not experiments:
        return [Part("", base, *_expanded(params, arguments, base))]
    rest = [override for override in given if override.key_or_group != "experiments" and not _names_experiments(override)]
    plain = [str(override.input_line) for override in rest if not override.is_sweep_override()]
    found, mistakes = [], []
    for name in experiments:
        first = f"+experiments={name}"
        try:
            own, axes = typed(compose([first, *plain])), compose.params([first, *plain])
            if own.grid.experiments or own.mode != base.mode:
                raise ConfigError(["is not an experiment that trains a grid"])
            everything = [first, *(str(override.input_line) for override in rest)]
            found.append(Part(name, own, *_expanded(axes, everything, own)))
        except ConfigError as error:
            mistakes += [f"{first}: {mistake}" for mistake in error.mistakes]
        except COMPOSITION_ERRORS as error:
            mistakes += diagnose([first, *plain]) or [f"{first}: {one_line(error.__cause__ or error)}"]
    if mistakes:
        raise ConfigError(mistakes)
    return found


def _expanded(params: Mapping[str, Any] | None, arguments: Sequence[str], base: Config) -> tuple[list[str], list[Cell]]:
    """Expand a grid; if it has mistakes, report them together with those in the settings of its arms."""
    try:
        return expand(params, arguments, base.grid, base.seeds)
    except ConfigError as error:
        arms, _ = read_arms(base.grid)
        settings = [text for overrides in arms.values() for text in overrides]
        raise ConfigError([*error.mistakes, *(diagnose(settings) if settings else ())]) from None


def _names_experiments(override: Override) -> bool:
    """Return whether an override is the list of experiments, which its parts must not have; several lists are a mistake."""
    return override.key_or_group == "grid.experiments" and not override.is_sweep_override()


def settle_all(compose: Composer, found: Sequence[Part]) -> list[Job]:
    """Compose and settle every cell; cells with the same run become one job. Sets the parts' ``jobs``.

    Raises:
        ConfigError: Some cells have mistakes; it lists all of them.
    """
    from tinylm_ablate import progress

    kept: list[tuple[Part, Cell, Config, Settled]] = []
    mistakes: dict[str, list[str]] = {}
    broken: dict[str, list[str]] = {}
    cells = [(part, cell) for part in found for cell in part.cells]
    for part, cell in progress.bar(cells, description="grid", unit="cell"):
        name = part.called(cell)
        try:
            own = compose.typed([*part.shared, *cell.overrides])
            kept.append((part, cell, own, settle(own)))
        except ConfigError as error:
            for mistake in error.mistakes:
                mistakes.setdefault(mistake, []).append(name)
        except COMPOSITION_ERRORS as error:
            broken.setdefault(one_line(error.__cause__ or error), []).append(name)
    if broken:  # single overrides give the clearest messages
        texts = dict.fromkeys(text for part, cell in cells for text in (*part.shared, *cell.overrides))
        found_alone = diagnose([text for text in texts if not text.startswith("seeds=")])
        raise ConfigError(found_alone or [f"{text}{_where(names, len(cells))}" for text, names in broken.items()])
    if mistakes:
        raise ConfigError([f"{mistake}{_where(names, len(cells))}" for mistake, names in mistakes.items()])
    evened = even([(own, settled) for _, _, own, settled in kept])
    for (part, cell, _, _), settled in zip(kept, evened, strict=True):
        part.settled[cell] = settled
    return jobs_of(found)


def jobs_of(found: Sequence[Part]) -> list[Job]:
    """Return the runs of the settled cells of some parts, without duplicates; sets the parts' ``jobs``."""
    jobs: dict[str, Job] = {}
    for part in found:
        part.jobs = []
        for cell in part.cells:
            settled = part.settled[cell]
            job = jobs.setdefault(settled.identity, Job(cell, []))
            job.cells.append((part.called(cell), settled))
            part.jobs.append(job)
    return list(jobs.values())


def even(cells: Sequence[tuple[Config, Settled]]) -> list[Settled]:
    """Resolve 'auto' for a whole grid: one precision, one corpus, and one amount of evaluation for all arms.

    ``train.precision=auto`` is bf16 if every arm and every run that one starts from would choose it, and otherwise fp32 for
    all of them. Corpus and amounts are those of the largest budget.

    Args:
        cells: Each config, and its run when settled alone.
    """
    arithmetic = {
        run.precision for own, arm in cells if own.train.precision == "auto" for run in (arm, arm.parent) if run is not None
    }
    texts = {arm.config.data.source for own, arm in cells if own.data.source == "auto"}
    found = []
    for own, settled in cells:
        precision = own.train.precision == "auto" and len(arithmetic) > 1
        text = own.data.source == "auto" and len(texts) > 1
        if precision or text:
            own = copy.deepcopy(own)
            own.train.precision = "fp32" if precision else own.train.precision
            own.data.source = "large" if text else own.data.source
            settled = settle(own)
        found.append((own, settled))
    if len(arithmetic) > 1:
        say("note: train.precision=auto is fp32 for every arm, since some are too narrow for bf16; set it to override this")
    if len(texts) > 1:
        say("note: data=auto is the large text for every arm, since some budgets need it; set data= to override this")
    for key in ("max_bytes", "cloze_questions", "every_bytes"):
        automatic = [settled.config.evaluate for own, settled in found if getattr(own.evaluate, key) == "auto"]
        if key == "every_bytes":
            automatic = [evaluate for evaluate in automatic if evaluate.every is not None]
        most = max((getattr(evaluate, key) for evaluate in automatic), default=None)
        for evaluate in automatic:
            setattr(evaluate, key, most)
    return [settled for _, settled in found]


def _where(names: Sequence[str], cells: int) -> str:
    if len(names) == cells:
        return ""
    return f" (in {names[0]}{f' and {len(names) - 1} more cells' if len(names) > 1 else ''})"
