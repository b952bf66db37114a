"""One optimizer step of R runs as one program, which a GPU replays as one graph.

All weights are in one tensor (R, P), one row per run, and so are all gradients; the parameters of the decoder are views. On a
GPU with products in bf16, the matrices of the layers are views of a copy that is rounded once per step, not for every use. A
step needs no data from the host: token ids and learning rates for a whole block of steps are copied to the device beforehand,
a counter on the device selects the next ones, and losses and norms are written to tables that the host reads after the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.runs import one_by_one
from tinylm_ablate.arch.stacking import decoder_over
from tinylm_ablate.optimizer.apart import ApartOptimizers
from tinylm_ablate.optimizer.stacked import Layout, Part, StackedOptimizer
from tinylm_ablate.train.member import Checkpoint

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled

#: Maximum number of token ids of a block on the device.
_BLOCK_TOKENS = 2**24

#: Steps before a graph is captured, in which libraries choose kernels and allocate memory.
_WARM_UP = 3


class Done(NamedTuple):
    """Losses and gradient norms of the steps of a block.

    Attributes:
        losses: Losses of each micro batch, (steps, micro batches, R), nats per token.
        norms: Norms of the gradients before clipping, (steps, R).
    """

    losses: npt.NDArray[np.float32]
    norms: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Rows:
    """Some parameters of all runs, (R, width) each.

    Attributes:
        part: The parameters.
        weights, grads: Their weights and gradients.
        used: The weights in the precision that the decoder uses: a copy, or ``weights`` itself.
        fresh: Where the gradients of a micro batch are gathered, in the precision of ``used``; or ``grads`` itself.
    """

    part: Part
    weights: Tensor
    grads: Tensor
    used: Tensor
    fresh: Tensor

    def round(self) -> None:
        """Update the copy that the decoder uses."""
        if self.used is not self.weights:
            self.used.copy_(self.weights)

    def take(self, slopes: Iterator[Tensor], first: bool) -> None:
        """Add the gradients of a micro batch, in the order of the part's names; the first of a step replace the last step's."""
        for kind in self.part.kinds:
            torch.stack([next(slopes) for _ in kind.names], dim=1, out=kind.of(self.fresh))
        if self.fresh is not self.grads:
            self.grads.copy_(self.fresh) if first else self.grads.add_(self.fresh)


class Program:
    """R runs of one shape on one device.

    A step does not change a run whose loss or gradient is not finite, and with ``on_nonfinite=stop``, neither do later steps.
    Such runs and inactive ones keep their row, and do not affect the results of other runs by a bit (on a GPU, with heads of up
    to 32 channels, see ``arch.gpu_attention``).

    Args:
        settled: The runs, with equal ``stack_key``.
        weights: The initial weights of each run, by name.
        device: "cpu" or "cuda".
        block: Maximum number of steps in a block.
        compiles: Whether to compile the optimizer.
    """

    def __init__(
        self, settled: Sequence[Settled], weights: Sequence[Mapping[str, Tensor]], device: str, block: int, compiles: bool
    ) -> None:
        first, runs = settled[0], len(settled)
        train = first.config.train
        self.runs, self.device, self.bf16 = runs, device, first.multiplies_bf16
        self.accumulation, self.micro_batch = first.accumulation, first.micro_batch
        sequence = train.context_length + 1
        per_step = runs * self.accumulation * self.micro_batch * sequence
        self.block = max(1, min(block, _BLOCK_TOKENS // per_step))

        layout = Layout.of({name: value.shape for name, value in weights[0].items()})
        dtype = torch.bfloat16 if first.precision == "bf16-true" else torch.float32
        self.weights = torch.zeros(runs, layout.width, dtype=dtype, device=device)
        self.grads = torch.zeros_like(self.weights)
        self.views = layout.views(self.weights)
        for run, named in enumerate(weights):
            self.load(run, named)
        products = torch.bfloat16 if self.bf16 else torch.float32
        self.rows = [
            self._rows(part, products if part.in_layers and not one_by_one(device) else dtype) for part in layout.parts
        ]
        used = {name: view for rows in self.rows for name, view in rows.part.views(rows.used).items()}
        self.decoder = decoder_over(first.shape, runs, used)
        self.decoder.checkpointing = train.recompute
        self.decoder.stream = torch.float32 if dtype == torch.bfloat16 else None
        self.parameters = [self.decoder.get_parameter(name) for name in used]
        configs = [each.optimizer for each in settled]
        self.optimizer: ApartOptimizers | StackedOptimizer
        if one_by_one(device):
            slopes = layout.views(self.grads)
            self.optimizer = ApartOptimizers([self._alone(run, slopes) for run in range(runs)], configs, products)
        else:
            self.optimizer = StackedOptimizer(layout, self.weights, configs, products, compiles)

        def table(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self.skips = torch.tensor([each.config.train.on_nonfinite == "skip" for each in settled], device=device)
        self.active = table(runs, dtype=torch.bool)
        self.sound = ~table(runs, dtype=torch.bool)
        self.place = table(1, dtype=torch.int64)
        self.ids = table(self.block, self.accumulation, runs, self.micro_batch, sequence, dtype=torch.int32)
        self.rates = table(self.block, runs, dtype=torch.float64)
        self.losses, self.norms = table(self.block, self.accumulation, runs), table(self.block, runs)
        self._graph: torch.cuda.CUDAGraph | None = None

    def _rows(self, part: Part, precision: torch.dtype) -> _Rows:
        weights, grads = self.weights[:, part.within], self.grads[:, part.within]
        used = weights if precision == weights.dtype else torch.zeros_like(weights, dtype=precision)
        gathers = self.accumulation > 1 or used is not weights
        return _Rows(part, weights, grads, used, torch.zeros_like(used) if gathers else grads)

    def _alone(self, run: int, slopes: Mapping[str, Tensor]) -> Decoder:
        """Return one run as a separate decoder with the same weights and gradients."""
        decoder = decoder_over(self.decoder.shape, None, self.weights_of(run))
        for name, slope in slopes.items():
            decoder.get_parameter(name).grad = slope[run]
        return decoder

    @torch.no_grad()
    def load(self, run: int, weights: Mapping[str, Tensor]) -> None:
        """Copy weights to the row of a run."""
        for name, value in weights.items():
            self.views[name][run].copy_(value)

    def restore(self, run: int, checkpoint: Checkpoint) -> None:
        """Restore a run from its checkpoint."""
        self.load(run, checkpoint.weights)
        self.optimizer.restore(run, checkpoint.kept, checkpoint.counters)

    def weights_of(self, run: int) -> dict[str, Tensor]:
        """Return the trained weights of a run: name -> tensor."""
        return {name: view[run] for name, view in self.views.items()}

    def start_block(self, ids: npt.NDArray[np.int32], rates: npt.NDArray[np.float64], active: Sequence[bool]) -> None:
        """Start the steps of a block; on a GPU, this returns while they are computed.

        Args:
            ids: Token ids, (steps, micro batches, R, B, T + 1), at most ``block`` steps.
            rates: Learning rates, (steps, R).
            active: Which runs take part, (R,).
        """
        if self.device == "cuda" and self._graph is None:
            self._capture()
        steps = len(ids)
        self._copy(self.ids[:steps], torch.from_numpy(ids))
        self._copy(self.rates[:steps], torch.from_numpy(rates))
        self._copy(self.active, torch.tensor(active))
        self.place.zero_()
        for _ in range(steps):
            if self._graph is None:
                self._step()
            else:
                self._graph.replay()

    def finish_block(self, steps: int) -> Done:
        """Wait for the steps of the block, and read their losses and norms."""
        losses, norms = (table[:steps].to("cpu", copy=True).numpy() for table in (self.losses, self.norms))
        return Done(losses, norms)

    def _copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source.pin_memory() if self.device == "cuda" else source, non_blocking=True)

    def _step(self) -> None:
        """Run the next step of the block."""
        ids = self.ids.index_select(0, self.place).squeeze(0).long()
        losses: list[Tensor] = []
        with torch.no_grad():
            for rows in self.rows:
                rows.round()
        for part in ids:
            # The autocast cache would keep copies of weights in the graph's memory.
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
                loss = self.decoder.loss(part[..., :-1], part[..., 1:])
            slopes = iter(torch.autograd.grad(loss.sum() / self.accumulation, self.parameters))
            with torch.no_grad():
                for rows in self.rows:
                    rows.take(slopes, first=not losses)
            losses.append(loss.detach())
        with torch.no_grad():
            of_step = torch.stack(losses)
            finite = of_step.isfinite().all(0)
            rates = self.rates.index_select(0, self.place).squeeze(0)
            norms = self.optimizer.step(self.grads, rates, self.active & self.sound & finite)
            self.sound.logical_and_((finite & norms.isfinite()) | self.skips)
            self.losses.index_copy_(0, self.place, of_step.unsqueeze(0))
            self.norms.index_copy_(0, self.place, norms.unsqueeze(0))
            self.place.add_(1)

    def _capture(self) -> None:
        """Capture the step as a graph. No run is active, so that the warm-up steps change neither weights nor state."""
        self.active.zero_()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self.place.zero_()
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.place.zero_()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._step()
