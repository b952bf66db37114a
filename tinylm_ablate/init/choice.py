"""What a run's choice of layers and neurons depends on. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tinylm_ablate.arch.shapes import plain
from tinylm_ablate.config import InitConfig
from tinylm_ablate.files import fingerprint
from tinylm_ablate.settled import Settled


def reads_text(init: InitConfig) -> bool:
    """Whether the choice of layers or neurons looks at text, which takes long enough to be a task of its own."""
    return init.method == "inherit" and (init.criterion in ("taylor", "learned") or init.layers == "importance")


def scores_marker(settled: Settled) -> Path:
    """The file that exists once ``make_scores`` has run for this parent, child and choice."""
    init = settled.config.init
    chosen = ("criterion", "layers", "keep_first", "keep_last", "calibration_tokens")
    content = {
        "parent": settled.parent.identity if settled.parent is not None else str(init.parent),
        "init": {name: getattr(init, name) for name in chosen},
        "masks": dataclasses.asdict(init.masks) if init.criterion == "learned" else None,
        "shape": plain(settled.shape),
        "text": settled.text,
        "vocabulary": settled.vocabulary,
        "context_length": settled.config.train.context_length,
        "precision": settled.precision,
    }
    return settled.cache / "scores" / f"{fingerprint(content)}.made"
