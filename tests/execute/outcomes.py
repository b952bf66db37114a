"""Disturbed workers, the results of their runs, and files that must not remain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.execute.killing import main
from tests.helpers import FORKS

#: Parts of names of metrics that may differ between two runs of one computation.
TIMES = ("second", "utilisation")


def disturbed(folder: Path, **spec: Any) -> dict[str, int]:
    """Run ``tests.execute.killing`` by ``spec`` and return the exit codes of the workers."""
    process = FORKS.Process(target=main, args=(folder, spec))
    process.start()
    process.join(500)
    assert process.exitcode == 0, logs(folder)
    codes: dict[str, int] = json.loads((folder / "codes.json").read_text())
    return codes


def logs(folder: Path) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.glob("*.log")))


def numbers(content: dict[str, Any]) -> dict[str, Any]:
    """Return metrics without their durations."""
    return {name: value for name, value in content.items() if not any(word in name for word in TIMES)}


def outcome(runs: Path) -> dict[str, dict[str, Any]]:
    """Return all results of each run without durations."""
    found = {}
    for path in runs.glob("*/metrics.json"):
        folder = path.parent
        files: dict[str, Any] = {"metrics": numbers(json.loads(path.read_text())["metrics"])}
        files["curve"] = [numbers(json.loads(line)) for line in (folder / "curve.jsonl").read_text().splitlines()]
        files["weights"] = (folder / "model" / "model.safetensors").read_bytes()
        for record in folder.rglob("measures/*.json"):  # of intermediate models, too
            files[str(record.relative_to(folder))] = numbers(json.loads(record.read_text())["metrics"])
        for other in (
            *folder.rglob("measures/*.parquet"),
            *folder.glob("batch_losses.parquet"),
            *folder.glob("points/*/model/*"),
        ):
            files[str(other.relative_to(folder))] = other.read_bytes()
        found[folder.name] = files
    return found


def litter(*folders: Path) -> list[Path]:
    """Half-written files and folders, and leases."""
    return [
        path for folder in folders for path in folder.rglob("*")
        if (path.name.startswith(".") and path.suffix != ".lock") or path.suffix == ".part" or path.parent.name == "claims"
    ]  # fmt: skip
