"""Initial weights from a larger model (Section 3.2): layers, then neurons, then rows of the vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinylm_ablate.data.once import write_once
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.formats.tensors import EMBEDDING, HEAD, own_parts
from tinylm_ablate.init.layer_choice import LayerChoice, choose_layers
from tinylm_ablate.init.neurons import Scores, choose_units, cut, random_scores, score
from tinylm_ablate.init.parents import Parent, check_parent
from tinylm_ablate.init.pool import check_pool
from tinylm_ablate.init.random import draw
from tinylm_ablate.init.vocabulary_rows import Entries, map_rows

if TYPE_CHECKING:
    from tinylm_ablate.arch.shapes import Shape
    from tinylm_ablate.config import InitConfig


def inherit(
    parent: Parent,
    child_shape: Shape,
    child_vocabulary: Entries,
    init: InitConfig,
    seed: int,
    *,
    layers: LayerChoice | None = None,
    scores: Scores | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Cut a child out of a parent.

    Args:
        parent: The parent; its weights are read one tensor at a time.
        child_shape: Shape of the child.
        child_vocabulary: The child's vocabulary, with ``child_shape.vocab_size`` entries.
        init: Criterion, layers to keep, and the standard deviation of random rows.
        seed: Seed of random rows.
        layers: Layers to keep; by default "middle" with ``init.keep_first`` and ``keep_last``.
        scores: Scores of the parent's units (see ``open_scores``); by default they are computed.
        weights: Replacement of the parent's weights, with the same sizes: those trained with learned masks.

    Returns:
        The child's weights in single precision under Hugging Face's Llama names (a tied child has no head), and a record for
        JSON: parent, layers, neurons, vocabulary.

    Raises:
        ConfigError: The child does not fit the parent.
        ValueError: The vocabulary does not have the shape's size.
    """
    mistakes = check_parent(parent, child_shape)
    if init.method == "pool":
        mistakes += check_pool(parent.shape, child_shape)
    if mistakes:
        raise ConfigError(mistakes)
    if child_vocabulary.size != child_shape.vocab_size:
        raise ValueError(f"a vocabulary of {child_vocabulary.size} for a shape of {child_shape.vocab_size}")
    layers = layers or choose_layers(parent.shape.depth, child_shape.depth, init.keep_first, init.keep_last)
    scores = scores or _scores(parent, init.criterion)
    units = choose_units(scores, parent.shape, child_shape, layers.layers)
    row_map = map_rows(child_vocabulary, parent.vocabulary, parent.shape.vocab_size)

    state = cut(parent.state if weights is None else weights, parent.shape, child_shape, layers.layers, units, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name in (EMBEDDING, HEAD):
        if name in state:
            state[name] = row_map.apply(state.pop(name), init.sigma, generator)

    state |= _new_modules(parent.shape, child_shape, init.sigma, seed)

    record = {
        "method": init.method,
        "parent": {
            "reference": parent.reference,
            "fingerprint": parent.fingerprint,
            "description": parent.description,
            "shape": dataclasses.asdict(parent.shape),
        },
        "layers": layers.record(),
        "neurons": {
            "criterion": scores.criterion,
            **_kept(parent.shape, child_shape),
            "kept_score_percent": {axis: 100 * share for axis, share in units.shares.items()},
        },
        "vocabulary": row_map.record(),
    }
    return state, record


def _new_modules(parent: Shape, child: Shape, std: float, seed: int) -> dict[str, Tensor]:
    """Return PanGu-pi's modules for a child of a parent without them, initialized so that the child computes Llama's function.

    The first term of each series has scale 1, the others 0, and all shifts are 0; the last matrix of a shortcut is zero and the
    first is drawn from N(0, std^2). Terms beyond the second start equal and therefore stay equal.
    """
    if not parent.is_llama:
        return {}
    made: dict[str, Tensor] = {}
    for layer in range(child.depth):
        for part, size in own_parts(child).items():
            weight = made[f"model.layers.{layer}.{part}"] = torch.zeros(size)
            if part == "ffn.activation.scales":
                weight[: child.ffn_width] = 1.0
            elif part == "shortcuts.down.weight":
                draw(weight, std, seed, f"{layer}.{part}")
    return made


#: Function that scores parents of one shape and tokenizer together.
Compute = Callable[[Sequence[Parent]], list[Scores]]


def open_scores(
    parents: Sequence[Parent], criterion: str, cache_dir: Path, compute: Compute | None = None, variant: str = ""
) -> list[Scores]:
    """Return the scores of each parent's units, computed once and then read from ``cache_dir/scores``.

    Args:
        parents: The parents.
        criterion: Criterion of the scores.
        cache_dir: Shared cache folder.
        compute: Computes scores that need more than the weights, such as gradients; not used for "random" and the norms.
        variant: Other inputs of the scores, such as the fingerprint of the calibration text.

    Raises:
        UserError: The weights are not finite, or the scores cannot be written.
    """
    paths = [
        cache_dir / "scores" / f"{'-'.join(part for part in (parent.fingerprint, criterion, variant) if part)}.safetensors"
        for parent in parents
    ]
    compute = compute or (lambda missing: [_scores(parent, criterion) for parent in missing])
    write_once(
        dict(zip(paths, parents, strict=True)),
        lambda missing: [made.save for made in compute(missing)],
        what="the scores of the parent",
    )
    return [Scores.load(path) for path in paths]


def _scores(parent: Parent, criterion: str) -> Scores:
    if criterion == "random":
        return random_scores(parent.shape, parent.fingerprint)
    return score(parent.state, parent.shape, criterion)


def _kept(parent: Shape, child: Shape) -> dict[str, dict[str, int]]:
    """Numbers of units per axis in child and parent."""
    return {
        axis: {"kept": getattr(child, axis), "of": getattr(parent, axis)}
        for axis in ("width", "heads", "kv_heads", "ffn_width")
    }
