"""How much each layer of a parent matters: what its loss rises by when the layer is skipped (Section 3.2, Figure 5).

The paper skips layers of large models and looks at benchmarks. Here the loss on the parent's calibration text is measured with
each layer left out in turn, which is what ``init.layers=importance`` goes by; no held-out text is looked at.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tinylm_ablate import progress
from tinylm_ablate.data.once import locked
from tinylm_ablate.disk import writing
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import remove_unfinished, write_atomic
from tinylm_ablate.init.calibration import parent_decoder
from tinylm_ablate.init.layer_choice import LayerChoice, choose_layers

if TYPE_CHECKING:
    from tinylm_ablate.config import InitConfig
    from tinylm_ablate.init.calibration import Calibration
    from tinylm_ablate.init.parents import Parent


@dataclass(frozen=True)
class Importance:
    """What skipping each layer of a parent does to its loss.

    Attributes:
        whole: Mean loss of the whole parent, nats a token.
        skipped: The same with one layer left out, for each layer.
    """

    whole: float
    skipped: tuple[float, ...]

    @property
    def costs(self) -> tuple[float, ...]:
        """What each layer's skipping costs, nats a token; below zero where the parent is better off without it."""
        return tuple(loss - self.whole for loss in self.skipped)


def open_importance(parent: Parent, calibration: Calibration, cache_dir: Path, device: str = "cpu") -> Importance:
    """What skipping each layer costs, measured once for a parent and a text and then read from ``cache_dir/scores``.

    Args:
        parent: The model.
        calibration: Its text.
        cache_dir: Folder that runs share.
        device: "cpu" or "cuda", where to measure.

    Raises:
        UserError: The parent's loss is not finite, or the saved file is damaged.
    """
    path = cache_dir / "scores" / f"{parent.fingerprint}-layers-{calibration.fingerprint}.json"
    if not path.is_file():
        what = "the importance of the parent's layers"
        with writing(path.parent, what, key="cache_dir"), locked(path, what):
            if not path.is_file():
                made = layer_importance(parent, calibration, device)
                remove_unfinished(path)
                write_atomic(path, json.dumps({"whole": made.whole, "skipped": made.skipped}, indent=1))
    try:
        content = json.loads(path.read_text())
        found = Importance(float(content["whole"]), tuple(float(loss) for loss in content["skipped"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file of saved losses ({error}); delete it and they are measured again") from error
    if len(found.skipped) != parent.shape.depth:
        raise UserError(f"{path}: losses of {len(found.skipped)} layers, and the parent has {parent.shape.depth}; delete it")
    return found


def open_layers(
    parent: Parent, child_depth: int, init: InitConfig, calibration: Calibration, cache_dir: Path, device: str = "cpu"
) -> LayerChoice:
    """Choose the child's layers by ``init.layers``; only the rule "importance" looks at the calibration text. Pooling, which
    changes no layer, keeps them all.

    Raises:
        UserError: The layers cannot be chosen so.
    """
    depth = parent.shape.depth
    rule = "middle" if init.method == "pool" else init.layers
    measured = rule == "importance" and child_depth < depth
    costs = open_importance(parent, calibration, cache_dir, device).costs if measured else None
    return choose_layers(depth, child_depth, init.keep_first, init.keep_last, rule, costs)


def layer_importance(parent: Parent, calibration: Calibration, device: str = "cpu") -> Importance:
    """Measure the mean loss of a parent, and that with each layer left out.

    The state before a layer is computed once and continued from there without it, which is half of the arithmetic of
    as many whole passes as there are layers. Memory: the parent in single precision.

    Raises:
        UserError: The parent's loss is not finite.
    """
    decoder = parent_decoder(parent).to(device)
    blocks, depth = decoder.blocks, parent.shape.depth
    sums = [0.0] * (depth + 1)
    work = calibration.sequences * calibration.context_length
    with torch.inference_mode(), progress.bar(total=work, description="importance of the parent's layers", unit="tok") as bar:
        for batch in calibration.batches(0, calibration.sequences):
            tokens = batch.to(device)
            before = decoder.embedding(tokens[:, :-1])
            for skipped in range(depth + 1):
                losses = decoder.stream_loss(decoder.through(before, blocks[skipped + 1 :]), tokens[:, 1:], "none")
                sums[skipped] += float(losses.cpu().sum(dtype=torch.float64))
                before = decoder.through(before, blocks[skipped : skipped + 1])
            bar.update(batch.shape[0] * calibration.context_length)
    *parts, whole = (total / work for total in sums)
    if not all(math.isfinite(loss) for loss in (whole, *parts)):
        raise UserError(f"init.parent={parent.reference}: its loss on the training text is not finite; its weights are damaged")
    return Importance(whole, tuple(parts))
