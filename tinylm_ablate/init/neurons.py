"""Selection of the neurons that the child keeps, and the cut (Section 3.2, second stage).

Neurons form coupled structures; a unit is removed with all weights that belong only to it:

- width: one hidden channel, shared by embedding, head, norms and every layer;
- heads: one key-value head with its query heads, so that groups are never divided;
- ffn: one FFN neuron, the row of gate and up and the column of down.

The score of a unit is a sum over all its weights, as in LLM-Pruner (Ma et al. 2023, arXiv 2305.11627), which the paper cites
for its three heuristics without giving a formula: |w| for "l1", w^2 for "l2" (no root), |w g| for "taylor" with g the
gradient of the mean loss on calibration text (``tinylm_ablate.init.calibration``). All units of an axis have the same number of
weights, so that sum and mean select the same units. Scores depend only on parent and criterion and are stored per layer, so
that any child can be cut without reading the parent again. Criteria that do not score single weights ("random", the control,
and learned masks in ``tinylm_ablate.init.masks``) fill ``Scores`` in their own way and use the same cut.


Nothing is rescaled after a cut: RMSNorm divides by the root mean square of the remaining channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.formats.tensors import EMBEDDING, HEAD, NORM, layer_parts, own_parts, tensor_name
from tinylm_ablate.init.compatible import check_shapes
from tinylm_ablate.init.pool import mean_heads

if TYPE_CHECKING:
    from tinylm_ablate.arch.shapes import Shape

#: Criteria that score single weights: (weight, gradient) -> score of each weight.
ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda weight, _: weight.abs(),
    "l2": lambda weight, _: weight.square(),
    "taylor": lambda weight, gradient: (weight * gradient).abs(),
}
NEEDS_GRADIENTS = frozenset({"taylor"})

_BLOCK = 2**22  # weights scored at a time, so that a 100k-row embedding in bfloat16 is not copied to single precision whole


@dataclass(frozen=True, eq=False)
class Scores:
    """Importance scores of the units of a parent; larger is kept.

    Attributes:
        criterion: Criterion of the scores.
        width: (layers + 1, width), what each layer contributes to a hidden channel, then embedding, last norm and head.
        heads: (layers, heads), the query heads with their columns of the output projection.
        kv_heads: (layers, key-value heads), keys and values.
        ffn: (layers, FFN width).
    """

    criterion: str
    width: Tensor
    heads: Tensor
    kv_heads: Tensor
    ffn: Tensor

    def save(self, path: Path) -> None:
        """Write the scores as safetensors, atomically."""
        from safetensors.torch import save

        tensors = {"width": self.width, "heads": self.heads, "kv_heads": self.kv_heads, "ffn": self.ffn}
        write_atomic(path, save(tensors, metadata={"criterion": self.criterion}))

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read scores that ``save`` wrote."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return cls(file.metadata()["criterion"], **{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a file of saved scores ({error}); delete it to compute them again") from error


def score(state: Mapping[str, Tensor], shape: Shape, criterion: str, gradients: Mapping[str, Tensor] | None = None) -> Scores:
    """Score every unit of a model, reading one tensor at a time.

    Args:
        state: Weights under Hugging Face's Llama names.
        shape: Shape of ``state``.
        criterion: A name in ``ELEMENTWISE``.
        gradients: "taylor": the gradient of each weight, under the same names. A tied matrix has one, the sum of both uses.

    Raises:
        UserError: The weights or gradients are not finite.
        ValueError: The criterion is unknown, or gradients are missing or unexpected.
    """
    if criterion not in ELEMENTWISE:
        raise ValueError(f"unknown criterion {criterion!r}; allowed: {', '.join(ELEMENTWISE)}")
    if (criterion in NEEDS_GRADIENTS) != (gradients is not None):
        raise ValueError(f"criterion {criterion!r} {'needs' if gradients is None else 'does not use'} gradients")

    def sums(name: str) -> tuple[Tensor, ...]:
        return _sums(state[name], None if gradients is None else gradients[name], ELEMENTWISE[criterion])

    def zeros(rows: int, columns: int) -> Tensor:
        return torch.zeros(rows, columns, dtype=torch.float64)

    totals = {
        "width": zeros(shape.depth + 1, shape.width),
        "heads": zeros(shape.depth, shape.heads),
        "kv_heads": zeros(shape.depth, shape.kv_heads),
        "ffn": zeros(shape.depth, shape.ffn_width),
    }
    for layer in range(shape.depth):
        for part, axes in layer_parts(shape).items():
            if not totals.keys() >= set(axes):
                continue  # belongs to no single unit, like the norm that all heads of a layer share
            for axis, summed in zip(axes, sums(tensor_name(layer, part)), strict=True):
                units = totals[axis].shape[1]
                totals[axis][layer] += summed.reshape(units, -1).sum(1)
    for name in (EMBEDDING, NORM) if shape.tied else (EMBEDDING, NORM, HEAD):
        totals["width"][-1] += sums(name)[-1]
    if not all(bool(total.isfinite().all()) for total in totals.values()):
        raise UserError(f"the parent's weights{' or their gradients' if gradients else ''} hold values that are not finite")
    return Scores(criterion, **totals)


def random_scores(shape: Shape, key: str) -> Scores:
    """Draw scores uniformly from [0, 1): the control arm, which selects units at random.

    Args:
        shape: Shape of the parent.
        key: Hexadecimal seed, the parent's fingerprint, so that a parent has the same scores everywhere.
    """
    generator = torch.Generator().manual_seed(int(key, 16) % 2**63)

    def drawn(rows: int, columns: int) -> Tensor:
        return torch.rand(rows, columns, dtype=torch.float64, generator=generator)

    depth = shape.depth
    return Scores(
        "random",
        width=drawn(depth + 1, shape.width),
        heads=drawn(depth, shape.heads),
        kv_heads=drawn(depth, shape.kv_heads),
        ffn=drawn(depth, shape.ffn_width),
    )


def _sums(weight: Tensor, gradient: Tensor | None, element: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
    """Sum the scores of a tensor's weights over each row and each column; for a vector, return its weights' scores."""
    if weight.dim() == 1:
        return (element(weight.float(), weight if gradient is None else gradient.float()).double(),)
    rows = torch.zeros(weight.shape[0], dtype=torch.float64)
    columns = torch.zeros(weight.shape[1], dtype=torch.float64)
    step = max(1, _BLOCK // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        block = weight[start : start + step].float()
        scored = element(block, block if gradient is None else gradient[start : start + step].float())
        rows[start : start + step] = scored.sum(1, dtype=torch.float64)
        columns += scored.sum(0, dtype=torch.float64)
    return rows, columns


@dataclass(frozen=True, eq=False)
class Units:
    """Units of the parent that a child keeps, each list ascending.

    Attributes:
        width: (child width,) hidden channels.
        queries: Parent layer -> (child heads,) query heads.
        keys: Parent layer -> (child key-value heads * pool,) key-value heads; a head that is split into smaller groups is
            repeated.
        ffn: Parent layer -> (child FFN width,) FFN neurons.
        pool: Number of adjacent key-value heads whose mean becomes one head of the child.
        shares: Axis -> share of the total score that is kept, over the kept layers.
    """

    width: Tensor
    queries: dict[int, Tensor]
    keys: dict[int, Tensor]
    ffn: dict[int, Tensor]
    pool: int
    shares: dict[str, float]


def heads_together(parent: Shape, child: Shape) -> int:
    """Query heads per unit: a whole group if the groups are equal, otherwise their greatest common divisor."""
    return math.gcd(parent.heads // parent.kv_heads, child.heads // child.kv_heads)


def choose_units(scores: Scores, parent: Shape, child: Shape, layers: Sequence[int]) -> Units:
    """Select the units with the highest scores in the kept layers; of equal ones, the first.

    If parent and child have the same number of query heads per key-value head, whole groups are selected. Otherwise, units have
    the greatest common divisor of both group sizes: each key-value head is copied for every unit of its group (which changes
    nothing), units are selected, and the key-value heads of adjacent units are averaged as in Table 10.
    """
    kept_layers = sorted(set(layers))
    width_scores = scores.width[[*kept_layers, parent.depth]].sum(0)
    width = _best(width_scores, child.width)
    together = heads_together(parent, child)
    split = parent.heads // parent.kv_heads // together
    queries, keys, ffn = {}, {}, {}
    kept, total = {"heads": 0.0, "ffn": 0.0}, {"heads": 0.0, "ffn": 0.0}
    for layer in kept_layers:
        part_scores = scores.heads[layer].reshape(-1, together).sum(1) + scores.kv_heads[layer].repeat_interleave(split)
        parts = _best(part_scores, child.heads // together)
        queries[layer] = _members(parts, together)
        keys[layer] = parts // split
        ffn[layer] = _best(scores.ffn[layer], child.ffn_width)
        for axis, every, chosen in (("heads", part_scores, parts), ("ffn", scores.ffn[layer], ffn[layer])):
            kept[axis] += float(every[chosen].sum())
            total[axis] += float(every.sum())
    shares = {"width": float(width_scores[width].sum()) / (float(width_scores.sum()) or 1.0)}
    shares |= {axis: kept[axis] / (total[axis] or 1.0) for axis in kept}
    return Units(width, queries, keys, ffn, child.heads // child.kv_heads // together, shares)


def cut(
    state: Mapping[str, Tensor],
    parent: Shape,
    child: Shape,
    layers: Sequence[int],
    scores: Scores | Units,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Cut a child out of a parent, reading one tensor at a time.

    Args:
        state: The parent's weights under Hugging Face's Llama names.
        parent: Shape of ``state``.
        child: Shape of the child; its vocabulary is ignored, since embedding and head keep the parent's rows.
        layers: Parent layer of each child layer.
        scores: Scores of the parent's units, or the units already selected from them.
        dtype: Type of the child's weights; None keeps the parent's.

    Returns:
        The child's weights under the same names, as copies. An untied child of a tied parent gets two copies.

    Raises:
        ValueError: The child does not fit (see ``check_shapes``).
    """
    if mistakes := check_shapes(parent, child):
        raise ValueError("; ".join(mistakes))
    if len(layers) != child.depth:
        raise ValueError(f"{len(layers)} layers for a child of {child.depth}")
    units = choose_units(scores, parent, child, layers) if isinstance(scores, Scores) else scores
    chosen = {
        layer: {
            "width": units.width,
            "heads": _members(units.queries[layer], parent.head_dim),
            "kv_heads": _members(units.keys[layer], parent.head_dim),
            "ffn": units.ffn[layer],
            "head_dim": torch.arange(parent.head_dim),
        }
        for layer in units.queries
    }

    def kept(name: str, *indices: Tensor) -> Tensor:
        """Select entries of a tensor, with one list for each of its first or last dimensions."""
        weight = state[name]
        for dimension, index in enumerate(indices, start=weight.dim() - len(indices)):
            weight = weight.index_select(dimension, index)
        return weight if dtype is None else weight.to(dtype)

    result = {EMBEDDING: kept(EMBEDDING, units.width)}
    for layer, source in enumerate(layers):
        for part, axes in layer_parts(parent).items():
            weight = kept(tensor_name(source, part), *(chosen[source][axis] for axis in axes))
            pool = units.pool if axes[0] == "kv_heads" else 1
            result[tensor_name(layer, part)] = mean_heads(weight, parent.head_dim, pool)
        for part in own_parts(parent):
            result[f"model.layers.{layer}.{part}"] = kept(f"model.layers.{source}.{part}")
    result[NORM] = kept(NORM, units.width)
    if not child.tied:
        result[HEAD] = kept(EMBEDDING if parent.tied else HEAD, units.width)
    return result


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores, ascending; ties go to the lower index."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _members(groups: Tensor, size: int) -> Tensor:
    """Indices of the members of each group, where group i contains i * size to (i + 1) * size - 1."""
    return (groups.unsqueeze(1) * size + torch.arange(size)).flatten()
