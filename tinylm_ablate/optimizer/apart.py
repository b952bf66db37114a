"""Separate optimizers for R runs on a CPU, with results bit-identical to those of each run alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.optimizer.optimizers import build_optimizer, final_weights, optimizer_state, restore_optimizer


class ApartOptimizers:
    """Counterpart of ``stacked.StackedOptimizer`` that updates run by run.

    Args:
        models: Each run's parameters, whose gradients are set.
        configs: The group ``optimizer`` of each run.
        products: muon: the precision of its matrix products.
    """

    def __init__(self, models: Sequence[nn.Module], configs: Sequence[OptimizerConfig], products: torch.dtype) -> None:
        self.models, self.clips = models, [config.clip for config in configs]
        self.optimizers = [
            build_optimizer(model, config, learning_rate=1.0, products=products)  # each step sets the rate
            for model, config in zip(models, configs, strict=True)
        ]

    def step(self, grads: Tensor, rates: Tensor, active: Tensor) -> Tensor:
        """See ``StackedOptimizer.step``; the gradients are those of the models."""
        del grads
        norms = torch.zeros(len(self.models))
        for run, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), self.clips[run]))
            norms[run] = norm
            if active[run] and math.isfinite(norm):
                for group in optimizer.param_groups:
                    group["lr"] = float(rates[run])
                optimizer.step()
        return norms

    def state_of(self, run: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
        """See ``build.optimizer_state``."""
        return optimizer_state(self.optimizers[run], self.models[run])

    def restore(self, run: int, kept: Mapping[str, Mapping[str, Tensor]], counters: Mapping[str, float]) -> None:
        """The inverse of ``state_of``."""
        restore_optimizer(self.optimizers[run], self.models[run], kept, counters)

    def final_weights(self, run: int) -> dict[str, Tensor]:
        """See ``optimizers.final_weights``."""
        return final_weights(self.optimizers[run], self.models[run])
