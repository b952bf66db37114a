"""Folders of runs like those of real runs, with chosen numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinylm_ablate.files import fingerprint


class Runs:
    """A folder of runs that is written by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        name: str,
        seed: int,
        bits: float,
        *,
        depth: int = 20,
        scale: str = "s32",
        cloze: float = 0.3,
        steps: int = 600,
        spread: float = 0.05,
        **changes: Any,
    ) -> str:
        """Add a finished run with documents and questions, and return its identity; ``changes`` replace parts of its record."""
        identity = fingerprint(name)
        folder = self.folder / identity
        (folder / "measures").mkdir(parents=True)
        factor = int(scale[1:])
        record = {
            "schema": 2, "identity": identity, "seed": seed,
            "config": {
                "seed": seed, "runs_dir": str(self.folder), "seeds": None,
                "scale": {"name": scale, "factor": factor, "width": "1792/s"},
                "arch": {"depth": depth, "width": "auto", "expanding_rate": 8 / 3, "tied": False},
                "init": {"method": "random", "rule": "internlm"},
                "train": {"tokens": 500000, "tokens_per_parameter": None, "threads": "auto"},
                "experiment": {"name": "x"},
                "tracking": {"uri": "http://user:secret@server"},
            },
            "shape": {"depth": depth, "width": 2560 // depth, "heads": 4, "vocab_size": 1500, "tied": False},
            "parameters": {"embedding": 1000, "total": 900_000 + depth},
            "embedding_head_share": 18.07,
            "flops_per_token": {"forward": 2, "training": 6},
            "tokens": 500_000, "steps": steps, "learning_rate": 0.001, "precision": "fp32",
            "tokenizer": {"fingerprint": "0123456789012345", "bytes_per_token": {"en": 3.4, "zh": 3.0}},
            "data": {"fingerprint": "1234567890123456", "sources": [{"name": "a", "licence": "b"}]},
            "metrics": {"train/tokens_per_second": 1000.0 + seed, "train/seconds": 500.0, "train/loss": bits},
            "provenance": {"commit": None, "packages": {"torch": "2"}, "machine": {"cores": 2, "processor": "a machine"}},
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(record | changes))
        (folder / "config.yaml").write_text("seed: 0\n")
        rows = [{"step": n, "tokens": 1000 * n, "loss": 8.0 / (1 + n / 20) + bits + seed / 50} for n in range(1, 301)]
        (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._documents(folder, seed, bits, spread)
        self._questions(folder, cloze)
        self.measure(identity, "bigrams", {"test/bigrams/bits_per_byte/all": 9.0, "test/bigrams/bits_per_byte/en": 9.0})
        return identity

    def measure(
        self, identity: str, name: str, metrics: dict[str, float], rows: pd.DataFrame | None = None, **settings: Any
    ) -> str:
        """Add a measure of a run and return the stem of its file."""
        stem = f"{name}.{fingerprint(settings)}"
        path = self.folder / identity / "measures" / f"{stem}.json"
        content = {"schema": 1, "measure": name, "settings": settings, "metrics": metrics, "seconds": 1.0, "provenance": {}}
        path.write_text(json.dumps(content))
        if rows is not None:
            rows.to_parquet(path.with_suffix(".parquet"))
        return stem

    def _documents(self, folder: Path, seed: int, bits: float, spread: float) -> None:
        source, rows, metrics = np.random.default_rng(seed), [], {}
        for language, shift in (("en", -0.1), ("zh", 0.1)):
            sizes = np.random.default_rng(7).integers(200, 2000, 40)
            noise = source.normal(0, spread, 40)
            noise -= (noise * sizes).sum() / sizes.sum()
            nats = (bits + shift + noise) * sizes * math.log(2)
            for split in ("validation", "test"):
                rows += [(split, language, f"{language}{n:030d}", nats[n], int(sizes[n]), int(sizes[n])) for n in range(40)]
                metrics[f"{split}/bits_per_byte/{language}"] = bits + shift
                metrics[f"{split}/bits_per_byte/all"] = bits
        metrics["test/bits_per_byte/all/standard_error"] = 0.02
        columns = ["split", "language", "document", "nats", "bytes", "tokens"]
        self.measure(folder.name, "bits_per_byte", metrics, pd.DataFrame(rows, columns=columns), max_bytes=100000)

    def _questions(self, folder: Path, cloze: float) -> None:
        right = round(40 * cloze)
        rows = [("test", name, f"{name}{n:030d}", n < right, 0.1) for name in ("en", "zh") for n in range(40)]
        metrics = {f"test/cloze/{name}": right / 40 for name in ("en", "zh", "all")}
        frame = pd.DataFrame(rows, columns=["split", "language", "question", "correct", "margin"])
        self.measure(folder.name, "cloze", metrics, frame, questions=40)

    def grid(self, name: str, cells: dict[str, dict[str, Any]], file: str = "", **changes: Any) -> Path:
        """Add the file of a grid; cells are {identity: overrides}."""
        content = {
            "identity": fingerprint([name, file, sorted(cells)]), "name": name, "title": f"Title of {name}", "paper": None,
            "paper_axis": [], "scale": "s32", "note": "", "correlate": [], "figures": [],
            "command": ["python", "-m", "tinylm_ablate", "-m", f"+experiments={name}"], "created": "2026-01-01T00:00:00",
            "axis": list(dict.fromkeys(key for overrides in cells.values() for key in overrides)),
            "cells": [
                {"identity": identity, "name": "", "overrides": {key: str(value) for key, value in overrides.items()}}
                for identity, overrides in cells.items()
            ],
        }  # fmt: skip
        path = self.folder / "grids" / f"{file or fingerprint(name)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | changes))
        return path

    def depths(self, bits: dict[int, list[float]], name: str = "table02_depth_width", **changes: Any) -> list[str]:
        """Add a grid of depths, with one value per seed, and return the identities."""
        cells = {}
        for depth, values in bits.items():
            for seed, value in enumerate(values):
                cells[self.add(f"{name}-{depth}-{seed}", seed, value, depth=depth)] = {"arch.depth": depth, "seed": seed}
        self.grid(name, cells, **changes)
        return list(cells)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
