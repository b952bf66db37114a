"""The files of runs: which there are, what they hold, and the state of a run that follows from them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

#: Files that are kept with a run, everything that a report is made from; the curve only once the run has ended.
RUN_FILES = (
    "settled.json", "config.yaml", "provenance.json", "metrics.json", "curve.jsonl", "matrix_std.json", "error.txt",
    "measures/*.json", "measures/*.parquet",
)  # fmt: skip

IDENTITY = re.compile(r"[0-9a-f]{16}")

#: A lease whose file does not say how long it is.
_LEASE_SECONDS = 60.0


def runs_of(runs_dir: Path) -> list[Path]:
    """The folders of all runs that have started."""
    return sorted(path.parent for path in runs_dir.glob("*/settled.json") if IDENTITY.fullmatch(path.parent.name))


def needed(folders: Collection[Path]) -> list[Path]:
    """The folders, and those of the runs that these are trained from, each once."""
    found: dict[Path, None] = {}

    def add(folder: Path, settled: Mapping[str, Any]) -> None:
        for name in ("previous", "parent"):
            if isinstance(before := settled.get(name), dict):
                add(folder.with_name(str(before.get("identity"))), before)
        found[folder] = None

    for folder in folders:
        add(folder, read_json(folder / "settled.json"))
    return [folder for folder in found if (folder / "settled.json").is_file()]


def live(runs_dir: Path) -> set[str]:
    """The runs that a living worker holds, as far as the files of their leases say."""
    found = set()
    for path in (runs_dir / "claims").glob("[!.]*"):
        with contextlib.suppress(OSError):
            content = read_json(path)
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


def files_of(folder: Path, ended: bool) -> Iterator[tuple[str, Path]]:
    """``RUN_FILES`` that exist, by their names below the folder."""
    for pattern in RUN_FILES:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.name.startswith(".") and (ended or path.name != "curve.jsonl"):
                yield path.relative_to(folder).as_posix(), path


def results_of(folder: Path) -> dict[str, float]:
    """What training resulted in and what was measured; of two measurements of one metric the later counts."""
    paths = [folder / "metrics.json", *sorted((folder / "measures").glob("*.json"), key=lambda path: stat_of(path)[1])]
    return {
        str(name): float(value)
        for path in paths
        if path.is_file()
        for name, value in dict(_parsed(path, path.stat().st_mtime_ns).get("metrics") or {}).items()
        if isinstance(value, int | float)
    }


def curve_of(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Rows of a curve, ascending: tokens and values. A line that is not whole yet, or damaged, is left out."""
    rows: dict[int, dict[str, float]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
                tokens = int(row["tokens"])
            except (ValueError, TypeError, KeyError):
                continue
            rows[tokens] = {
                str(name): float(value)
                for name, value in row.items()
                if name not in {"step", "tokens"} and isinstance(value, int | float)
            }
    return sorted(rows.items())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where the file is absent or holds something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def stat_of(path: Path) -> tuple[int, int]:
    """Size and time of change, seconds: both survive a move and a copy with times."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, int(found.st_mtime)


def milliseconds(path: Path) -> int:
    """When a file was changed, milliseconds since 1970."""
    return int(1000 * path.stat().st_mtime)


@lru_cache(maxsize=4096)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    del changed  # it makes a file that was written anew another entry
    return read_json(path)


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
