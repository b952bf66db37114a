"""Handling of SIGTERM and Ctrl-C: training finishes its step, saves and stops; everything else ends in an orderly way."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM outside of training, which ends a command like Ctrl-C: what is open is closed, and what is held is released."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return 128 + n for the signal n that ended a command."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


#: Seconds in which a repeated SIGTERM changes nothing: a scheduler may signal a worker, and then its leader does.
_PATIENCE = 10.0

#: Seconds after which a signal during an import is tried again.
_LATER = 0.05


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Raise ``Terminated`` at SIGTERM and KeyboardInterrupt at Ctrl-C in the block, but not within an import.

    There, an exception can leave a lock of the import system held, and an unfinished module behind. Handlers that the program
    that started this one has chosen are left alone.
    """
    ended = float("-inf")

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        if number == signal.SIGTERM and time.monotonic() - ended < _PATIENCE:
            return
        if _imports(frame):
            threading.Timer(_LATER, signal.pthread_kill, (threading.main_thread().ident, number)).start()
            return
        ended = time.monotonic()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    replaced = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
    for number in replaced:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def _imports(frame: FrameType | None) -> bool:
    """Return whether the main thread, at ``frame``, is within an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class Stop:
    """Records the first signal instead of raising; Ctrl-C after it raises KeyboardInterrupt.

    Attributes:
        signum: The signal, or 0.
    """

    #: The one of the training in progress.
    _watching: Stop | None = None

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[int, Any] = {}

    def watch(self) -> None:
        """Start handling the signals; outside the main thread, which handles them, only ``stop_training`` has an effect."""
        Stop._watching = self
        with contextlib.suppress(ValueError):
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)

    @classmethod
    def stop_training(cls) -> None:
        """Stop the training in progress, if any, as SIGTERM does. Any thread may call this."""
        if (stop := cls._watching) is not None:
            stop.signum = stop.signum or signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signum and number == signal.SIGINT:
            raise KeyboardInterrupt  # without saving; the last checkpoint remains
        self.signum = self.signum or number

    def close(self) -> None:
        """Restore the signal handlers; safe to call twice."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if Stop._watching is self:
            Stop._watching = None
