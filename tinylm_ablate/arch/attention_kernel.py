"""Attention on a CPU in C (attention.c): all of it for heads of 8 channels, and the softmax of larger heads in a backward pass.

Small decoders spend more than half of a step on attention, mostly on moving scores through memory. Without a C compiler, both
functions return None, and their callers compute the same with PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tinylm_ablate.arch.c_kernels import divide, fits, library, pointers, scratch_for
from tinylm_ablate.arch.shapes import KERNEL_CHANNELS

#: Keys that the kernel processes together, and maximum scratch numbers per token of a sequence padded to a multiple of them.
_TOGETHER, _SCRATCH = 16, 8 * KERNEL_CHANNELS + 8


class Kernel:
    """The compiled kernel; operands and results are (N, 8, T), contiguous, fp32 or bf16."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, count = ctypes.c_void_p, ctypes.c_long
        rest: list[Any] = [count, count, count, ctypes.c_int, ctypes.c_float, pointer]
        self._forward, self._backward = library.forward, library.backward
        self._forward.argtypes, self._backward.argtypes = [pointer] * 4 + rest, [pointer] * 8 + rest
        self._forward.restype = self._backward.restype = None
        self._weigh = library.weigh_rows
        self._weigh.argtypes = [pointer] * 4 + [count] * 6 + [ctypes.c_int, ctypes.c_float, pointer]
        self._weigh.restype = None

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The mixed values."""
        mixed = torch.empty_like(queries, memory_format=torch.contiguous_format)
        self._call(self._forward, queries, keys, values, mixed)
        return mixed

    def backward(
        self, grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values, from that of the mixed values."""
        of_queries, of_keys, of_values = (torch.empty_like(queries, memory_format=torch.contiguous_format) for _ in range(3))
        self._call(self._backward, grad, queries, keys, values, mixed, of_queries, of_keys, of_values)
        return of_queries, of_keys, of_values

    def weigh(self, scores: Tensor, slopes: Tensor, grad: Tensor, mixed: Tensor, start: int, scale: float) -> None:
        """See ``attention._weigh``."""
        rows, keys = scores.shape[:-1].numel(), scores.shape[-1]
        operands, scratch = (scores, slopes, grad, mixed), scratch_for(scores, 2 * keys)
        rest = keys, grad.shape[-1], scores.shape[-2], start, int(scores.dtype == torch.bfloat16), scale
        divide(rows, lambda thread, *part: self._weigh(*pointers(operands), *part, *rest, scratch[thread].data_ptr()))

    def _call(self, function: Callable[..., None], *operands: Tensor) -> None:
        """Call a function of the kernel; the threads divide the N products."""
        first = operands[0]
        if any(each.shape != first.shape or each.dtype != first.dtype for each in operands):
            raise ValueError("queries, keys and values must have the same shape and precision")
        operands, (number, _, length) = tuple(each.contiguous() for each in operands), first.shape
        rest = length, int(first.dtype == torch.bfloat16), 1 / math.sqrt(KERNEL_CHANNELS)
        scratch = scratch_for(first, _SCRATCH * math.ceil(length / _TOGETHER) * _TOGETHER)
        divide(number, lambda thread, *part: function(*pointers(operands), *part, *rest, scratch[thread].data_ptr()))


def kernel(operand: Tensor) -> Kernel | None:
    """Return the kernel for an operand (N, T, head_dim), or None."""
    return compiled(operand) if operand.shape[2] == KERNEL_CHANNELS else None


def compiled(operand: Tensor) -> Kernel | None:
    """Return the library if it supports the operand's precision and device, or None."""
    return _compiled() if fits(operand) else None


@functools.cache
def _compiled() -> Kernel | None:
    found = library("attention")
    return None if found is None else Kernel(found)
