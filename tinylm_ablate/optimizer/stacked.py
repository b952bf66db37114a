"""The weights of R runs as one row of memory each, and the optimizer over all rows at once, for a GPU.

What belongs to one kind of parameter in all layers lies together, so that the optimizer needs three passes at most: over the
matrices of the layers, the embedding and the head, and the vectors.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.optimizer.optimizers import decay_of, rule_of
from tinylm_ablate.optimizer.updates import Rule, Settings, apply, averaged, first_state, scaled_orthogonal

#: A parameter begins at a multiple of this many weights, as a GPU's wide loads and compiled kernels want it.
_ALIGNED = 64


@dataclass(frozen=True)
class Kind:
    """Parameters of one size, one behind the other: the same matrix of every layer, for example.

    Attributes:
        names: The parameters.
        size: Of one of them.
        start: Where the first begins.
        stride: Weights between the beginnings of two.
    """

    names: tuple[str, ...]
    size: torch.Size
    start: int
    stride: int

    def of(self, rows: Tensor) -> Tensor:
        """Their weights, (R, P) -> (R, parameters, *size)."""
        kept = rows[:, self.start : self.start + len(self.names) * self.stride]
        kept = kept.view(-1, len(self.names), self.stride)[..., : self.size.numel()]
        return kept.view(*kept.shape[:-1], *self.size)


@dataclass(frozen=True)
class Part:
    """Kinds of parameters with the same update rule.

    Attributes:
        matrices: Whether they are matrices.
        in_layers: Whether they are matrices of the layers, which only products use.
        within: Their slice of a row.
        kinds: The kinds, with offsets relative to the part.
    """

    matrices: bool
    in_layers: bool
    within: slice
    kinds: tuple[Kind, ...]

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return views of the parameters in the rows of this part, (R, width): name -> (R, *size)."""
        return {name: kind.of(rows)[:, index] for kind in self.kinds for index, name in enumerate(kind.names)}


@dataclass(frozen=True)
class Layout:
    """Layout of a run's parameters in a row.

    Attributes:
        parts: All of them, in order.
        width: Length P of a row; gaps between parameters are always zero.
    """

    parts: tuple[Part, ...]
    width: int

    @staticmethod
    def of(sizes: Mapping[str, torch.Size]) -> Layout:
        """Create the layout of parameters: name -> size in one run."""
        groups: tuple[list[str], list[str], list[str]] = ([], [], [])
        for name, size in sizes.items():
            groups[2 if len(size) < 2 else 0 if name.startswith("layers.") else 1].append(name)
        parts, begin = [], 0
        for names in groups:
            kinds, place = [], 0
            by_kind: dict[tuple[str, torch.Size], list[str]] = {}
            for name in names:
                by_kind.setdefault((re.sub(r"^layers\.\d+\.", "layers.", name), sizes[name]), []).append(name)
            for (_, size), alike in by_kind.items():
                stride = math.ceil(size.numel() / _ALIGNED) * _ALIGNED
                kinds.append(Kind(tuple(alike), size, place, stride))
                place += stride * len(alike)
            parts.append(Part(names is not groups[2], names is groups[0], slice(begin, begin + place), tuple(kinds)))
            begin += place
        return Layout(tuple(part for part in parts if part.kinds), begin)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return views of the parameters in rows (R, P): name -> (R, *size)."""
        return {name: view for part in self.parts for name, view in part.views(rows[:, part.within]).items()}


@dataclass
class _Kept:
    """State of a part: its rule, each run's decay (R, 1), and its state by kind, (R, width)."""

    part: Part
    rule: Rule
    decay: Tensor
    state: dict[str, Tensor] = field(default_factory=dict)


class _Numbers(NamedTuple):
    """What an update needs of each run, (R, 1): see ``updates.Settings``, and the factor by which gradients are clipped."""

    active: Tensor
    on: Tensor
    rate: Tensor
    factor: Tensor
    updates: Tensor
    average: Tensor
    first_correction: Tensor
    second_correction: Tensor


