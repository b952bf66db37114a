"""A small settled run on synthetic tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import TINY
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.lean import import_lightning

import_lightning()  # before a test imports Lightning


@pytest.fixture
def settled(tmp_path: Path) -> Settled:
    """Twelve steps of two micro batches of two sequences."""
    return settle(
        compose([*TINY, f"runs_dir={tmp_path}/runs", "train.tokens=1536", "train.micro_batch=2", "train.log_every=1"])
    )


@pytest.fixture(scope="session")
def tokens() -> np.ndarray:
    """A text with structure to learn: short words in random order."""
    draw = np.random.default_rng(0)
    words = draw.integers(0, 300, (20, 5))
    return words[draw.integers(0, 20, 400)].ravel().astype(np.uint16)
