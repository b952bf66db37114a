"""Reading of claims from YAML files, with all mistakes in all files (``tinylm_ablate.science.claim`` describes the format)."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tinylm_ablate.arguments import ALIASES, no_such_choice
from tinylm_ablate.config import GROUPS
from tinylm_ablate.config_values import accepts, allowed, rules
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import read_yaml
from tinylm_ablate.paths import choices
from tinylm_ablate.science.claim import GATES, Claim, Test

FOLDER = Path(__file__).parent / "claims"

#: Kind -> required keys, and optional keys in addition to the common ones.
_KINDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "ordering": (frozenset(), frozenset({"order", "better", "than", "than_mean_of"})),
    "no_worse": (frozenset(), frozenset({"order", "better", "than", "than_mean_of"})),
    "equivalence": (frozenset({"arms"}), frozenset()),
    "threshold": (frozenset({"arm"}), frozenset({"above", "below"})),
    "rule": (frozenset({"conditions"}), frozenset()),
    "correlation": (frozenset({"column", "sign", "margin"}), frozenset({"largest_of"})),
}

_COMMON = frozenset({"kind", "metric", "direction"})

_OPTIONAL = frozenset({"margin", "relative", "exact", "equal_tokens", "paper_column", "paper_direction", "paper_row"})

_DIRECTIONS = {"less": -1, "more": 1}

_LISTS = ("order", "better", "than", "than_mean_of", "arms", "largest_of")


def read_claims(
    folder: Path | None = None, keys: Collection[str] | None = None, tables: Mapping[str, pd.DataFrame] | None = None
) -> list[Claim]:
    """Load the claims of this package and of ``folder``, sorted by name; a file in ``folder`` replaces ours of that name.

    Args:
        folder: Holds one YAML file per claim.
        keys: Every key that an arm's overrides may use: configuration keys, config groups, "arm"; None accepts any.
        tables: The paper's tables by name, all columns as text; None omits the paper's effects.

    Raises:
        UserError: Some files have mistakes; it lists all of them.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--claims {folder}: is not a folder; expected one with a YAML file per claim")
    paths = {path.stem: path for place in (FOLDER, folder) if place is not None for path in sorted(place.glob("*.yaml"))}
    claims, mistakes = [], []
    for name in sorted(paths):
        try:
            content = read_yaml(paths[name])
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            mistakes.append(f"{paths[name]}: cannot be read: {' '.join(str(error).split())}")
            continue
        claim, found = parse(name, content, keys, tables)
        mistakes += [f"{paths[name]}: {mistake}" for mistake in found]
        if claim is not None:
            claims.append(claim)
    if mistakes:
        raise UserError("\n".join(["claims that cannot be used:", *(f"  - {mistake}" for mistake in mistakes)]))
    return claims


def parse(
    name: str, content: Any, keys: Collection[str] | None = None, tables: Mapping[str, pd.DataFrame] | None = None
) -> tuple[Claim | None, list[str]]:
    """Parse a file's content; returns the claim, or None, and all mistakes."""
    reader = _Reader(keys, tables)
    claim = reader.claim(name, content)
    return (None if reader.mistakes else claim), reader.mistakes


