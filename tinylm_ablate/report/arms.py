"""From runs and grids to arms: the runs that differ in nothing but the seed, and the arms that may be compared."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinylm_ablate.config import Config, nullable, walk
from tinylm_ablate.report.documents import Scores
from tinylm_ablate.report.printed import number
from tinylm_ablate.report.records import Grid

if TYPE_CHECKING:
    import pandas as pd

#: The axis that is averaged over.
SEED = "seed"

#: How much a run trains. Sections that differ in nothing else answer one question, the larger budget better.
_BUDGET = ("train.tokens", "train.tokens_per_parameter", "train.share")

#: What is asked first when two sets of runs must be told apart by their settings.
_TELLING = ("scale.name", "train.tokens", "train.tokens_per_parameter", "data.source", "data.path", "text.fingerprint")


@dataclass(frozen=True)
class Run:
    """One finished run of an arm."""

    identity: str
    seed: int
    values: Mapping[str, Any]
    scores: Scores | None = field(default=None, repr=False)


@dataclass
class Arm:
    """The runs at one place of a grid.

    Attributes:
        place: Where it stands on each axis.
        runs: By seed; empty if none is finished yet.
    """

    place: Mapping[str, str]
    runs: dict[int, Run] = field(default_factory=dict)

    def by_seed(self, column: str) -> dict[int, float]:
        """What was measured, by seed; runs that do not have it are left out."""
        found = {seed: run.values.get(column) for seed, run in sorted(self.runs.items())}
        return {
            seed: float(value)
            for seed, value in found.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and value == value
        }

    def scores(self) -> dict[int, Scores]:
        """What each document came to, by seed; runs of which that is not known are left out."""
        return {seed: run.scores for seed, run in sorted(self.runs.items()) if run.scores is not None}

    @property
    def label(self) -> str:
        """Where it stands, in short: the values alone, long numbers cut."""
        return ", ".join(map(short, self.place.values())) or "all runs"

    def common(self, column: str) -> Any:
        """What all runs of the arm have in a column, or None if they differ or there are none."""
        values = {run.values.get(column) for run in self.runs.values()}
        value = values.pop() if len(values) == 1 else None
        return None if value != value else value


@dataclass
class Section:
    """Arms that differ in nothing but their place on the axes, and so may be compared.

    Attributes:
        label: The settings that set it apart from the other sections; empty if there is only one.
        axis: The axes.
        arms: In the order of the grid.
        doubles: Runs that were left out, since another run of the same arm has the same seed.
        question: Its settings but for the budget: sections with the same ask the same at several budgets.
        smaller: Whether a section with the same question has a larger budget.
    """

    label: str
    axis: Sequence[str]
    arms: list[Arm]
    doubles: list[str] = field(default_factory=list)
    question: tuple[Hashable, ...] = ()
    smaller: bool = False

    @property
    def tokens(self) -> float:
        """Tokens of the run that has most."""
        return max((tokens for arm in self.arms for tokens in arm.by_seed("tokens").values()), default=0.0)

    @property
    def seeds(self) -> int:
        """Seeds of the arm that has most."""
        return max((len(arm.runs) for arm in self.arms), default=0)


def columns_of(arms: Iterable[Arm]) -> list[str]:
    """What the runs of some arms have values of; other runs beside them may have another language, say."""
    runs = [run for arm in arms for run in arm.runs.values()]
    found = (key for run in runs for key, value in run.values.items() if not (isinstance(value, float) and math.isnan(value)))
    return list(dict.fromkeys(found))


def sections(grids: Sequence[Grid], records: pd.DataFrame, scores: Mapping[str, Scores] | None = None) -> list[Section]:
    """The sections of grids that share a name: the largest budget of each question, and then the others; more tokens first.

    Arms of several grids are put together: the same experiment with more seeds, or with another arm. Runs whose other settings
    differ (another scale, text or budget) come into sections of their own, for they cannot be compared. A setting counts as
    other if it differs between runs, can change a run's numbers, and is neither an axis nor follows one within a grid.

    Args:
        grids: Grids of one name.
        records: A row a finished run.
        scores: What each document came to in a run, by identity, where it is known.
    """
    rows = {str(row["identity"]): row for row in records.to_dict("records")}
    axis = list(dict.fromkeys(key for grid in grids for key in grid.axis if key != SEED))
    telling = _settings(grids, rows, axis)
    found: dict[tuple[Hashable, ...], Section] = {}
    for grid in grids:
        finished = [cell for cell in grid.cells if cell.identity in rows]
        for cell in grid.cells if finished else ():
            # A cell that is not finished belongs where the rest of its grid is.
            row = rows.get(cell.identity, rows[finished[0].identity])
            setting = tuple(_plain(row.get(key)) for key in telling)
            section = found.setdefault(setting, Section("", axis, []))
            place = {key: cell.overrides.get(key, _default(row, key)) for key in axis}
            arm = next((arm for arm in section.arms if arm.place == place), None)
            if arm is None:
                section.arms.append(arm := Arm(place))
            if cell.identity in rows:
                values = {str(key): value for key, value in row.items()}
                run = Run(cell.identity, int(row["seed"]), values, (scores or {}).get(cell.identity))
                if arm.runs.setdefault(run.seed, run).identity != run.identity:
                    section.doubles.append(run.identity)
    for setting, label in _labels(telling, list(found)).items():
        found[setting].label = label
        found[setting].question = tuple(value for key, value in zip(telling, setting, strict=True) if key not in _BUDGET)
    for section in found.values():
        section.smaller = any(o.question == section.question and o.tokens > section.tokens for o in found.values())
    return sorted(found.values(), key=lambda section: (section.smaller, -section.tokens, section.label))


def _settings(grids: Sequence[Grid], rows: Mapping[str, Mapping[Hashable, Any]], axis: Sequence[str]) -> list[str]:
    """The columns that tell sections apart, the most telling first."""
    known = {key: rule.get("identity") != "none" for key, _, rule in walk(Config())}
    members = [[rows[cell.identity] for cell in grid.cells if cell.identity in rows] for grid in grids]
    columns = {str(key) for runs in members for row in runs for key in row}
    groups = {key.split(".")[0] for key in known if "." in key}
    null = set(nullable(Config()))

    def may_tell(key: str) -> bool:
        if key == "text.fingerprint":
            return True
        setting = key in known or ("." in key and key.split(".")[0] in groups)
        return setting and known.get(key, True) and key not in axis and not key.startswith(tuple(f"{name}." for name in axis))

    def varies(key: str, runs: Sequence[Mapping[Hashable, Any]]) -> bool:
        # A record that is older than a setting has no value for it, and was made as if it were at rest.
        return len({_plain(row.get(key)) for row in runs} - (set() if key in null else {None})) > 1

    differing = [
        key
        for key in sorted(columns)
        if key != SEED
        and may_tell(key)
        and varies(key, [row for runs in members for row in runs])
        and not any(varies(key, runs) for runs in members)
    ]
    if any(key.startswith("scale.") for key in differing):
        differing.append("scale.name")  # changes nothing by itself, but says it best
    return sorted(differing, key=lambda key: (_TELLING.index(key) if key in _TELLING else len(_TELLING), key))


def _labels(keys: Sequence[str], settings: Sequence[tuple[Hashable, ...]]) -> dict[tuple[Hashable, ...], str]:
    """The shortest label for each of ``settings``: the first keys that suffice to tell them apart."""
    chosen: list[int] = []
    for index in range(len(keys)):
        if len({tuple(setting[i] for i in chosen) for setting in settings}) == len(settings):
            break
        finer = [*chosen, index]
        if len({tuple(s[i] for i in finer) for s in settings}) > len({tuple(s[i] for i in chosen) for s in settings}):
            chosen = finer
    return {s: ", ".join(f"{keys[i]}={'null' if s[i] is None else s[i]}" for i in chosen) for s in settings}


def _default(row: Mapping[Hashable, Any], key: str) -> str:
    """Where a run stands on an axis that its own grid did not have."""
    value = _plain(row.get(key, row.get(f"{key}.name")))
    return "" if value is None else str(value)


def short(text: str) -> str:
    """A value on an axis, long numbers cut: 2.6666666666666665 is 2.667."""
    return f"{float(text):.4g}" if len(text) > 8 and number(text) is not None and "/" not in text else text


def _plain(value: Any) -> Hashable:
    """A value that equals itself: a missing one is None, and 20.0 is 20."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    plain: Hashable = value
    return plain
