"""Results of a search: its file for the report, and its table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tinylm_ablate.files import write_atomic
from tinylm_ablate.grid.objectives import Objective
from tinylm_ablate.grid.study import DONE, FAILED, PRUNED, REJECTED, Result
from tinylm_ablate.measure.records import read_record
from tinylm_ablate.secrets import cut

#: Version of the format of the file.
SCHEMA = 1

#: Shown with the best on validation text, since it was not used for selection.
_TEST = "test/bits_per_byte/all"


def write_search(
    path: Path, about: Mapping[str, Any], objectives: Sequence[Objective], results: Sequence[Result], front: Sequence[int]
) -> None:
    """Write ``runs_dir/search/<name>.json``: the request, all trials, and the front.

    Args:
        path: The file.
        about: Name, title, scale, space and settings.
        objectives: The objectives.
        results: All trials with an outcome.
        front: Numbers of those on the front.
    """
    content = {
        "schema": SCHEMA,
        **about,
        "objectives": [{"name": o.name, "direction": "maximize" if o.maximize else "minimize"} for o in objectives],
        "counts": dict(Counter(result.state for result in results)),
        "trials": [
            {
                "number": result.number,
                "state": result.state,
                "overrides": dict(result.place),
                "values": {o.name: value for o, value in zip(objectives, result.values, strict=False)},
                "identity": result.identity,
                "parameters": result.parameters,
                "reason": result.reason,
            }
            for result in results
        ],
        "front": list(front),
    }
    write_atomic(path, json.dumps(cut(content), indent=1, sort_keys=True, allow_nan=False))


def found_table(
    objectives: Sequence[Objective], results: Sequence[Result], front: Sequence[int], runs_dir: Path, stems: Sequence[str]
) -> str:
    """Format the front as a Markdown table, best in the first objective first; with one objective, the ten best trials.

    A run that was proposed more than once is one row. Bits per byte on test text, unless searched on, are columns too.

    Args:
        objectives: The objectives.
        results: All trials with an outcome.
        front: Numbers of those on the front.
        runs_dir: Folder of the runs.
        stems: Names of the records of measures.
    """
    done = [result for result in results if result.state == DONE]
    shown = [result for result in done if result.number in front] if len(objectives) > 1 else done
    first = objectives[0]
    shown.sort(key=lambda result: -result.values[0] if first.maximize else result.values[0])
    shown = list({result.identity: result for result in reversed(shown)}.values())[::-1]
    if len(objectives) == 1:
        shown = shown[:10]
    if not shown:
        return ""
    keys = list(shown[0].place)
    extra = [_TEST] if all(o.name != _TEST for o in objectives) else []
    head = ["trial", *keys, *(o.title for o in objectives), *extra, "parameters", "run"]
    rows = []
    for result in shown:
        records = [read_record(runs_dir / result.identity, stem) for stem in stems]
        metrics = {name: value for record in records if record for name, value in record["metrics"].items()}
        tests = [f"{metrics[name]:.4f}" if name in metrics else "" for name in extra]
        values = [_short(result.place[key]) for key in keys]
        rows.append(
            [
                str(result.number),
                *values,
                *map(_number, result.values),
                *tests,
                f"{result.parameters:,}",
                result.identity,
            ]
        )
    align = ["left"] * (1 + len(keys)) + ["right"] * (len(head) - 1 - len(keys))
    return tabulate(rows, headers=head, tablefmt="pipe", disable_numparse=True, colalign=align)


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.5g}"


def _short(value: str) -> str:
    """Format real numbers with five digits, and other values unchanged."""
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.5g}"
    except ValueError:
        return value


def summary(results: Sequence[Result]) -> str:
    """Describe the numbers of trials by outcome."""
    counts = Counter(result.state for result in results)
    words = {
        DONE: "done",
        PRUNED: "pruned",
        FAILED: "failed",
        REJECTED: "not trained: outside the budget or impossible",
    }
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state]) or "no trial"
