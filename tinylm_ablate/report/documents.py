"""What each held-out document and cloze question came to in each run: kept small, and asked for the variance that their choice
brings into a comparison.

All runs on one text are asked about the same items, so these are written once, to ``results/documents/items-<set>.csv``
(measure, language, item, size), and a run has ``results/documents/<identity>.json`` with its values in that order: nats of a
document, and 1 or 0 for a question that was answered right or wrong. Only the test split is kept.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint
from tinylm_ablate.report.statistics import Estimate, common, contrast, ratio_variance

#: The folder in the results.
NAME = "documents"

_SCHEMA = 1
_HEAD = ["measure", "language", "item", "size"]

#: Measure -> what a sum of values over a sum of sizes is divided by.
_UNITS = {"bits_per_byte": math.log(2), "cloze": 1.0}

#: Digits of an item's name that are kept: enough to tell thousands apart.
_DIGITS = 12

Group = tuple[NDArray[np.float64], NDArray[np.float64]]

#: Measure, language, name, size.
Item = tuple[str, str, str, int]


@dataclass(frozen=True)
class Scores:
    """A run's values, item for item.

    Attributes:
        items: Which items these are; runs with the same are comparable item for item.
        groups: (measure, language) -> values and sizes, (m,) each.
    """

    items: str
    groups: Mapping[tuple[str, str], Group]


def compact(folder: Path, metrics: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """A run's items as kept: name of the set, its CSV, and the run's JSON. None if the run has no documents.

    Args:
        folder: Of the run.
        metrics: Its columns, to which the documents must add up.

    Raises:
        ValueError, KeyError, OSError: A file is damaged, or says something else than the run's record.
    """
    import pandas as pd

    if not (folder / "documents.parquet").is_file():
        return None
    rows: list[Item] = []
    values: list[float | int] = []
    documents = pd.read_parquet(folder / "documents.parquet")
    documents = documents[(documents["split"] == "test") & (documents["bytes"] > 0)]
    for language, name, nats, size in documents[["language", "document", "nats", "bytes"]].itertuples(index=False):
        rows.append(("bits_per_byte", str(language), str(name)[:_DIGITS], int(size)))
        values.append(float(f"{nats:.6g}"))
    if (folder / "questions.parquet").is_file():
        questions = pd.read_parquet(folder / "questions.parquet")
        questions = questions[questions["split"] == "test"]
        for language, name, correct in questions[["language", "question", "correct"]].itertuples(index=False):
            rows.append(("cloze", str(language), str(name)[:_DIGITS], 1))
            values.append(int(correct))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_HEAD, *rows])
    items = fingerprint([list(row) for row in rows])
    scores = Scores(items, _groups(rows, values))
    for (measure, language), (nats_, sizes) in scores.groups.items():
        recorded = metrics.get(f"test/{measure}/{language}")
        found = float(nats_.sum() / sizes.sum() / _UNITS[measure])
        if not isinstance(recorded, int | float) or abs(recorded - found) > 1e-4:
            raise ValueError(f"its {language} items come to {measure} {found:.5f}, and metrics.json has {recorded}")
    return items, stream.getvalue(), json.dumps({"schema": _SCHEMA, "items": items, "values": values}) + "\n"


def read(results: Path, identities: Iterable[str]) -> dict[str, Scores]:
    """The scores of runs as kept in ``results``, by identity; runs without are left out.

    Raises:
        UserError: A file is damaged.
    """
    sets: dict[str, list[Item]] = {}
    found: dict[str, Scores] = {}
    for identity in identities:
        path = results / NAME / f"{identity}.json"
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text())
            if content["schema"] != _SCHEMA:
                raise ValueError(f"schema {content['schema']} is not {_SCHEMA}")
            items, values = str(content["items"]), [float(value) for value in content["values"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from None
        if items not in sets:
            sets[items] = _rows(path.with_name(f"items-{items}.csv"))
        if len(sets[items]) != len(values):
            raise _damaged(path, ValueError(f"{len(values)} values for the {len(sets[items])} items of items-{items}.csv"))
        found[identity] = Scores(items, _groups(sets[items], values))
    return found


def _rows(path: Path) -> list[Item]:
    try:
        with path.open(newline="") as stream:
            lines = list(csv.reader(stream))
        if lines[:1] != [_HEAD]:
            raise ValueError(f"its first line is not {','.join(_HEAD)}")
        rows = [(measure, language, item, int(size)) for measure, language, item, size in lines[1:]]
        if {row[0] for row in rows} - _UNITS.keys() or any(row[3] < 1 for row in rows):
            raise ValueError(f"a measure is one of {', '.join(_UNITS)}, and a size at least 1")
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return rows


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read ({error}): restore it, or delete it and run the report again with its run")


def _groups(rows: Sequence[Item], values: Sequence[float]) -> dict[tuple[str, str], Group]:
    found: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for (measure, language, _, size), value in zip(rows, values, strict=True):
        own = found.setdefault((measure, language), ([], []))
        own[0].append(value)
        own[1].append(size)
    return {key: (np.array(own), np.array(sizes, dtype=np.float64)) for key, (own, sizes) in found.items()}


def estimate(
    values: Sequence[Mapping[int, float]], scores: Sequence[Mapping[int, Scores]], weights: Sequence[float], column: str
) -> Estimate | None:
    """A weighted sum of arms over the seeds that all have, with the variance that the choice of documents brings.

    Args:
        values: Seed to the column's value, for each arm.
        scores: Seed to scores, for each arm; the variance is left out unless all runs have scores of the same items.
        weights: One for each arm: (1, -1) is the difference of two.
        column: Such as "test/bits_per_byte/all".
    """
    found = contrast(values, weights)
    parts = sums(values, scores, weights, column)
    if found is None or not parts:
        return found
    variances = [ratio_variance(own.mean(axis=0), sizes) for own, sizes in parts if len(sizes) > 1]
    shares = tuple((variance / len(parts) ** 2, free) for variance, free in variances)
    return Estimate(found.mean, found.deviation, found.pairs, shares)


def sums(
    values: Sequence[Mapping[int, float]], scores: Sequence[Mapping[int, Scores]], weights: Sequence[float], column: str
) -> list[Group]:
    """The weighted sum of arms for each seed and item, (seeds, m), and the items' sizes, (m,), for each language.

    In bits, or in shares of right answers. Empty where a run has no scores, or the items differ.
    """
    split, _, rest = column.partition("/")
    measure, _, language = rest.partition("/")
    seeds = common(values)
    own = [[arm.get(seed) for arm in scores] for seed in seeds]
    if split != "test" or measure not in _UNITS or len({None if run is None else run.items for row in own for run in row}) != 1:
        return []
    first = own[0][0]
    if first is None:
        return []
    keys = [key for key in sorted(first.groups) if key[0] == measure and language in (key[1], "all")]
    return [
        (
            np.array([sum(w * run.groups[key][0] for w, run in zip(weights, row, strict=True) if run) for row in own])
            / _UNITS[measure],
            first.groups[key][1],
        )
        for key in keys
    ]
