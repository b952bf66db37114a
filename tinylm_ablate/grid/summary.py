"""The short table at the end of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinylm_ablate.report import measures
from tinylm_ablate.report.arms import SEED, Arm, Run, columns_of
from tinylm_ablate.report.compare import WITHIN_NOISE, compare, written
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.records import flat_record


def summary_table(rows: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]) -> str:
    """A Markdown table, aligned for a terminal: an arm a row, mean ± standard deviation over its seeds.

    Args:
        rows: For each finished cell its values on the axes ("seed" among them if it is one) and its record.

    Returns:
        The table with a line on what may be concluded from it; an empty text without rows.
    """
    if not rows:
        return ""
    axis = list(dict.fromkeys(key for place, _ in rows for key in place if key != SEED))
    arms: list[Arm] = []
    for values, record in rows:
        row = flat_record(record)
        place = {key: values.get(key, "") for key in axis}
        arm = next((arm for arm in arms if arm.place == place), None)
        if arm is None:
            arms.append(arm := Arm(place))
        arm.runs[int(row["seed"])] = Run(str(row["identity"]), int(row["seed"]), row)
    columns = columns_of(arms)
    shown = [
        measures.PARAMETERS, *measures.bits(columns, "test")[-1:], *measures.cloze(columns, "test")[-1:], measures.SPEED
    ]  # fmt: skip
    results = [compare(arms, measure) for measure in shown]
    marks = max(len(arm.runs) for arm in arms) > 1
    head = [*axis, "seeds", *(measure.title for measure in shown)]
    lines = [
        [*arm.place.values(), str(len(arm.runs))]
        + [written(result[index], measure, len(arm.runs), marks) for measure, result in zip(shown, results, strict=True)]
        for index, arm in enumerate(arms)
    ]
    return f"{table(head, lines, words=len(axis))}\n\n{verdict(arms)}".rstrip()


def verdict(arms: Sequence[Arm]) -> str:
    """One sentence on what the seeds allow to conclude; empty for a single arm."""
    if len(arms) < 2:
        return ""
    if max(len(arm.runs) for arm in arms) < 2:
        return "One seed: nothing can be concluded from these differences."
    return (
        f"{WITHIN_NOISE} cannot be told from the best of its column: the paired t-test over seeds, and documents where they "
        "are known, finds no difference at 5 % after Holm's correction for all pairs. Bold: every other arm is worse than that."
    )
