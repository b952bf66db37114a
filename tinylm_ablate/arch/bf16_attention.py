"""Causal attention in bf16 on x86 CPUs with a matrix unit (AMX) or the dot products of AVX-512, in C (bf16_attention.h).

It is several times as fast as PyTorch's (docs/LAB.md), and more accurate. Operands are read as they lie in memory: slices of a
product are not copied.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tinylm_ablate.arch.c_kernels import check_alike, library, like, opaque, run
from tinylm_ablate.hardware import cpu_flags

#: Libraries, the fastest first, with the CPU flag that each needs, and oneDNN's limits of instructions that allow it.
_KINDS = (
    ("attention_amx", "amx_bf16", ("AMX",)),
    ("attention_avx512", "avx512_bf16", ("AMX", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10")),
)


def usable(operand: Tensor) -> bool:
    """Return whether this machine, and the precision and device of an operand, are supported."""
    return operand.dtype == torch.bfloat16 and operand.device.type == "cpu" and available()


def available() -> bool:
    """Return whether this machine has the instructions, and a C compiler that builds the library."""
    return kind() is not None


def kind() -> str | None:
    """Return the name of the library for this machine, or None."""
    return _found()[0]


@functools.cache
def _found() -> tuple[str, ctypes.CDLL] | tuple[None, None]:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()  # of PyTorch's products, which holds here as well
    for name, flag, allowed in _KINDS:
        if flag in cpu_flags() and (limit in ("DEFAULT", "ALL") or any(word in limit for word in allowed)):
            found = library(name)
            if found is not None and found.usable():
                found.room.argtypes, found.room.restype = [ctypes.c_long] * 2, ctypes.c_long
                return name, found
    return None, None


def attend(queries: Tensor, keys: Tensor, values: Tensor, grad: bool) -> Tensor:
    """softmax(queries keys^T / sqrt(head_dim), over the past) values; all are (B, T, heads, head_dim).

    With ``grad``, they are kept for the backward pass.
    """
    mixed: Tensor
    if grad:
        mixed = _Attention.apply(queries, keys, values)  # type: ignore[no-untyped-call]
    else:
        mixed, _ = opaque(_attend, _attend_operator)(queries, keys, values)
    return mixed


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed: Tensor
        mixed, sums = opaque(_attend, _attend_operator)(queries, keys, values)
        ctx.save_for_backward(queries, keys, values, mixed, sums)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes: tuple[Tensor, Tensor, Tensor] = opaque(_attend_backward, _attend_backward_operator)(grad, *ctx.saved_tensors)
        return slopes


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The mixed values, and of each query the highest score and 1 / sum of exp(score - highest score), (2, B heads, T)."""
    mixed, sums = _results(queries)
    _call("forward", {"queries": queries, "keys": keys, "values": values, "mixed": mixed}, sums)
    return mixed, sums


def _attend_backward(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from that of the mixed values."""
    of_queries, of_keys, of_values = (like(queries) for _ in range(3))
    operands = {"queries": queries, "keys": keys, "values": values, "grad": grad, "mixed": mixed}
    _call("backward", operands | {"of_queries": of_queries, "of_keys": of_keys, "of_values": of_values}, sums)
    return of_queries, of_keys, of_values


class _Sequences(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values", "grad", "mixed")),
        *((name, ctypes.c_void_p) for name in ("of_queries", "of_keys", "of_values", "highest", "inverse")),
        *((f"steps_of_{name}", ctypes.c_long * 3) for name in ("queries", "keys", "values", "grad", "mixed")),
        *((name, ctypes.c_long) for name in ("heads", "length", "size")),
        ("scale", ctypes.c_float),
    )  # fmt: skip


def _call(function: str, given: dict[str, Tensor], sums: Tensor) -> None:
    """Call a function of the library; the threads divide the sequences of all heads."""
    found, first = _found()[1], given["queries"]
    assert found is not None
    check_alike(list(given.values()))
    operands = {name: each if each.stride(3) == 1 else each.contiguous() for name, each in given.items()}
    batch, length, heads, size = first.shape
    job = _Sequences(heads=heads, length=length, size=size, scale=1 / math.sqrt(size))
    job.highest, job.inverse = (each.data_ptr() for each in sums)
    for name, operand in operands.items():
        setattr(job, name, operand.data_ptr())
        if not name.startswith("of_"):
            getattr(job, f"steps_of_{name}")[:] = operand.stride()[:3]
    run(found, function, job, batch * heads, found.room(length, size))


def _results(queries: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = queries.shape
    return like(queries), queries.new_empty(2, batch * heads, length, dtype=torch.float32)


# As custom operators, both are opaque to torch.compile.
_attend_operator = torch.library.custom_op("tinylm_ablate::attend_bf16", _attend, mutates_args=())
_attend_backward_operator = torch.library.custom_op("tinylm_ablate::attend_bf16_backward", _attend_backward, mutates_args=())


@_attend_operator.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    del keys, values
    return _results(queries)


@_attend_backward_operator.register_fake
def _(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mixed: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    del grad, keys, values, mixed, sums
    return like(queries), like(queries), like(queries)
