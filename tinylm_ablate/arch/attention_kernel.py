"""Attention on a CPU in C (attention.c): all of it for heads of 8 channels, and the softmax of larger heads in a backward pass.

Small decoders spend more than half of a step on attention, mostly on moving scores through memory. Without a C compiler, both
functions return None, and their callers compute the same with PyTorch.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from tinylm_ablate.arch.c_kernels import fits, library, run
from tinylm_ablate.arch.shapes import KERNEL_CHANNELS

#: Keys that the kernel processes together, and maximum scratch numbers per token of a sequence padded to a multiple of them.
_TOGETHER, _SCRATCH = 16, 8 * KERNEL_CHANNELS + 8


class _Sequences(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values", "mixed", "grad")),
        *((name, ctypes.c_void_p) for name in ("of_queries", "of_keys", "of_values")),
        ("length", ctypes.c_long), ("bf16", ctypes.c_int), ("scale", ctypes.c_float),
    )  # fmt: skip


class _ScoreRows(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "slopes", "grad", "mixed")),
        *((name, ctypes.c_long) for name in ("keys", "channels", "block", "start")),
        ("bf16", ctypes.c_int), ("scale", ctypes.c_float),
    )  # fmt: skip


class Kernel:
    """The compiled kernel; operands and results are (N, 8, T), contiguous, fp32 or bf16."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The mixed values."""
        mixed = torch.empty_like(queries, memory_format=torch.contiguous_format)
        self._call("forward", queries, keys, values, mixed)
        return mixed

    def backward(
        self, grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values, from that of the mixed values."""
        of_queries, of_keys, of_values = (torch.empty_like(queries, memory_format=torch.contiguous_format) for _ in range(3))
        self._call("backward", queries, keys, values, mixed, grad, of_queries, of_keys, of_values)
        return of_queries, of_keys, of_values

    def weigh(self, scores: Tensor, slopes: Tensor, grad: Tensor, mixed: Tensor, start: int, scale: float) -> None:
        """See ``attention._weigh``."""
        rows, block, keys = scores.shape[:-1].numel(), *scores.shape[-2:]
        places = (each.data_ptr() for each in (scores, slopes, grad, mixed))
        job = _ScoreRows(*places, keys, grad.shape[-1], block, start, scores.dtype == torch.bfloat16, scale)
        run(self._library, "weigh_rows", job, rows, 2 * 4 * keys)

    def _call(self, function: str, *operands: Tensor) -> None:
        """Call a function of the library; the threads divide the N sequences."""
        first, (number, _, length) = operands[0], operands[0].shape
        if any(each.shape != first.shape or each.dtype != first.dtype for each in operands):
            raise ValueError("queries, keys and values must have the same shape and precision")
        operands = tuple(each.contiguous() for each in operands)
        places = [each.data_ptr() for each in operands] + [None] * (8 - len(operands))
        job = _Sequences(*places, length, first.dtype == torch.bfloat16, 1 / math.sqrt(KERNEL_CHANNELS))
        run(self._library, function, job, number, 4 * _SCRATCH * math.ceil(length / _TOGETHER) * _TOGETHER)


def kernel(operand: Tensor) -> Kernel | None:
    """Return the kernel for an operand (N, T, head_dim), or None."""
    return compiled(operand) if operand.shape[2] == KERNEL_CHANNELS else None


def compiled(operand: Tensor) -> Kernel | None:
    """Return the library if it supports the operand's precision and device, or None."""
    found = library("attention") if fits(operand) else None
    return None if found is None else Kernel(found)
