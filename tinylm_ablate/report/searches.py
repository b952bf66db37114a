"""A page for each search: its front or its best trials, its figure, and every trial as CSV.

A search describes itself in ``runs_dir/search/<name>.json``, with a figure beside it; both are taken over into the results.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinylm_ablate.files import write_atomic
from tinylm_ablate.report.markdown import table

#: Version of the layout of a search's file that is understood.
_SCHEMA = 1

#: Trials that are shown of a search on one objective.
_SHOWN = 10

_COUNTED = {"done": "done", "pruned": "pruned", "failed": "failed", "rejected": "off the budget or impossible, and not trained"}


def write_searches(runs_dir: Path, results: Path, problems: list[str]) -> None:
    """Write ``search_<name>.md`` and ``.csv`` for each search in ``runs_dir``, and its figure.

    Args:
        runs_dir: Folder of the runs.
        results: Folder of the results.
        problems: Gets a line for each search that cannot be read.
    """
    for path in sorted((runs_dir / "search").glob("*.json")):
        try:
            search = json.loads(path.read_text())
            if search["schema"] != _SCHEMA:
                raise ValueError(f"schema {search['schema']} is not {_SCHEMA}")
            stem = f"search_{search['name']}"
            figures = [figure for suffix in (".svg", ".png") if (figure := path.with_suffix(suffix)).is_file()]
            text, rows = page(search, f"figures/{stem}.svg" if figures else None), comma_separated(search)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}: {error}")
            continue
        write_atomic(results / f"{stem}.md", text)
        write_atomic(results / f"{stem}.csv", rows)
        for figure in figures:
            write_atomic(results / "figures" / f"{stem}{figure.suffix}", figure.read_bytes())


def page(search: Mapping[str, Any], figure: str | None) -> str:
    """The page in Markdown.

    Args:
        search: The search's own description.
        figure: Path of its figure, relative to the page.
    """
    objectives = search["objectives"]
    several = len(objectives) > 1
    told = [f"{search['counts'][state]} {words}" for state, words in _COUNTED.items() if search["counts"].get(state)]
    budget = f" Shapes of {search['budget'][0]:,} to {search['budget'][1]:,} parameters." if search["budget"] else ""
    aims = " and ".join(f"`{objective['name']}` ({objective['direction']}d)" for objective in objectives)
    parts = [
        f"# Search {search['name']}: {search['title']}",
        f"Trials: {', '.join(told)}. Searched on {aims}, at scale {search['scale']}, by {search['sampler']} from seed "
        f"{search['seed']}, pruner {search['pruner']}.{budget}",
        "\n".join(f"- `{key}` in {text}" for key, text in search["space"].items()),
        "## The Pareto front" if several else "## The best trials",
        "Trials that no other beats in everything, each on one seed: neighbours may differ by no more than noise. "
        if several
        else "Each on one seed, and the best of many flatters itself: repeat it with `seeds=` before believing a difference.",
        _listed(search, _front(search) if several else _best(search)) or "No trial is done yet.",
    ]
    if figure is not None:
        text = "each pair of objectives, with the front" if several else "the objective over the trials, and the best so far"
        parts.append(f"![Trials of the search: {text}]({figure})")
    parts.append(f"All trials: [CSV](search_{search['name']}.csv).")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def comma_separated(search: Mapping[str, Any]) -> str:
    """Every trial: number, state, parameters of the search, values of the objectives, run, and whether it is on the front."""
    keys, names = list(search["space"]), [objective["name"] for objective in search["objectives"]]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "state", *keys, *names, "parameters", "front", "run", "reason"])
    for trial in search["trials"]:
        writer.writerow(
            [
                trial["number"],
                trial["state"],
                *(trial["overrides"].get(key, "") for key in keys),
                *(trial["values"].get(name, "") for name in names),
                trial["parameters"],
                int(trial["number"] in search["front"]),
                trial["identity"],
                trial["reason"],
            ]
        )
    return stream.getvalue()


def _front(search: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _ordered(search, [trial for trial in search["trials"] if trial["number"] in search["front"]])


def _best(search: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _ordered(search, [trial for trial in search["trials"] if trial["state"] == "done"])[:_SHOWN]


def _ordered(search: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The best in the first objective first; a run that was proposed more than once is one row."""
    first = search["objectives"][0]
    sign = -1 if first["direction"] == "maximise" else 1
    ordered = sorted(trials, key=lambda trial: (sign * trial["values"][first["name"]], trial["number"]))
    return list({trial["identity"]: trial for trial in reversed(ordered)}.values())[::-1]


def _listed(search: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    if not trials:
        return ""
    keys, names = list(search["space"]), [objective["name"] for objective in search["objectives"]]
    rows = [
        [
            str(trial["number"]),
            *(trial["overrides"].get(key, "") for key in keys),
            *(f"{trial['values'][name]:.5g}" for name in names),
            f"{trial['parameters']:,}",
            f"`{trial['identity']}`",
        ]
        for trial in trials
    ]
    return table(["trial", *keys, *names, "parameters", "run"], rows, words=1 + len(keys))
