"""Scale dial: sizes of the paper's 1B model at a smaller scale.

A factor s divides width, FFN width and vocabulary and leaves depth alone. The body's parameters go with width squared and
the embedding's with vocabulary times width, so both shrink by s squared and the share of embedding and head, which the
paper controls (Section 2.1, Table 1), survives at any size.

Wherever the configuration takes a size, it also takes the text "N/s": the paper's N at the scale that is set.
"""

from __future__ import annotations

import math
import re

_DIAL = re.compile(r"^\s*(\d+)\s*/\s*s\s*$")


def is_dial(value: object) -> bool:
    """Return whether ``value`` is written as "N/s"."""
    return isinstance(value, str) and _DIAL.match(value) is not None


def at_scale(value: int | str, factor: int, minimum: int = 1) -> int:
    """The size that ``value`` means at dial factor ``factor``.

    Args:
        value: A whole number, taken as it is, or "N/s", the paper's N divided by the dial.
        factor: The dial's s, at least 1.
        minimum: The least size that still works; "N/s" is raised to it, a plain number is not.

    Returns:
        A number of entries, channels or tokens. Halves are rounded up, so that 100883/32 is 3153.

    Raises:
        ValueError: ``value`` is neither a whole number nor "N/s".
    """
    if isinstance(value, int):
        return value
    match = _DIAL.match(value)
    if match is None:
        raise ValueError(f"{value!r} is neither a whole number nor 'N/s'")
    return max(minimum, (2 * int(match.group(1)) + factor) // (2 * factor))


#: Tokens per parameter at which the scales' learning rates were measured.
MEASURED_BUDGET = 8.0

#: The best rate's powers of the budget below and above it (docs/dial.md).
_SHORT, _LONG = 0.4, -1 / 3


def rate_at_shape(rate: float, width: int, depth: int, baseline_width: int, baseline_depth: int) -> float:
    """Peak learning rate of a shape, from that of the scale's baseline: it goes with 1 / (width x sqrt(depth)).

    Shapes with as many body parameters therefore share one rate, since these go with width squared times depth.

    Sources: width as in Tensor Programs V (Yang et al. 2022), depth as in Tensor Programs VI (Yang et al. 2023); docs/dial.md
    has the measurements.
    """
    return float(rate * baseline_width / width * math.sqrt(baseline_depth / depth))


def rate_at_budget(rate: float, tokens_per_parameter: float) -> float:
    """Peak learning rate at a budget, from that at ``MEASURED_BUDGET``: lower for shorter and for longer runs
    (docs/dial.md)."""
    ratio = tokens_per_parameter / MEASURED_BUDGET
    return float(rate * ratio ** (_SHORT if ratio < 1 else _LONG))


def std_at_width(std: float, width: int, baseline_width: int) -> float:
    """Standard deviation of the random rules at a width: a product with a matrix keeps the size of its input (1 /
    sqrt(width))."""
    return float(std * math.sqrt(baseline_width / width))


def decay_at_budget(decay: float, rate: float, steps: float, paper_sum: float) -> float:
    """Weight decay with which the sum of rate x decay over the steps is that of ``decay`` and the paper's sum of rates.

    AdamW's weights are a moving average of its updates over 1 / (rate x decay) steps; this keeps the average's length a
    constant share of the run (Wang and Aitchison 2024). Both runs have the same schedule, so the peak rates stand for their
    means.
    """
    return decay * paper_sum / (rate * steps)
