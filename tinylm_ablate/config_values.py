"""Values of a config: their keys and rules, and mistakes in single values."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tinylm_ablate.config import Config
from tinylm_ablate.scale import is_dial

if TYPE_CHECKING:
    from omegaconf import DictConfig


def walk(config: Config) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every value of a config with its dotted key and the metadata of its field, depth first."""
    return zip(rules(), _values()(config), rules().values(), strict=True)


@functools.cache
def rules() -> dict[str, dict[str, Any]]:
    """The metadata of every field by its dotted key, depth first; not to be changed."""

    def entries(group: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        for item in dataclasses.fields(group):
            value = getattr(group, item.name)
            if dataclasses.is_dataclass(value):
                yield from entries(value, f"{prefix}{item.name}.")
            else:
                yield f"{prefix}{item.name}", dict(item.metadata) | {"type": item.type}

    return dict(entries(Config()))


@functools.cache
def _values() -> Callable[[Config], tuple[Any, ...]]:
    """A function for all values of a config: a grid walks ten thousand of them."""
    return operator.attrgetter(*rules())


def allowed(rule: dict[str, Any]) -> str:
    """Describe the values that a field allows, for error messages and the reference."""
    if rule.get("allowed"):
        return str(rule["allowed"])
    kinds = str(rule["type"]).split(" | ")
    parts = [*(("true", "false") if "bool" in kinds else ()), *rule.get("choices", ())]
    if kinds[0].startswith("list"):
        parts.append(f"a list of {', '.join(rule['among'])}" if rule.get("among") else "a list, as in [a,b]")
    if kinds[0].startswith("dict"):
        parts.append("names with values, as in {a: 1}")
    bounds = [
        f"{word} {rule[name]:,}" if isinstance(rule[name], int) else f"{word} {rule[name]:g}"
        for name, word in (("at_least", "at least"), ("above", "above"), ("at_most", "at most"), ("below", "below"))
        if rule.get(name) is not None
    ]
    if "int" in kinds or "float" in kinds:
        parts.append(" ".join(["a number" if "float" in kinds else "a whole number", " and ".join(bounds)]).strip())
    if rule.get("dial"):
        parts.append("the paper's size divided by the scale, as 'N/s'")
    if "str" in kinds and (rule.get("free") or not parts):
        parts.append("text")
    if "None" in kinds:
        parts.append("null")
    return ", ".join(parts)


def check_values(config: Config) -> list[str]:
    """Return the mistakes in single values, as "key=value: allowed: …"."""
    return [
        f"{key}={value!s}: allowed: {allowed(rule)}"
        for key, value, rule in walk(config)
        if not (fits(value, rule) if isinstance(value, list | dict) else _fits(key, value))
    ]


@functools.lru_cache(maxsize=None, typed=True)  # most values are shared by all cells of a grid
def _fits(key: str, value: Any) -> bool:
    return fits(value, rules()[key])


def fits(value: Any, rule: dict[str, Any]) -> bool:
    """Return whether null, or a value of the right type, satisfies the choices and bounds of its field."""
    if isinstance(value, list):
        return not rule.get("among") or set(value) <= set(rule["among"])
    if isinstance(value, bool):
        return True
    if isinstance(value, str):
        has_list = bool(rule["choices"]) or rule["dial"] or rule["at_least"] is not None or rule["above"] is not None
        return value in rule["choices"] or rule["free"] or (rule["dial"] and is_dial(value)) or not has_list
    if isinstance(value, int | float):
        if not math.isfinite(value):
            return False
        return not (
            (rule["at_least"] is not None and value < rule["at_least"])
            or (rule["above"] is not None and value <= rule["above"])
            or (rule["at_most"] is not None and value > rule["at_most"])
            or (rule["below"] is not None and value >= rule["below"])
        )
    return True


def accepts(key: str, value: Any) -> bool:
    """Return whether the schema accepts a value from a YAML file, or one that refers to another setting."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(value, str) and "${" in value:
        return True
    try:
        OmegaConf.update(_config(), key, value)
        return value is None or fits(OmegaConf.select(_config(), key), rules()[key])
    except (OmegaConfBaseException, ValueError):
        return False


@functools.cache
def _config() -> DictConfig:
    """Return a config for trying values; cached, since creating one takes a tenth of a second."""
    from omegaconf import OmegaConf

    config: DictConfig = OmegaConf.structured(Config)
    return config
