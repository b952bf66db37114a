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
    """Return whether the choice of layers or neurons looks at text, which takes long enough to be a task of its own."""
    return init.method == "inherit" and (init.criterion in ("taylor", "learned") or init.layers == "importance")


def mask_tokens(settled: Settled) -> int:
    """Tokens that learned masks read: ``init.masks.steps`` of whole sequences, at least one in a step."""
    masks, length = settled.config.init.masks, settled.config.train.context_length
    return masks.steps * max(1, masks.batch_tokens // length) * length


def scores_marker(settled: Settled) -> Path:
    """The file that exists once ``make_scores`` has run for this parent, child and choice."""
    parent = settled.parent.identity if settled.parent is not None else str(settled.config.init.parent)
    return settled.cache / "scores" / f"{fingerprint({'parent': parent, **_choice(settled)})}.made"


def scored_alike(settled: Settled) -> str:
    """Key that runs must share for their parents to be scored together; a parent that no run trains is scored alone.

    Of the child only its depth counts: scores are those of the parent, and masks of children of several widths are learned
    together.
    """
    parent, choice = settled.parent, _choice(settled) | {"shape": settled.shape.depth}
    if parent is None:
        return str(settled.config.init.parent)
    return fingerprint({"parent": plain(parent.shape), "parent_vocabulary": parent.vocabulary, **choice})


def _choice(settled: Settled) -> dict[str, Any]:
    """Settings that scores depend on, besides the parent's weights."""
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
