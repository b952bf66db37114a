"""Parts that a user could bring, which are settled here and never called (``tests/test_identity.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Part:
    """Everything that an optimizer, a schedule, a random rule, a block, a source of text or a measure must have."""

    amount: float = 1.0
    keeps = ()
    name, weights = "part", False

    def update(self, *_: Any) -> Any:
        """Of an optimizer."""
        raise NotImplementedError

    def factor(self, *_: Any) -> float:
        """Of a schedule."""
        raise NotImplementedError

    def standard_deviation(self, *_: Any) -> float:
        """Of a random rule."""
        raise NotImplementedError

    def matrices(self, shape: Any) -> dict[str, tuple[int, int]]:
        """Of a block."""
        return {"mix": (shape.width, shape.width)}

    def attend(self, *_: Any) -> Any:
        """Of a block instead of attention."""
        raise NotImplementedError

    def feed(self, *_: Any) -> Any:
        """Of a block instead of the FFN."""
        raise NotImplementedError

    def documents(self) -> Iterator[Any]:
        """Of a source of text."""
        raise NotImplementedError

    def measure(self, *_: Any) -> Any:
        """Of a measure."""
        raise NotImplementedError
