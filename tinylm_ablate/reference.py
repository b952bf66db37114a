"""The config reference, as Markdown, from the schema and ``conf/``: ``python -m tinylm_ablate.reference > docs/config.md``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import yaml

from tinylm_ablate.config import GROUPS, NONE, Config, allowed
from tinylm_ablate.paths import conf_dir
from tinylm_ablate.report.markdown import table

_HEAD = """\
# Every setting

Written by `make docs` from the schema (`tinylm_ablate/config.py`) and `conf/`; not edited by hand.

A setting is given on the command line as `key=value`, one choice of a group as `group=choice`; in an experiment's file as
YAML. Several values, `key=a,b`, make a grid with `-m`. `null` is no value. `${scale.depth}` is the value of another setting,
and `N/s` the paper's size N at the scale that is set. `--cfg job` behind a command prints what it composes to.

**●** marks what can change a run's numbers. Where it does, it is part of the run's identity: with another value it is another
run. The other settings may be changed freely when a run resumes.
"""


def reference() -> str:
    """The page."""
    root = yaml.safe_load((conf_dir() / "config.yaml").read_text(encoding="utf-8"))
    chosen = {group: name for entry in root["defaults"] if isinstance(entry, dict) for group, name in entry.items()}
    parts = [_HEAD]
    for group, kind in GROUPS.items():
        parts += [f"## {group}\n", f"{_sentence(kind)}\n", _choices(group, chosen[group])]
        parts.append(_settings(kind, group, _composed(group, chosen[group])))
    hints = typing.get_type_hints(Config)
    nodes = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind) and name not in GROUPS}
    parts += ["## The rest\n", "Keys without a group.\n", _settings(Config, "", root)]
    for name, node in nodes.items():
        parts += [f"### {name}\n", f"{_sentence(node)}\n", _settings(node, name, root[name])]
    return "\n".join(parts)


def _sentence(node: Any) -> str:
    text = " ".join((node.__doc__ or "").split())
    return f"{text if '=' in text.split()[0] else text[:1].upper() + text[1:]}."


def _choices(group: str, default: str) -> str:
    """The choices of a group, each with the comment at the head of its file and the settings that it changes."""
    lines = []
    for path in sorted((conf_dir() / group).glob("*.yaml"), key=lambda path: (path.stem != default, path.stem)):
        text = path.read_text(encoding="utf-8")
        comment = " ".join(line.lstrip("# ") for line in _leading_comments(text))
        inherited = [entry for entry in yaml.safe_load(text).get("defaults", []) if entry not in ("schema", "_self_")]
        changes = ", ".join(f"`{key}={_text(value)}`" for key, value in _flat(yaml.safe_load(text)))
        said = f"as `{inherited[0]}`, with {changes}" if inherited else ""
        name = f"`{group}={path.stem}`{' (the default)' if path.stem == default else ''}"
        lines.append(
            ": ".join([name, "; ".join(part for part in (comment.rstrip("."), said) if part)]).removesuffix(": ") + "."
        )
    return "".join(f"- {line}\n" for line in lines)


def _leading_comments(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif key != "defaults":
            yield f"{prefix}{key}", value


def _composed(group: str, name: str) -> dict[str, Any]:
    """The values of a choice over those of the choices that it starts from, interpolations as they are written."""
    content: dict[str, Any] = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    result: dict[str, Any] = {}
    for entry in content.pop("defaults"):
        if entry not in ("schema", "_self_"):
            result |= _composed(group, entry)
    return result | content


def _settings(node: Any, prefix: str, defaults: dict[str, Any]) -> str:
    rows = []
    hints = typing.get_type_hints(node)
    for item in dataclasses.fields(node):
        key = f"{prefix}.{item.name}" if prefix else item.name
        if not dataclasses.is_dataclass(hints[item.name]):
            rule = dict(item.metadata)
            mark = "●" if rule["identity"] != NONE else ""
            rows.append(
                [
                    f"`{key}`",
                    mark,
                    f"`{_text(defaults[item.name] if item.name in defaults else item.default_factory())}`",  # type: ignore[operator]
                    allowed(rule | {"type": item.type}),
                    rule["help"],
                ]
            )
        elif prefix:  # a part of a group, such as optimizer.scaling
            inner = _settings(hints[item.name], key, defaults[item.name])
            rows += [[cell.strip() for cell in line.strip("|").split(" | ")] for line in inner.splitlines()[2:]]
    return table(["key", "", "default", "allowed", "what it is"], rows, words=5) + "\n"


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(yaml.safe_dump(value)).split("\n")[0]
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "''"


def main() -> None:
    """Print the page."""
    print(reference(), end="")


if __name__ == "__main__":
    main()
