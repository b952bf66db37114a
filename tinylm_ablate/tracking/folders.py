"""What a tracker shows, read from the files of runs and grids alone; nothing of MLflow is imported."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import statistics
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinylm_ablate.secrets import cut

#: Files that are kept with a run, everything that a report is made from; the curve only once the run has ended.
RUN_FILES = (
    "settled.json", "config.yaml", "provenance.json", "metrics.json", "curve.jsonl", "matrix_std.json", "error.txt",
    "measures/*.json", "measures/*.parquet",
)  # fmt: skip

#: Settings that say nothing about what a run trains.
_OTHER_GROUPS = ("tracking.", "experiment.", "grid.", "search.", "generate.", "plan.", "scale.", "evaluate.")
_OTHER_KEYS = {"mode", "model", "prompt", "folder", "progress", "runs_dir", "cache_dir", "results_dir", "seeds"}

#: Numbers that describe the text a metric was measured on; equal for every run of a grid.
_CONSTANT = re.compile(r".*/(documents|bytes|questions|tokens)")

#: MLflow orders charts by name: the loss comes first, and what else the curve holds after the results.
_CURVE_NAMES = {"loss": "curve/loss"}

#: What a description of a grid lists, as far as it was measured.
SHOWN = ("test/bits_per_byte/all", "validation/bits_per_byte/all", "test/cloze/all", "train/loss", "train/tokens_per_second")

_IDENTITY = re.compile(r"[0-9a-f]{16}")

#: A lease whose file does not say how long it is.
_LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Snapshot:
    """One run of a tracker as the files say it should be.

    Attributes:
        key: What it is found by: the identity of a run or a grid, or a fingerprint of an arm.
        name: What a person reads.
        status: MLflow's word: SCHEDULED, RUNNING, FINISHED, FAILED or KILLED.
        start, end: Milliseconds since 1970; ``end`` is None while it runs.
        signature: Changes whenever anything here may have changed.
        parent: Key of the run that this one is nested in.
        metrics: Results.
        curve: Rows of tokens and values, ascending.
        files: Path of each artifact by its name.
        dataset: Name, digest and source of the training text.
        model: Folder of the trained model.
    """

    key: str
    name: str
    status: str
    start: int
    end: int | None
    signature: str
    parent: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    dataset: tuple[str, str, str] | None = None
    model: Path | None = None


class Grid:
    """A grid, as its file describes it.

    Attributes:
        cells: Identity of each cell's run to the cell's name and overrides.
    """

    def __init__(self, path: Path) -> None:
        content = _read_json(path)
        self.path, self.identity = path, path.stem
        self.name, self.title = str(content.get("name") or path.stem), str(content.get("title") or "")
        self.note = str(content.get("note") or "")
        self.axis = [str(key) for key in content.get("axis") or []]
        self.created = path.stat().st_mtime
        self.command = content.get("command")
        self.cells = {
            str(cell["identity"]): (
                str(cell.get("name", "")),
                {str(key): str(value) for key, value in dict(cell.get("overrides") or {}).items()},
            )
            for cell in content.get("cells") or []
            if isinstance(cell, dict) and _IDENTITY.fullmatch(str(cell.get("identity")))
        }

    def arm(self, identity: str) -> str:
        """The settings of a cell without its seed: what its replicates share."""
        _, overrides = self.cells[identity]
        return _words({key: value for key, value in overrides.items() if key != "seed"}) or self.name

    @property
    def arms(self) -> dict[str, list[str]]:
        """The cells of each arm."""
        found: dict[str, list[str]] = {}
        for identity in self.cells:
            found.setdefault(self.arm(identity), []).append(identity)
        return found


def grids_of(runs_dir: Path) -> list[Grid]:
    """All grids of a folder of runs, the newest first; files that are none are left out."""
    found = []
    for path in (runs_dir / "grids").glob("*.json"):
        if _IDENTITY.fullmatch(path.stem):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                found.append(Grid(path))
    return sorted(found, key=lambda grid: grid.created, reverse=True)


def runs_of(runs_dir: Path) -> list[Path]:
    """The folders of all runs that have started."""
    return sorted(path.parent for path in runs_dir.glob("*/settled.json") if _IDENTITY.fullmatch(path.parent.name))


def needed(folders: Collection[Path]) -> list[Path]:
    """The folders, and those of the runs that these are trained from, each once."""
    found: dict[Path, None] = {}

    def add(folder: Path, settled: Mapping[str, Any]) -> None:
        for name in ("previous", "parent"):
            if isinstance(before := settled.get(name), dict):
                add(folder.with_name(str(before.get("identity"))), before)
        found[folder] = None

    for folder in folders:
        add(folder, _read_json(folder / "settled.json"))
    return [folder for folder in found if (folder / "settled.json").is_file()]


def live(runs_dir: Path) -> set[str]:
    """The runs that a living worker holds, as far as the files of their leases say."""
    found = set()
    for path in (runs_dir / "claims").glob("[!.]*"):
        with contextlib.suppress(OSError):
            content = _read_json(path)
            lease = content.get("lease_seconds")
            age = time.time() - path.stat().st_mtime
            if abs(age) <= (lease if isinstance(lease, int | float) else _LEASE_SECONDS) and not _is_dead(content):
                found.add(path.name.partition(".")[0])
    return found


def status_of(folder: Path, held: Collection[str]) -> str:
    """MLflow's word for the state of a run that has started."""
    if (folder / "metrics.json").exists():
        return "FINISHED"
    if folder.name in held:
        return "RUNNING"
    return "FAILED" if (folder / "error.txt").exists() else "KILLED"


