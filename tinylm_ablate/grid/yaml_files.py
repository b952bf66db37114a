"""Mistakes in users' YAML files, by file, line and key: experiments and choices of config groups."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tinylm_ablate.arguments import ALIASES, did_you_mean, meant, normalize
from tinylm_ablate.config import GROUPS, Config
from tinylm_ablate.config_values import allowed, fits, walk
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.paths import conf_dir, experiments_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: Line that places the keys of an experiment at the top level of the config.
PACKAGE = "# @package _global_"


def choice_folders(group: str) -> list[Path]:
    """Return the folders of a group's files, in Hydra's order."""
    return [Path.cwd() / group, Path.cwd() / "conf" / group, conf_dir() / group, experiments_dir().parent / group]


def choices(group: str) -> list[str]:
    """Return the names of a group's files."""
    return sorted({path.stem for place in choice_folders(group) for path in place.glob("*.yaml")} - {"schema"})


def choice_files(group: str, name: str) -> list[Path]:
    """Return the candidate files for ``group=name``, in Hydra's order, including those with other suffixes."""
    return [
        path for place in choice_folders(group) for path in (place / f"{name}.yaml", place / f"{name}.yml") if path.is_file()
    ]


def file_mistakes(group: str, name: str) -> list[str]:
    """Return mistakes in the file of ``group=name``, if it exists."""
    for path in choice_files(group, name):
        if path.suffix == ".yml":
            return [f"{path}: Hydra reads only .yaml; rename it to {path.stem}.yaml"]
        return list(_mistakes(path, group))
    return []


def mistakes_in_files(overrides: Sequence[str]) -> list[str]:
    """Yield mistakes in the files that overrides select, even if they compose: Hydra ignores many."""
    found: list[str] = []
    for text in overrides:
        group, _, names = text.lstrip("+").partition("=")
        if group in GROUPS or group == "experiments":
            found += [mistake for name in re.findall(r"[\w.-]+", names) for mistake in file_mistakes(group, name)]
    return list(dict.fromkeys(found))


def _mistakes(path: Path, group: str) -> Iterator[str]:
    content = path.read_bytes()
    if content.startswith(b"\xef\xbb\xbf"):
        yield f"{path}:1: begins with a byte-order mark; save it as UTF-8 without one"
        content = content[3:]
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield f"{path}:{line}: is not UTF-8; iconv -f latin1 -t utf-8 {path.name} converts it, if it is Latin-1"
        return
    for number, written in enumerate(text.splitlines(), 1):
        if "\t" in written[: len(written) - len(written.lstrip())]:
            yield f"{path}:{number}: indented with a tab; YAML requires spaces"
            return
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark.line + 1 if error.problem_mark else 1
        yield f"{path}:{at}: not YAML: {error.problem}"
        return
    if node is None:
        yield f"{path}: is empty; allowed: keys with values, as in arch: {{depth: 20}}"
        return
    if not isinstance(node, yaml.MappingNode):
        yield f"{path}:{node.start_mark.line + 1}: allowed: keys with values, as in arch: {{depth: 20}}"
        return
    whole = group == "experiments" or PACKAGE in text
    if group == "experiments" and PACKAGE not in text:
        yield f"{path}:1: the line {PACKAGE!r} is missing at its top, without which its keys are not read"
    rules = {key: rule for key, _, rule in walk(Config())}
    known = {name.value: value for name, value in node.value}
    if group in GROUPS and "defaults" not in known:
        yield f"{path}:1: does not extend a choice, as in defaults: [{choices(group)[0]}, _self_]"
    if "defaults" in known:
        yield from _defaults(path, known["defaults"], group)
    if "hydra" in known:
        yield from _hydra(path, known["hydra"], rules)
    rest = [(name, value) for name, value in node.value if name.value not in ("defaults", "hydra")]
    yield from _keys(path, rest, "" if whole else f"{group}.", rules)


