"""Translation of the command line into Hydra's grammar; invalid arguments are refused, with the fix in one line.

Text values are taken literally, numbers may be written as ``2M``, ``1e6`` or ``10%``, and common short names stand for keys.
"""

from __future__ import annotations

import difflib
import functools
import re
import shlex
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from tinylm_ablate.config import GROUPS, Config
from tinylm_ablate.errors import ConfigError

#: Description of each verb.
VERBS = {
    "run": "train and measure (the default)",
    "plan": "estimate the cost of a run or grid",
    "status": "report the progress of a run or grid",
    "evaluate": "measure finished runs, without training",
    "generate": "write text with a finished model (prompt=)",
    "export": "write a finished model as a Hugging Face folder or GGUF file (folder=)",
    "coverage": "count how much of the corpus parts of a large vocabulary cover (Figure 2)",
    "report": "write the report on the runs",
    "ui": "serve the MLflow page of the runs on this machine",
    "sync": "update the trackers from the folders of the runs",
    "gc": "list files that no grid needs any longer; --delete removes them",
}

#: Hydra's options without a value, and those with one, with the allowed values if there are few.
_FLAGS = ("-m", "--multirun", "-h", "--help", "--version", "--resolve", "--shell-completion", "-sc")
_WITH_VALUE: dict[str, tuple[str, ...]] = {
    "--cfg": ("job", "hydra", "all"), "-c": ("job", "hydra", "all"), "--config-dir": (), "-cd": (),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}  # fmt: skip
MULTIRUN = {"-m", "--multirun"}

#: Common names for a key.
ALIASES = dict.fromkeys(("lr", "learning_rate", "optimizer.lr", "optimizer.learning_rate"), "optimizer.scaling.base_lr")

#: Settings with arbitrary text, including commas and parentheses.
_LITERAL = {"prompt", "experiment.title", "experiment.note"}

#: Settings with lists of other settings, each of which Hydra's grammar requires in quotes.
_NESTED = {"grid.arms", "grid.exclude"}
_NESTED_SETTING = re.compile(
    r"""'[^']*'|"[^"]*"|"""
    r"""(?P<bare>[^\s\[\]{},:'"]+=(?:[^\[\]{},'"]|\[[^\[\]{}'"]*\]|\{[^\[\]{}'"]*\})*)(?=[\]},]|$)"""
)

