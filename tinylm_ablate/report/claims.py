"""Claims: conclusions of the paper, or of anyone, as short YAML files that runs are held against.

A claim names an experiment, the arms it speaks of by their overrides, one or more tests, the smallest effect that matters, and
where it stands. The paper's own effect is computed from ``paper/*.csv``. Ours are in ``claims/``; a user's may be in a folder
of their own, and one of the same file name takes the place of ours. For instance:

    title: A vocabulary in the middle beats both ends
    source: Section 2.1, Table 1
    experiment: table01_tokenizer
    arms:
      small: {tokenizer.vocab_size: 8000/s}
      middle: {tokenizer.vocab_size: 48000/s}
      large: {tokenizer.vocab_size: 100883/s}
    paper: {table: table01_tokenizer, key: vocab_size, column: average, rows: {small: 8000, middle: 48000, large: 100883}}
    tests:
      - {kind: middle, arm: middle, ends: [small, large], metric: test/bits_per_byte/all, direction: less, smallest: 0.01}

Kinds of test, each with ``smallest`` as the effect below which a difference does not matter:

- ``ordering``: ``order: [best, …, worst]`` tests each arm against the next; ``better: […]`` with ``than: […]`` each of the
  first against each of the second; ``better: […]`` with ``than_mean_of: […]`` against the mean of several. The effect is how
  much better, in the metric's unit. A ``smallest`` below zero asks only that it is not worse by more than that.
- ``middle``: ``arm`` against each of ``ends``.
- ``equivalence``: every two of ``arms`` differ by less than ``smallest``.
- ``threshold``: ``arm`` has ``above`` or ``below`` a bound of the metric, by ``smallest`` at least.
- ``trend``: Spearman's rank correlation of ``column`` with the quality of all arms is over ``smallest``; with ``largest_of``
  its size is also larger than that of each column named there.

``metric`` is a column of ``runs.csv``, or one for each arm: {early: forgetting/part_1, late: forgetting/part_8}. ``relative``
compares ratios (0.1 is 10 %). ``exact`` says that the metric is a count, in which seeds play no part. ``equal_tokens`` leaves a
comparison undecided where the arms have seen different numbers of tokens, as large batches have by a small budget, of which
whole steps are made.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tinylm_ablate.errors import UserError
from tinylm_ablate.report.printed import FOLDER as PAPER

FOLDER = Path(__file__).parent / "claims"

#: Kind -> the keys that it must have, and those that it may have, beside the common ones.
_KINDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "ordering": (frozenset(), frozenset({"order", "better", "than", "than_mean_of"})),
    "middle": (frozenset({"arm", "ends"}), frozenset()),
    "equivalence": (frozenset({"arms"}), frozenset()),
    "threshold": (frozenset({"arm"}), frozenset({"above", "below"})),
    "trend": (frozenset({"column"}), frozenset({"largest_of"})),
}
_COMMON = frozenset({"kind", "metric", "direction", "smallest"})
_OPTIONAL = frozenset({"relative", "exact", "equal_tokens", "paper_column", "paper_direction", "paper_row"})
_DIRECTIONS = {"less": -1, "more": 1}


@dataclass(frozen=True)
class Test:
    """One test of a claim.

    Attributes:
        kind: A key of ``_KINDS``.
        metric: Arm to column; of a trend the one under "".
        better: 1 where more of the metric is better, -1 where less is.
        smallest: The smallest effect that matters.
        comparisons: (an arm, the arms whose mean it is held against), in order; of a threshold the second are empty.
        bound: (bound, 1 if the metric is to be above it and -1 if below) of a threshold.
        column, largest_of: Of a trend.
        relative, exact, equal_tokens: See the beginning of this file.
        paper_column: Column of the paper's table; None for that of the claim.
        paper_better: 1 where more of it is better.
        paper_row: Row of the paper's table that holds a trend's correlation.
    """

    kind: str
    metric: Mapping[str, str]
    better: int
    smallest: float
    comparisons: Sequence[tuple[str, Sequence[str]]]
    bound: tuple[float, int] | None
    column: str
    largest_of: Sequence[str]
    relative: bool
    exact: bool
    equal_tokens: bool
    paper_column: str | None
    paper_better: int
    paper_row: str | None

    @property
    def margin(self) -> float:
        """``smallest`` on the scale on which effects are computed: the logarithm for ratios."""
        return math.log1p(self.smallest) if self.relative else self.smallest


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        name: Stem of its file.
        title: What it says.
        source: Where it says so.
        experiment: Name of the experiment that it is held against.
        arms: Name to overrides.
        tests: All of them must hold.
        printed: Arm to the paper's row for it, as texts; empty where the paper prints none.
        column: The column of these rows that is compared.
        correlations: Row key to the paper's row, for a trend.
        note: What a reader must know beside the verdict.
    """

    name: str
    title: str
    source: str
    experiment: str
    arms: Mapping[str, Mapping[str, str]]
    tests: Sequence[Test]
    printed: Mapping[str, Mapping[str, str]]
    column: str
    correlations: Mapping[str, Mapping[str, str]]
    note: str = ""


