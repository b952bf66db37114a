"""Files and folders that are either whole or absent, and fingerprints that are the same in every process."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a power cut, finds the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def building(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well, and disappears when it does not.

    Where another process finished the same folder first, its work is kept: both hold the same content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        os.chmod(temporary, 0o755)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what ``write_atomic`` and ``building`` left of attempts at ``path`` whose process was killed.

    Only for whoever knows that no other process is writing it now.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with one spelling for each value: sorted keys, no spaces, no NaN.

    Raises:
        TypeError: The value holds something that has no stable spelling (a callable, a set, an object).
    """

    def plain(item: Any) -> Any:
        if item is None or isinstance(item, bool | int | str):
            return item
        if isinstance(item, float):
            if not math.isfinite(item):
                raise TypeError(f"{item!r} has no canonical JSON")
            return int(item) if item.is_integer() and abs(item) < 2**53 else item
        if isinstance(item, list | tuple):
            return [plain(entry) for entry in item]
        if isinstance(item, dict) and all(isinstance(key, str) for key in item):
            return {key: plain(entry) for key, entry in item.items()}
        raise TypeError(f"{type(item).__name__} {item!r} has no canonical JSON")

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that are equal for equal values in any process."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
