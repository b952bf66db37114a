"""Planted runs, whose true effects are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinylm_ablate.science.evidence import Evidence

BITS = "test/bits_per_byte/all"
DOCUMENTS = 400
BYTES = 1000


class Planted:
    """Builds the evidence of one experiment, run by run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.documents: list[pd.DataFrame] = []
        self.curves: list[pd.DataFrame] = []
        self._source = np.random.default_rng(0)

    def arm(
        self,
        arm: str,
        bits: float,
        seeds: Sequence[int] = (0, 1, 2),
        *,
        spread: float = 0.001,
        scale: str = "s32",
        parameters: float = 1e6,
        tokens: float = 8e6,
        steps: int = 3900,
        bigrams: float | None = 2.9,
        grid: str = "g",
        settings: Mapping[str, Any] | None = None,
        documents: bool = True,
        tuned: str | None = "interior",
        **metrics: Any,
    ) -> None:
        """Add runs of one arm around ``bits``, whose sample deviation is ``spread``."""
        for seed in seeds:
            identity = f"{len(self.rows):016x}"
            value = bits + spread * float(np.random.default_rng([seed, len(arm), int(1e3 * bits)]).standard_normal())
            row: dict[str, Any] = {
                "identity": identity, "grid": grid, "arm": arm, "seed": seed, "scale": scale, "tokens": tokens, "steps": steps,
                "parameters.total": parameters, "train.tokens": tokens, BITS: value, "test/bits_per_byte/en": value,
            }  # fmt: skip
            if tuned is not None:
                row["tuned"] = tuned
            if bigrams is not None:
                row["test/bigrams/bits_per_byte/all"] = bigrams
            self.rows.append(row | dict(settings or {}) | metrics)
            if documents:
                # Documents differ much, but equally for all runs: their choice hardly affects a difference.
                offsets = np.random.default_rng(7).standard_normal(DOCUMENTS)
                nats = (value + offsets - offsets.mean()) * BYTES * np.log(2)
                own = {"identity": identity, "split": "test", "language": "en", "document": range(DOCUMENTS), "nats": nats}
                self.documents.append(pd.DataFrame(own | {"bytes": BYTES}))
            points = np.linspace(tokens / 50, tokens, 50)
            curve = {"identity": identity, "tokens": points, "bits": value + 0.2 * np.log(tokens / points)}
            self.curves.append(pd.DataFrame(curve))

    def evidence(
        self, experiment: str = "table", axis: Sequence[str] = ("arm",), keys: Sequence[str] = ("train.tokens",)
    ) -> Evidence:
        """Return all runs so far. The curves fall by 0.2 bits per factor of e, so 5 % more tokens are worth 0.00976."""
        documents = pd.concat(self.documents) if self.documents else None
        return Evidence(experiment, axis, pd.DataFrame(self.rows), keys, documents, None, pd.concat(self.curves))


@pytest.fixture
def planted() -> Planted:
    return Planted()
