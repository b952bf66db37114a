"""Redaction of passwords and tokens in everything that is written or printed."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

T = TypeVar("T")

#: Replacement for a secret.
CUT = "***"

#: Shorter values of environment variables are too likely to occur in ordinary text.
_SHORTEST_VALUE, _SHORTEST_SECRET = 8, 6

# A name is split at everything but letters and digits; these words make it the name of a secret.
_WORDS = {"password", "passwd", "passphrase", "secret", "credential", "credentials", "apikey", "authorization"}
_PAIRS = {("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("account", "key")}
#: A name that ends in "token" is a secret's, unless one of these words precedes it, as is common in language modeling.
_HARMLESS = {"per", "bos", "eos", "pad", "unk", "sep", "cls", "mask", "special", "text", "next", "first", "last", "new"}

# The authority of an address up to its last "@". After a ":" that begins no port, it may contain any unquoted password.
_USERINFO = re.compile(r"""(?<=://)(?:[^\s'"/?#@:]*:(?!\d+(?:[/?#'"\s]|$))[^\s'"]*|[^\s'"/?#]*)@""")
_BARE_USERINFO = re.compile(r"""(?<![\w/.:@-])[\w.+-]+:[^\s'"/:@]+@(?=[\w\[])""")
_ASSIGNMENT = re.compile(
    r"""(?P<name>[A-Za-z][\w.\-]*)(?P<equals>["']?\s*[=:]\s*)"""
    r"""(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?:(?:Bearer|Basic)\s+)?[^\s,;&"'}\]]+)"""
)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
    r"|AKIA[0-9A-Z]{12,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+|Bearer\s+[\w.~+/=-]{8,})"
)

#: Shell variables whose names only look like a password's.
_FOLDERS = {"PWD", "OLDPWD"}

#: Values that ``${oc.env:NAME}`` resolved to in this process, with the names of the variables.
_resolved: dict[str, str] = {}


def cut(value: T) -> T:
    """Redact secrets in a value; lists and mappings are copied, and other types are returned unchanged.

    Redacts the userinfo of addresses, the values of keys that look like a password's or token's, tokens in well-known formats,
    values of environment variables with such names, and values that ``${oc.env:NAME}`` resolved to, which are shown as that
    expression. The function is idempotent.
    """
    return _cut(value, _environment())


def _cut(value: T, known: Sequence[tuple[str, str, bool]]) -> T:
    """``cut``, given the values of the environment to cut."""
    result: Any = value
    if isinstance(value, str):
        result = _cut_text(value, known)
    elif isinstance(value, dict):
        result = {key: CUT if names_secret(str(key)) and _holds(entry) else _cut(entry, known) for key, entry in value.items()}
    elif isinstance(value, list | tuple):
        # "--password X" is two words.
        words = [None, *value][:-1]
        items = [
            CUT
            if isinstance(before, str) and before.startswith("--") and names_secret(before) and _holds(entry)
            else _cut(entry, known)
            for before, entry in zip(words, value, strict=True)
        ]
        result = items if isinstance(value, list) else tuple(items)
    return result  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=4096)  # a grid of ten thousand cells asks about the same names again and again
def names_secret(name: str) -> bool:
    """Return whether a key, an option or an environment variable looks like the name of a secret."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|\d+", name)]
    if _WORDS.intersection(words) or _PAIRS.intersection(itertools.pairwise(words)):
        return True
    if words[-1:] == ["pwd"]:
        return len(words) > 1  # PWD itself is the working directory
    return words[-1:] == ["token"] and not _HARMLESS.intersection(words[-2:-1])


def watch_environment() -> None:
    """Make ``${oc.env:NAME}`` record the values it resolves to, so that ``cut`` can show the expression instead."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    absent = object()

    def env(name: str, default: Any = absent) -> str | None:
        value = oc.env(name) if default is absent else oc.env(name, default)
        if name in os.environ and value:
            _resolved[value] = name
        return value

    OmegaConf.register_new_resolver("oc.env", env, replace=True)


def credentials_to_environment(address: str) -> str:
    """Remove the userinfo from the address of an HTTP or PostgreSQL server and store it in environment variables.

    This process and its children use it from there, so that it appears in no config, record or process list. Other addresses
    are returned unchanged.
    """
    parts = urlsplit(address)
    kind = parts.scheme.partition("+")[0]
    names = {
        "http": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), "postgresql": ("PGUSER", "PGPASSWORD"),
    }.get(kind.removesuffix("s"))  # fmt: skip
    if names is None or "@" not in parts.netloc:
        return address
    userinfo, _, host = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    os.environ |= dict(zip(names, (unquote(user), unquote(password)), strict=True))
    return urlunsplit(parts._replace(netloc=host))


def _cut_text(text: str, known: Sequence[tuple[str, str, bool]]) -> str:
    text = _BARE_USERINFO.sub(f"{CUT}@", _USERINFO.sub(f"{CUT}@", text))
    text = _SHAPES.sub(CUT, _ASSIGNMENT.sub(_cut_assignment, text))
    for value, shown, whole in known:
        if value in text:
            text = shown.join(re.split(rf"(?<!\w){re.escape(value)}(?!\w)", text) if whole else text.split(value))
    return text


def _cut_assignment(match: re.Match[str]) -> str:
    value = match["value"]
    if not names_secret(match["name"]) or value.strip("\"'") in {"", "null", "None", CUT} or "${" in value:
        return match[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{match['name']}{match['equals']}{quote}{CUT}{quote}"


def _environment() -> list[tuple[str, str, bool]]:
    """Values to redact, the longest first: the value, its replacement, and whether it must be a whole word."""
    found = {
        value: (CUT, False)
        for name, value in os.environ.items()
        if names_secret(name) and name not in _FOLDERS and len(value) >= _SHORTEST_SECRET
    }
    for value, name in _resolved.items():
        if len(value) >= (_SHORTEST_SECRET if names_secret(name) else _SHORTEST_VALUE):
            found[value] = (f"${{oc.env:{name}}}", not names_secret(name))
    return [(value, *found[value]) for value in sorted(found, key=len, reverse=True)]


def _holds(value: Any) -> bool:
    return isinstance(value, str | bytes | int) and not isinstance(value, bool) and value not in ("", CUT)
