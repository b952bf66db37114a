"""Folders of runs as the harness leaves them, with numbers that are chosen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest


class Runs:
    """A folder of runs that is written by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self, identity: str, seed: int, bits: float, *, depth: int = 20, scale: str = "s32", cloze: float = 0.3, **changes: Any
    ) -> str:
        """A finished run; ``changes`` replace whole parts of its record."""
        folder = self.folder / identity
        folder.mkdir(parents=True)
        factor = int(scale[1:])
        record = {
            "schema": 1,
            "identity": identity,
            "seed": seed,
            "config": {
                "seed": seed, "runs_dir": str(self.folder), "seeds": None,
                "scale": {"name": scale, "factor": factor, "width": "1792/s"},
                "arch": {"depth": depth, "width": "auto", "expanding_rate": 8 / 3, "tied": False},
                "init": {"method": "random", "rule": "internlm"},
                "train": {"tokens": 500000, "tokens_per_parameter": None, "threads": "auto", "learning_rates": [1.0, 2.0]},
                "experiment": {"name": "x", "axis": []},
            },
            "shape": {"depth": depth, "width": 2560 // depth, "heads": 4, "vocab_size": 1500, "tied": False},
            "parameters": {"embedding": 1000, "total": 900_000 + depth},
            "embedding_head_share": 18.07,
            "flops_per_token": {"forward": 2, "total": 6},
            "tokens": 500_000,
            "precision": "fp32",
            "tokenizer": {"fingerprint": "0123456789012345", "bytes_per_token": {"en": 3.4, "zh": 3.0}},
            "data": {"fingerprint": "1234567890123456", "sources": [{"name": "a", "license": "b"}]},
            "init": {"origin": "drawn"},
            "metrics": {
                "test/bits_per_byte/en": bits - 0.1, "test/bits_per_byte/zh": bits + 0.1, "test/bits_per_byte/all": bits,
                "test/bits_per_byte/all/standard_error": 0.02, "validation/bits_per_byte/en": bits,
                "validation/bits_per_byte/zh": bits, "validation/bits_per_byte/all": bits,
                "test/cloze/en": cloze, "test/cloze/zh": cloze, "test/cloze/all": cloze,
                "test/cloze/all/standard_error": 0.03, "train/tokens_per_second": 1000.0 + seed, "train/seconds": 500.0,
            },
            "provenance": {"commit": None, "packages": {"torch": "2"}, "machine": {"cores": 2}},
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(record | changes))
        (folder / "config.yaml").write_text("seed: 0\n")
        rows = [{"step": n, "tokens": 1000 * n, "loss": 8.0 / (1 + n / 20) + bits + seed / 50} for n in range(1, 301)]
        (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return identity

    def grid(self, name: str, cells: dict[str, dict[str, Any]], file: str = "", **changes: Any) -> Path:
        """A grid's file: cells are {identity: overrides}."""
        content = {
            "identity": "f" * 16, "name": name, "title": f"Title of {name}", "paper": None, "paper_axis": [],
            "axis": list(dict.fromkeys(key for overrides in cells.values() for key in overrides)),
            "cells": [
                {"identity": identity, "name": "", "overrides": {key: str(value) for key, value in overrides.items()}}
                for identity, overrides in cells.items()
            ],
        }  # fmt: skip
        path = self.folder / "grids" / f"{file or name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | changes))
        return path

    def documents(self, identity: str, spread: float = 0.0, seed: int = 0) -> None:
        """Documents and questions of a run that add up to its record; ``spread`` is the deviation of its bits a byte over
        documents."""
        metrics = json.loads((self.folder / identity / "metrics.json").read_text())["metrics"]
        source, rows, asked = np.random.default_rng(seed), [], []
        for language in ("en", "zh"):
            sizes = np.random.default_rng(7).integers(200, 2000, 40)
            noise = source.normal(0, spread, 40)
            noise -= (noise * sizes).sum() / sizes.sum()
            nats = (metrics[f"test/bits_per_byte/{language}"] + noise) * sizes * math.log(2)
            for split in ("validation", "test"):
                rows += [(split, language, f"{language}{n:030d}", nats[n], int(sizes[n]), int(sizes[n])) for n in range(40)]
            right = round(40 * metrics[f"test/cloze/{language}"])
            asked += [("test", language, f"{language}{n:030d}", n < right, 0.1) for n in range(40)]
        pd.DataFrame(rows, columns=["split", "language", "document", "nats", "bytes", "tokens"]).to_parquet(
            self.folder / identity / "documents.parquet"
        )
        pd.DataFrame(asked, columns=["split", "language", "question", "correct", "margin"]).to_parquet(
            self.folder / identity / "questions.parquet"
        )

    def depths(self, bits: dict[int, list[float]], name: str = "table02_depth_width", **changes: Any) -> None:
        """A grid of depths; a value a seed."""
        cells = {}
        for depth, values in bits.items():
            for seed, value in enumerate(values):
                cells[self.add(f"{name}-{depth}-{seed}", seed, value, depth=depth)] = {"arch.depth": depth, "seed": seed}
        self.grid(name, cells, **changes)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")
