"""What no grid needs any more in a folder of runs: found by ``tinylm-ablate gc``, and removed only on request."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate.execute.leases import Leases

#: A half-written file younger than this may still be in work, seconds.
_YOUNG = 3600.0


@dataclass(frozen=True)
class Litter:
    """Something that may be removed.

    Attributes:
        path: Where it is.
        why: Why nothing needs it.
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
    """Everything in ``runs_dir`` that no grid, search or finished run of the user's needs.

    Kept are runs that a grid names, those that they were trained from, single runs that are finished, and every corpus,
    tokenizer and shard that one of these uses. What a living worker holds is always kept.
    """
    held = {key.partition("-")[2] for key in Leases(runs_dir, 60.0).held()}
    runs = {path.parent.name: _json(path) for path in runs_dir.glob("*/settled.json")}
    cells = {cell["identity"] for path in runs_dir.glob("grids/*.json") for cell in _json(path).get("cells", [])}
    kept: set[str] = set()
    for identity in [name for name in runs if name in cells or name in held or not _is_helper(runs, name)]:
        kept |= _with_needs(runs.get(identity, {}), identity)
    found = [(runs_dir / name, "a run that nothing needs any more") for name in runs if name not in kept]
    found += list(_leftovers(runs_dir, runs, held))
    found += list(_caches(runs_dir / "cache", [content for name, content in runs.items() if name in kept]))
    return [Litter(path, why, _size(path)) for path, why in found]


def _is_helper(runs: dict[str, dict[str, Any]], name: str) -> bool:
    """Whether a run is no result of its own: others start from it, or it is not finished and in no grid."""
    started = {other for content in runs.values() for key in ("parent", "previous") if (other := _identity(content.get(key)))}
    return name in started


def _with_needs(content: dict[str, Any], identity: str) -> set[str]:
    found = {identity}
    for key in ("parent", "previous"):
        other = content.get(key)
        if isinstance(other, dict):
            found |= _with_needs(other, str(other.get("identity")))
    return found


def _identity(content: Any) -> str | None:
    return str(content["identity"]) if isinstance(content, dict) and "identity" in content else None


def _leftovers(runs_dir: Path, runs: dict[str, dict[str, Any]], held: set[str]) -> Iterator[tuple[Path, str]]:
    now = time.time()
    for name, content in runs.items():
        folder = runs_dir / name
        if name in held:
            continue
        if (folder / "metrics.json").exists() and (folder / "checkpoint").is_dir() and not content.get("keep_state"):
            yield folder / "checkpoint", "checkpoints of a run that is finished"
        for path in folder.glob(".*.*"):
            if now - path.stat().st_mtime > _YOUNG:
                yield path, "half-written, by a worker that was killed"
    for path in (runs_dir / "orders").glob("*.json"):
        if now - path.stat().st_mtime > 24 * _YOUNG:
            yield path, "the order of a command that has ended"


def _caches(cache: Path, kept: list[dict[str, Any]]) -> Iterator[tuple[Path, str]]:
    texts, vocabularies = ({str(run.get(key)) for run in kept} for key in ("text", "vocabulary"))
    for folder in cache.glob("text/*"):
        if folder.is_dir() and folder.name not in texts:
            yield folder, "a corpus that no run uses"
    for folder in cache.glob("tokenizers/*"):
        if folder.is_dir() and folder.name not in vocabularies and not folder.name.startswith("large"):
            yield folder, "a tokenizer that no run uses"
    for path in cache.glob("shards/*/shards.json"):
        summary = _json(path)
        if (summary.get("text"), summary.get("tokenizer")) not in {(run.get("text"), run.get("vocabulary")) for run in kept}:
            yield path.parent, "token shards that no run uses"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0
