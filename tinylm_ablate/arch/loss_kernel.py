"""Cross-entropy of logits on a CPU and its slopes, as a C kernel (loss.c): a few passes over a row in the cache."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from tinylm_ablate.arch.c_kernels import fits, library, run


def usable(logits: Tensor) -> bool:
    """Return whether the kernel supports these logits and there is a C compiler."""
    return fits(logits) and library("loss") is not None


def losses_and_slopes(logits: Tensor, targets: Tensor, ignored: int, slopes: bool) -> Tensor:
    """The loss of each target in nats, (...), fp32; with ``slopes``, the logits (..., V) are replaced by their gradients.

    Both are zero where the target is ``ignored``. The logits must be contiguous.
    """
    entries, targets = logits.shape[-1], targets.to(torch.int64).contiguous()
    losses = logits.new_empty(targets.shape, dtype=torch.float32)
    places, bf16 = (each.data_ptr() for each in (logits, targets, losses)), logits.dtype == torch.bfloat16
    found = library("loss")
    assert found is not None
    run(found, "cross_entropy", _Rows(*places, entries, ignored, bf16, slopes), targets.numel(), 4 * entries)
    return losses


class _Rows(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("logits", "targets", "losses")),
        ("entries", ctypes.c_long), ("ignored", ctypes.c_int64), ("bf16", ctypes.c_int), ("slopes", ctypes.c_int),
    )  # fmt: skip
