"""Progress bars with rate and time left, silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

_mode = "auto"


def configure(mode: str) -> None:
    """Choose when bars are drawn: "on", "off", or "auto", which asks whether standard error is a terminal."""
    global _mode
    _mode = mode


def shown() -> bool:
    """Whether bars are drawn."""
    return _mode == "on" or (_mode == "auto" and sys.stderr.isatty())


def bar(items: Iterable[Any] | None = None, *, total: float | None = None, description: str = "", unit: str = "it") -> Any:
    """A tqdm bar: iterate over it, or use it as a context manager and call ``update(n)`` and ``set_postfix_str(text)``.

    Units that count bytes or tokens are shown with k, M and G. The bar leaves the screen when it is done.
    """
    from tqdm import tqdm

    return tqdm(
        items, total=total, desc=description, unit=unit, unit_scale=unit in {"B", "tok"}, disable=not shown(), leave=False,
        dynamic_ncols=True, delay=0.5, file=sys.stderr,
    )  # fmt: skip
