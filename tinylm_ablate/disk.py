"""Disk errors for users: no space, no write permission, names that are too long."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tinylm_ablate.errors import DiskError

#: Errors of the system if there is no space for a write: full disk, exceeded quota, limit on file size.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_RIGHT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


@contextlib.contextmanager
def writing(folder: Path, what: str, *, key: str = "runs_dir", needed: int | None = None) -> Iterator[None]:
    """Raise disk errors within the block as ``DiskError``; other errors pass through.

    Args:
        folder: Folder that is written to.
        what: Description of what is written.
        key: The setting that selects another folder.
        needed: Approximate size in bytes; None if unknown.
    """
    try:
        yield
    except OSError as error:
        trouble = in_words(error, folder, what, key=key, needed=needed)
        if trouble is None:
            raise
        raise trouble from error


def in_words(
    error: Exception, folder: Path, what: str, *, key: str = "runs_dir", needed: int | None = None
) -> DiskError | None:
    """Convert a disk error into one for users, which names the folder and what to do; None for any other error."""
    if not isinstance(error, OSError):
        return None
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | os.PathLike) else folder
    if error.errno == errno.ENAMETOOLONG:
        return DiskError(f"{str(named)[:60]}…: this name is longer than the file system allows; choose a shorter one")
    if error.errno in _NO_ROOM:
        place = folder if named.is_relative_to(folder) else _existing(named)
        size = "more space is needed" if needed is None else f"about {needed:,} bytes are needed"
        free = shutil.disk_usage(_existing(folder if place == folder else place)).free
        elsewhere = f", or set {key} to a folder on a larger disk" if place == folder else ""
        return DiskError(
            f"{place}: no space for {what}: {size}, {free:,} bytes are free ({error.strerror or error}). "
            f"Free some space there{elsewhere}; no partial files were left, and the same command resumes."
        )
    if error.errno in _NO_RIGHT:
        place = named if named.is_file() else _existing(named)
        return DiskError(
            f"{place}: cannot write {what} there ({error.strerror}); {_rights(place)}. "
            f"Make it writable, or set {key} to another folder."
        )
    return None


def _existing(path: Path) -> Path:
    """The nearest folder that exists."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _rights(path: Path) -> str:
    """Describe owner and permissions of a file or folder."""
    try:
        found = path.stat()
        owner, group = path.owner(), path.group()
    except (OSError, KeyError):
        return "its owner is unknown"
    return f"it belongs to {owner}:{group}, {stat.filemode(found.st_mode)}"