def _defaults(path: Path, node: yaml.Node, group: str) -> Iterator[str]:
    """Check the choices that a file extends or overrides: each must exist and be valid."""
    if not isinstance(node, yaml.SequenceNode):
        yield f"{path}:{node.start_mark.line + 1}: defaults: allowed: a list, as in [override /arch: pangu_pi]"
        return
    for entry in node.value:
        where, value = f"{path}:{entry.start_mark.line + 1}", yaml.safe_load(yaml.serialize(entry, Dumper=yaml.SafeDumper))
        if isinstance(value, str):
            chosen = {} if value in ("_self_", "schema") else {group: value}
        else:
            chosen = {
                str(key).removeprefix("override").removeprefix("optional").strip().lstrip("/").partition("@")[0]: name
                for key, name in (value.items() if isinstance(value, dict) else ())
            }
        for other, name in chosen.items():
            if other in GROUPS or other == "experiments":
                if name not in choices(other):
                    known = choices(other)
                    hint = did_you_mean(str(name), known)
                    yield f"{where}: {other}={name}: no such choice; {hint}allowed: {', '.join(known)}"
                elif choice_files(other, str(name))[0] != path:
                    yield from file_mistakes(other, str(name))
            elif not other.startswith("hydra"):
                yield f"{where}: {other}: no such group; allowed: {', '.join(GROUPS)}"


def _hydra(path: Path, node: yaml.Node, rules: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Check the axes of a grid, under ``hydra.sweeper.params``."""
    if not isinstance(node, yaml.MappingNode):
        return
    sweepers = [value for name, value in node.value if name.value == "sweeper" and isinstance(value, yaml.MappingNode)]
    for name, value in (pair for sweeper in sweepers for pair in sweeper.value):
        if name.value != "params":
            yield f"{path}:{name.start_mark.line + 1}: hydra.sweeper.{name.value}: no such key; allowed: params"
            continue
        for axis, values in value.value if isinstance(value, yaml.MappingNode) else ():
            line = axis.start_mark.line + 1
            for mistake in normal_mistakes(f"{axis.value}={values.value}" if isinstance(values, yaml.ScalarNode) else ""):
                yield f"{path}:{line}: {mistake}"
            key = ALIASES.get(axis.value, axis.value)
            if key in GROUPS or key.startswith("hydra") or any(key.startswith(f"{known}.") for known in rules):
                continue
            if key not in rules:
                yield f"{path}:{line}: {key}: no such key{meant(key)}"


@functools.cache
def _config() -> DictConfig:
    """Return a config for trying values; cached, since creating one takes a tenth of a second."""
    from omegaconf import OmegaConf

    config: DictConfig = OmegaConf.structured(Config)
    return config


def normal_mistakes(text: str) -> list[str]:
    """Yield mistakes in one axis; none for an empty text."""
    try:
        normalize([text] if text else [], grid=True)
    except ConfigError as error:
        return list(error.mistakes)
    return []


def _keys(
    path: Path, pairs: Sequence[tuple[yaml.Node, yaml.Node]], prefix: str, rules: Mapping[str, dict[str, Any]]
) -> Iterator[str]:
    seen: dict[str, int] = {}
    for name, value in pairs:
        line, key = name.start_mark.line + 1, f"{prefix}{name.value}"
        if name.value in seen:
            yield f"{path}:{line}: {key} is given twice, first in line {seen[name.value]}"
        seen[name.value] = line
        inner = any(known.startswith(f"{key}.") for known in rules)
        if key in rules:
            yield from _value(path, line, key, value, rules[key])
        elif inner and isinstance(value, yaml.MappingNode):
            yield from _keys(path, value.value, f"{key}.", rules)
        elif inner and key in GROUPS:
            yield f"{path}:{line}: {key}: allowed: its keys; a choice is named under defaults, as in - override /{key}: …"
        elif not inner:
            yield f"{path}:{line}: {key}: no such key{meant(key)}"


def _value(path: Path, line: int, key: str, node: yaml.Node, rule: dict[str, Any]) -> Iterator[str]:
    """Return whether the schema accepts a value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    value = yaml.safe_load(yaml.serialize(node, Dumper=yaml.SafeDumper))
    if isinstance(value, str) and "${" in value:
        return
    try:
        OmegaConf.update(_config(), key, value)
        sound = value is None or fits(OmegaConf.select(_config(), key), rule)
    except (OmegaConfBaseException, ValueError):
        sound = False
    if not sound:
        (written,) = normalize([f"{key}={value}"]).overrides if isinstance(value, str) else [""]
        number = written.partition("=")[2]
        cure = f"; write {number}" if number != value and re.fullmatch(r"[\d.e+-]+", number) else ""
        yield f"{path}:{line}: {key}={value!s}: allowed: {allowed(rule)}{cure}"
