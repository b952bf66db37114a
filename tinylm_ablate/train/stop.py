"""Handling of SIGTERM and Ctrl-C in training: finish the step, save, and stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Stop:
    """Records a signal instead of raising; a second one raises KeyboardInterrupt.

    Attributes:
        signum: The signal, or 0.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[int, Any] = {}

    def watch(self) -> None:
        """Start handling the signals. Does nothing outside the main thread, which handles them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:
                break

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signum:
            raise KeyboardInterrupt  # without saving; the last checkpoint remains
        self.signum = number

    def close(self) -> None:
        """Restore the signal handlers; safe to call twice."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