def signature_of(folder: Path, grids: Sequence[Grid], held: Collection[str]) -> str:
    """Changes whenever the snapshot of a run may have changed; reads no file."""
    files = [(name, *_stat(path)) for name, path in _files(folder, ended=True)]
    mine = [(grid.identity, grid.cells[folder.name]) for grid in grids if folder.name in grid.cells]
    nests = [grid.identity for grid in grids[:1]]
    return _digest(files, mine, nests, status_of(folder, held), (folder / "model").is_dir())


def snapshot_of(folder: Path, grids: Sequence[Grid], held: Collection[str]) -> Snapshot:
    """A run.

    Args:
        folder: Its folder.
        grids: The grids that it belongs to, as a cell or as what a cell needs, the newest first.
        held: The runs that are being done now.

    Raises:
        ValueError: ``settled.json`` is damaged.
    """
    signature, status = signature_of(folder, grids, held), status_of(folder, held)
    settled, provenance = _read_json(folder / "settled.json"), _read_json(folder / "provenance.json")
    config = settled.get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'settled.json'}: is damaged")
    everything = _results(folder)
    seed, experiment = str(config.get("seed")), str((config.get("experiment") or {}).get("name"))
    scale = str((config.get("scale") or {}).get("name"))
    cells = [grid for grid in grids if folder.name in grid.cells]
    parameters = _parameters(settled) | {name: f"{value:g}" for name, value in everything.items() if _CONSTANT.fullmatch(name)}
    tags = {
        "identity": folder.name, "experiment": cells[0].name if cells else experiment, "seed": seed, "scale": scale,
        "arm": cells[0].arm(folder.name) if cells else _arm(settled),
        **{f"grid.{grid.identity}": "cell" if grid in cells else "needed" for grid in grids},
        **{f"arm.{grid.name}": grid.arm(folder.name) for grid in reversed(cells)},
        **_source_tags(provenance),
    }  # fmt: skip
    start = _milliseconds(folder / "settled.json")
    return Snapshot(
        key=folder.name,
        name=f"{tags['experiment']} {tags['arm']} seed={seed}"
        if tags["arm"] != tags["experiment"]
        else f"{tags['arm']} seed={seed}",
        status=status,
        start=start,
        end=None if status == "RUNNING" else max(_milliseconds(path) for _, path in _files(folder, ended=True)),
        signature=signature,
        parent=grids[0].identity if grids else None,
        tags=tags,
        parameters=parameters,
        metrics={name: value for name, value in everything.items() if name not in parameters},
        curve=_curve(folder / "curve.jsonl"),
        files=dict(_files(folder, ended=status != "RUNNING")),
        dataset=_dataset(settled, config),
        model=folder / "model" if status == "FINISHED" and (folder / "model").is_dir() else None,
    )


