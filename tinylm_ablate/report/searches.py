"""Page of a search: its front or its best trials, its figure, and all trials as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tinylm_ablate.report.blocks import Block, Cell, Figure, Heading, Items, Piece, Row, Table, Text, code
from tinylm_ablate.report.drawing import specification
from tinylm_ablate.report.figures import FIGURES
from tinylm_ablate.report.measures import number
from tinylm_ablate.report.page import Page, stem_of

#: Number of trials to show for a single objective.
_SHOWN = 10

_COUNTED = {
    "done": "done",
    "pruned": "pruned",
    "failed": "failed",
    "rejected": "not trained: outside the budget or impossible",
}


def search_page(content: Mapping[str, Any]) -> tuple[Page, str]:
    """Return the page of a search, and its trials as CSV.

    Args:
        content: The search's description.

    Raises:
        KeyError, TypeError, ValueError: It is damaged.
    """
    trials = trials_of(content)
    objectives = [(str(own["name"]), str(own["direction"])) for own in content["objectives"]]
    several = len(objectives) > 1
    first, direction = objectives[0]
    counts = ", ".join(
        f"{content['counts'][state]} {words}" for state, words in _COUNTED.items() if content["counts"].get(state)
    )
    aims: list[Piece] = ["Searched on "]
    for place, (name, towards) in enumerate(objectives):
        aims += [" and " if place else "", code(name), f" ({towards}d)"]
    aims.append(
        f" at scale {content['scale']} by {content['sampler']} from seed {content['seed']}, pruner {content['pruner']}; "
        f"trials: {counts}."
    )
    if content["budget"]:
        aims.append(f" Shapes of {content['budget'][0]:,} to {content['budget'][1]:,} parameters.")
    done = trials[trials["state"] == "done"]
    shown = (done[done["front"]] if several else done).sort_values(
        first, ascending=not direction.startswith("max"), kind="stable"
    )
    shown = shown.drop_duplicates("run")
    shown = shown if several else shown.head(_SHOWN)
    stem = stem_of(f"search_{content['name']}")
    blocks: list[Block] = [Heading(1, f"Search {content['name']}: {content['title']}")]
    x = objectives[1][0] if several else "trial"
    if (chart := FIGURES["search"].draw(done, [x], first)) is not None:
        blocks.append(Figure(f"{stem}_trials", specification(chart), "Trials", "The objectives of each trial, with the best."))
    keys = list(content["space"])
    names = [name for name, _ in objectives]
    rows: list[Row] = [
        [
            int(row["trial"]),
            *(Cell(f"{row[name]:.5g}", float(row[name])) for name in names),
            *(Cell(str(row[key]), number(str(row[key]))) for key in keys),
            Cell(f"{row['parameters']:,}", float(row["parameters"])),
            Cell([code(str(row["run"]))], str(row["run"])),
        ]
        for row in shown.to_dict("records")
    ]
    head = ["trial", *names, *keys, "parameters", "run"]
    blocks += [Heading(2, "The Pareto front" if several else "The best trials"), Table(head, rows, 1, "Trials")]
    blocks += [
        Text(
            "Trials that no other trial dominates, each with one seed: neighbors may differ only by noise."
            if several
            else "Each has one seed, and the best of many is biased: repeat it with seeds= before relying on a difference."
        ),
        Text(aims),
        Items([[code(key), f" in {text}"] for key, text in content["space"].items()]),
    ]
    return Page(stem, f"Search {content['name']}: {content['title']}", blocks, runs=len(done)), trials.to_csv(
        index=False, lineterminator="\n"
    )


def trials_of(content: Mapping[str, Any]) -> pd.DataFrame:
    """Return all trials: number, state, settings, objectives, parameters, whether it is on the front, run, reason."""
    rows = [
        {
            "trial": int(trial["number"]),
            "state": str(trial["state"]),
            **{key: trial["overrides"].get(key, "") for key in content["space"]},
            **{own["name"]: trial["values"].get(own["name"]) for own in content["objectives"]},
            "parameters": int(trial["parameters"]),
            "front": trial["number"] in content["front"],
            "run": str(trial["identity"]),
            "reason": str(trial["reason"]),
        }
        for trial in content["trials"]
    ]
    names = ["trial", "state", *content["space"], *(own["name"] for own in content["objectives"]), "parameters", "front", "run"]
    return pd.DataFrame(rows, columns=[*names, "reason"])
