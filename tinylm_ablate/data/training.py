"""Training data of a run: combines token shards, shares and order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from tinylm_ablate.config import Config
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.data.mixing import groups_of
from tinylm_ablate.data.shards import Shards


def training_batches(tokens: npt.NDArray[Any], config: Config, shards: Path) -> Batches:
    """Return the sequences of a run's first round by position, in the shares of ``data.weights``.

    Args:
        tokens: The training split of the shards.
        config: The run's config.
        shards: The folder of its shards; read only with weights.

    Raises:
        UserError: The weights do not match the text, or the text is shorter than a sequence.
    """
    groups = groups_of(config.data, Shards(shards).summary["groups"]) if config.data.weights else ()
    return Batches(tokens, config.train.context_length, config.seed, round=0, groups=groups)
