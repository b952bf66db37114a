"""Description of a grid or search for the report and the trackers: ``runs_dir/grids/<identity>.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinylm_ablate.config import Config
from tinylm_ablate.files import read_json, write_atomic
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.provenance import command
from tinylm_ablate.secrets import cut
from tinylm_ablate.settled import Settled

#: A cell: its run, its name, its values on the axes, and the result of tuning its arm.
Described = tuple[Settled, str, Mapping[str, str], str]


def grid_path(runs_dir: Path, identity: str) -> Path:
    """Return the file that describes a grid."""
    return runs_dir / "grids" / f"{identity}.json"


def described(
    identity: str,
    name: str,
    title: str,
    base: Config,
    cells: Sequence[Described],
    search: str | None = None,
    tuning: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Describe a grid as plain data.

    Args:
        identity: Identity of the grid.
        name: Short name.
        title: Title of its table.
        base: Its config, without axes.
        cells: Its cells.
        search: The name of the study, if the cells are the trials of a search.
        tuning: The tuning curves of its arms (``tinylm_ablate.grid.tuned_arms.Search.described``).
    """
    experiment = base.experiment
    return cut({
        "identity": identity,
        "name": name,
        "title": title,
        "scale": base.scale.name,
        "axis": list(dict.fromkeys(key for _, _, values, _ in cells for key in values)),
        "paper": experiment.paper,
        "paper_axis": experiment.paper_axis,
        "note": experiment.note,
        "correlate": experiment.correlate,
        "figures": experiment.figures,
        "search": search,
        "tuning": list(tuning),
        "command": command(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cells": [
            {
                "identity": run.identity,
                "name": cell,
                "overrides": dict(values),
                "measures": [request.stem for request in requested(run)],
                "tuned": tuned,
            }
            for run, cell, values, tuned in cells
        ],
    })  # fmt: skip


def write_grid(runs_dir: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write a grid's description before its first run starts, keeping an existing name and start time.

    Returns:
        The written description.
    """
    path = grid_path(runs_dir, content["identity"])
    before = read_json(path)
    content |= {key: before[key] for key in ("title", "command", "created") if key in before}
    if content != before:
        write_atomic(path, json.dumps(content, indent=1, sort_keys=True))
    return content
