"""User-defined parts: a class named by ``_target_``, whose typed fields are its settings.

A part is a mapping in a config, as in ``optimizer.own={_target_: mine.SignDescent, momentum: 0.9}``: the dotted name of the
class, and values of its fields. The class is a dataclass, so that names, types and defaults of its settings are known. They
are checked before anything is run, and all of them, including defaults, enter the identity of the runs that they change.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tinylm_ablate.errors import ConfigError
from tinylm_ablate.files import canonical_json

#: Key that names the class.
TARGET = "_target_"

#: Pydantic's errors for values of another type, as other settings describe them.
_ALLOWED = (
    {f"float_{how}": "allowed: a number" for how in ("type", "parsing")}
    | {f"int_{how}": "allowed: a whole number" for how in ("type", "parsing", "from_float")}
    | {f"bool_{how}": "allowed: true, false" for how in ("type", "parsing")}
    | {"string_type": "allowed: text"}
)


def part(described: Mapping[str, Any], key: str, needs: tuple[str, ...] = ()) -> Any:
    """Create the object that a mapping describes; equal mappings share one object.

    Args:
        described: ``_target_`` and settings.
        key: The setting with the mapping, for messages.
        needs: Attributes that the class must have.

    Raises:
        ConfigError: The class does not exist, is not a dataclass, lacks an attribute, or its settings are wrong.
    """
    try:
        return _part(canonical_json(dict(described)), key, needs)
    except TypeError as error:
        raise ConfigError([f"{key}: {error}; allowed: plain values"]) from None


def normal(described: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the mapping with the defaults of the class filled in, so that equivalent parts are equal."""
    return {TARGET: described[TARGET], **dataclasses.asdict(part(described, key))}


def mistakes(described: Mapping[str, Any], key: str, chosen: bool, choice: str, needs: tuple[str, ...]) -> list[str]:
    """Return the mistakes in a part, or that it is missing.

    Args:
        described: The mapping; empty if there is none.
        key: The setting with the mapping.
        chosen: Whether the config uses the part.
        choice: The setting that selects it, as in ``optimizer.name=own``.
        needs: Attributes that it must have.
    """
    if chosen and not described:
        return [f"{key}={{}}: {choice} needs your own class, as in {key}={{{TARGET}: module.Class}}"]
    if described and not chosen:
        return [f"{key}={dict(described)}: allowed with {choice}; otherwise unused"]
    try:
        if described:
            part(described, key, needs)
    except ConfigError as error:
        return list(error.mistakes)
    return []


@functools.lru_cache(maxsize=256)
def _part(text: str, key: str, needs: tuple[str, ...]) -> Any:
    import json

    settings: dict[str, Any] = json.loads(text)
    target = settings.pop(TARGET, None)
    if not isinstance(target, str) or "." not in target:
        raise ConfigError([f"{key}: {TARGET}={target}: allowed: the dotted name of a class, as in {TARGET}: module.Class"])
    kind = _find(target, key)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise ConfigError([f"{key}: {TARGET}={target}: allowed: a dataclass, whose fields are its settings"])
    lacking = [name for name in needs if not hasattr(kind, name)]
    if lacking:
        raise ConfigError([f"{key}: {TARGET}={target}: lacks {', '.join(lacking)} (docs/extending.md)"])
    found = list(_setting_mistakes(kind, settings, key))
    if found:
        raise ConfigError(found)
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    try:
        adapter = TypeAdapter(with_config(ConfigDict(arbitrary_types_allowed=True))(kind))
        return adapter.validate_python(settings)
    except ValidationError as error:
        raise ConfigError(
            [
                f"{key}.{'.'.join(map(str, one['loc']))}={one['input']}: {_ALLOWED.get(one['type'], one['msg'])}"
                for one in error.errors()
            ]
        ) from None
    except (TypeError, ValueError) as error:  # raised by the class's __post_init__
        raise ConfigError([f"{key}: {TARGET}={target}: {error}"]) from None


def _find(target: str, key: str) -> Any:
    module, _, name = target.rpartition(".")
    if os.getcwd() not in sys.path and "" not in sys.path:  # the installed command does not search the current folder
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"{key}: {TARGET}={target}: cannot be imported ({error})"]) from None


def _setting_mistakes(kind: type, settings: Mapping[str, Any], key: str) -> Iterator[str]:
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    for name, value in settings.items():
        if name not in names:
            yield f"{key}.{name}={value}: no such setting; allowed: {', '.join(names) or 'none'}"