_OVERRIDE = re.compile(r"(?P<sign>\+\+|\+|)(?P<key>[\w./@:-]+)=(?P<value>.*)", re.DOTALL)
_SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_NUMBER = re.compile(
    r"(?<![\w.+'\"/-])(?P<number>[+-]?\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?)(?P<suffix>[kKMGBT%]?)(?![\w.%'\"/])"
)
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|int|float)\(")


@dataclass
class Typed:
    """Command line in Hydra's grammar.

    Attributes:
        options: Such as "-m".
        overrides: ``key=value``.
        notes: Messages for the user.
    """

    options: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def grid(self) -> bool:
        """Whether the command line requests a grid."""
        return bool(MULTIRUN & set(self.options))


@dataclass(frozen=True)
class _Key:
    """Kinds of values that a key of the schema takes: whole numbers, real numbers, free text."""

    whole: bool
    real: bool
    text: bool


def normalize(arguments: Sequence[str], grid: bool = False) -> Typed:
    """Translate arguments into Hydra's grammar.

    Args:
        arguments: The words of the command line, without the name of the command.
        grid: Whether a comma separates values of an axis even without ``-m``.

    Raises:
        ConfigError: Some arguments are invalid; it lists all of them.
    """
    typed, mistakes = _split(arguments)
    if typed.grid and {"--cfg", "-c"} & set(typed.options):
        mistakes.append("--cfg: shows the settings of one run; allowed without -m")
    grid = grid or typed.grid
    keys = _keys()
    found: list[str] = []
    names: Counter[str] = Counter()
    for text in typed.overrides:
        match = _OVERRIDE.fullmatch(text)
        if match is None:
            mistakes.append(f"{text}: not understood; settings are written as key=value")
            continue
        key, value, sign = ALIASES.get(match["key"], match["key"]), match["value"], match["sign"]
        names[key] += 1
        if key in ("experiment", "experiments") and not (key == "experiments" and sign == "+"):
            mistakes.append(f"{text}: did you mean +experiments={value}?")
        elif key == "seeds" and not re.fullmatch(r"\d+|null|sequential", value):
            named = value if _SWEEP.match(value) else ",".join(re.findall(r"\d+", value)) or "0,1,2"
            mistakes.append(f"{text}: seeds is the number of seeds, as in seeds=3; to list seeds: -m seed={named}")
        elif key in keys:
            if keys[key].whole and _THOUSANDS.fullmatch(value) and (not grid or ",0" in value):
                mistakes.append(f"{text}: write numbers without commas, as in {key}={value.replace(',', '')}")
            found.append(f"{key}={_value(value, key, keys[key], grid)}")  # without "+", since the key exists
        else:
            found.append(f"{sign}{key}={value}")
    if mistakes:
        raise ConfigError(mistakes)
    notes = [f"note: {key} is set {count} times; the last value is used" for key, count in names.items() if count > 1]
    return Typed(typed.options, found, notes)


def nearest(name: str) -> str | None:
    """Find the key or group that a name probably means: by its last part, as a whole, or by similarity."""
    if name in ALIASES:
        return ALIASES[name]
    keys = list(_keys())
    if exact := [key for key in keys if key.rpartition(".")[2] == name]:
        return min(exact, key=lambda key: (key.count("."), key))
    found = difflib.get_close_matches(name, [*keys, *(() if "." in name else GROUPS), *ALIASES], n=1)
    if not found:
        last = {key.rpartition(".")[2]: key for key in reversed(keys)}
        found = [last[name] for name in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)]
    return ALIASES.get(found[0], found[0]) if found else None


def meant(key: str) -> str:
    """Suggest an existing key, as the end of a message."""
    near = nearest(key)
    return f"; did you mean {near}?" if near else ""


def no_such_choice(value: str, known: Sequence[str]) -> str:
    """Suggest a similar choice, if there is one, and list all."""
    close = difflib.get_close_matches(value, known, n=1) or [name for name in known if value and value in name]
    close = (
        close
        or [  # table01 for table01_tokenizer
            name for name in known if difflib.get_close_matches(value, [name[: len(value)]], n=1, cutoff=0.8)
        ]
    )
    hint = f"did you mean {close[0]}? " if close else ""
    return f"no such choice; {hint}allowed: {', '.join(known)}"


def _split(arguments: Sequence[str]) -> tuple[Typed, list[str]]:
    """Split arguments into options and overrides; everything else is a mistake."""
    typed = Typed()
    options, overrides, mistakes = typed.options, typed.overrides, list[str]()
    rest = list(arguments)
    while rest:
        text = rest.pop(0)
        following = rest[0] if rest else ""
        name, _, value = text.partition("=")
        if text in _FLAGS:
            options.append(text)
        elif name in _WITH_VALUE:
            if text == name and following and "=" not in following:
                value = rest.pop(0)
            options += [name, value] if value else [name]
            if (value or name != "--info") and _WITH_VALUE[name] and value not in _WITH_VALUE[name]:
                mistakes.append(f"{name} {value}: allowed: {', '.join(_WITH_VALUE[name])}")
        elif text.startswith("-"):
            near = difflib.get_close_matches(text, [*_FLAGS, *_WITH_VALUE], n=1) if text.startswith("--") else []
            if not value and following and "=" not in following and following[0] != "-":
                value = rest.pop(0)
            mistakes.append(f"{text}: no such option{_option_hint(name, value, near)}")
        elif following == "=" or (following.startswith("=") and "=" not in text):
            parts = [text, rest.pop(0)]
            if parts[1] == "=" and rest:
                parts.append(rest.pop(0))
            mistakes.append(f"{' '.join(parts)}: write it without spaces: {''.join(parts)}")
        elif "=" in text and text.endswith((",", "=")) and following and "=" not in following and following[0] != "-":
            parts = [text]
            while rest and "=" not in rest[0] and rest[0][0] != "-":
                parts.append(rest.pop(0))
            cure = shlex.quote(" ".join(parts)) if name in _LITERAL else "".join(parts)
            mistakes.append(f"{' '.join(parts)}: write it {'in quotes' if name in _LITERAL else 'without spaces'}: {cure}")
        elif text.startswith("~"):
            mistakes.append(f"{text}: settings cannot be removed; set another value, as in tracking=none")
        elif "=" in text:
            overrides.append(text)
        else:
            first = not overrides and not mistakes
            mistakes.append(f"{text}: not understood; settings are written as key=value{_hint(text, overrides, first)}")
    return typed, mistakes


