"""Search space: Hydra's sweep overrides as Optuna's distributions.

``a,b`` and ``choice(a,b)`` are an unordered choice. ``range(10,40)`` is the numbers 10 to 39, ``range(10,40,5)`` every fifth of
them: as in Hydra, the end is excluded. ``interval(0.1,0.5)`` is a real number, ``int(interval(16,64))`` a whole one, including
both ends. ``tag(log, …)`` is uniform in the logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tinylm_ablate.arguments import normalize
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.cells import WHOLE, fixed_after_swept

_TAGS = {"log", "int"}


@dataclass(frozen=True)
class Axis:
    """One axis of the space.

    Attributes:
        key: Its key, as on the command line.
        text: Its values, as on the command line.
        distribution: The distribution for Optuna; choices are texts.
    """

    key: str
    text: str
    distribution: BaseDistribution

    def value(self, value: object) -> str:
        """Format one of Optuna's values as on the command line."""
        return repr(value) if isinstance(value, float) else str(value)

    def count(self) -> float:
        """Number of values; infinity for real numbers."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return len(choices)
            case IntDistribution(low=low, high=high, step=step):
                return (high - low) // step + 1
            case FloatDistribution(low=low, high=high, step=step):
                return 1 if low == high else math.inf if step is None else round((high - low) / step) + 1
        raise TypeError(f"{self.distribution!r}")

    def probes(self) -> list[str]:
        """Return the overrides to check first: every choice, or both ends."""
        if isinstance(self.distribution, CategoricalDistribution):
            values = self.distribution.choices
        else:
            assert isinstance(self.distribution, IntDistribution | FloatDistribution)
            values = tuple(dict.fromkeys((self.distribution.low, self.distribution.high)))
        return [f"{self.key}={self.value(value)}" for value in values]


def parse_space(params: Mapping[str, object] | None, arguments: Sequence[str]) -> tuple[list[str], list[Axis]]:
    """Return the overrides that all trials share, and the axes.

    Args:
        params: Axes from an experiment file, key to values; arguments with the same key take precedence.
        arguments: Overrides from the command line; those with several values are axes.

    Raises:
        ConfigError: A range is empty, a tag is unknown, a key has both one value and several, or there is no axis.
    """
    parser = OverridesParser.create()
    given = parser.parse_overrides(list(arguments))
    named = {override.key_or_group for override in given}
    texts = normalize([f"{key}={_text(value)}" for key, value in (params or {}).items()], grid=True).overrides
    shared: list[str] = []
    axes: dict[str, Axis] = {}
    mistakes = fixed_after_swept(given)
    for override in [*(one for one in parser.parse_overrides(texts) if one.key_or_group not in named), *given]:
        if not override.is_sweep_override():
            shared.append(str(override.input_line))
            continue
        if WHOLE.fullmatch(override.key_or_group):
            mistakes.append(f"{override.input_line}: applies to the whole search; allowed: one value")
            continue
        try:
            axes[override.key_or_group] = axis(override)
        except ConfigError as error:
            mistakes += error.mistakes
    if not axes and not mistakes:
        mistakes.append(
            "a search needs at least one axis: allowed: choice(a,b), range(10,40), interval(0.1,0.5), "
            "int(interval(16,64)), tag(log, interval(1e-4,1e-2))"
        )
    if mistakes:
        raise ConfigError(mistakes)
    return shared, list(axes.values())


def axis(override: Override) -> Axis:
    """Return the axis of one override with several values.

    Raises:
        ConfigError: It has no values, or is of a kind that a search does not support.
    """
    key, text, sweep = override.get_key_element(), override.get_value_string(), override.value()
    if isinstance(sweep, Sweep) and sweep.tags - _TAGS:
        raise _mistake(override, "allowed tags: log, int")
    match sweep:
        case ChoiceSweep():
            if sweep.tags:
                raise _mistake(override, "a choice has no order, and takes no tag")
            return Axis(key, text, CategoricalDistribution([Override._get_value_element_as_str(v) for v in sweep.list]))
        case RangeSweep():
            return Axis(key, text, _range(override, sweep))
        case IntervalSweep():
            return Axis(key, text, _interval(override, sweep))
        case _:
            raise _mistake(override, "a search takes lists, choice(…), range(…), interval(…) and int(interval(…))")


def _range(override: Override, sweep: RangeSweep) -> BaseDistribution:
    assert sweep.start is not None and sweep.stop is not None
    log = "log" in sweep.tags
    if not sweep.step:
        raise _mistake(override, "a step of 0; allowed: any other number")
    if log and sweep.step != 1:
        raise _mistake(override, "tag(log, …) over a range takes steps of 1")
    values = sweep.range()
    if isinstance(values, range):
        if not values:
            raise _mistake(override, "has no values; the end is excluded")
        low, high = sorted((values[0], values[-1]))
        _check_log(override, log, low)
        return IntDistribution(low, high, log=log, step=abs(values.step))
    reals = sorted(values)
    if not reals:
        raise _mistake(override, "has no values; the end is excluded")
    _check_log(override, log, reals[0])
    return FloatDistribution(reals[0], reals[-1], log=log, step=None if log else abs(float(sweep.step)))


def _interval(override: Override, sweep: IntervalSweep) -> BaseDistribution:
    assert sweep.start is not None and sweep.end is not None
    log = "log" in sweep.tags
    if not math.isfinite(sweep.start) or not math.isfinite(sweep.end):
        raise _mistake(override, "allowed: two finite numbers")
    if sweep.start > sweep.end:
        raise _mistake(override, "its first end is above its second")
    _check_log(override, log, sweep.start)
    if "int" in sweep.tags or isinstance(sweep.start, int):
        return IntDistribution(int(sweep.start), int(sweep.end), log=log)
    return FloatDistribution(sweep.start, sweep.end, log=log)


def _check_log(override: Override, log: bool, low: float) -> None:
    if log and low <= 0:
        raise _mistake(override, "tag(log, …) takes numbers above 0")


def _mistake(override: Override, what: str) -> ConfigError:
    return ConfigError([f"{override.input_line}: {what}"])


def _text(value: object) -> str:
    """Return a parameter of an experiment file as an override."""
    return ",".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
