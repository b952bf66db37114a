"""Causal attention with heads of 8 channels on a CPU, in C (small_heads.c).

Small decoders spend more than half of a step on attention, mostly on moving scores through memory. Operands and results are
(N, 8, T), N = batch * heads, fp32 or bf16: the few channels are rows.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tinylm_ablate.arch.c_kernels import check_alike, fits, library, like, opaque, run
from tinylm_ablate.arch.shapes import KERNEL_CHANNELS

#: Keys that the kernel processes together, and maximum scratch numbers per token of a sequence padded to a multiple of them.
_TOGETHER, _SCRATCH = 16, 8 * KERNEL_CHANNELS + 8


def usable(operand: Tensor) -> bool:
    """Return whether the kernel supports an operand (B, T, heads, head_dim), and this machine has it."""
    return operand.shape[-1] == KERNEL_CHANNELS and fits(operand) and available()


def available() -> bool:
    """Return whether this machine has a C compiler that builds the library."""
    return library("small_heads") is not None


def attend(queries: Tensor, keys: Tensor, values: Tensor, grad: bool) -> Tensor:
    """softmax(queries keys^T / sqrt(8), over the past) values; all are (B, T, heads, 8).

    With ``grad``, they are kept for the backward pass.
    """
    batch, length, heads, size = queries.shape
    # ``reshape`` copies (under torch.compile, while rotating).
    operands = [part.permute(0, 2, 3, 1).reshape(-1, size, length) for part in (queries, keys, values)]
    mixed: Tensor = _Attention.apply(*operands) if grad else opaque(_attend, _attend_operator)(*operands)  # type: ignore[no-untyped-call]
    return mixed.view(batch, heads, size, length).permute(0, 3, 1, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed: Tensor = opaque(_attend, _attend_operator)(queries, keys, values)
        ctx.save_for_backward(queries, keys, values, mixed)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes: tuple[Tensor, Tensor, Tensor] = opaque(_attend_backward, _attend_backward_operator)(grad, *ctx.saved_tensors)
        return slopes


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The mixed values."""
    mixed = like(queries)
    _call("forward", queries, keys, values, mixed)
    return mixed


def _attend_backward(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from that of the mixed values."""
    of_queries, of_keys, of_values = (like(queries) for _ in range(3))
    _call("backward", queries, keys, values, mixed, grad, of_queries, of_keys, of_values)
    return of_queries, of_keys, of_values


class _Sequences(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values", "mixed", "grad")),
        *((name, ctypes.c_void_p) for name in ("of_queries", "of_keys", "of_values")),
        ("length", ctypes.c_long), ("bf16", ctypes.c_int), ("scale", ctypes.c_float),
    )  # fmt: skip


def _call(function: str, *operands: Tensor) -> None:
    """Call a function of the library; the threads divide the N sequences."""
    first, (number, _, length), found = operands[0], operands[0].shape, library("small_heads")
    assert found is not None
    check_alike(operands)
    operands = tuple(each.contiguous() for each in operands)
    places = [each.data_ptr() for each in operands] + [None] * (8 - len(operands))
    job = _Sequences(*places, length, first.dtype == torch.bfloat16, 1 / math.sqrt(KERNEL_CHANNELS))
    run(found, function, job, number, 4 * _SCRATCH * math.ceil(length / _TOGETHER) * _TOGETHER)


# As custom operators, both are opaque to torch.compile.
_attend_operator = torch.library.custom_op("tinylm_ablate::attend_small", _attend, mutates_args=())
_attend_backward_operator = torch.library.custom_op("tinylm_ablate::attend_small_backward", _attend_backward, mutates_args=())


@_attend_operator.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    del keys, values
    return like(queries)


@_attend_backward_operator.register_fake
def _(grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    del grad, keys, values, mixed
    return like(queries), like(queries), like(queries)
