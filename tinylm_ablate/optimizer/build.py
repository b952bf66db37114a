"""The optimizer of a run."""

from __future__ import annotations

import torch
from torch import nn

from tinylm_ablate.config import OptimizerConfig


def parameter_groups(model: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, object]]:
    """Parameters that decay and parameters that do not: with ``decay=matrices``, vectors (norms, scales) do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in parameters if optimizer.decay == "all" or p.ndim >= 2]
    spared = [p for p in parameters if optimizer.decay != "all" and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, optimizer: OptimizerConfig, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer with its peak learning rate; the schedule multiplies it."""
    return torch.optim.AdamW(
        parameter_groups(model, optimizer),
        lr=learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        fused=True,
    )
