"""MLflow runs for a grid and for its arms with several seeds, in addition to the runs themselves."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tinylm_ablate.files import fingerprint
from tinylm_ablate.secrets import cut
from tinylm_ablate.tracking.folders import Grid, milliseconds, needed, results_of, stat_of, status_of
from tinylm_ablate.tracking.snapshot import CONSTANT, SHOWN, Snapshot, chosen, rounded, run_name, source_tags

#: States of runs that have not ended.
_OPEN = {"RUNNING", "SCHEDULED"}


def grid_snapshots(grid: Grid, runs_dir: Path, held: Collection[str]) -> list[Snapshot]:
    """A grid, and for each arm with several seeds a summary of its finished replicates."""
    folders = {identity: runs_dir / identity for identity in grid.cells}
    states = {
        identity: status_of(folder, held) if (folder / "settled.json").exists() else "SCHEDULED"
        for identity, folder in folders.items()
    }
    before = ["RUNNING" for folder in needed(list(folders.values())) if folder.name not in states and folder.name in held]
    results = {identity: results_of(folders[identity]) for identity, state in states.items() if state == "FINISHED"}
    status, start = _together([*states.values(), *before]), round(1000 * grid.created)
    end = max([start, *(milliseconds(folders[identity] / "metrics.json") for identity in results)])
    note = "\n\n".join(filter(None, (": ".join(filter(None, (grid.name, grid.title))), grid.note, _table(grid, results))))
    files = sorted(grid.path.parent.glob(f"{grid.identity}*"))  # including figures
    whole = Snapshot(
        key=grid.identity,
        name=grid.label,
        status=status,
        start=start,
        end=None if status in _OPEN else end,
        signature=fingerprint([note, status, [stat_of(path) for path in files]]),
        tags={
            "experiment": grid.name,
            f"grid.{grid.identity}": "grid",
            "mlflow.note.content": cut(note),
            **source_tags(grid.command),
        },
        files={path.name: path for path in files},
    )
    arms = {arm: [results[identity] for identity in cells if identity in results] for arm, cells in grid.arms.items()}
    return [whole, *(_summary(grid, arm, whole, measured) for arm, measured in arms.items() if len(measured) > 1)]


def _summary(grid: Grid, arm: str, whole: Snapshot, measured: Sequence[Mapping[str, float]]) -> Snapshot:
    """Means and standard deviations over the finished seeds of an arm."""
    metrics = {"seeds": float(len(measured))}
    for name in sorted(set.intersection(*(set(values) for values in measured))):
        if not name.endswith("standard_error") and not CONSTANT.fullmatch(name):
            values = [row[name] for row in measured]
            metrics |= {name: rounded(statistics.fmean(values)), f"{name}/sd": rounded(statistics.stdev(values))}
    _, overrides = grid.cells[grid.arms[arm][0]]
    state = "FINISHED" if len(measured) == len(grid.arms[arm]) else whole.status
    return Snapshot(
        key=fingerprint([grid.identity, arm]),
        name=run_name(grid.name if grid.label == grid.name else "", arm, f"mean of {len(measured)}"),
        status=state,
        start=whole.start,
        end=None if state in _OPEN else (whole.end or whole.start),
        signature=fingerprint([metrics, state, arm]),
        parent=grid.identity,
        tags={
            **chosen(overrides),
            "experiment": grid.name,
            f"grid.{grid.identity}": "arm",
            "arm": arm,
            f"arm.{grid.name}": arm,
        },
        parameters={key: value for key, value in overrides.items() if key != "seed"},
        metrics=metrics,
    )


def _together(states: Sequence[str]) -> str:
    """Return the state of a grid or an arm from the states of its cells."""
    if "RUNNING" in states:
        return "RUNNING"
    if set(states) == {"FINISHED"}:
        return "FINISHED"
    if "FAILED" in states:
        return "FAILED"
    return "SCHEDULED" if set(states) <= {"SCHEDULED"} else "KILLED"


def _table(grid: Grid, results: Mapping[str, Mapping[str, float]]) -> str:
    """List the arms with their results so far, in Markdown: mean ± standard deviation over seeds."""
    shown = [name for name in SHOWN if any(name in values for values in results.values())]
    if not shown:
        return ""
    lines = [f"| arm | seeds | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    for arm, cells in grid.arms.items():
        measured = [results[identity] for identity in cells if identity in results]
        values = [[row[name] for row in measured if name in row] for name in shown]
        lines.append(f"| {arm} | {len(measured)} of {len(cells)} | {' | '.join(map(_mean_and_spread, values))} |")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.5g}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2g}"
