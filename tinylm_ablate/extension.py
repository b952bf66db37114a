"""Parts that users bring: a class named by ``_target_``, whose typed fields are its settings.

Such a part is a mapping in a config, as in ``optimizer.own={_target_: mine.SignDescent, momentum: 0.9}``: the class by its
dotted name, and values of its fields. The class is a dataclass, so that names, types and defaults of its settings are known:
they are checked before anything is spent, and all of them, defaults too, belong to the identity of whatever they change.
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

#: What names the class.
TARGET = "_target_"


def part(described: Mapping[str, Any], key: str, needs: tuple[str, ...] = ()) -> Any:
    """The object that a mapping describes; made once for equal mappings.

    Args:
        described: ``_target_`` and settings.
        key: The setting that holds it, for messages.
        needs: Attributes that it must have.

    Raises:
        ConfigError: There is no such class, it is no dataclass, lacks something, or its settings are wrong.
    """
    try:
        return _part(canonical_json(dict(described)), key, needs)
    except TypeError as error:
        raise ConfigError([f"{key}: {error}; allowed: plain values"]) from None


def normal(described: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The same mapping with the defaults of the class filled in: equal for parts that do the same."""
    return {TARGET: described[TARGET], **dataclasses.asdict(part(described, key))}


def mistakes(described: Mapping[str, Any], key: str, chosen: bool, choice: str, needs: tuple[str, ...]) -> list[str]:
    """Mistakes in a part, or in its absence, without raising.

    Args:
        described: The mapping; empty where there is none.
        key: The setting that holds it.
        chosen: Whether the part is used.
        choice: What chooses it, as in ``optimizer.name=own``.
        needs: Attributes that it must have.
    """
    if chosen and not described:
        return [f"{key}={{}}: {choice} needs a class of yours, as in {key}={{{TARGET}: module.Class}}"]
    if described and not chosen:
        return [f"{key}={dict(described)}: allowed with {choice}; otherwise nothing uses it"]
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
            [f"{key}.{'.'.join(map(str, one['loc']))}={one['input']}: {one['msg']}" for one in error.errors()]
        ) from None
    except (TypeError, ValueError) as error:  # of the class's own __post_init__
        raise ConfigError([f"{key}: {TARGET}={target}: {error}"]) from None


def _find(target: str, key: str) -> Any:
    module, _, name = target.rpartition(".")
    if os.getcwd() not in sys.path and "" not in sys.path:  # the installed command does not look where it is started
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
