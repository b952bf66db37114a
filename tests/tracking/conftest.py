"""A real sqlite store, created once (in seconds) and copied for each test, and folders of runs."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinylm_ablate.config import TrackingConfig
from tinylm_ablate.leases import Leases

EXPERIMENT = "tests"


class Folders:
    """A folder of runs like those of real runs, with its own store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, identity: str, *, depth: int = 20, seed: int = 0, parent: dict[str, Any] | None = None) -> Path:
        """Add a run that has started."""
        folder = self.path / identity
        folder.mkdir(parents=True)
        settled = {
            "identity": identity,
            "config": {
                "seed": seed, "runs_dir": str(self.path), "scale": {"name": "s32", "factor": 32},
                "data": {"source": "files", "path": "texts/small.jsonl", "name": None},
                "arch": {"depth": depth, "width": "auto"}, "init": {"method": "random", "parent": None},
                "train": {"tokens": None, "threads": 2, "keep_model": True}, "evaluate": {"max_bytes": 2000},
                "tracking": {"kind": "mlflow", "uri": None}, "experiment": {"name": "adhoc"},
            },
            "shape": {"depth": depth, "width": 64, "ffn_width": 128, "heads": 2, "vocab_size": 300},
            "tokens": 3000, "steps": 30, "learning_rate": 0.001, "precision": "fp32", "parent": parent, "previous": None,
            "text": "0123456789abcdef", "vocabulary": "fedcba9876543210",
        }  # fmt: skip
        (folder / "settled.json").write_text(json.dumps(settled))
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "provenance.json").write_text(
            json.dumps({"commit": "c" * 40, "dirty": False, "command": ["tinylm-ablate", f"arch.depth={depth}"]})
        )
        return folder

    def train(self, identity: str, first: int, last: int, tail: str = "", seconds: float = 0.1) -> None:
        """Add rows ``first`` to ``last`` of the curve, with 100 tokens and some seconds each."""
        with (self.path / identity / "curve.jsonl").open("a") as stream:
            for n in range(first, last + 1):
                row = {"step": n, "tokens": 100 * n, "loss": 5 - n / 100, "learning_rate": 1e-3, "seconds": n * seconds}
                stream.write(json.dumps(row) + "\n")
            stream.write(tail)

    def finish(self, identity: str, bits: float = 2.0) -> None:
        """Add the run's results, and one measurement."""
        folder = self.path / identity
        (folder / "measures").mkdir(exist_ok=True)
        self.measure(identity, "bits_per_byte", {"test/bits_per_byte/all": bits, "test/bits_per_byte/all/bytes": 2000})
        (folder / "metrics.json").write_text(json.dumps({"schema": 2, "metrics": {"train/loss": 3.0, "train/seconds": 1.5}}))

    def measure(self, identity: str, name: str, metrics: dict[str, float], settings: str = "0" * 16) -> None:
        """Add a measurement of a run."""
        content = {"schema": 1, "measure": name, "settings": {}, "metrics": metrics, "seconds": 1.0, "provenance": {}}
        (self.path / identity / "measures" / f"{name}.{settings}.json").write_text(json.dumps(content))

    def grid(self, identity: str, cells: dict[str, dict[str, Any]], name: str = "depths", **changes: Any) -> Path:
        """Add the file of a grid with cells {run: overrides}."""
        content = {
            "identity": identity, "name": name, "title": "Depth against width", "scale": "s32", "note": None,
            "axis": ["arch.depth", "seed"], "command": ["tinylm-ablate", "-m", "arch.depth=20,40"],
            "cells": [
                {"identity": run, "name": " ".join(f"{k}={v}" for k, v in overrides.items()), "overrides": overrides}
                for run, overrides in cells.items()
            ],
        }  # fmt: skip
        path = self.path / "grids" / f"{identity}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content | changes))
        return path

    @contextlib.contextmanager
    def lease(self, identity: str) -> Iterator[None]:
        """Hold the lease of a run in training by this process."""
        with Leases(self.path, 60.0).hold(f"run-{identity}", self.path / identity / "metrics.json"):
            yield


RUNS = ["000000000000000a", "000000000000000b", "000000000000000c", "000000000000000d"]
GRID = "00000000000000ff"


@pytest.fixture
def folders(tmp_path: Path, empty_database: Path) -> Folders:
    """An empty folder of runs with a store in it."""
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(empty_database, runs / "mlflow.db")
    return Folders(runs)


@pytest.fixture
def replicated(folders: Folders) -> Folders:
    """A finished grid of two depths with two seeds each."""
    cells = {}
    for number, run in enumerate(RUNS):
        depth, seed = (20, 40)[number // 2], number % 2
        folders.start(run, depth=depth, seed=seed)
        folders.train(run, 1, 30)
        folders.finish(run, bits=2 + number / 10)
        cells[run] = {"arch.depth": str(depth), "seed": str(seed)}
    folders.grid(GRID, cells)
    return folders


@pytest.fixture
def settings() -> TrackingConfig:
    return TrackingConfig(
        kind="mlflow",
        loggers=[],
        uri=None,
        artifacts=None,
        experiment=EXPERIMENT,
        flush_seconds=1000,
    )
