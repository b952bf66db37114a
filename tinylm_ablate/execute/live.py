"""Progress display of a command: one line per worker and one for the total, or plain lines without a terminal."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.execute import words
from tinylm_ablate.execute.walk import FAILED, WAITING, Walk
from tinylm_ablate.execute.words import duration
from tinylm_ablate.tasks.task import Task

#: Seconds between updates on a terminal, and between plain lines elsewhere.
_REFRESH_SECONDS, _PLAIN_SECONDS = 1.0, 60.0

#: Seconds without output after which a worker is not shown.
_SILENT = 30.0


class Live:
    """Display a walk until the block ends.

    Args:
        walk: The walk.
        folder: Folder of the workers' bars (``progress.report_to``), including this process'.
        name: Prefix of the file names.
        mode: ``progress``: "auto" draws on a terminal and prints plain lines elsewhere, "on" draws, "off" shows nothing.
    """

    def __init__(self, walk: Walk, folder: Path, name: str, mode: str) -> None:
        self.walk, self.folder, self.name, self.mode = walk, folder, name, mode
        self._stop = threading.Event()
        self._begin = time.monotonic()
        self._thread: threading.Thread | None = None
        self._screen: Any = None
        self._own: dict[str, Any] = {}  # the bar of this process
        self._done: set[str] = set()
        self._reached = 0.0
        self._work = sum(state.task.weight for state in walk.waiting())  # without what was finished before

    def __enter__(self) -> Live:
        if self.mode == "off" or not self.walk.waiting():
            return self
        if self.mode == "on" or sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live as Screen

            console = Console(stderr=True)
            self._screen = Screen(console=console, auto_refresh=False, transient=True)
            self._screen.start()
            words.through(lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
        progress.report_to(self._own)
        self._thread = threading.Thread(target=self._show, name="live", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            progress.report_to(None)
        if self._screen is not None:
            words.through(None)
            self._screen.stop()

    def _show(self) -> None:
        while not self._stop.wait(_PLAIN_SECONDS if self._screen is None else _REFRESH_SECONDS):
            lines = [*self.workers(), self.whole()]
            if self._screen is None:
                words.say(lines[-1])
            else:
                from rich.text import Text

                self._screen.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)

    def workers(self) -> Iterator[str]:
        """One line per active worker."""
        for state in self._states():
            total = state.get("total")
            share = f"{state['count'] / total:5.0%}" if total else "     "
            task, what = str(state.get("task", "")), str(state["what"])
            name = f"{task}: {what}" if task else what
            yield f"  {state['pid']:>7} {share} {name[:56]:<56} {state['rate']:,.0f} {state['unit']}/s{_left(_of_bar(state))}"

    def whole(self) -> str:
        """One line for all tasks."""
        tasks = [state.task for state in self.walk.states.values() if state.state == WAITING]
        for task in tasks:
            if task.key not in self._done and task.product.exists():
                self._done.add(task.key)
        left = [task for task in tasks if task.key not in self._done]
        all_tasks = len(self.walk.order)
        failed = sum(state.state == FAILED for state in self.walk.order)
        rate = sum(state["rate"] for state in self._states() if state["unit"] == "tok")
        parts = [f"{all_tasks - len(left)} of {all_tasks} tasks done", f"{failed} failed"]
        parts += [f"{rate:,.0f} tokens/s"] if rate else []
        return ", ".join(parts) + _left(self._seconds_left(left))

    def _seconds_left(self, left: list[Task]) -> float:
        """Estimate the time left from the speed of this command so far, with tasks weighted by ``Task.weight``; 0 if unknown.

        It is at least that of each bar, since the weight of some measures is unknown.
        """
        total, rest = self._work, sum(task.weight for task in left)
        begun = sum(
            min(1.0, state["count"] / state["total"]) * state["total"]
            for state in self._states()
            if state.get("total") and state["unit"] == "tok"
        )
        # A worker between two tasks shows nothing for a moment, which must not reduce the progress.
        self._reached = done = max(self._reached, total - rest + min(begun, rest))
        passed = time.monotonic() - self._begin
        estimate = 0.0 if done < 0.01 * total else (total - done) * passed / done
        return max([estimate, *map(_of_bar, self._states())]) if estimate else 0.0

    def _states(self) -> list[dict[str, Any]]:
        found = [dict(self._own)] if self._own else []
        for path in sorted(self.folder.glob(f"{self.name}.*.live")):
            try:
                if time.time() - path.stat().st_mtime < _SILENT:
                    found += [state for state in [json.loads(path.read_text())] if isinstance(state, dict)]
            except (OSError, ValueError):
                continue
        return found


def _of_bar(state: dict[str, Any]) -> float:
    """Return the seconds until a bar ends; 0 if unknown."""
    return (state["total"] - state["count"]) / state["rate"] if state.get("total") and state["rate"] else 0.0


def _left(seconds: float) -> str:
    """Format the time left after a comma; empty if it is unknown or rounds to zero, since something is still active."""
    return f", {duration(seconds)} left" if seconds >= 0.5 else ""
