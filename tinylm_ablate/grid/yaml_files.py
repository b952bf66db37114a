"""Mistakes in the YAML files of users, by file, line and key: experiments and choices of config groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tinylm_ablate.arguments import nearest
from tinylm_ablate.config import GROUPS, Config, allowed, walk
from tinylm_ablate.paths import conf_dir, experiments_dir

#: The line that puts the keys of an experiment at the top of the config.
PACKAGE = "# @package _global_"

#: Keys that are Hydra's.
_HYDRA = ("defaults", "hydra")


def choice_files(group: str, name: str) -> list[Path]:
    """The files that ``group=name`` may mean, in the order in which Hydra looks; also those with another ending."""
    places = [Path.cwd() / group, Path.cwd() / "conf" / group, conf_dir() / group, experiments_dir().parent / group]
    return [path for place in places for path in (place / f"{name}.yaml", place / f"{name}.yml") if path.is_file()]


def file_mistakes(group: str, name: str) -> list[str]:
    """What is wrong with the file of ``group=name``; empty where there is none, or nothing is wrong with it."""
    for path in choice_files(group, name):
        if path.suffix == ".yml":
            return [f"{path}: Hydra reads .yaml alone; rename it to {path.stem}.yaml"]
        return list(_mistakes(path, group))
    return []


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
            yield f"{path}:{number}: indented with a tab; YAML takes spaces"
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
        yield f"{path}:1: lacks the line {PACKAGE!r} at its top, without which its keys are not read"
    rules = {key: rule for key, _, rule in walk(Config())}
    yield from _keys(path, node, "" if whole else f"{group}.", rules)


def _keys(path: Path, node: yaml.MappingNode, prefix: str, rules: dict[str, dict[str, Any]]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for name, value in node.value:
        line, key = name.start_mark.line + 1, f"{prefix}{name.value}"
        if name.value in seen:
            yield f"{path}:{line}: {key} is given twice, first in line {seen[name.value]}"
        seen[name.value] = line
        if not prefix and name.value in _HYDRA:
            continue
        inner = any(known.startswith(f"{key}.") for known in rules)
        if key in rules:
            yield from _value(path, line, key, value, rules[key])
        elif inner and isinstance(value, yaml.MappingNode):
            yield from _keys(path, value, f"{key}.", rules)
        elif inner and key in GROUPS:
            yield f"{path}:{line}: {key}: allowed: its keys; a choice is named under defaults, as in - override /{key}: …"
        elif not inner:
            near = nearest(key)
            yield f"{path}:{line}: {key}: there is no such key{f'; did you mean {near}?' if near else ''}"


def _value(path: Path, line: int, key: str, node: yaml.Node, rule: dict[str, Any]) -> Iterator[str]:
    """Whether the schema takes a value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    value = yaml.safe_load(yaml.serialize(node, Dumper=yaml.SafeDumper))
    if isinstance(value, str) and "${" in value:
        return
    try:
        OmegaConf.update(OmegaConf.structured(Config), key, value)
    except (OmegaConfBaseException, ValueError):
        what = allowed(rule)
        yield f"{path}:{line}: {key}={value!s}: " + (f"allowed: {what}" if what else "is of another type than this key takes")
