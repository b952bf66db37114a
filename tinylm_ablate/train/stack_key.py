"""Selection of runs that may train together, and their number. Torch is imported only to query the memory of a GPU."""

from __future__ import annotations

import bisect
from collections.abc import Hashable
from typing import TYPE_CHECKING

from tinylm_ablate.arch.costs import CHUNK_BYTES, training_memory
from tinylm_ablate.arch.shapes import parameters
from tinylm_ablate.hardware import pick_device

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled

#: Share of a GPU's free memory for a stack.
_MEMORY_SHARE = 0.8


def stack_key(settled: Settled) -> Hashable:
    """Return the key of a run; runs with equal keys may train together.

    It consists of the sizes of the program (shape, batch, steps), its precision and its device. A run on several devices, or
    on an Apple GPU, has a key of its own.
    """
    train = settled.config.train
    if not stackable(settled):
        return ("alone", settled.identity)
    return (
        settled.shape, train.context_length, settled.micro_batch, settled.accumulation, settled.rounds.start, settled.steps,
        settled.precision, settled.config.optimizer.name, train.device, train.recompute, train.compile, train.threads,
    )  # fmt: skip


def stack_size(settled: Settled, ready: int) -> int:
    """Return how many of ``ready`` runs with the same key train together, from ``train.stack``.

    "auto" is as many as fit in GPU memory, and 1 on a CPU. It queries the GPU, so call it on the training machine.
    """
    wanted = settled.config.train.stack
    if not stackable(settled) or ready <= 1:
        return min(ready, 1)
    if not isinstance(wanted, str):
        return min(ready, wanted)
    if pick_device(settled.config.train.device) != "cuda":
        return 1
    import torch

    free, _ = torch.cuda.mem_get_info()
    fitting = bisect.bisect(range(1, ready + 1), _MEMORY_SHARE * free, key=lambda runs: stack_memory(settled, runs))
    return max(1, fitting)


def stack_memory(settled: Settled, runs: int) -> int:
    """Bytes of a stack: training of each run, on a GPU with three temporaries of the update, and the peak of the loss."""
    train = settled.config.train
    each = training_memory(settled.shape, settled.micro_batch, train.context_length, settled.precision, train.recompute)
    if pick_device(train.device) == "cpu":
        return runs * each
    logits = 4 * runs * settled.micro_batch * train.context_length * settled.shape.vocab_size
    loss = max(3 * min(logits, CHUNK_BYTES["gpu"]), min(logits, CHUNK_BYTES["gpu kernels"]))  # see CHUNK_BYTES
    return loss + runs * (each + 12 * parameters(settled.shape)["total"])


def stackable(settled: Settled) -> bool:
    """Return whether the run can train with others: on one device, with built-in blocks and a built-in optimizer."""
    train = settled.config.train
    if settled.config.optimizer.name == "own" or settled.shape.is_own:  # written for the parameters of one run
        return False
    return train.devices == 1 and pick_device(train.device) in ("cpu", "cuda")
