"""Signals outside of training."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.helpers import in_fork
from tinylm_ablate.signals import Terminated, ending_in_order

SLOW = "import time\nbegan = time.monotonic()\nwhile time.monotonic() < began + 0.5: pass\ndone = True\n"


def signaled(number: int, folder: str) -> tuple[str, bool]:
    """Send this process a signal while it imports; returns the exception, and whether the import was complete."""
    sys.path.insert(0, folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with Ctrl-C ignored
    try:
        with ending_in_order():
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
            importlib.import_module("slow")
            time.sleep(30)
    except KeyboardInterrupt as error:
        return type(error).__name__, hasattr(sys.modules.get("slow"), "done")
    return "", False


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "Terminated"), (signal.SIGINT, "KeyboardInterrupt")])
def test_a_signal_waits_for_the_end_of_an_import(number: int, name: str, tmp_path: Path) -> None:
    """An exception within it could leave a lock of the import system held, and threads that import waiting forever."""
    (tmp_path / "slow.py").write_text(SLOW)
    assert in_fork(signaled, number, str(tmp_path)) == (name, True)


def test_a_second_sigterm_does_not_interrupt_the_end() -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended = False
    with pytest.raises(Terminated), ending_in_order():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            ended = True
    assert ended and signal.getsignal(signal.SIGTERM) == before


def test_other_handlers_are_left_alone() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with ending_in_order():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
