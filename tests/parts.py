"""User-defined parts that are settled but never called (``tests/test_identity.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Part:
    """All methods of an optimizer, a schedule, a random rule, a block, a text source and a measure."""

    amount: float = 1.0
    keeps = ()
    name, weights = "part", False

    def update(self, *_: Any) -> Any:
        """Method of an optimizer."""
        raise NotImplementedError

    def factor(self, *_: Any) -> float:
        """Method of a schedule."""
        raise NotImplementedError

    def standard_deviation(self, *_: Any) -> float:
        """Method of a random rule."""
        raise NotImplementedError

    def matrices(self, shape: Any) -> dict[str, tuple[int, int]]:
        """Method of a block."""
        return {"mix": (shape.width, shape.width)}

    def attend(self, *_: Any) -> Any:
        """Method of a block that replaces attention."""
        raise NotImplementedError

    def feed(self, *_: Any) -> Any:
        """Method of a block that replaces the FFN."""
        raise NotImplementedError

    def documents(self) -> Iterator[Any]:
        """Method of a text source."""
        raise NotImplementedError

    def measure(self, *_: Any) -> Any:
        """Method of a measure."""
        raise NotImplementedError
