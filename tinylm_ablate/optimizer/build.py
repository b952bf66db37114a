"""The optimizer of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tinylm_ablate.config import OptimizerConfig


def parameter_groups(model: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameters that decay and parameters that do not: with ``decay=matrices``, vectors (norms, scales) do not.

    For "muon", the matrices of the layers stand in a group of their own; embedding and head, whose rows are entries of the
    vocabulary and not directions of one space, go with the vectors to AdamW, as its author advises.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        matrix = parameter.ndim >= 2
        orthogonal = optimizer.name == "muon" and matrix and name.startswith("layers.")
        decay = optimizer.weight_decay if matrix or optimizer.decay == "all" else 0.0
        groups.setdefault((orthogonal, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay} | ({"use_muon": orthogonal} if optimizer.name == "muon" else {})
        for (orthogonal, decay), parameters in sorted(groups.items(), key=lambda item: (-item[0][0], -item[0][1]))
    ]


def build_optimizer(model: nn.Module, optimizer: OptimizerConfig, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer with its peak learning rate; the schedule multiplies it.

    - adamw: Loshchilov and Hutter 2019 (arXiv 1711.05101), torch's fused one.
    - lion: Chen et al. 2023 (arXiv 2302.06675); it takes about a tenth of AdamW's rate and ten times its decay.
    - muon: Jordan et al. 2024, with the update's scale of Liu et al. 2025 (arXiv 2502.16982), so that AdamW's learning rate and
      decay serve both its groups. Matrices are orthogonalised as they are stored: queries, keys and values as one, gate and
      up as one.
    - schedule_free: Defazio et al. 2024 (arXiv 2405.15682), AdamW with averaging in the place of a decaying schedule.
    """
    groups = parameter_groups(model, optimizer)
    betas = (optimizer.beta1, optimizer.beta2)
    if optimizer.name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=optimizer.eps, fused=True)
    import pytorch_optimizer as library

    built: torch.optim.Optimizer
    if optimizer.name == "lion":
        built = library.Lion(groups, lr=learning_rate, betas=betas)
    elif optimizer.name == "muon":
        for group in groups:
            group |= {"lr": learning_rate} | ({} if group["use_muon"] else {"betas": betas, "eps": optimizer.eps})
        built = library.Muon(groups, lr=learning_rate, momentum=optimizer.momentum, use_adjusted_lr=True)
    else:
        built = library.ScheduleFreeAdamW(groups, lr=learning_rate, betas=betas, eps=optimizer.eps)
    return built


def use_averages(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights that a schedule-free optimizer averages in the place of those that it trains; others have none."""
    if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
        optimizer.eval()
