"""Files in a folder of runs that no grid needs any longer: listed by ``tinylm-ablate gc``, and removed only on request."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate.files import read_json
from tinylm_ablate.leases import Leases

#: Partial files younger than this may still be in use, seconds.
_YOUNG = 3600.0


@dataclass(frozen=True)
class Litter:
    """A file or folder that may be removed.

    Attributes:
        path: Its path.
        why: Why it is not needed.
        bytes: Its size.
    """

    path: Path
    why: str
    bytes: int

    def remove(self) -> None:
        """Remove it."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def litter(runs_dir: Path) -> list[Litter]:
    """Return everything in ``runs_dir`` that no grid, search or single run needs.

    Cells of grids, trials of searches and single runs are kept, including unfinished ones, together with the runs that they
    were trained from, and every corpus, tokenizer and shard that one of them uses. Files that an active worker holds, or that
    the order of an active command names, are always kept.
    """
    leases = Leases(runs_dir, 60.0)
    held = {key.split("-")[1] for key in leases.held() if "-" in key}
    runs = {path.parent.name: read_json(path) for path in runs_dir.glob("*/settled.json")}
    roots = {cell["identity"] for path in runs_dir.glob("grids/*.json") for cell in read_json(path).get("cells", [])} | held
    roots |= {name for name in runs if read_json(runs_dir / name / "provenance.json").get("cell", True)}
    kept: set[str] = set()
    for identity in roots:
        kept |= _with_needs(runs.get(identity, {}), identity)
    found = [(runs_dir / name, "a run that nothing needs any more") for name in runs if name not in kept]
    found += list(_leftovers(runs_dir, {name: content for name, content in runs.items() if name in kept}, held))
    found += [(path, "the lease of a worker that has ended") for paths in leases.dead().values() for path in paths]
    found += list(_caches(runs_dir / "cache", [content for name, content in runs.items() if name in kept], bool(held)))
    return [Litter(path, why, _size(path)) for path, why in sorted(found)]


def _with_needs(content: dict[str, Any], identity: str) -> set[str]:
    return {identity, *(str(other.get("identity")) for other in _needed(content))}


def _leftovers(runs_dir: Path, runs: dict[str, dict[str, Any]], held: set[str]) -> Iterator[tuple[Path, str]]:
    for name, content in runs.items():
        folder = runs_dir / name
        if name in held:
            continue
        if (folder / "metrics.json").exists() and (folder / "checkpoint").is_dir() and not content.get("keep_state"):
            yield folder / "checkpoint", "checkpoints of a run that is finished"
        yield from _half_written(folder.rglob(".*.*"))
    for pattern in ("grids/.*.*", "errors/.*.*", "search/.*.*", "orders/.*.*", "cache/*/.*.*", "cache/.*.*"):
        yield from _half_written(runs_dir.glob(pattern))
    for path in (runs_dir / "orders").glob("*"):
        if not path.name.startswith(".") and _age(path) > 24 * _YOUNG:
            yield path, "the order or log of a command that has ended"
    for path in (runs_dir / "errors").glob("*.txt"):
        if path.stem.partition("-")[2] in _products(runs_dir):
            yield path, "the error of a task that was done afterwards"
    for name in ("orders", "errors", "claims"):
        if (runs_dir / name).is_dir() and not any((runs_dir / name).iterdir()):
            yield runs_dir / name, "an empty folder"


def _half_written(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        if path.suffix != ".lock" and _age(path) > _YOUNG:
            yield path, "half-written, by a worker that was killed"


def _products(runs_dir: Path) -> set[str]:
    """Return the names of complete cache folders."""
    return {path.name for path in (runs_dir / "cache").glob("*/*") if path.is_dir() and not path.name.startswith(".")}


def _age(path: Path) -> float:
    """Return the seconds since a file or folder was changed; 0 if it does not exist."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _caches(cache: Path, kept: list[dict[str, Any]], busy: bool) -> Iterator[tuple[Path, str]]:
    """Return unused caches. While workers are active, recent ones are kept: a cache is filled before its run starts."""
    runs = [*kept, *(need for run in kept for need in _needed(run))]
    compact = any(run.get("config", {}).get("tokenizer", {}).get("kind") == "compact" for run in runs)
    texts, vocabularies = ({str(run.get(key)) for run in runs} for key in ("text", "vocabulary"))
    pairs = {(run.get("text"), run.get("vocabulary")) for run in runs}
    found = [(path, "a corpus that no run uses") for path in cache.glob("text/*") if path.name not in texts]
    found += [
        (path, "a tokenizer that no run uses")
        for path in cache.glob("tokenizers/*")
        if path.name not in vocabularies and not compact  # whose larger tokenizers and counts are there too
    ]
    for path in cache.glob("shards/*/shards.json"):
        summary = read_json(path)
        if (summary.get("text"), summary.get("tokenizer")) not in pairs:
            found.append((path.parent, "token shards that no run uses"))
    for path, why in found:
        if path.is_dir() and not path.name.startswith(".") and not (busy and _age(path) < 24 * _YOUNG):
            yield path, why


def _needed(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in ("parent", "previous"):
        other = content.get(key)
        if isinstance(other, dict):
            yield other
            yield from _needed(other)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0
