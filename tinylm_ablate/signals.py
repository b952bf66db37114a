"""Handling of SIGTERM and Ctrl-C: training finishes its step, saves and stops; everything else ends in an orderly way."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM outside of training, which ends a command like Ctrl-C: what is open is closed, and what is held is released."""


def end_on_sigterm() -> None:
    """Raise ``Terminated`` at SIGTERM from now on, unless the program that started this one chose something else."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise Terminated


class Stop:
    """Records a signal instead of raising; a second one raises KeyboardInterrupt.

    Attributes:
        signum: The signal, or 0.
    """

    #: The one that handles the signals now.
    _watching: Stop | None = None

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[int, Any] = {}

    def watch(self) -> None:
        """Start handling the signals. Does nothing outside the main thread, which handles them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:
                return
        Stop._watching = self

    @classmethod
    def training(cls) -> None:
        """Stop the training in the main thread, if any, as SIGTERM does. Any thread may call this."""
        if (stop := cls._watching) is not None:
            stop.signum = stop.signum or signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signum:
            raise KeyboardInterrupt  # without saving; the last checkpoint remains
        self.signum = number

    def close(self) -> None:
        """Restore the signal handlers; safe to call twice."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            Stop._watching = None
        self._previous = {}
