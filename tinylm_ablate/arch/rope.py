"""Frequencies of the rotary embedding, plain or scaled for long texts.

A scaling is a single string, so that a shape is plain data: "none"; "linear/FACTOR" (Chen et al. 2023, arXiv 2306.15595: all
angles are divided by the factor); or "llama3/FACTOR/LOW/HIGH/CONTEXT" (Llama 3.1: wavelengths above CONTEXT/LOW are stretched
by the factor, those below CONTEXT/HIGH are unchanged, and those between are interpolated).

Nothing here imports torch before frequencies are computed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NONE = "none"

#: Kind of scaling -> names of its numbers, in order.
KINDS = {"linear": ("factor",), "llama3": ("factor", "low", "high", "context")}

#: Allowed scalings, for messages.
ALLOWED = ", ".join([NONE, *("/".join([kind, *(name.upper() for name in names)]) for kind, names in KINDS.items())])


def scaling(kind: str, *numbers: float) -> str:
    """Return the string for a scaling.

    Raises:
        ValueError: An unknown kind, or numbers that do not define a scaling.
    """
    if kind == NONE and not numbers:
        return NONE
    if kind not in KINDS or len(numbers) != len(KINDS[kind]) or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError(f"{'/'.join([kind, *map(str, numbers)])}: unknown scaling of the rotary embedding; allowed: {ALLOWED}")
    if kind == "llama3" and numbers[1] >= numbers[2]:
        raise ValueError(f"llama3: LOW is {numbers[1]:g} and HIGH is {numbers[2]:g}; allowed: LOW below HIGH")
    return "/".join([kind, *(f"{number:.10g}" for number in numbers)])


def parse(word: str) -> tuple[str, tuple[float, ...]]:
    """Parse a scaling into its kind and numbers; raises ValueError if it is invalid."""
    kind, *numbers = word.strip().split("/")
    try:
        values = tuple(float(number) for number in numbers)
    except ValueError:
        values = (math.nan,)
    scaling(kind, *values)
    return kind, values


def frequencies(head_dim: int, theta: float, word: str = NONE, device: torch.device | None = None) -> Tensor:
    """Angle per position of each pair of channels, radians: (head_dim / 2,), fp32."""
    import torch

    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    plain = 1.0 / theta**exponents
    kind, numbers = parse(word)
    if kind == NONE:
        return plain
    if kind == "linear":
        return plain / numbers[0]
    factor, low, high, context = numbers
    wavelengths = 2 * math.pi / plain
    share = ((context / wavelengths - low) / (high - low)).clamp(0, 1)
    between = (1 - share) * plain / factor + share * plain
    long, short = wavelengths > context / low, wavelengths < context / high
    return torch.where(long, plain / factor, torch.where(short, plain, between))