class StackedOptimizer:
    """One optimizer for R runs with their own settings; a step does not synchronize with the host.

    Args:
        layout: Layout of the rows.
        weights: (R, P).
        configs: The group ``optimizer`` of each run, all with the same name.
        products: muon: precision of its matrix products.
        compiles: Whether to compile a step.
    """

    def __init__(
        self, layout: Layout, weights: Tensor, configs: Sequence[OptimizerConfig], products: torch.dtype, compiles: bool = False
    ) -> None:
        self.layout, self.weights, self.products = layout, weights, products
        # Compiled as one function, a step would compute the numbers of a run again for each of its weights.
        self._prepare, self._change = self._numbers, self._apply
        if compiles:
            self._prepare = torch.compile(self._numbers, dynamic=False)
            self._change = torch.compile(self._apply, dynamic=False)

        def each(of: Callable[[OptimizerConfig], float]) -> Tensor:
            return torch.tensor([[of(config)] for config in configs], dtype=torch.float64, device=weights.device)

        self.betas = each(lambda c: c.beta1), each(lambda c: c.beta2)
        self.eps, self.momentum, self.clip = each(lambda c: c.eps), each(lambda c: c.momentum), each(lambda c: c.clip)
        self.counters = {name: each(lambda _: 0.0) for name in ("updates", "highest_rate", "weight_sum")}
        self.kept = []
        for part in layout.parts:
            rule = rule_of(part.kinds[0].names[0], part.matrices, configs[0])
            decay = each(lambda config, part=part: decay_of(part.matrices, config))  # type: ignore[misc]
            self.kept.append(_Kept(part, rule, decay, first_state(rule, weights[:, part.within])))

    def step(self, grads: Tensor, rates: Tensor, active: Tensor) -> Tensor:
        """Clip, and update the weights in place.

        Args:
            grads: (R, P).
            rates: Learning rate of each run, (R,) fp64.
            active: Which runs take part, (R,) bool. Weights, state and counters of the others, and of runs whose gradients are
                not finite, stay unchanged to the bit.

        Returns:
            The norm of each run's gradients before clipping, (R,).
        """
        norms, numbers = self._prepare(grads, rates, active)
        self._change(grads, numbers)
        return norms

    def _numbers(self, grads: Tensor, rates: Tensor, active: Tensor) -> tuple[Tensor, _Numbers]:
        """Compute the norms of the gradients, advance the counters, and compute the numbers of the update."""
        norms: Tensor = torch.linalg.vector_norm(grads, dim=1, dtype=torch.float32)
        active = (active & norms.isfinite()).unsqueeze(1)
        on, rate = active.double(), rates.unsqueeze(1)
        counters = self.counters
        counters["updates"].add_(on)
        torch.maximum(counters["highest_rate"], rate * on, out=counters["highest_rate"])
        weight = counters["highest_rate"] ** 2
        counters["weight_sum"].add_(weight * on)
        average = weight / counters["weight_sum"].clamp(min=torch.finfo(torch.float64).tiny)
        factor = (self.clip / (norms.unsqueeze(1) + 1e-6)).clamp(max=1).float()
        updates = counters["updates"].clamp(min=1)
        first, second = (1 - beta**updates for beta in self.betas)
        return norms, _Numbers(active, on, rate, factor, updates, average, first, second)

    def _apply(self, grads: Tensor, numbers: _Numbers) -> None:
        """Update the weights."""
        grads = torch.where(numbers.active, grads * numbers.factor, 0.0)
        for kept in self.kept:
            settings = Settings(
                numbers.rate, kept.decay, *self.betas, self.eps, self.momentum, numbers.updates, numbers.average, numbers.on,
                orthogonal=functools.partial(self._orthogonal, part=kept.part),
                known=(numbers.first_correction, numbers.second_correction),
            )  # fmt: skip
            within = kept.part.within
            apply(kept.rule, self.weights[:, within], grads[:, within], kept.state, settings)

    def _orthogonal(self, rows: Tensor, part: Part) -> Tensor:
        """Return the scaled orthogonal matrices closest to the matrices of a part, (R, width) -> (R, width)."""
        result = torch.zeros_like(rows)
        for kind in part.kinds:
            kind.of(result).copy_(scaled_orthogonal(kind.of(rows), self.products))
        return result

    def state_of(self, run: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
        """Return the state of one run as ``build.optimizer_state`` does: kind of state -> name -> tensor, and the counters."""
        counters = {name: float(value[run]) for name, value in self.counters.items()}
        kept: dict[str, dict[str, Tensor]] = {}
        if counters["updates"]:
            for kind_of_state, name, view in self._state_views():
                kept.setdefault(kind_of_state, {})[name] = view[run]
        if self.kept[0].rule.name == "adamw":
            counters = {"updates": counters["updates"]}
        return kept, counters

    def restore(self, run: int, kept: Mapping[str, Mapping[str, Tensor]], counters: Mapping[str, float]) -> None:
        """The inverse of ``state_of``."""
        for name, value in counters.items():
            self.counters[name][run] = value
        for kind_of_state, name, view in self._state_views():
            if kind_of_state in kept:
                view[run].copy_(kept[kind_of_state][name])
            elif kind_of_state == "z":  # before the first update, the run's initial weights
                view[run].copy_(self.layout.views(self.weights)[name][run])

    def final_weights(self, run: int) -> dict[str, Tensor]:
        """Return the weights to use a run's model with: name -> tensor; averages with schedule_free."""
        weights = {name: view[run] for name, view in self.layout.views(self.weights).items()}
        if self.counters["updates"][run] > 0:
            for kind_of_state, name, view in self._state_views():
                if kind_of_state == "z":
                    weights[name] = averaged(weights[name], view[run], float(self.betas[0][run]))
        return weights

    def _state_views(self) -> list[tuple[str, str, Tensor]]:
        """Yield all state by the names of the parameters: (kind of state, name, (R, *size))."""
        return [
            (kind_of_state, name, kind.of(rows)[:, index])
            for kept in self.kept
            for kind_of_state, rows in kept.state.items()
            for kind in kept.part.kinds
            for index, name in enumerate(kind.names)
        ]
