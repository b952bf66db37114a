"""Composition of configs with Hydra."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import InputDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tinylm_ablate import config as schema
from tinylm_ablate.arguments import meant
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.paths import conf_dir, experiments_dir
from tinylm_ablate.secrets import credentials_to_environment, watch_environment

#: Keys that ``typed`` rewrites.
_REWRITTEN = {"tracking.uri"}

#: Maximum number of cached configs from which cells are copied: each has a megabyte.
_MOST_BASES = 256

#: Types of most values in a config.
_PLAIN = {str, int, float, bool, type(None)}

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)


class _SearchPath(SearchPathPlugin):
    """Lets ``+experiments=NAME`` find experiments in the current folder and, after that, in the package."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        # A shell that completes a key must not offer every folder as a config group.
        experiments = "COMP_LINE" not in os.environ or "=" in os.environ["COMP_LINE"].rpartition(" ")[2]
        if experiments:
            search_path.append("working-folder", f"file://{Path.cwd()}")
        search_path.append("working-folder-conf", f"file://{Path.cwd() / 'conf'}")
        if experiments:
            search_path.append("tinylm_ablate", f"file://{experiments_dir().parent}")


def register() -> None:
    """Register schema and search path with Hydra; called once per process."""
    schema.register()
    watch_environment()
    Plugins.instance().register(_SearchPath)
    Hydra.get_mode = _mode  # type: ignore[method-assign, assignment]
    ConfigRepository.load_config = _load  # type: ignore[method-assign, assignment]
    ConfigRepository.__deepcopy__ = _copy_repository  # type: ignore[attr-defined]
    OverridesParser.parse_rule = _parse  # type: ignore[method-assign, assignment]
    defaults_list._create_interpolation_map = _known_choices  # type: ignore[assignment]


_hydras_mode, _hydras_load, _hydras_parse = Hydra.get_mode, ConfigRepository.load_config, OverridesParser.parse_rule
_hydras_choices = defaults_list._create_interpolation_map
_read: dict[tuple[str, str, str, int, int], bytes] = {}


