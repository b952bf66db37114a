"""The one dial: what a quantity of the paper's 1B model becomes at a smaller scale.

A factor s divides width, FFN width and vocabulary and leaves depth alone. The body's parameters go with width squared and
the embedding's with vocabulary times width, so both shrink by s squared and the share of embedding and head, which the
paper controls (Section 2.1, Table 1), survives at any size.

Wherever the configuration takes a size, it also takes the text "N/s": the paper's N at the scale that is set.
"""

from __future__ import annotations

import re

_DIAL = re.compile(r"^\s*(\d+)\s*/\s*s\s*$")


def is_dial(value: object) -> bool:
    """Whether ``value`` is written as "N/s"."""
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
