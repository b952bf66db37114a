"""Optimizer of one run, for PyTorch and Lightning; ``stacked`` has the equivalent for R runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.extension import part
from tinylm_ablate.optimizer.updates import RULES, OwnRule, Rule, Settings, apply, averaged, first_state, scaled_orthogonal


def rule_of(name: str, matrix: bool, optimizer: OptimizerConfig) -> Rule:
    """Return the update rule of a parameter.

    With "muon", the matrices of the layers are orthogonalized as they are stored: queries, keys and values as one, gate and up
    as one. Embedding and head, whose rows are entries of the vocabulary rather than directions in one space, are updated by
    AdamW like the vectors, as the author of Muon recommends.
    """
    if optimizer.name == "muon":
        return RULES["muon" if matrix and name.startswith("layers.") else "adamw"]
    if optimizer.name == "own":
        own: OwnRule = part(optimizer.own, "optimizer.own")
        return Rule("own", own.update, tuple(own.keeps))
    return RULES[optimizer.name]


def decay_of(matrix: bool, optimizer: OptimizerConfig) -> float:
    """Weight decay of a parameter: with ``decay=matrices``, vectors (norms, scales) do not decay."""
    return optimizer.weight_decay if matrix or optimizer.decay == "all" else 0.0


def build_optimizer(
    model: nn.Module, optimizer: OptimizerConfig, learning_rate: float, products: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """Create the optimizer with its peak learning rate, which the schedule multiplies.

    - adamw: torch's fused AdamW.
    - lion: needs about a tenth of AdamW's rate and ten times its decay.
    - muon: its updates are scaled like AdamW's, so that AdamW's rate and decay suit all parameters.
    - schedule_free: AdamW with averaging instead of a decaying schedule.
    - own: the class in ``optimizer.own`` (``updates.OwnRule``).

    Args:
        model: The model whose parameters are updated.
        optimizer: The group ``optimizer``.
        learning_rate: Peak learning rate.
        products: muon: precision of its matrix products.
    """
    groups: dict[tuple[Rule, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2
            groups.setdefault((rule_of(name, matrix, optimizer), decay_of(matrix, optimizer)), []).append(parameter)
    described: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "rule": rule} for (rule, decay), parameters in groups.items()
    ]
    betas = (optimizer.beta1, optimizer.beta2)
    if optimizer.name == "adamw":
        return AdamW(described, lr=learning_rate, betas=betas, eps=optimizer.eps, fused=True)
    return RuleOptimizer(described, optimizer, learning_rate, functools.partial(scaled_orthogonal, products=products))


class AdamW(torch.optim.AdamW):
    """Torch's AdamW without the decorator of its step, which needlessly imports the compiler (``train.lean``)."""

    step = torch.no_grad()(getattr(torch.optim.AdamW.step, "__wrapped__", torch.optim.AdamW.step))


class RuleOptimizer(torch.optim.Optimizer):
    """The rules in ``updates`` for the parameters of one run.

    Attributes:
        counters: "updates" done; for schedule_free also the highest rate so far and the sum of the weights of all steps.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        optimizer: OptimizerConfig,
        learning_rate: float,
        orthogonal: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(groups, {"lr": learning_rate})
        self.config, self.orthogonal = optimizer, orthogonal
        self.counters = {"updates": 0.0, "highest_rate": 0.0, "weight_sum": 0.0}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if all(parameter.grad is None for group in self.param_groups for parameter in group["params"]):
            return loss
        counters, config = self.counters, self.config
        rate = float(self.param_groups[0]["lr"])
        counters["updates"] += 1
        counters["highest_rate"] = max(counters["highest_rate"], rate)
        counters["weight_sum"] += counters["highest_rate"] ** 2
        for group in self.param_groups:
            settings = Settings(
                rate, group["weight_decay"], config.beta1, config.beta2, config.eps, config.momentum, counters["updates"],
                counters["highest_rate"] ** 2 / (counters["weight_sum"] or 1.0), orthogonal=self.orthogonal,
            )  # fmt: skip
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state.update(first_state(group["rule"], parameter))
                apply(group["rule"], parameter, parameter.grad, state, settings)
        return loss


@torch.no_grad()
def final_weights(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights to use a model with, by name: averages with schedule_free, otherwise the trained ones."""
    weights: dict[str, Tensor] = dict(model.named_parameters())
    if isinstance(optimizer, RuleOptimizer) and optimizer.config.name == "schedule_free":
        for name, parameter in weights.items():
            if "z" in optimizer.state[parameter]:
                weights[name] = averaged(parameter, optimizer.state[parameter]["z"], optimizer.config.beta1)
    return weights


# ---------------------------------------------------------------------------------------------------------------------------
# Optimizer state of a run by the names of its parameters, as stored in checkpoints.


def optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Return the optimizer's tensors, as kind -> name of the parameter -> tensor, and its counters."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    kept: dict[str, dict[str, Tensor]] = {}
    counters = dict(optimizer.counters) if isinstance(optimizer, RuleOptimizer) else {"updates": 0.0}
    for tensor, state in optimizer.state.items():
        for kind, value in state.items():
            if kind == "step":
                counters["updates"] = float(value)
            else:
                kept.setdefault(kind, {})[names[tensor]] = value
    return kept, counters


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, kept: Mapping[str, Mapping[str, Tensor]], counters: Mapping[str, float]
) -> None:
    """The inverse of ``optimizer_state``."""
    parameters = dict(model.named_parameters())
    for kind, tensors in kept.items():
        for name, value in tensors.items():
            parameter = parameters[name]
            optimizer.state[parameter][kind] = value.to(parameter.device, parameter.dtype)
    if isinstance(optimizer, RuleOptimizer):
        optimizer.counters |= counters
    else:
        for tensor, state in optimizer.state.items():
            state["step"] = torch.tensor(counters["updates"], dtype=torch.float32, device=tensor.device)