def _load(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Load a file of a config group, cached, since Hydra would read and parse all of them for every composition.

    A composition changes what it loads. Pickling copies it in a seventh of the time of ``deepcopy``.
    """
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    if source is None:
        return None
    stamp = (0, 0)
    if source.scheme() == "file":
        found = Path(source.path, source._normalize_file_name(config_path)).stat()
        stamp = (found.st_mtime_ns, found.st_size)
    key = (source.scheme(), source.path, config_path, *stamp)
    if key not in _read:
        _read[key] = pickle.dumps(_hydras_load(repository, config_path))
    result: ConfigResult = pickle.loads(_read[key])
    return result


def _copy_repository(repository: ConfigRepository, memo: object) -> ConfigRepository:
    """Copy a repository for a composition, which may replace its list of sources, but does not change them."""
    del memo
    return copy.copy(repository)


def _known_choices(overrides: Any, defaults: Sequence[InputDefault], self_added: bool) -> DictConfig:
    """Return the choices that interpolations in a list of defaults refer to; building them takes a sixth of a composition."""
    if any(default.is_interpolation() for default in defaults):
        return _hydras_choices(overrides, list(defaults), self_added)
    return OmegaConf.create()


def _parse(parser: OverridesParser, text: str, rule: str) -> Any:
    """Parse a part of a command line, cached, since Hydra and five places of ours parse the same overrides."""
    del parser
    return copy.copy(_parsed(text, rule))


@functools.lru_cache(maxsize=65536)
def _parsed(text: str, rule: str) -> Any:
    return _hydras_parse(OverridesParser.create(), text, rule)


@functools.lru_cache(maxsize=65536)
def _override(text: str) -> Override:
    """Return a parsed override, cached; it must not be changed.

    Raises:
        HydraException: It is not understood, or has several values.
    """
    (override,) = OverridesParser.create().parse_overrides([text])
    ConfigLoaderImpl.validate_sweep_overrides_legal([override], run_mode=RunMode.RUN, from_shell=True)
    return override


def _mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Return the mode that an override sets; by default, it depends on ``-m``, for which Hydra composes everything again."""
    return _hydras_mode(hydra, config_name, overrides) if any("hydra.mode" in text for text in overrides) else None


def typed(config: DictConfig) -> Config:
    """Convert a composed config to a typed one, without Hydra's own node.

    Raises:
        OmegaConfBaseException: A value is missing, or an interpolation cannot be resolved.
    """
    result = OmegaConf.to_object(_own(config))
    assert isinstance(result, Config)
    if unknown := list(_unknown(result)):  # "+" adds keys that no code reads
        raise ConfigError([f"+{key}: no such key{meant(key)}" for key in unknown])
    if result.tracking.uri is not None:  # so that no file or message ever contains a password
        result.tracking.uri = credentials_to_environment(result.tracking.uri)
    return result


def _own(config: DictConfig) -> DictConfig:
    """Return the config without Hydra's nodes, one of which is larger than all others."""
    if not {"hydra", "experiments"} & config.keys():
        return config
    own: DictConfig = pickle.loads(pickle.dumps(config))
    with open_dict(own):
        own.pop("hydra", None)
        own.pop("experiments", None)
    return own


def _unknown(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield keys that are not in the schema."""
    known = {item.name for item in dataclasses.fields(node)}
    for name, value in vars(node).items():
        if name not in known:
            yield f"{prefix}{name}"
        elif dataclasses.is_dataclass(value):
            yield from _unknown(value, f"{prefix}{name}.")


class Composer:
    """Composes the cells of a grid in a tenth of Hydra's time: common choices once, then the values of each cell.

    Hydra has no public way to apply overrides to a composed config, so two of its private names are used here.

    The result is that of Hydra, which also composes the groups first, and then sets the values in order.

    Args:
        loader: Hydra's config loader.
        master: The config of the multirun. Each cell has its overrides too, or others of the same keys, so that cells with the
            same choices need no composition of their own.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = cast(ConfigLoaderImpl, loader), master
        self._chosen: dict[tuple[str, ...], bytes] = {}
        self._params: dict[tuple[str, ...], dict[str, Any]] = {}
        self._groups: dict[str, bool] = {}
        self._bases: dict[tuple[str, ...], Config | None] = {}
        self._trials: dict[tuple[str, ...], DictConfig] = {}
        self._settings: dict[tuple[tuple[str, ...], str], tuple[str, Any] | None] = {}
        self._sets_one_key: dict[str, bool] = {}
        self._references: dict[tuple[str, ...], set[str]] = {}
        self._referred: dict[tuple[tuple[str, ...], str], bool] = {}
        given = OverridesParser.create().parse_overrides(list(master.hydra.overrides.task))
        whole = [str(one.input_line) for one in given if not one.is_sweep_override()]
        if all(self._is_group(text) or _override(text).type == OverrideType.CHANGE for text in whole):
            self._keep(self._key(whole), master)

    def typed(self, overrides: Sequence[str]) -> Config:
        """Return ``typed`` of the config of a cell, in a hundredth of the time if its values do not depend on each other.

        Common choices, and values to which others refer, are then composed once, and a cell is a copy with its own values.

        Raises:
            HydraException, OmegaConfBaseException, ConfigError: The overrides do not compose.
        """
        key, values = self._key(overrides), [text for text in overrides if not self._is_group(text)]
        followed = [text for text in values if not self._is_plain(key, text)]
        own = [text for text in values if text not in followed]
        paths = [_override(text).key_or_group for text in own]
        base = None
        if not any(_overlap(_override(text).key_or_group, path) for text in followed for path in paths):
            key = (*key, *followed)
            if key in self._bases or len(self._bases) < _MOST_BASES:
                base = self._base(key)
        if base is None or any(self._is_referred(key, path) for path in paths):
            return typed(self(overrides))
        if new := set(paths) - self._sets_one_key.keys():  # one composition shows it for all of them
            first = typed(self(overrides))
            self._sets_one_key |= dict.fromkeys(new, _differs_by(first, base, paths))
            return first
        settings = [self._setting(key, text) for text in own]
        if None in settings:
            return typed(self(overrides))
        config: Config = _clone(base)
        for path, value in filter(None, settings):
            _set(config, path, copy.deepcopy(value))
        return config

    def _base(self, key: tuple[str, ...]) -> Config | None:
        """Return the config of the common choices; None if it is incomplete by itself."""
        if key not in self._bases:
            try:
                self._bases[key] = typed(self._choice(key))
            except (*COMPOSITION_ERRORS, ConfigError):
                self._bases[key] = None
        return self._bases[key]

    def _is_plain(self, key: tuple[str, ...], text: str) -> bool:
        """Return whether an override can only set one key besides choices; lists and dicts are merged with existing values."""
        override = _override(text)
        path = override.key_or_group
        return not (
            "${" in text
            or path in _REWRITTEN
            or override.type != OverrideType.CHANGE
            or isinstance(override.value(), dict | list)
            or not self._sets_one_key.get(path, True)
            or self._is_referred(key, path)
        )

    def _setting(self, key: tuple[str, ...], text: str) -> tuple[str, Any] | None:
        """Return the key and value that an override sets besides choices; None if the value is not plain."""
        if (key, text) not in self._settings:
            override = _override(text)
            if key not in self._trials:
                self._trials[key] = self._choice(key)
            self.loader._apply_overrides_to_config([override], self._trials[key])
            value = OmegaConf.select(self._trials[key], override.key_or_group)
            self._settings[key, text] = None if OmegaConf.is_config(value) else (override.key_or_group, value)
        return self._settings[key, text]

    def _is_referred(self, key: tuple[str, ...], path: str) -> bool:
        """Return whether another value refers to a key; trying a value would not show it, since that may be the default."""
        if key not in self._references:
            written = str(OmegaConf.to_container(self._choice(key)))
            self._references[key] = set(re.findall(r"\$\{(\.*[\w.]+)\}", written))
        if (key, path) not in self._referred:
            self._referred[key, path] = any(name.startswith(".") or _overlap(name, path) for name in self._references[key])
        return self._referred[key, path]

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of a cell, without Hydra's own node.

        Raises:
            HydraException, OmegaConfBaseException: The overrides do not compose.
        """
        config = self._choice(self._key(overrides))
        values = [_override(text) for text in overrides if not self._is_group(text)]
        own = [override for override in values if not override.key_or_group.startswith("hydra.")]
        self.loader._apply_overrides_to_config(own, config)
        return config

    def params(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the axes in an experiment's file: key to values."""
        key = self._key(overrides)
        self._choice(key)
        return self._params[key]

    def _key(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """Return the overrides that choose from groups."""
        return tuple(text for text in overrides if self._is_group(text))

    def _choice(self, key: tuple[str, ...]) -> DictConfig:
        """Return a copy of Hydra's config of some overrides, cached."""
        groups = self._key(key)
        if key not in self._chosen and groups != key:
            self._chosen[key] = pickle.dumps(self(key))
        elif key not in self._chosen:
            self._keep(key, self.loader.load_sweep_config(self.master, list(key)))
        config: DictConfig = pickle.loads(self._chosen[key])
        return config

    def _keep(self, key: tuple[str, ...], config: DictConfig) -> None:
        self._params[key] = (OmegaConf.to_container(config.hydra.sweeper) or {}).get("params") or {}  # type: ignore[union-attr]
        self._chosen[key] = pickle.dumps(_own(config))

    def _is_group(self, text: str) -> bool:
        """Return whether an override chooses from a group."""
        override = _override(text)
        key = override.key_or_group
        if key not in self._groups:  # reads the disk
            self._groups[key] = self.loader.repository.group_exists(key)
        exists = self._groups[key]
        return override.package is not None or (exists and not isinstance(override.value(), dict))


def _overlap(one: str, other: str) -> bool:
    """Return whether two dotted keys are equal, or one is a group that contains the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _clone(config: Any) -> Any:
    """Copy a config and its groups; the values are shared."""
    new = object.__new__(type(config))
    vars(new).update(vars(config))
    for name, value in vars(config).items():
        if type(value) in (list, dict):
            setattr(new, name, copy.copy(value))
        elif type(value) not in _PLAIN and dataclasses.is_dataclass(value):
            setattr(new, name, _clone(value))
    return new


def _differs_by(config: Config, base: Config, paths: Sequence[str]) -> bool:
    """Return whether a config equals another one except for its values of some keys."""
    changed = _clone(base)
    try:
        for path in paths:
            _set(changed, path, functools.reduce(getattr, path.split("."), cast(Any, config)))
    except AttributeError:
        return False
    return bool(changed == config)


def _set(config: Any, path: str, value: Any) -> None:
    """Set an existing key of the config.

    Raises:
        AttributeError: The key does not exist.
    """
    *groups, name = path.split(".")
    group = functools.reduce(getattr, groups, config)
    getattr(group, name)
    setattr(group, name, value)


def compose(overrides: Sequence[str]) -> Config:
    """Compose one config outside of a run, for tests and tools. A process reads ``conf/`` once per working folder."""
    register()
    files: list[Path] = []
    if any(text.lstrip("+").startswith("experiments=") for text in overrides):  # files that may still change
        places = (Path.cwd(), Path.cwd() / "conf", experiments_dir().parent)
        files = [path for place in places for path in place.glob("experiments/*.yaml")]
    stamps = frozenset((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return _composer(Path.cwd(), stamps).typed(overrides)


@functools.lru_cache(maxsize=64)
def _composer(folder: Path, files: frozenset[tuple[Path, int, int]]) -> Composer:
    """Create a composer of single configs; ``folder`` is an additional location of groups, and ``files`` are read by some."""
    del folder, files
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        return Composer(hydra.config_loader, master)