def grid_snapshots(grid: Grid, runs_dir: Path, held: Collection[str]) -> list[Snapshot]:
    """A grid, and for each arm with several seeds a summary of its finished replicates."""
    folders = {identity: runs_dir / identity for identity in grid.cells}
    states = {
        identity: status_of(folder, held) if (folder / "settled.json").exists() else "SCHEDULED"
        for identity, folder in folders.items()
    }
    parents = [folder.name for folder in needed(list(folders.values())) if folder.name not in folders]
    results = {identity: _results(folders[identity]) for identity, state in states.items() if state == "FINISHED"}
    status = _status_together([*states.values(), *("RUNNING" for parent in parents if parent in held)])
    start = round(1000 * grid.created)
    times = [_milliseconds(folders[identity] / "metrics.json") for identity in results]
    end = None if status in {"RUNNING", "SCHEDULED"} else max([start, *times])
    common = {"experiment": grid.name, f"grid.{grid.identity}": "grid"}
    table = _table(grid, results)
    note = "\n\n".join(text for text in (f"{grid.name}: {grid.title}" if grid.title else grid.name, grid.note, table) if text)
    whole = Snapshot(
        key=grid.identity, name=grid.name, status=status, start=start, end=end,
        signature=_digest(note, status, _stat(grid.path)), files={grid.path.name: grid.path},
        tags=common | {"mlflow.note.content": cut(note), "mlflow.source.type": "LOCAL", "mlflow.source.name": _command(grid.command)},
    )  # fmt: skip
    arms = []
    for arm, cells in grid.arms.items():
        measured = [results[identity] for identity in cells if identity in results]
        if len(cells) < 2 or len(measured) < 2:
            continue
        metrics = {"seeds": float(len(measured))}
        for name in sorted(set.intersection(*(set(values) for values in measured))):
            if not name.endswith("standard_error") and not _CONSTANT.fullmatch(name):
                values = [values[name] for values in measured]
                metrics[name] = _rounded(statistics.fmean(values))
                metrics[f"{name}/sd"] = _rounded(statistics.stdev(values))
        state = _status_together([states[identity] for identity in cells])
        key = _digest(grid.identity, arm)
        arms.append(
            Snapshot(
                key=key,
                name=f"{grid.name} {arm} mean of {len(measured)} seeds",
                status=state,
                start=start,
                end=None if state in {"RUNNING", "SCHEDULED"} else end,
                signature=_digest(metrics, state, arm),
                parent=grid.identity,
                metrics=metrics,
                parameters=_overrides(grid, cells[0]),
                tags=common | {f"grid.{grid.identity}": "arm", "arm": arm, f"arm.{grid.name}": arm},
            )  # fmt: skip
        )
    return [whole, *arms]


def differing(grid: Grid) -> list[str]:
    """The settings that differ between the cells of a grid."""
    keys = dict.fromkeys(key for _, overrides in grid.cells.values() for key in overrides)
    return [key for key in keys if len({overrides.get(key) for _, overrides in grid.cells.values()}) > 1]


def _overrides(grid: Grid, identity: str) -> dict[str, str]:
    return {key: value for key, value in grid.cells[identity][1].items() if key != "seed"}


def _words(overrides: Mapping[str, str]) -> str:
    """Overrides as a person would say them: the last part of each key where that is unmistakable."""
    short = [key.rpartition(".")[2] for key in overrides]
    names = [name if short.count(name) == 1 else key for name, key in zip(short, overrides, strict=True)]
    return " ".join(f"{name}={value}" for name, value in zip(names, overrides.values(), strict=True))


def _arm(settled: Mapping[str, Any]) -> str:
    shape = settled.get("shape") or {}
    return f"depth={shape.get('depth')} width={shape.get('width')}"


