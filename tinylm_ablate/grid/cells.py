"""The cells of a grid: the product of the axes, with zipped axes, named arms, excluded cells and seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType

from tinylm_ablate.arguments import normalize
from tinylm_ablate.config import GridConfig
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.science.looks import LOOKS

#: Keys that apply to a whole grid rather than a cell.
WHOLE = re.compile(
    r"mode|runs_dir|cache_dir|results_dir|model|prompt|folder|progress|tracking|experiments"
    r"|(grid|search|tracking|plan|experiment|generate|export)\..*"
)


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell.

    Attributes:
        overrides: Its own overrides, in addition to those that all cells share.
        values: Its value on each axis, by the axis' key; an arm is under "arm".
    """

    overrides: tuple[str, ...]
    values: Mapping[str, str]

    @property
    def name(self) -> str:
        """A readable name: the values on the axes."""
        return " ".join(f"{key}={value}" for key, value in self.values.items()) or "the only cell"


#: One value on an axis: its overrides, and its label.
_Step = tuple[tuple[str, ...], dict[str, str]]


def expand(
    params: Mapping[str, object] | None, arguments: Sequence[str], grid: GridConfig, seeds: int | str | None
) -> tuple[list[str], list[Cell]]:
    """Return the overrides that all cells share, and the cells.

    Args:
        params: Axes from an experiment file, key to values ("20,40" or a list); arguments with the same key take precedence.
        arguments: Overrides from the command line; those with several values are axes.
        grid: Arms, zipped axes and excluded cells.
        seeds: Number of seeds; "sequential" starts with the first look; None if there is no separate axis of seeds.

    Raises:
        ConfigError: Zipped axes have different lengths, an axis in ``grid.zip`` or ``grid.exclude`` is unknown, seeds are set
            twice, or a key has both one value and several.
    """
    parser = OverridesParser.create()
    given = parser.parse_overrides(list(arguments))
    named = {override.key_or_group for override in given}
    texts = normalize([f"{key}={_text(value)}" for key, value in (params or {}).items()], grid=True).overrides
    shared: list[str] = []
    arms, mistakes = read_arms(grid)
    mistakes += [
        f"grid.arms: {arm}: {override.input_line}: applies to the whole grid; allowed on the command line"
        for arm, overrides in arms.items()
        for override in parser.parse_overrides(overrides)
        if WHOLE.fullmatch(override.key_or_group)
    ]
    mistakes += fixed_after_swept(given)
    axes: dict[str, list[_Step]] = {}
    for override in [*(one for one in parser.parse_overrides(texts) if one.key_or_group not in named), *given]:
        key = override.key_or_group
        if override.is_sweep_override() and WHOLE.fullmatch(key):
            mistakes.append(f"{override.input_line}: applies to the whole grid; allowed: one value")
        elif override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
            mistakes.append(f"{override.input_line}: a grid takes lists, choice(...) and range(...)")
        elif override.is_sweep_override():
            if not list(override.sweep_iterator()):
                mistakes.append(f"{override.input_line}: has no values; allowed: a range from its low end to its high end")
                continue
            axes[key] = [((f"{override.get_key_element()}={v}",), {key: _bare(v)}) for v in override.sweep_string_iterator()]
        elif key != "seeds":
            shared.append(str(override.input_line))
    if arms:
        axes["arm"] = [(tuple(overrides), {"arm": arm}) for arm, overrides in arms.items()]
    if seeds == "sequential":
        seeds = LOOKS[0]
    if isinstance(seeds, int):
        if seeds < 1:
            mistakes.append(f"seeds={seeds}: allowed: a whole number from 1, or sequential")
        if "seed" in axes or any(text.startswith("seed=") for text in shared):
            mistakes.append(f"seeds={seeds}: allowed without seed=, which sets the same axis")
        axes["seed"] = [((f"seed={seed}",), {"seed": str(seed)}) for seed in range(seeds)]
    mistakes += _zip(axes, grid.zip)
    excluded, found = _exclusions(grid.exclude, set(axes))
    mistakes += found
    if mistakes:
        raise ConfigError(mistakes)
    products = [
        ({key: value for _, named in steps for key, value in named.items()}, [text for texts, _ in steps for text in texts])
        for steps in itertools.product(*axes.values())
    ]
    for rule in excluded:
        if not any(_matches(values, rule) for values, _ in products):
            text = " ".join(f"{key}={value}" for key, value in rule.items())
            mistakes.append(f"grid.exclude=[{text}]: no cell has these values")
    cells = [
        Cell(("seeds=null", *overrides), values)
        for values, overrides in products
        if not any(_matches(values, rule) for rule in excluded)
    ]
    if not cells and not mistakes:
        mistakes.append("grid.exclude: excludes all cells of this grid")
    if mistakes:
        raise ConfigError(mistakes)
    return shared, cells


