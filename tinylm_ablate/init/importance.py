"""Importance of each layer of a parent: the increase of its loss when the layer is skipped (Section 3.2, Figure 5).

The paper skips layers of large models and measures benchmarks. Here, the loss on the parent's calibration text is measured
with each layer skipped in turn, which ``init.layers=importance`` uses; no held-out text is involved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tinylm_ablate import progress
from tinylm_ablate.data.once import write_once
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.init.calibration import parents_decoder
from tinylm_ablate.init.layer_choice import LayerChoice, choose_layers

if TYPE_CHECKING:
    from tinylm_ablate.config import InitConfig
    from tinylm_ablate.init.calibration import Calibration
    from tinylm_ablate.init.parents import Parent


@dataclass(frozen=True)
class Importance:
    """Losses of a parent, complete and with each layer skipped.

    Attributes:
        whole: Mean loss of the complete parent, nats per token.
        skipped: Mean loss with one layer skipped, for each layer.
    """

    whole: float
    skipped: tuple[float, ...]

    @property
    def costs(self) -> tuple[float, ...]:
        """Increase of the loss when each layer is skipped, nats per token; negative if the parent is better without it."""
        return tuple(loss - self.whole for loss in self.skipped)

    def save(self, path: Path) -> None:
        """Write the losses as JSON, atomically."""
        write_atomic(path, json.dumps({"whole": self.whole, "skipped": self.skipped}, indent=1))


def open_importance(parent: Parent, calibration: Calibration, cache_dir: Path, device: str = "cpu") -> Importance:
    """Return the cost of skipping each layer, measured once per parent and text and then read from ``cache_dir/scores``.

    Args:
        parent: The model.
        calibration: Its text.
        cache_dir: Shared cache folder.
        device: "cpu" or "cuda".

    Raises:
        UserError: The parent's loss is not finite, or the saved file is damaged.
    """
    make_importance([parent], calibration, cache_dir, device)
    path = _path(parent, calibration, cache_dir)
    try:
        content = json.loads(path.read_text())
        found = Importance(float(content["whole"]), tuple(float(loss) for loss in content["skipped"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file of saved losses ({error}); delete it to measure them again") from error
    if len(found.skipped) != parent.shape.depth:
        raise UserError(f"{path}: losses of {len(found.skipped)} layers, but the parent has {parent.shape.depth}; delete it")
    return found


def make_importance(parents: Sequence[Parent], calibration: Calibration, cache_dir: Path, device: str = "cpu") -> None:
    """Measure the parents, of one shape and tokenizer, that have no saved losses, together.

    Raises:
        UserError: The loss of a parent is not finite.
    """
    write_once(
        {_path(parent, calibration, cache_dir): parent for parent in parents},
        lambda missing: [made.save for made in layer_importance(missing, calibration, device)],
        what="the importance of the parent's layers",
    )


def _path(parent: Parent, calibration: Calibration, cache_dir: Path) -> Path:
    return cache_dir / "scores" / f"{parent.fingerprint}-layers-{calibration.fingerprint}.json"


def measures_layers(parent: Parent, child_depth: int, init: InitConfig) -> bool:
    """Return whether the choice of layers needs their importance."""
    return init.method != "pool" and init.layers == "importance" and child_depth < parent.shape.depth


def open_layers(
    parent: Parent, child_depth: int, init: InitConfig, calibration: Calibration, cache_dir: Path, device: str = "cpu"
) -> LayerChoice:
    """Choose the child's layers by ``init.layers``; only the rule "importance" uses the calibration text.

    Pooling, which does not change layers, keeps all.

    Raises:
        UserError: The layers cannot be chosen by this rule.
    """
    rule = "middle" if init.method == "pool" else init.layers
    measured = measures_layers(parent, child_depth, init)
    costs = open_importance(parent, calibration, cache_dir, device).costs if measured else None
    return choose_layers(parent.shape.depth, child_depth, init.keep_first, init.keep_last, rule, costs)


def layer_importance(parents: Sequence[Parent], calibration: Calibration, device: str = "cpu") -> list[Importance]:
    """Measure the mean loss of each parent, complete and with each layer skipped.

    The state before a layer is computed once and continued without that layer, which halves the cost of one complete pass per
    layer. Memory: the parents in single precision.

    Raises:
        UserError: The loss of a parent is not finite.
    """
    decoder = parents_decoder(parents).to(device)
    blocks, depth = decoder.blocks, parents[0].shape.depth
    sums = np.zeros((depth + 1, len(parents)))
    work = calibration.sequences * calibration.context_length
    with torch.inference_mode(), progress.bar(total=work, description="importance of the parent's layers", unit="tok") as bar:
        for batch in calibration.batches(0, calibration.sequences):
            tokens = batch.to(device)
            before = decoder.embedding(decoder.each_run(tokens[:, :-1]))
            for skipped in range(depth + 1):
                losses = decoder.stream_loss(decoder.through(before, blocks[skipped + 1 :]), tokens[:, 1:], "none")
                sums[skipped] += losses.cpu().flatten(-2).sum(-1, dtype=torch.float64).numpy()
                before = decoder.through(before, blocks[skipped : skipped + 1])
            bar.update(batch.shape[0] * calibration.context_length)
    found = []
    for parent, own in zip(parents, (sums / work).T.tolist(), strict=True):
        *parts, whole = own
        if not all(math.isfinite(loss) for loss in own):
            raise UserError(
                f"init.parent={parent.reference}: its loss on the training text is not finite; its weights are damaged"
            )
        found.append(Importance(whole, tuple(parts)))
    return found
