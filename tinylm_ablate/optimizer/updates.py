"""Update rules of the optimizers, for one run or for R runs at once.

A rule changes weights and its state in place. For one run, weights are a parameter and settings are numbers; for R runs,
weights are (R, P), one row per run, and settings are (R, 1), so that rates, betas and decay may differ between runs. All rules
compute in fp32, whatever the type of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Number = float | Tensor

#: Coefficients of Jordan's quintic iteration, and the number of iterations.
_NEWTON_SCHULZ, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


@dataclass
class Settings:
    """Inputs of a rule besides weights, gradients and state: numbers, or fp64 tensors (R, 1).

    Attributes:
        rate: Learning rate of this step.
        decay: Decoupled weight decay.
        beta1, beta2: Decay of the first and the second moment.
        eps: Epsilon of the update.
        momentum: Muon's momentum.
        updates: Number of updates including this one, at least 1.
        average: schedule_free: weight of this step in the average of all steps.
        active: 1, or 0 for a run that this step must not change; its gradients must still be finite.
        orthogonal: muon: replaces momentum by the closest scaled orthogonal matrices.
        corrections: AdamW's corrections of both moments, 1 - beta^updates, computed if not given.
    """

    rate: Number
    decay: Number
    beta1: Number
    beta2: Number
    eps: Number
    momentum: Number
    updates: Number
    average: Number = 0.0
    active: Number = 1.0
    orthogonal: Callable[[Tensor], Tensor] | None = None
    corrections: tuple[Number, ...] = ()

    def __post_init__(self) -> None:
        if not self.corrections:
            self.corrections = (1 - self.beta1**self.updates, 1 - self.beta2**self.updates)


def adamw(weights: Tensor, grads: Tensor, state: dict[str, Tensor], settings: Settings) -> None:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    s = settings
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    mean.lerp_(grads, _fp32((1 - s.beta1) * s.active))
    denominator = _root_of_square(square, grads, s)
    weights.mul_(_fp32(1 - s.active * s.rate * s.decay))
    step = s.active * s.rate / s.corrections[0]
    weights.sub_((mean / denominator).mul_(_fp32(step)))


def lion(weights: Tensor, grads: Tensor, state: dict[str, Tensor], settings: Settings) -> None:
    """Lion (Chen et al. 2023, arXiv 2302.06675)."""
    s = settings
    mean = state["exp_avg"]
    direction = mean.lerp(grads, _fp32(1 - s.beta1)).sign_()
    mean.lerp_(grads, _fp32((1 - s.beta2) * s.active))
    weights.mul_(_fp32(1 - s.active * s.rate * s.decay))
    weights.sub_(direction.mul_(_fp32(s.active * s.rate)))


def muon(weights: Tensor, grads: Tensor, state: dict[str, Tensor], settings: Settings) -> None:
    """Muon (Jordan et al. 2024), with Nesterov momentum."""
    s = settings
    assert s.orthogonal is not None
    momentum = state["momentum_buffer"]
    momentum.lerp_(grads, _fp32((1 - s.momentum) * s.active))
    direction = s.orthogonal(grads.lerp(momentum, _fp32(s.momentum)))
    weights.mul_(_fp32(1 - s.active * s.rate * s.decay))
    weights.sub_(direction.mul_(_fp32(s.active * s.rate)))


def schedule_free(weights: Tensor, grads: Tensor, state: dict[str, Tensor], settings: Settings) -> None:
    """Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682): ``weights`` are the paper's y, the state keeps its z."""
    s = settings
    z, square = state["z"], state["exp_avg_sq"]
    slope = grads / _root_of_square(square, grads, s)
    slope += weights * _fp32(s.decay)
    weights.lerp_(z, _fp32(s.average * s.active))
    weights.add_(slope * _fp32(s.active * s.rate * (s.beta1 * (1 - s.average) - 1)))
    z.sub_(slope.mul_(_fp32(s.active * s.rate)))


Update = Callable[[Tensor, Tensor, dict[str, Tensor], Settings], None]


class OwnRule(Protocol):
    """Interface of a user-defined optimizer: a dataclass with these two methods.

    Attributes:
        keeps: Names of its state tensors per weight, which start at zero.
    """

    keeps: Sequence[str]

    def update(self, weights: Tensor, grads: Tensor, state: dict[str, Tensor], settings: Settings) -> None:
        """Update the weights of one parameter and its state in place, in fp32."""


@dataclass(frozen=True)
class Rule:
    """Update rule of the parameters.

    Attributes:
        name: As in ``optimizer.name``.
        update: The update, in place.
        keeps: Names of its state tensors per weight.
    """

    name: str
    update: Update
    keeps: tuple[str, ...]


RULES = {
    rule.name: rule
    for rule in (
        Rule("adamw", adamw, ("exp_avg", "exp_avg_sq")),
        Rule("lion", lion, ("exp_avg",)),
        Rule("muon", muon, ("momentum_buffer",)),
        Rule("schedule_free", schedule_free, ("z", "exp_avg_sq")),
    )
}


def first_state(rule: Rule, weights: Tensor) -> dict[str, Tensor]:
    """Return the state of a rule before the first update: zeros, or the weights for schedule-free's z."""
    averages = rule.name == "schedule_free"
    return {name: weights.detach().clone() if averages and name == "z" else torch.zeros_like(weights) for name in rule.keeps}


def apply(rule: Rule, weights: Tensor, grads: Tensor, state: dict[str, Tensor], settings: Settings) -> None:
    """Apply one update in place, in fp32."""
    exact = weights.float()
    exact_state = {name: value.float() for name, value in state.items()}
    rule.update(exact, grads.float(), exact_state, settings)
    if weights.dtype != torch.float32:  # otherwise they share memory
        weights.copy_(exact)
        for name, value in state.items():
            value.copy_(exact_state[name])


def averaged(weights: Tensor, z: Tensor, beta1: float) -> Tensor:
    """schedule_free: compute the paper's x, the average to use a model with, from y = beta1 x + (1 - beta1) z."""
    return weights.lerp(z.to(weights.dtype), 1 - 1 / beta1)


def scaled_orthogonal(matrices: Tensor, products: torch.dtype) -> Tensor:
    """Return the closest orthogonal matrices by Newton-Schulz iteration, at the scale of AdamW's updates.

    The scale is 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, arXiv 2502.16982), which suits AdamW's rates and decay.

    Args:
        matrices: (..., rows, columns).
        products: Precision of the products.
    """
    rows, columns = matrices.shape[-2:]
    x = matrices.mT if rows > columns else matrices
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)).to(products)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = (x.mT if rows > columns else x).float()
    scaled: Tensor = x * (0.2 * max(rows, columns) ** 0.5)
    return scaled


def _root_of_square(square: Tensor, grads: Tensor, s: Settings) -> Tensor:
    """Update the second moment with the gradients; return its bias-corrected root plus eps."""
    square.lerp_(grads * grads, _fp32((1 - s.beta2) * s.active))
    return square.sqrt().mul_(_fp32(s.corrections[1] ** -0.5)).add_(_fp32(s.eps))


def _fp32(number: Number) -> Number:
    """Convert a coefficient to the type of the weights: a product of fp32 and an fp64 tensor would be fp64."""
    return number.float() if isinstance(number, Tensor) else number
