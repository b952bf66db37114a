"""What people type, made into what Hydra's grammar takes; what cannot be meant is refused with the cure in one line.

Text keys are taken literally, numbers as people write them (``2M``, ``1e6``, ``10%``), and short names lead to the one key.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from tinylm_ablate.config import GROUPS, Config
from tinylm_ablate.errors import ConfigError

#: Options of Hydra's that take no value, and those that take one.
_FLAGS = {
    "-m",
    "--multirun",
    "-h",
    "--help",
    "--hydra-help",
    "--version",
    "--resolve",
    "-r",
    "--run",
    "--shell-completion",
    "-sc",
}
_WITH_VALUE = {
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--info",
    "-i",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--config-dir",
    "-cd",
}

#: Names that people use for a key.
ALIASES = dict.fromkeys(("lr", "learning_rate", "optimizer.lr", "optimizer.learning_rate"), "optimizer.scaling.base_lr")

#: Text that may hold anything, commas and parentheses included.
_LITERAL = {"prompt", "experiment.title", "experiment.note"}

_OVERRIDE = re.compile(r"(?P<sign>\+\+|\+|~|)(?P<key>[\w./@:-]+)=(?P<value>.*)", re.DOTALL)
_SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_NUMBER = re.compile(r"(?P<number>[+-]?\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?)(?P<suffix>[kKMGBT%]?)")


@dataclass(frozen=True)
class Key:
    """A key of the schema: the kinds of number that it takes, whether it is free text, and whether it is a share."""

    whole: bool
    real: bool
    text: bool
    share: bool


def normalize(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments as Hydra takes them, options first, and notes for the user.

    Raises:
        ConfigError: With everything that cannot be meant.
    """
    options, overrides, mistakes = _split(arguments)
    keys = dict(_keys(Config))
    found: list[str] = []
    names: Counter[str] = Counter()
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if match is None:
            found.append(text)  # such as "~tracking"
            continue
        key = ALIASES.get(match["key"], match["key"])
        value = match["value"]
        names[key] += 1
        if key in ("experiment", "experiments") and not (key == "experiments" and match["sign"] == "+"):
            mistakes.append(f"{text}: did you mean +experiments={value}?")
        elif key == "seeds" and not re.fullmatch(r"\d+|null|sequential", value):
            named = ",".join(re.findall(r"\d+", value)) or "0,1,2"
            mistakes.append(f"{text}: seeds is how many seeds there are, as in seeds=3; to name them: -m seed={named}")
        elif key in keys:
            found.append(f"{match['sign']}{key}={_value(value, key, keys[key])}")
        else:
            found.append(f"{match['sign']}{key}={value}")
    if mistakes:
        raise ConfigError(mistakes)
    notes = [f"note: {key} is given {count} times; the last one counts" for key, count in names.items() if count > 1]
    return [*options, *found], notes


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Options, overrides, and what is neither."""
    options: list[str] = []
    overrides: list[str] = []
    mistakes: list[str] = []
    rest = list(arguments)
    while rest:
        text = rest.pop(0)
        following = rest[0] if rest else ""
        if text in _FLAGS:
            options.append(text)
        elif text in _WITH_VALUE:
            options += [text, rest.pop(0)] if rest else [text]
        elif text.split("=")[0] in _WITH_VALUE:
            options.append(text)
        elif text.startswith("-"):
            name = text.lstrip("-").partition("=")[0].replace("-", "_")
            value = text.partition("=")[2] or (
                rest.pop(0) if following and "=" not in following and following[0] != "-" else "…"
            )
            near = nearest(name)
            hint = f": write {near}={value}" if near else ""
            mistakes.append(f"{text}: there is no such option{hint or '; settings are written as key=value'}")
        elif following in ("=",) or (following.startswith("=") and "=" not in text):
            parts = [text, rest.pop(0)]
            if parts[1] == "=" and rest:
                parts.append(rest.pop(0))
            mistakes.append(f"{' '.join(parts)}: write it without spaces: {''.join(parts)}")
        elif "=" in text and text.endswith((",", "=")) and following and "=" not in following and following[0] != "-":
            parts = [text]
            while rest and "=" not in rest[0] and rest[0][0] != "-":
                parts.append(rest.pop(0))
            if text.endswith("=") and _OVERRIDE.fullmatch(text) and text[:-1] in _LITERAL:
                overrides.append(" ".join(parts))
            else:
                mistakes.append(f"{' '.join(parts)}: write it without spaces: {''.join(parts)}")
        elif "=" in text or text.startswith("~"):
            overrides.append(text)
        else:
            mistakes.append(f"{text}: not understood; settings are written as key=value{_hint(text, overrides)}")
    return options, overrides, mistakes


def _hint(text: str, before: Sequence[str]) -> str:
    """Where a word without "=" may belong."""
    if before:
        return f"; a value with spaces is written in quotes, as in '{before[-1]} {text}'"
    near = nearest(text)
    return f"; did you mean {near}=…?" if near else ""


def nearest(name: str) -> str | None:
    """The key or group that a name is likely to mean: by its last part, by its whole, or by likeness."""
    if name in ALIASES:
        return ALIASES[name]
    keys = [key for key, _ in _keys(Config)]
    exact = [key for key in keys if key.rpartition(".")[2] == name]
    if exact:
        return min(exact, key=lambda key: (key.count("."), key))
    found = difflib.get_close_matches(name, [*keys, *GROUPS, *ALIASES], n=1)
    if not found:
        last = {key.rpartition(".")[2]: key for key in reversed(keys)}
        found = [last[name] for name in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)]
    return ALIASES.get(found[0], found[0]) if found else None


def _keys(node: Any, prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Every key of the schema."""
    hints = typing.get_type_hints(node)
    for item in fields(node):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{item.name}.")
            continue
        kinds = set(typing.get_args(hint)) or {hint}
        rule = item.metadata
        share = float in kinds and rule.get("at_most", rule.get("below")) in (1, 0.5)
        yield f"{prefix}{item.name}", Key(int in kinds, float in kinds, bool(rule.get("free")) and str in kinds, share)


def _value(value: str, key: str, kind: Key) -> str:
    if key in _LITERAL:
        return _quoted(value)
    if kind.whole or kind.real:
        return ",".join(_number(part, kind) for part in value.split(",")) if not re.search(r"[\[({]", value) else value
    return _quoted(value) if kind.text and not _parses(key, value) else value


def _number(text: str, kind: Key) -> str:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or not (match["suffix"] or re.search(r"[eE_.]", match["number"])):
        return text
    number = float(match["number"].replace("_", ""))
    if match["suffix"] == "%":
        return repr(number / 100) if kind.real else text
    number *= _SUFFIXES.get(match["suffix"], 1)
    if kind.whole and not kind.real:
        return str(int(number)) if number.is_integer() else text
    return repr(number) if match["suffix"] else text


def _parses(key: str, value: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return False
    return True


def _quoted(text: str) -> str:
    """The text in quotes; backslashes stay as they are, except before a quote and the start of an interpolation."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\+)$", r"\1\1", re.sub(r"(\\*)'", r"\1\1\\'", text))
    return f"'{text}'"
