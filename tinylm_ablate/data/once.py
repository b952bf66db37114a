"""Folders of the cache that are built once, by whichever process comes first, and trusted only when whole."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tinylm_ablate.disk import writing
from tinylm_ablate.files import building, remove_unfinished

Source = TypeVar("Source")


def build_once(
    folder: Path, *, is_whole: Callable[[Path], bool], build: Callable[[Path], None], needed: int | None, what: str
) -> None:
    """Make sure that ``folder`` holds what ``build`` puts there.

    One process builds while the others wait. A folder that is damaged, and what a killed process left of its work, are
    removed first.

    Args:
        is_whole: Tells a whole folder from a damaged or absent one, quickly.
        build: Fills an empty folder.
        needed: About how many bytes the folder will take, for the message when the disk is full; None if unknown.
        what: What is built, for messages ("the text").

    Raises:
        DiskError: There is no room or no right to write; nothing is left behind.
    """
    if is_whole(folder):
        return
    with writing(folder.parent, what, key="cache_dir", needed=needed), locked(folder, what):
        if is_whole(folder):
            return
        remove_unfinished(folder)
        if folder.exists():
            shutil.rmtree(folder)
        with building(folder) as unfinished:
            build(unfinished)


def write_once(
    wanted: Mapping[Path, Source],
    make: Callable[[list[Source]], Sequence[Callable[[Path], None]]],
    *,
    what: str,
    is_whole: Callable[[Path], bool] = Path.is_file,
    needed: int | None = None,
) -> None:
    """Make sure that files or folders of the cache exist, those that are missing being made together.

    Args:
        wanted: What each file or folder is made from.
        make: Makes the missing ones; returns for each what writes it, whole or not at all.
        what: What is made, for messages.
        is_whole: Tells a whole one from a damaged or absent one, quickly.
        needed: About how many bytes they take, for the message when the disk is full; None if unknown.

    Raises:
        DiskError: There is no room or no right to write.
    """
    with contextlib.ExitStack() as held:
        for path in sorted(path for path in wanted if not is_whole(path)):  # one order, so that nobody waits in a circle
            held.enter_context(writing(path.parent, what, key="cache_dir", needed=needed))
            held.enter_context(locked(path, what))
        missing = {path: source for path, source in wanted.items() if not is_whole(path)}
        if missing:
            for path, write in zip(missing, make(list(missing.values())), strict=True):
                remove_unfinished(path)
                write(path)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock beside ``path``; the system releases it when the process is killed.

    Args:
        path: What is made.
        what: The same for messages.
    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for another process that makes {what} ({path})", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