class _Reader:
    """Parser of one claim that collects all mistakes."""

    def __init__(self, keys: Collection[str] | None, tables: Mapping[str, pd.DataFrame] | None) -> None:
        self.keys = keys
        self.tables = tables
        self.mistakes: list[str] = []

    def claim(self, name: str, content: Any) -> Claim | None:
        if not isinstance(content, dict):
            self._mistake("", "must be a mapping with title, source, experiment and tests")
            return None
        self._check(
            content, "", {"title", "source", "experiment", "tests"}, {"arms", "paper", "note", "ours", "reference", "gates"}
        )
        arms = self._arms(content.get("arms", {}))
        column, printed, correlations = self._paper(content.get("paper"), arms)
        tests = content.get("tests")
        if not isinstance(tests, list) or not tests:
            self._mistake("tests", "must be a list of at least one test")
            tests = []
        found = [self._test(test, f"tests[{number}]", arms) for number, test in enumerate(tests)]
        gates = content.get("gates", list(GATES))
        if not isinstance(gates, list) or set(map(str, gates)) - set(GATES):
            self._mistake(f"gates={gates}", f"must be a list of some of {', '.join(GATES)}")
            gates = []
        if not isinstance(content.get("ours", False), bool):
            self._mistake(f"ours={content['ours']}", "must be true or false")
        reference = str(content.get("reference", ""))
        if reference and reference not in arms:
            self._mistake(f"reference={reference}", f"must be one of the claim's arms: {', '.join(arms) or 'it has none'}")
        compared = [comparison for test in found if test for comparison in test.comparisons]
        if not reference and compared:
            first, others = compared[0]
            reference = others[0] if others else first
        return Claim(
            name=name, title=str(content.get("title", "")), source=str(content.get("source", "")),
            experiment=str(content.get("experiment", "")), arms=arms, tests=[test for test in found if test],
            ours=content.get("ours", False) is True, reference=reference, gates=tuple(map(str, gates)), printed=printed,
            column=column, correlations=correlations, note=str(content.get("note", "")).strip(),
        )  # fmt: skip

    def _test(self, content: Any, place: str, arms: Mapping[str, Any]) -> Test | None:
        if not isinstance(content, dict) or content.get("kind") not in _KINDS:
            self._mistake(f"{place}.kind", f"must be one of {', '.join(_KINDS)}")
            return None
        kind = str(content["kind"])
        needed, allowed = _KINDS[kind]
        before = len(self.mistakes)
        self._check(content, place, _COMMON | needed, allowed | _OPTIONAL)
        for key in ("direction", "paper_direction"):
            if key in content and content[key] not in _DIRECTIONS:
                self._mistake(f"{place}.{key}={content[key]}", f"must be one of {', '.join(_DIRECTIONS)}")
        margin = self._margin(kind, content, place)
        for key in ("above", "below"):
            if key in content and not _is_number(content[key]):
                self._mistake(f"{place}.{key}={content[key]}", "must be a number")
        for key in ("relative", "exact", "equal_tokens"):
            if not isinstance(content.get(key, False), bool):
                self._mistake(f"{place}.{key}={content[key]}", "must be true or false")
        if kind == "threshold" and len({"above", "below"} & content.keys()) != 1:
            self._mistake(place, "must have one of above and below")
        if kind == "correlation" and content.get("sign") not in (-1, 0, 1):
            self._mistake(f"{place}.sign={content.get('sign')}", "must be -1, 0 or 1")
        comparisons = self._comparisons(kind, content, place)
        named = list(dict.fromkeys(name for first, others in comparisons for name in (first, *others)))
        for name in named:
            if name not in arms:
                self._mistake(f"{place}: {name}", f"must be one of the claim's arms: {', '.join(arms) or 'it has none'}")
        metric = content.get("metric")
        for column in metric.values() if isinstance(metric, dict) else [metric]:
            if re.match("along/", str(column)) and not re.match(r"along/(1|0?\.\d+)/.", str(column)):
                self._mistake(f"{place}.metric={column}", "must be along/SHARE/METRIC with a share above 0 up to 1")
        if isinstance(metric, dict):
            for name in named:
                if name not in metric:
                    self._mistake(f"{place}.metric", f"has no column for {name}")
        conditions = self._conditions(content, place) if kind == "rule" else {}
        if len(self.mistakes) > before:
            return None
        side = "above" if "above" in content else "below"
        return Test(
            kind=kind,
            metric={name: str(metric[name] if isinstance(metric, dict) else metric) for name in named} or {"": str(metric)},
            direction=_DIRECTIONS[content["direction"]],
            margin=math.log1p(margin) if content.get("relative") and margin is not None else margin,
            comparisons=comparisons,
            bound=_bound(side, content[side]) if kind == "threshold" else None,
            conditions=conditions,
            column=str(content.get("column", "")),
            sign=int(content.get("sign", 1)),
            largest_of=[str(name) for name in content.get("largest_of", [])],
            relative=content.get("relative", False),
            exact=content.get("exact", False),
            equal_tokens=content.get("equal_tokens", False),
            paper_column=content.get("paper_column"),
            paper_direction=_DIRECTIONS[content.get("paper_direction", "more")],
            paper_row=content.get("paper_row"),
        )

    def _margin(self, kind: str, content: Mapping[str, Any], place: str) -> float | None:
        margin = content.get("margin", "tokens")
        if margin == "tokens":
            if kind == "threshold" or content.get("relative"):
                self._mistake(f"{place}.margin", "must be a number here: it has no meaning in tokens")
            return None
        if not _is_number(margin) or margin < 0:
            self._mistake(f"{place}.margin={margin}", "must be a number of at least 0, or tokens")
            return None
        if margin == 0 and kind == "equivalence":
            self._mistake(f"{place}.margin={margin}", "must be above 0: no two arms are equal to the last digit")
        return float(margin)

    def _comparisons(self, kind: str, content: Mapping[str, Any], place: str) -> list[tuple[str, tuple[str, ...]]]:
        """Return the arms to compare, as ``Test.comparisons``."""
        lists: dict[str, list[str]] = {}
        for key in _LISTS:
            value = content.get(key, [])
            if not isinstance(value, list):
                self._mistake(f"{place}.{key}={value}", "must be a list")
                value = []
            lists[key] = [str(name) for name in value]
        if kind == "threshold":
            return [(str(content.get("arm")), ())]
        if kind == "equivalence":
            if len(lists["arms"]) < 2:
                self._mistake(f"{place}.arms", "must have at least two arms")
            return [(first, (second,)) for first, second in itertools.combinations(lists["arms"], 2)]
        if kind in ("rule", "correlation"):
            return []
        given = {key for key in ("order", "better", "than", "than_mean_of") if lists[key]}
        if given == {"order"} and len(lists["order"]) > 1:
            return [(first, (second,)) for first, second in itertools.pairwise(lists["order"])]
        if given == {"better", "than"}:
            return [(first, (second,)) for first in lists["better"] for second in lists["than"]]
        if given == {"better", "than_mean_of"}:
            return [(first, tuple(lists["than_mean_of"])) for first in lists["better"]]
        self._mistake(place, "must have order with at least two arms, or better with one of than and than_mean_of")
        return []

    def _conditions(self, content: Mapping[str, Any], place: str) -> dict[str, tuple[float, int]]:
        found: dict[str, tuple[float, int]] = {}
        conditions = content.get("conditions")
        if not isinstance(conditions, dict) or not conditions:
            self._mistake(f"{place}.conditions", "must give columns their bounds, as in {embedding_head_share: {below: 20}}")
            return found
        for column, bounds in conditions.items():
            if not isinstance(bounds, dict) or len(bounds) != 1 or not set(bounds) <= {"above", "below"}:
                self._mistake(f"{place}.conditions.{column}", "must be {above: NUMBER} or {below: NUMBER}")
                continue
            side, value = next(iter(bounds.items()))
            if not _is_number(value):
                self._mistake(f"{place}.conditions.{column}.{side}={value}", "must be a number")
                continue
            found[str(column)] = _bound(side, value)
        return found

    def _arms(self, content: Any) -> dict[str, dict[str, str]]:
        if not isinstance(content, dict) or not all(isinstance(own, dict) for own in content.values()):
            self._mistake("arms", "must give each arm its overrides, as in {deep: {arch.depth: 40}}")
            return {}
        found: dict[str, dict[str, str]] = {}
        for name, own in content.items():
            arm = found[str(name)] = {}
            for written, value in own.items():
                key = ALIASES.get(str(written), str(written))
                arm[key] = word(value)
                if self.keys is not None and key not in self.keys:
                    self._mistake(f"arms.{name}.{key}", f"is not a configuration key{_closest(key, self.keys)}")
                elif key in rules() and not accepts(key, value):
                    self._mistake(f"arms.{name}.{key}={value}", f"must be {allowed(rules()[key])}")
                elif key in GROUPS and arm[key] not in choices(key):
                    self._mistake(f"arms.{name}.{key}={value}:", no_such_choice(arm[key], choices(key)))
        return found

    def _paper(
        self, content: Any, arms: Mapping[str, Any]
    ) -> tuple[str, dict[str, Mapping[str, str]], dict[str, Mapping[str, str]]]:
        """Return the compared column, the row of each arm, and all rows by their key."""
        if content is None:
            return "", {}, {}
        if not isinstance(content, dict):
            self._mistake("paper", "must be a mapping with table, key and column")
            return "", {}, {}
        self._check(content, "paper", {"table", "key", "column"}, {"rows"})
        if self.tables is None:
            return str(content.get("column", "")), {}, {}
        table = self.tables.get(str(content.get("table")))
        if table is None:
            self._mistake(f"paper.table={content.get('table')}", f"must be one of {', '.join(sorted(self.tables))}")
            return "", {}, {}
        for name in ("key", "column"):
            if content.get(name) not in table.columns:
                self._mistake(f"paper.{name}={content.get(name)}", f"must be one of {', '.join(table.columns)}")
                return "", {}, {}
        by_key = {str(row[content["key"]]): {str(k): str(v) for k, v in row.items()} for row in table.to_dict("records")}
        rows: dict[str, Mapping[str, str]] = {}
        for arm, key in (content.get("rows") or {}).items():
            if str(arm) not in arms:
                self._mistake(f"paper.rows.{arm}", f"must be one of the claim's arms: {', '.join(arms)}")
            elif str(key) not in by_key:
                self._mistake(f"paper.rows.{arm}={key}", f"must be one of {', '.join(by_key)}")
            else:
                rows[str(arm)] = by_key[str(key)]
        return str(content["column"]), rows, dict(by_key)

    def _check(
        self, content: Mapping[str, Any], place: str, needed: set[str] | frozenset[str], more: set[str] | frozenset[str]
    ) -> None:
        for key in sorted(needed - content.keys()):
            self._mistake(f"{place}.{key}".lstrip("."), "is missing")
        for key in sorted(map(str, content.keys() - needed - more)):
            self._mistake(f"{place}.{key}".lstrip("."), f"is not a key here; allowed are {', '.join(sorted(needed | more))}")

    def _mistake(self, place: str, what: str) -> None:
        self.mistakes.append(f"{place} {what}".strip())


def word(value: Any) -> str:
    """Format a value as in an override."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _bound(side: str, value: float) -> tuple[float, int]:
    return float(value), 1 if side == "above" else -1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _closest(key: str, keys: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(key, list(keys), 1)
    return f"; the closest is {near[0]}" if near else ""
