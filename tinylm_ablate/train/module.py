"""The LightningModule around a decoder."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import torch
from torch import Tensor

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.optimizer.optimizers import build_optimizer
from tinylm_ablate.train.batch_order import learning_rate
from tinylm_ablate.train.devices import clipped, gathered, shard, shard_state, share
from tinylm_ablate.train.record import failure, finite

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled


class TrainingModule(lightning.LightningModule):
    """Next-token training of a decoder.

    Args:
        decoder: Maps (B, T) token ids and (B, T) targets to a mean loss in nats.
        settled: The run, with learning rate, schedule and clipping.
        rank: Number of the device of this process.

    Attributes:
        first_step: Optimizer steps before this session, including those of a run that this one continues.
        losses: Losses of the last optimizer step on all devices, one per micro batch.
        gradient_norm: Norm of the gradients in the last optimizer step, before clipping.
    """

    def __init__(self, decoder: Decoder, settled: Settled, rank: int = 0) -> None:
        super().__init__()
        self.decoder = decoder
        self.settled = settled
        self.share = share(settled, rank)
        self.first_step = 0
        self.losses: list[float] = []
        self.restored_optimizer: torch.optim.Optimizer | None = None
        self.gradient_norm = math.nan
        self.step_losses: deque[Tensor] = deque(maxlen=self.share.accumulation)

    @property
    def step(self) -> int:
        """Optimizer steps done in the whole run."""
        return self.first_step + self.global_step

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """Mean loss in nats of one micro batch of token ids, (B, T + 1)."""
        del batch_index
        loss = self.decoder.loss(batch[:, :-1], batch[:, 1:])
        self.step_losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Create the optimizer; the schedule sets its learning rate before every step."""
        restored = self.restored_optimizer
        if restored is not None and not self.sharded:
            return restored
        products = torch.bfloat16 if self.settled.multiplies_bf16 else torch.float32
        optimizer = build_optimizer(self.decoder, self.settled.optimizer, self.settled.learning_rate, products)
        if restored is not None:
            shard_state(optimizer, restored.state_dict())
        return optimizer

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded over the devices."""
        return self.share.devices > 1 and self.settled.config.train.strategy == "fsdp"

    def configure_model(self) -> None:
        """Shard the weights if the strategy requires it."""
        if self.sharded:
            assert self.device_mesh is not None
            self.decoder = shard(self.decoder, self.device_mesh["data_parallel"])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip to the norm; if the norm or a loss is not finite, stop or skip before the update."""
        del gradient_clip_val, gradient_clip_algorithm
        self.gradient_norm = clipped(self.decoder, self.settled.config.optimizer.clip)
        self.losses = gathered([float(loss) for loss in self.step_losses])
        if finite(self.losses, self.gradient_norm):
            return
        if self.settled.config.train.on_nonfinite == "stop":
            raise failure(self.settled, self.step, self.losses, self.gradient_norm)
        optimizer.zero_grad(set_to_none=True)  # without gradients, the update does not change weights and state

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of this step."""
        rate = self.learning_rate()
        for group in optimizer.param_groups:
            group["lr"] = rate

    def learning_rate(self) -> float:
        """Learning rate of the next optimizer step."""
        return learning_rate(self.settled, self.step)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Free the gradients instead of setting them to zero."""
        del epoch, batch_idx
        optimizer.zero_grad(set_to_none=True)
