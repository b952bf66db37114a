"""Folders of the cache that are built once, by whichever process comes first, and trusted only when whole."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from tinylm_ablate.disk import writing
from tinylm_ablate.errors import Busy
from tinylm_ablate.files import building, remove_unfinished

#: Whether to wait for what another process makes.
_waits: ContextVar[bool] = ContextVar("waits", default=True)


def build_once(
    folder: Path, *, is_whole: Callable[[Path], bool], build: Callable[[Path], None], needed: int | None, what: str
) -> None:
    """Make sure that ``folder`` holds what ``build`` puts there.

    One process builds while the others wait, or do something else (``without_waiting``). A folder that is damaged, and what a
    killed process left of its work, are removed first.

    Args:
        is_whole: Tells a whole folder from a damaged or absent one, quickly.
        build: Fills an empty folder.
        needed: About how many bytes the folder will take, for the message when the disk is full; None if unknown.
        what: What is built, for messages ("the text").

    Raises:
        DiskError: There is no room or no right to write; nothing is left behind.
        Busy: Another process builds, and nobody wants to wait.
    """
    if is_whole(folder):
        return
    with writing(folder.parent, what, key="cache_dir", needed=needed), locked(folder, what, later=True):
        if is_whole(folder):
            return
        remove_unfinished(folder)
        if folder.exists():
            shutil.rmtree(folder)
        with building(folder) as unfinished:
            build(unfinished)


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Within the block, what another process is making raises ``Busy``: there is other work to do meanwhile."""
    token = _waits.set(False)
    try:
        yield
    finally:
        _waits.reset(token)


@contextlib.contextmanager
def locked(path: Path, what: str, *, later: bool = False) -> Iterator[None]:
    """Hold the lock beside ``path``; it is let go even when the process is killed.

    Args:
        path: What is made.
        what: The same for messages.
        later: Whoever asks has done nothing yet that would be lost, and can ask again later.

    Raises:
        Busy: Another process holds it, within ``without_waiting``, and it can be asked for later.
    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if later and not _waits.get():
            raise Busy(f"another process makes {what} ({path})") from None
        print(f"waiting for another process that makes {what} ({path})", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