def read_arms(grid: GridConfig) -> tuple[dict[str, list[str]], list[str]]:
    """Return the overrides of each arm, and mistakes in how they are written."""
    arms, mistakes = dict[str, list[str]](), list[str]()
    for arm, overrides in grid.arms.items():
        try:
            arms[arm] = normalize(overrides, grid=True).overrides
        except ConfigError as error:
            mistakes += [f"grid.arms: {arm}: {mistake}" for mistake in error.mistakes]
    return arms, mistakes


def fixed_after_swept(given: Sequence[Override]) -> list[str]:
    """Return mistakes: overrides with one value after others with several of the same key, which could not be the last word."""
    swept: dict[str, str | None] = {}
    mistakes = []
    for override in given:
        if override.is_sweep_override():
            swept[override.key_or_group] = override.input_line
        elif override.key_or_group in swept:
            text = f"{override.input_line}: {swept[override.key_or_group]} is given too; allowed: only one of them"
            mistakes.append(text)
    return mistakes


def _matches(values: Mapping[str, str], rule: Mapping[str, str]) -> bool:
    return all(values.get(key) == value for key, value in rule.items())


def _zip(axes: dict[str, list[_Step]], groups: Sequence[Sequence[str]]) -> list[str]:
    """Zip the axes of each group instead of combining their values."""
    mistakes = []
    for group in groups:
        text = f"grid.zip=[[{','.join(group)}]]"
        unknown = [key for key in group if key not in axes]
        lengths = {key: len(axes[key]) for key in group if key in axes}
        if unknown:
            mistakes.append(f"{text}: {', '.join(unknown)} has only one value; allowed: axes of this grid: {', '.join(axes)}")
        elif len(set(lengths.values())) > 1:
            sizes = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            mistakes.append(f"{text}: {sizes}; allowed: axes with equal numbers of values")
        elif group:
            steps: list[_Step] = []
            for parts in zip(*(axes.pop(key) for key in group), strict=True):
                overrides = tuple(text for step_overrides, _ in parts for text in step_overrides)
                steps.append((overrides, {key: value for _, values in parts for key, value in values.items()}))
            seeds = axes.pop("seed", None)
            axes["+".join(group)] = steps
            if seeds is not None:
                axes["seed"] = seeds
    return mistakes


def _exclusions(rules: Sequence[str], axes: set[str]) -> tuple[list[dict[str, str]], list[str]]:
    parsed, mistakes = [], []
    known = {part for axis in axes for part in axis.split("+")}
    for rule in rules:
        pairs = dict(part.partition("=")[::2] for part in rule.split())
        unknown = [key for key in pairs if key not in known]
        if unknown or not pairs:
            mistakes.append(
                f"grid.exclude=[{rule}]: allowed: 'axis=value axis=value' with axes of this grid: {', '.join(sorted(known))}"
            )
        parsed.append(pairs)
    return parsed, mistakes


def _text(value: object) -> str:
    """Return a parameter of an experiment file as an override: a list becomes a choice sweep."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ",".join(_text(item) for item in value)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bare(value: str) -> str:
    return value.strip("'\"")
