"""Diagnosis of overrides that do not compose: every mistake, with what is allowed."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from tinylm_ablate.arguments import meant, no_such_choice
from tinylm_ablate.config import GROUPS
from tinylm_ablate.config_values import allowed, rules
from tinylm_ablate.errors import ConfigError, UserError, first_line
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS, compose, register
from tinylm_ablate.grid.yaml_files import mistakes_in_files
from tinylm_ablate.paths import choices, conf_dir

#: Choices of Hydra's plugins.
_PLUGINS = {
    "hydra/launcher": ("basic", "submitit_local", "submitit_slurm", "ray"),
    "hydra/sweeper": ("grid", "optuna"),
}


def check_files(overrides: Sequence[str], grid: bool) -> None:
    """Check the YAML files that overrides choose.

    Raises:
        ConfigError: They, or other overrides, have mistakes.
    """
    if found := mistakes_in_files(overrides):
        rest = [text for text in overrides if text.lstrip("+").partition("=")[0] not in (*GROUPS, "experiments")]
        raise ConfigError([*found, *diagnose(rest, grid)])


def diagnose(overrides: Sequence[str], grid: bool = True) -> list[str]:
    """Return mistakes in overrides that do not compose: each is tried alone, so that all mistakes are reported together.

    Args:
        overrides: Overrides of the command line.
        grid: Whether a grid was requested, in which an override may have several values.

    Returns:
        One line per mistake; empty if each override is valid by itself.
    """
    register()
    GlobalHydra.instance().clear()
    mistakes: list[str] = []
    sound: list[list[str]] = []
    search = "hydra/sweeper=optuna" in overrides
    try:
        compose([])
    except COMPOSITION_ERRORS as error:
        return [f"the defaults in {conf_dir()} do not compose: {first_line(error.__cause__ or error)}"]
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
            singles = _singles(override, text, search)
        except COMPOSITION_ERRORS:
            mistakes.append(_unreadable(text))
            continue
        except ConfigError as error:
            mistakes += error.mistakes
            continue
        if override.is_sweep_override() and not grid:
            mistakes.append(f"{text}: several values make a grid: add -m")
            continue
        sound.append([])
        for single in singles:
            try:
                if single.lstrip("+~").startswith("hydra"):
                    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                        hydra_compose("config", overrides=[single], return_hydra_config=True)
                else:
                    compose([single])
            except ConfigError as error:
                mistakes += error.mistakes
            except COMPOSITION_ERRORS as error:
                mistakes.append(_explain(single, override, error))
            else:
                sound[-1].append(single)
    mistakes += _settled([singles for singles in sound if singles])
    return list(dict.fromkeys(mistakes))


def _settled(choices: list[list[str]]) -> list[str]:
    """Return mistakes in the values of valid overrides: the first value of each, then every other value in its place."""
    from tinylm_ablate.settle import settle

    mistakes: list[str] = []
    first = [singles[0] for singles in choices]
    for place, singles in enumerate(choices):
        for single in singles if place == 0 else singles[1:]:
            trial = [*first[:place], single, *first[place + 1 :]]
            with contextlib.suppress(UserError, *COMPOSITION_ERRORS):
                try:
                    settled = compose(trial)
                    settled.seeds = None
                    settle(settled)
                except ConfigError as error:
                    mistakes += error.mistakes
    return mistakes


def _singles(override: Override, text: str, search: bool) -> list[str]:
    if not override.is_sweep_override():
        return [text]
    if search:
        from tinylm_ablate.grid.space import axis

        return axis(override).probes()
    if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        raise HydraException("a grid takes lists, choice(...) and range(...)")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _explain(text: str, override: Override, error: Exception) -> str:
    key = override.key_or_group
    if key in GROUPS or key in _PLUGINS or key == "experiments":
        value, known = text.partition("=")[2], _PLUGINS.get(key) or choices(key)
        if value in known:
            return f"{text}: {first_line(error.__cause__ or error)}"
        return f"{text}: {no_such_choice(value, known)}"
    if key in rules():
        return f"{text}: allowed: {allowed(rules()[key])}"
    return f"{key}: no such key{meant(key)}"


def _unreadable(text: str) -> str:
    """Explain why Hydra's grammar rejects an override."""
    key, _, value = text.lstrip("+").partition("=")
    if key in GROUPS:
        return f"{text}: no such choice; allowed: {', '.join(choices(key))}"
    if key not in rules() and not key.startswith(("hydra", "experiments", *(f"{known}." for known in rules()))):
        return f"{key}: no such key{meant(key)}"
    if any(value.count(opening) != value.count(closing) for opening, closing in ("()", "[]", "{}")):
        return f"{text}: a bracket is not closed, or not opened"
    if any(value.count(quote) % 2 for quote in "'\""):
        return f"{text}: a quote is not closed"
    if re.match(r"\w+\(", value):
        return f"{text}: allowed: a,b or choice(a,b), range(low,high,step), and in a search interval(low,high) of numbers"
    if key in rules() and not rules()[key].get("free"):
        return f"{text}: allowed: {allowed(rules()[key])}"
    cure = shlex.quote(f"{key}='{value}'")
    return f"{text}: not understood; text with signs such as , : = ( ) is written as {cure}"