def _option_hint(name: str, value: str, near: Sequence[str]) -> str:
    """Suggest an existing option."""
    word = name.lstrip("-").replace("-", "_")
    keys = list(_keys())
    if near and not any(key == word or key.endswith(f".{word}") for key in keys):
        return f"; did you mean {near[0]}?"
    key = nearest(word)
    return f": write {key}={value or '…'}" if key else "; settings are written as key=value"


def _hint(text: str, before: Sequence[str], first: bool) -> str:
    """Suggest a setting or verb for a word without "="."""
    if text in VERBS:
        return f"; the verb is the first word: tinylm-ablate {text} …"
    if text == "help":
        return "; did you mean --help?"
    if before:
        return f"; a value with spaces is written in quotes, as in '{before[-1]} {text}'"
    verb = difflib.get_close_matches(text, VERBS, n=1) if first else []
    near = nearest(text)
    return f"; did you mean the verb {verb[0]}?" if verb else f"; did you mean {near}=…?" if near else ""


@functools.cache
def _keys() -> dict[str, _Key]:
    """Return every key of the schema, with the kinds of values that it takes."""
    return dict(_entries(Config))


def _entries(node: Any, prefix: str = "") -> Iterator[tuple[str, _Key]]:
    hints = typing.get_type_hints(node)
    for item in fields(node):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from _entries(hint, f"{prefix}{item.name}.")
            continue
        kinds = set(typing.get_args(hint)) or {hint}
        free = bool(item.metadata.get("free")) and str in kinds
        yield f"{prefix}{item.name}", _Key(int in kinds, float in kinds, free)


def _value(value: str, key: str, kind: _Key, grid: bool) -> str:
    if key in _LITERAL:
        return _quoted(value)
    if key in _NESTED and not _understood(key, value):
        return _NESTED_SETTING.sub(lambda match: f"'{match['bare'].strip()}'" if match["bare"] else match[0], value)
    if kind.whole or kind.real:
        return _NUMBER.sub(lambda match: _number(match, kind), value)
    if not kind.text or _SWEEP.match(value):
        return value
    parts = value.split(",") if grid and not _understood(key, value) else [value]
    return ",".join(part if _understood(key, part, grid) else _quoted(part) for part in parts)


def _number(match: re.Match[str], kind: _Key) -> str:
    text = match[0]
    if not (match["suffix"] or re.search(r"[eE_.]", match["number"])):
        return text
    number = float(match["number"].replace("_", ""))
    if match["suffix"] == "%":
        return repr(number / 100) if kind.real else text
    number *= _SUFFIXES.get(match["suffix"], 1)
    if kind.whole and not kind.real:
        return str(int(number)) if number.is_integer() else text
    return repr(number) if match["suffix"] else text


def _understood(key: str, value: str, grid: bool = True) -> bool:
    """Return whether Hydra reads a value as intended: unless a grid is requested, a comma is part of the text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        several = OverridesParser.create().parse_override(f"{key}={value}").is_sweep_override()
    except HydraException:
        return False
    return grid or not several


def _quoted(text: str) -> str:
    """Quote a text; backslashes are kept, except before a quote or the start of an interpolation."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\+)$", r"\1\1", re.sub(r"(\\*)'", r"\1\1\\'", text))
    return f"'{text}'"
