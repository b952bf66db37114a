"""Cross-entropy of logits on a CPU and its slopes, as a C kernel (loss.c): a few passes over a row in the cache."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from tinylm_ablate.arch.c_kernels import divide, fits, library, pointers, scratch_for


def usable(logits: Tensor) -> bool:
    """Return whether the kernel supports these logits and there is a C compiler."""
    return fits(logits) and _function() is not None


def losses_and_slopes(logits: Tensor, targets: Tensor, ignored: int, slopes: bool) -> Tensor:
    """The loss of each target in nats, (...), fp32; with ``slopes``, the logits (..., V) are replaced by their gradients.

    Both are zero where the target is ``ignored``. The logits must be contiguous.
    """
    entries, targets = logits.shape[-1], targets.to(torch.int64).contiguous()
    losses = logits.new_empty(targets.shape, dtype=torch.float32)
    scratch = scratch_for(logits, entries)
    operands, rest = (logits, targets, losses), (entries, ignored, int(logits.dtype == torch.bfloat16), int(slopes))

    def rows(thread: int, first: int, last: int) -> None:
        _function()(*pointers(operands), first, last, *rest, scratch[thread].data_ptr())

    divide(targets.numel(), rows)
    return losses


@functools.cache
def _function() -> Any:
    found = library("loss")
    if found is None:
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_long
    function = found.cross_entropy
    function.argtypes = [pointer] * 3 + [count] * 3 + [ctypes.c_int64, ctypes.c_int, ctypes.c_int, pointer]
    function.restype = None
    return function
