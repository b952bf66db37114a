"""Progress bars with rate and time left, drawn on a terminal or written to a file that the leader of a grid shows."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self, cast

_mode = "auto"
_live: Path | dict[str, Any] | None = None
_task = ""

#: Seconds between writes of a bar's state.
_WRITE_SECONDS = 1.0


def configure(mode: str) -> None:
    """Choose when to draw bars: "on", "off", or "auto", which draws them if standard error is a terminal."""
    global _mode
    _mode = mode


def begin(task: str) -> None:
    """Set the task that subsequent bars belong to."""
    global _task
    _task = task


def report_to(place: Path | dict[str, Any] | None) -> None:
    """Keep the state of each bar in a file, or in a dictionary of this process, instead of drawing it; None draws again."""
    global _live
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
    _clear(_live)
    _live = place


def _clear(place: Path | dict[str, Any] | None) -> None:
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
    elif place is not None:
        place.clear()


def shown() -> bool:
    """Return whether bars are drawn."""
    return _live is None and (_mode == "on" or (_mode == "auto" and sys.stderr.isatty()))


class Bar(Protocol):
    """What a bar can do, whether it is drawn or written to a file."""

    def __iter__(self) -> Iterator[Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def update(self, count: float = 1) -> object:
        """Advance the bar."""

    def set_postfix_str(self, text: str) -> None:
        """Set the text after the bar."""

    def close(self) -> None:
        """Close the bar."""


def bar(
    items: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    description: str = "",
    unit: str = "it",
    quiet: bool = False,
) -> Bar:
    """A tqdm bar: iterate over it, or use it as a context manager and call ``update(n)`` and ``set_postfix_str(text)``.

    Units that count bytes or tokens are shown with k, M and G. The bar leaves the screen when it is done; a ``quiet`` one is
    never drawn.
    """
    from tqdm import tqdm

    bar = tqdm(
        items, total=total, desc=description, unit=unit, unit_scale=unit in {"B", "tok"}, disable=quiet or not shown(),
        leave=False, dynamic_ncols=True, delay=0.5, file=sys.stderr,
    )  # fmt: skip
    return cast(Bar, bar) if _live is None else _Written(bar, total, description, unit, _live)


def end_thread() -> None:
    """End the thread that refreshes bars, so that this process can fork; the next bar starts it again."""
    from tqdm import tqdm

    if tqdm.monitor is not None:
        tqdm.monitor.exit()  # type: ignore[no-untyped-call]


class _Written:
    """A bar that is not drawn; its state is kept about once a second."""

    def __init__(self, bar: Any, total: float | None, description: str, unit: str, place: Path | dict[str, Any]) -> None:
        self._bar, self._total, self._description, self._unit, self._place = bar, total, description, unit, place
        self._count = self._marked = 0.0
        self._begin = self._written = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        for item in self._bar:
            yield item
            self.update(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: float = 1) -> None:
        """Advance the bar."""
        self._count += count
        now = time.monotonic()
        if now - self._written >= _WRITE_SECONDS:
            rate = (self._count - self._marked) / (now - self._written)
            self._marked, self._written = self._count, now
            state = {
                "pid": os.getpid(), "task": _task, "what": self._description, "count": self._count, "total": self._total,
                "rate": rate, "unit": self._unit,
            }  # fmt: skip
            if isinstance(self._place, dict):
                self._place.update(state)
                return
            unfinished = self._place.with_suffix(".part")
            try:
                unfinished.write_text(json.dumps(state))
                unfinished.replace(self._place)  # readers see the old state or the new one
            except OSError:  # the folder is temporarily missing, or the command has ended
                return

    def set_postfix_str(self, text: str) -> None:
        """Ignore the text after a bar, which is not written to the file."""
        del text

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()
        _clear(self._place)


class _Retries(logging.Filter):
    """Drops the records about each attempt to reach the Hugging Face hub, and reports the first one in our words."""

    _ABOUT = ("thrown while requesting", "Retrying in", "Rate limited")

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        dropped = any(words in record.getMessage() for words in self._ABOUT)
        if dropped and not self._said:
            print("note: the Hugging Face hub cannot be reached; further attempts take about half a minute", file=sys.stderr)
            self._said = True
        return not dropped


_retries = _Retries()


def shorten_retries() -> None:
    """Report attempts to reach the Hugging Face hub in one line; its package prints two for each."""
    logging.getLogger("huggingface_hub.utils._http").addFilter(_retries)
