"""Inputs of a run's choice of layers and neurons. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tinylm_ablate.arch.shapes import plain
from tinylm_ablate.config import InitConfig
from tinylm_ablate.files import fingerprint
from tinylm_ablate.settled import Settled


def reads_text(init: InitConfig) -> bool:
    """Return whether the choice of layers or neurons uses text, which takes long enough to be a separate task."""
    return init.method == "inherit" and (init.criterion in ("taylor", "learned") or init.layers == "importance")


def mask_tokens(settled: Settled) -> int:
    """Tokens for learned masks: ``init.masks.steps`` steps of whole sequences, at least one per step."""
    masks, length = settled.config.init.masks, settled.config.train.context_length
    return masks.steps * max(1, masks.batch_tokens // length) * length


def scores_marker(settled: Settled) -> Path:
    """File that exists once ``make_scores`` has run for this parent, child and choice."""
    parent = settled.parent.identity if settled.parent is not None else str(settled.config.init.parent)
    return settled.cache / "scores" / f"{fingerprint({'parent': parent, **_choice(settled)})}.made"


def scored_alike(settled: Settled) -> str:
    """Key that runs must share for their parents to be scored together; an external parent is scored alone.

    Only the depth of the child counts: scores are those of the parent, and masks of children of several widths are learned
    together.
    """
    parent, choice = settled.parent, _choice(settled) | {"shape": settled.shape.depth}
    if parent is None:
        return str(settled.config.init.parent)
    return fingerprint({"parent": plain(parent.shape), "parent_vocabulary": parent.vocabulary, **choice})


def _choice(settled: Settled) -> dict[str, Any]:
    """Settings that scores depend on, in addition to the parent's weights."""
    init = settled.config.init
    chosen = ("criterion", "layers", "keep_first", "keep_last", "calibration_tokens")
    return {
        "init": {name: getattr(init, name) for name in chosen},
        "masks": dataclasses.asdict(init.masks) if init.criterion == "learned" else None,
        "shape": plain(settled.shape),
        "text": settled.text,
        "vocabulary": settled.vocabulary,
        "context_length": settled.config.train.context_length,
        "precision": settled.precision,
    }