def _parameters(settled: Mapping[str, Any]) -> dict[str, str]:
    """The settings under dotted keys, and what they resulted in where they say "auto"."""
    shape = dict(settled.get("shape") or {})
    found: dict[str, Any] = {
        key: value
        for key, value in _flat(settled["config"])
        if value is not None and key not in _OTHER_KEYS and not key.startswith(_OTHER_GROUPS)
    }
    found |= {f"arch.{key}": value for key, value in shape.items() if key != "vocab_size"}
    found |= {"tokenizer.vocab_size": shape.get("vocab_size"), "scale": (settled["config"].get("scale") or {}).get("name")}
    found |= {"train.tokens": settled.get("tokens"), "train.steps": settled.get("steps")}
    found |= {key: settled.get(key) for key in ("learning_rate", "precision", "text", "vocabulary")}
    parent = settled.get("parent")
    found["init.parent"] = parent.get("identity") if isinstance(parent, dict) else found.get("init.parent", "none")
    return {key: str(value) for key, value in cut(found).items() if value is not None}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _results(folder: Path) -> dict[str, float]:
    """What training resulted in and what was measured; of two measurements of one metric the later counts."""
    paths = [folder / "metrics.json", *sorted((folder / "measures").glob("*.json"), key=lambda path: _stat(path)[1])]
    return {
        str(name): float(value)
        for path in paths
        if path.is_file()
        for name, value in dict(_parsed(path, *_stat(path)).get("metrics") or {}).items()
        if isinstance(value, int | float)
    }


@lru_cache(maxsize=4096)
def _parsed(path: Path, size: int, changed: int) -> dict[str, Any]:
    del size, changed  # they make a file that was written anew another entry
    return _read_json(path)


def _curve(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Rows of a curve under MLflow's names; a line that is not whole yet, or damaged, is left out."""
    rows: dict[int, dict[str, float]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
                tokens = int(row["tokens"])
            except (ValueError, TypeError, KeyError):
                continue
            rows[tokens] = {
                _CURVE_NAMES.get(name, f"train/curve/{name}"): float(value)
                for name, value in row.items()
                if name not in {"step", "tokens"} and isinstance(value, int | float)
            }
    return sorted(rows.items())


def _files(folder: Path, ended: bool) -> Iterator[tuple[str, Path]]:
    for pattern in RUN_FILES:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.name.startswith(".") and (ended or path.name != "curve.jsonl"):
                yield path.relative_to(folder).as_posix(), path


def _dataset(settled: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, str, str] | None:
    data = config.get("data")
    if not isinstance(data, dict) or not settled.get("text"):
        return None
    name = str(data.get("name") or data.get("path") or data.get("source"))
    return Path(name).name or name, str(settled["text"])[:36], json.dumps(cut({k: v for k, v in data.items() if v is not None}))


def _source_tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": _command(provenance.get("command"))}
    if commit := provenance.get("commit"):
        tags["mlflow.source.git.commit"] = str(commit)
        tags["tinylm.dirty"] = str(provenance.get("dirty")).lower()
    return tags


def _command(words: Any) -> str:
    return " ".join(map(str, cut(words))) if isinstance(words, list) and words else "tinylm-ablate"


def _status_together(states: Sequence[str]) -> str:
    """The state of a grid or an arm from those of its cells."""
    if "RUNNING" in states:
        return "RUNNING"
    if set(states) == {"FINISHED"}:
        return "FINISHED"
    if "FAILED" in states:
        return "FAILED"
    return "SCHEDULED" if set(states) <= {"SCHEDULED"} else "KILLED"


def _table(grid: Grid, results: Mapping[str, Mapping[str, float]]) -> str:
    """The arms with their results so far, in Markdown: mean ± standard deviation over seeds."""
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


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where the file is absent or holds something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stat(path: Path) -> tuple[int, int]:
    """Size and time of change, seconds: both survive a move and a copy with times."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, int(found.st_mtime)


def _milliseconds(path: Path) -> int:
    return int(1000 * path.stat().st_mtime)


def _digest(*values: Any) -> str:
    return f"{zlib.crc32(repr(values).encode()):08x}{zlib.adler32(repr(values).encode()):08x}"


def _is_dead(content: Mapping[str, Any]) -> bool:
    """Whether the holder of a lease was a process of this machine that is no more."""
    pid, machine = content.get("pid"), str(content.get("machine", ""))
    if not isinstance(pid, int) or pid <= 0 or machine.partition("/")[0] != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
