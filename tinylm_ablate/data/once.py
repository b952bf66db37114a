"""Cache folders that are built once, by the first process that needs them, and used only if complete."""

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
    """Make sure that ``folder`` has been built.

    One process builds it while others wait. A damaged folder and remains of a killed process are removed first.

    Args:
        is_whole: Returns quickly whether a folder is complete, rather than damaged or missing.
        build: Fills an empty folder.
        needed: Approximate size in bytes, for the message if the disk is full; None if unknown.
        what: Description for messages ("the corpus").

    Raises:
        DiskError: No disk space, or no permission to write; nothing is left behind.
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
    """Make sure that files or folders of the cache exist, and create the missing ones together.

    Args:
        wanted: Input of each file or folder.
        make: Computes the missing ones; returns a function for each that writes it atomically.
        what: Description for messages.
        is_whole: Distinguishes a complete one from a damaged or absent one, quickly.
        needed: Approximate size in bytes, for the message when the disk is full; None if unknown.

    Raises:
        DiskError: No disk space, or no permission to write.
    """
    with contextlib.ExitStack() as held:
        for path in sorted(path for path in wanted if not is_whole(path)):  # a fixed order prevents deadlocks
            held.enter_context(writing(path.parent, what, key="cache_dir", needed=needed))
            held.enter_context(locked(path, what))
        missing = {path: source for path, source in wanted.items() if not is_whole(path)}
        if missing:
            for path, write in zip(missing, make(list(missing.values())), strict=True):
                remove_unfinished(path)
                write(path)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock next to ``path``; the system releases it if the process is killed.

    Args:
        path: The file or folder to create.
        what: Description for messages.
    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for another process that creates {what} ({path})", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