def read_claims(folder: Path | None = None) -> list[Claim]:
    """Our claims and those of ``folder``, sorted by name.

    Raises:
        UserError: The folder is none, or with every mistake in its files.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--claims {folder}: is no folder; it holds one YAML file a claim")
    paths = {path.stem: path for place in (FOLDER, folder) if place is not None for path in sorted(place.glob("*.yaml"))}
    claims, mistakes = [], []
    for name in sorted(paths):
        try:
            content = yaml.safe_load(paths[name].read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            mistakes.append(f"{paths[name]}: cannot be read: {' '.join(str(error).split())}")
            continue
        found = _Reader(paths[name])
        claim = found.claim(content)
        mistakes += found.mistakes
        if not found.mistakes and claim is not None:
            claims.append(claim)
    if mistakes:
        raise UserError("\n".join(["claims that cannot be used:", *(f"  - {mistake}" for mistake in mistakes)]))
    return claims


class _Reader:
    """Reads one file and remembers all mistakes in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mistakes: list[str] = []

    def claim(self, content: Any) -> Claim | None:
        """The claim, or None where the file is none."""
        if not isinstance(content, dict):
            self._mistake("", "is a mapping with title, source, experiment and tests")
            return None
        self._keys(content, "", {"title", "source", "experiment", "tests"}, {"arms", "paper", "note"})
        texts = {key: str(content.get(key, "")) for key in ("title", "source", "experiment", "note")}
        arms = self._arms(content.get("arms", {}))
        column, printed, correlations = self._paper(content.get("paper"), arms)
        tests = content.get("tests")
        if not isinstance(tests, list) or not tests:
            self._mistake("tests", "is a list of one test or more")
            tests = []
        found = [self._test(test, f"tests[{number}]", arms) for number, test in enumerate(tests)]
        return Claim(
            self.path.stem, texts["title"], texts["source"], texts["experiment"], arms, [test for test in found if test],
            printed, column, correlations, texts["note"],
        )  # fmt: skip

    def _test(self, content: Any, place: str, arms: Mapping[str, Any]) -> Test | None:
        if not isinstance(content, dict) or content.get("kind") not in _KINDS:
            self._mistake(f"{place}.kind", f"is one of {', '.join(_KINDS)}")
            return None
        kind = content["kind"]
        needed, allowed = _KINDS[kind]
        before = len(self.mistakes)
        self._keys(content, place, _COMMON | needed, allowed | _OPTIONAL)
        for key in ("direction", "paper_direction"):
            if key in content and content[key] not in _DIRECTIONS:
                self._mistake(f"{place}.{key}={content[key]}", f"is one of {', '.join(_DIRECTIONS)}")
        for key in ("smallest", "above", "below"):
            if key in content and (isinstance(content[key], bool) or not isinstance(content[key], int | float)):
                self._mistake(f"{place}.{key}={content[key]}", "is a number")
        if kind == "equivalence" and isinstance(content.get("smallest"), int | float) and content["smallest"] <= 0:
            self._mistake(f"{place}.smallest={content['smallest']}", "is over 0: no two arms are the same to the last digit")
        if kind == "threshold" and len({"above", "below"} & content.keys()) != 1:
            self._mistake(place, "has one of above and below")
        comparisons = self._comparisons(kind, content, place)
        named = list(dict.fromkeys(name for first, others in comparisons for name in (first, *others)))
        for name in named:
            if name not in arms:
                self._mistake(f"{place}: {name}", f"is one of the claim's arms: {', '.join(arms) or 'it has none'}")
        metric = content.get("metric")
        if isinstance(metric, dict):
            for name in named:
                if name not in metric:
                    self._mistake(f"{place}.metric", f"has no column for {name}")
        if len(self.mistakes) > before:
            return None
        above = "above" in content
        return Test(
            kind=kind,
            metric={name: str(metric[name] if isinstance(metric, dict) else metric) for name in named} or {"": str(metric)},
            better=_DIRECTIONS[content["direction"]],
            smallest=float(content["smallest"]),
            comparisons=comparisons,
            bound=(float(content["above" if above else "below"]), 1 if above else -1) if kind == "threshold" else None,
            column=str(content.get("column", "")),
            largest_of=[str(name) for name in content.get("largest_of", [])],
            relative=bool(content.get("relative", False)),
            exact=bool(content.get("exact", False)),
            equal_tokens=bool(content.get("equal_tokens", False)),
            paper_column=content.get("paper_column"),
            paper_better=_DIRECTIONS[content.get("paper_direction", "more")],
            paper_row=content.get("paper_row"),
        )

    def _comparisons(self, kind: str, content: Mapping[str, Any], place: str) -> list[tuple[str, tuple[str, ...]]]:
        """Which arms are compared, as ``Test.comparisons``."""
        lists: dict[str, list[str]] = {}
        for key in ("order", "better", "than", "than_mean_of", "ends", "arms"):
            value = content.get(key, [])
            if not isinstance(value, list):
                self._mistake(f"{place}.{key}={value}", "is a list of arms")
                value = []
            lists[key] = [str(name) for name in value]
        if kind == "middle":
            return [(str(content.get("arm")), (end,)) for end in lists["ends"]]
        if kind == "threshold":
            return [(str(content.get("arm")), ())]
        if kind == "equivalence":
            if len(lists["arms"]) < 2:
                self._mistake(f"{place}.arms", "has two arms or more")
            return [(first, (second,)) for first, second in itertools.combinations(lists["arms"], 2)]
        if kind == "trend":
            return []
        given = {key for key in ("order", "better", "than", "than_mean_of") if lists[key]}
        if given == {"order"} and len(lists["order"]) > 1:
            return [(first, (second,)) for first, second in itertools.pairwise(lists["order"])]
        if given == {"better", "than"}:
            return [(first, (second,)) for first in lists["better"] for second in lists["than"]]
        if given == {"better", "than_mean_of"}:
            return [(first, tuple(lists["than_mean_of"])) for first in lists["better"]]
        self._mistake(place, "has order with two arms or more, or better with one of than and than_mean_of")
        return []

    def _arms(self, content: Any) -> dict[str, dict[str, str]]:
        if not isinstance(content, dict) or not all(isinstance(own, dict) for own in content.values()):
            self._mistake("arms", "gives each arm its overrides, as in {deep: {arch.depth: 40}}")
            return {}
        return {str(name): {str(key): _word(value) for key, value in own.items()} for name, own in content.items()}

    def _paper(
        self, content: Any, arms: Mapping[str, Any]
    ) -> tuple[str, dict[str, Mapping[str, str]], dict[str, Mapping[str, str]]]:
        """The compared column, the row of each arm, and all rows by their key."""
        if content is None:
            return "", {}, {}
        if not isinstance(content, dict):
            self._mistake("paper", "is a mapping with table, key and column")
            return "", {}, {}
        self._keys(content, "paper", {"table", "key", "column"}, {"rows"})
        path = PAPER / f"{content.get('table')}.csv"
        if not path.is_file():
            self._mistake(
                f"paper.table={content.get('table')}", f"is one of {', '.join(sorted(p.stem for p in PAPER.glob('*.csv')))}"
            )
            return "", {}, {}
        with path.open(newline="", encoding="utf-8") as stream:
            table = list(csv.DictReader(stream))
        for name in ("key", "column"):
            if content.get(name) not in table[0]:
                self._mistake(f"paper.{name}={content.get(name)}", f"is one of {', '.join(table[0])}")
                return "", {}, {}
        by_key: dict[str, Mapping[str, str]] = {row[content["key"]]: row for row in table}
        rows: dict[str, Mapping[str, str]] = {}
        for arm, key in (content.get("rows") or {}).items():
            if str(arm) not in arms:
                self._mistake(f"paper.rows.{arm}", f"is one of the claim's arms: {', '.join(arms)}")
            elif str(key) not in by_key:
                self._mistake(f"paper.rows.{arm}={key}", f"is one of {', '.join(by_key)}")
            else:
                rows[str(arm)] = by_key[str(key)]
        return str(content["column"]), rows, by_key

    def _keys(
        self, content: Mapping[str, Any], place: str, needed: set[str] | frozenset[str], more: set[str] | frozenset[str]
    ) -> None:
        for key in sorted(needed - content.keys()):
            self._mistake(f"{place}.{key}".lstrip("."), "is missing")
        for key in sorted(map(str, content.keys() - needed - more)):
            self._mistake(f"{place}.{key}".lstrip("."), f"is no key here; allowed are {', '.join(sorted(needed | more))}")

    def _mistake(self, place: str, what: str) -> None:
        self.mistakes.append(f"{self.path}: {place} {what}".replace(":  ", ": "))


def _word(value: Any) -> str:
    """A value as an override spells it."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
