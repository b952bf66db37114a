"""Scale dial: sizes of the paper's 1B model at a smaller scale.

A factor s divides width, FFN width and vocabulary and leaves depth unchanged. The parameters of the body are proportional to
width squared and those of the embedding to vocabulary times width, so both shrink by s squared, and the share of embedding and
head, which the paper controls (Section 2.1, Table 1), is the same at every scale.

Size settings also accept "N/s": the paper's N divided by the scale factor.
"""

from __future__ import annotations

import math
import re

_DIAL = re.compile(r"^\s*(\d+)\s*/\s*s\s*$")


def is_dial(value: object) -> bool:
    """Return whether ``value`` is written as "N/s"."""
    return isinstance(value, str) and _DIAL.match(value) is not None


def at_scale(value: int | str, factor: int, minimum: int = 1) -> int:
    """Resolve a size at scale factor ``factor``.

    Args:
        value: A whole number, used unchanged, or "N/s", the paper's N divided by the factor.
        factor: The scale factor s, at least 1.
        minimum: Smallest valid size; "N/s" is raised to it, a plain number is not.

    Returns:
        Number of entries, channels or tokens. Halves are rounded up, so that 100883/32 is 3153.

    Raises:
        ValueError: ``value`` is neither a whole number nor "N/s".
    """
    if isinstance(value, int):
        return value
    match = _DIAL.match(value)
    if match is None:
        raise ValueError(f"{value!r} is neither a whole number nor 'N/s'")
    return max(minimum, (2 * int(match.group(1)) + factor) // (2 * factor))


#: Tokens per parameter at which the learning rates of the scales were measured.
MEASURED_BUDGET = 8.0

#: Exponents of the best learning rate as a power of the budget, below and above it (docs/dial.md).
_SHORT, _LONG = 0.4, -1 / 3


def rate_at_shape(rate: float, width: int, depth: int, baseline_width: int, baseline_depth: int) -> float:
    """Peak learning rate of a shape from that of the scale's baseline: proportional to 1 / (width x sqrt(depth)).

    Shapes with equal body parameters therefore share one rate, since these are proportional to width squared times depth.

    Sources: width as in Tensor Programs V (Yang et al. 2022), depth as in Tensor Programs VI (Yang et al. 2023); docs/dial.md
    has the measurements.
    """
    return float(rate * baseline_width / width * math.sqrt(baseline_depth / depth))


def rate_at_budget(rate: float, tokens_per_parameter: float) -> float:
    """Peak learning rate at a budget from that at ``MEASURED_BUDGET``: lower for shorter and longer runs (docs/dial.md)."""
    ratio = tokens_per_parameter / MEASURED_BUDGET
    return float(rate * ratio ** (_SHORT if ratio < 1 else _LONG))


def std_at_width(std: float, width: int, baseline_width: int) -> float:
    """Standard deviation of the random rules at a width, proportional to 1 / sqrt(width).

    A product with such a matrix keeps the size of its input.
    """
    return float(std * math.sqrt(baseline_width / width))


def decay_at_budget(decay: float, rate: float, steps: float, paper_sum: float) -> float:
    """Weight decay for which rate x decay, summed over the steps, equals ``decay`` times the paper's sum of rates.

    AdamW's weights are a moving average of its updates over 1 / (rate x decay) steps; this rule keeps the length of the average
    a constant share of the run (Wang and Aitchison 2024). All runs have the same schedule, so that peak rates can represent
    mean rates.
    """
    return decay * paper_sum / (rate * steps)
