"""The short table at the end of a grid, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinylm_ablate.report import measures
from tinylm_ablate.report.arms import SEED, axis_column, setting_keys, short
from tinylm_ablate.report.blocks import plain
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.page import WITHIN_NOISE, value_cell
from tinylm_ablate.report.records import flatten, frame
from tinylm_ablate.science.evidence import Evidence, settings
from tinylm_ablate.science.pairs import results


def summary_table(rows: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]) -> str:
    """A Markdown table, aligned for a terminal: one row per arm, mean ± standard deviation over its seeds.

    Args:
        rows: For each finished cell its values on the axes ("seed" among them if it is one) and its record, with the metrics
            of what was measured.

    Returns:
        The table with a sentence on what may be concluded from it; empty without rows.
    """
    if not rows:
        return ""
    axis = list(dict.fromkeys(key for place, _ in rows for key in place if key != SEED))
    runs = frame([flatten(record) for _, record in rows])
    places = [[place.get(key, "") for key in axis] for place, _ in rows]
    runs = runs.assign(arm=[", ".join(map(short, place)) or "all runs" for place in places])
    runs = runs.assign(**{axis_column(key): [place[number] for place in places] for number, key in enumerate(axis)})
    parts = []
    for setting in settings(Evidence("", axis, runs, setting_keys(runs))):
        known = [str(name) for name in setting.runs if setting.runs[name].notna().any()]
        shown = [*measures.bits(known, "test")[-1:], *measures.cloze(known, "test")[-1:], measures.PARAMETERS, measures.SPEED]
        found = [results(setting, measure.column, measure.better) for measure in shown]
        marks = int(setting.runs.groupby("arm")["seed"].nunique().max()) > 1
        first = setting.runs.drop_duplicates("arm")
        lines = []
        for index, arm in enumerate(setting.arms):
            seeds = setting.runs[setting.runs["arm"] == arm]["seed"].nunique()
            place = [short(str(first.iloc[index][axis_column(key)])) for key in axis]
            cells = [
                plain(value_cell(own[index], measure, seeds, marks).content) for measure, own in zip(shown, found, strict=True)
            ]
            lines.append([*place, *cells, str(seeds)])
        parts.append(table([*axis, *(measure.title for measure in shown), "seeds"], lines, words=len(axis)))
        if len(setting.arms) > 1:
            parts.append(
                f"{WITHIN_NOISE} cannot be told from the best of its column (paired test, Holm's correction for all pairs)."
                if marks
                else "One seed: nothing can be concluded from these differences."
            )
    return "\n\n".join(parts)
