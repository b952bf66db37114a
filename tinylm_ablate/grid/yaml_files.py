"""Mistakes in users' YAML files, by file, line and key: experiments and choices of config groups."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tinylm_ablate.arguments import ALIASES, meant, no_such_choice, normalize
from tinylm_ablate.config import GROUPS
from tinylm_ablate.config_values import accepts, allowed, rules
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.paths import choice_folders, choices

#: Line that places the keys of an experiment at the top level of the config.
PACKAGE = "# @package _global_"


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
    known = {name.value: value for name, value in node.value}
    if group in GROUPS and "defaults" not in known:
        yield f"{path}:1: does not extend a choice, as in defaults: [{choices(group)[0]}, _self_]"
    if "defaults" in known:
        yield from _defaults(path, known["defaults"], group)
    if "hydra" in known:
        yield from _hydra(path, known["hydra"], rules())
    rest = [(name, value) for name, value in node.value if name.value not in ("defaults", "hydra")]
    yield from _keys(path, rest, "" if whole else f"{group}.", rules())


def _defaults(path: Path, node: yaml.Node, group: str) -> Iterator[str]:
    """Check the choices that a file extends or overrides: each must exist and be valid."""
    if not isinstance(node, yaml.SequenceNode):
        yield f"{path}:{node.start_mark.line + 1}: defaults: allowed: a list, as in [override /arch: pangu_pi]"
        return
    for entry in node.value:
        where, value = f"{path}:{entry.start_mark.line + 1}", _plain(entry)
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
                    yield f"{where}: {other}={name}: {no_such_choice(str(name), choices(other))}"
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
            if key in rules:
                for value in _swept(axis.value, values):
                    yield from _value(path, line, key, value, rules[key])
            elif key in GROUPS:
                for value in _swept(axis.value, values):
                    if str(value) not in choices(key):
                        yield f"{path}:{line}: {key}={value}: {no_such_choice(str(value), choices(key))}"
            elif not key.startswith("hydra") and not any(key.startswith(f"{known}.") for known in rules):
                yield f"{path}:{line}: {key}: no such key{meant(key)}"


def _swept(axis: str, node: yaml.Node) -> list[Any]:
    """Return the values of an axis; none if they are ranges of a search or are reported as a mistake."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ValueType
    from hydra.errors import HydraException

    if not isinstance(node, yaml.ScalarNode):
        value = _plain(node)
        return list(value) if isinstance(value, list) else []
    with contextlib.suppress(ConfigError, HydraException):
        (text,) = normalize([f"{axis}={node.value}"], grid=True).overrides
        override = OverridesParser.create().parse_override(text)
        if override.value_type != ValueType.INTERVAL_SWEEP:
            values = override.sweep_string_iterator() if override.is_sweep_override() else [text.partition("=")[2]]
            return [_scalar(value) for value in values]
    return []


def _scalar(text: str) -> Any:
    """Return the value that a text is in YAML, or the text, which may be none there: "*.txt" would be an alias."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node, Dumper=yaml.SafeDumper))


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
            yield from _value(path, line, key, _plain(value), rules[key])
        elif inner and isinstance(value, yaml.MappingNode):
            yield from _keys(path, value.value, f"{key}.", rules)
        elif inner and key in GROUPS:
            yield f"{path}:{line}: {key}: allowed: its keys; a choice is named under defaults, as in - override /{key}: …"
        elif not inner:
            yield f"{path}:{line}: {key}: no such key{meant(key)}"


def _value(path: Path, line: int, key: str, value: Any, rule: dict[str, Any]) -> Iterator[str]:
    """Check whether the schema accepts a value."""
    if not accepts(key, value):
        (written,) = normalize([f"{key}={value}"]).overrides if isinstance(value, str) else [""]
        number = written.partition("=")[2]
        cure = f"; write {number}" if number != value and re.fullmatch(r"[\d.e+-]+", number) else ""
        yield f"{path}:{line}: {key}={value!s}: allowed: {allowed(rule)}{cure}"
