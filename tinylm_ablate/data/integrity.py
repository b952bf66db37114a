"""Integrity of cache folders: every file has a hash per block, and the summary a fingerprint of itself.

Hashing a whole shard before every run would cost more than reading it. A folder is therefore checked when it is first opened
on a machine, and again if the size, a time or the inode of a file has changed; a note next to the files, one per machine, says
what was checked. XXH3 detects damage (but not forgery) at several GB/s.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint, read_json, write_atomic

#: Bytes per hash.
BLOCK_BYTES = 1 << 24
#: Bytes to read at once: few enough to stay in the CPU cache until they are hashed.
_READ_BYTES = 1 << 20
_SEAL = "seal"


def describe(path: Path) -> dict[str, Any]:
    """Return size and block hashes of a file, as plain data for the summary of its folder."""
    return {"bytes": path.stat().st_size, "block_bytes": BLOCK_BYTES, "xxh3_128": list(_hashes(path, BLOCK_BYTES))}


def _hashes(path: Path, block_bytes: int) -> Iterator[str]:
    import xxhash

    buffer = memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as stream:
        while True:
            hasher, left = xxhash.xxh3_128(), block_bytes
            while left and (size := stream.readinto(buffer[:left])):
                hasher.update(buffer[:size])
                left -= size
            if left == block_bytes:
                return
            yield hasher.hexdigest()


def seal(summary: dict[str, Any]) -> str:
    """Return the text of a folder's summary, including a fingerprint of itself."""
    return json.dumps(summary | {_SEAL: fingerprint(summary)}, indent=2, ensure_ascii=False) + "\n"


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Read the summary of a folder; None if it is missing, damaged or outdated, or if a file has another size."""
    try:
        summary = read_json(path)
        whole = summary.pop(_SEAL) == fingerprint(summary)
        whole = whole and all((path.parent / name).stat().st_size == entry["bytes"] for name, entry in summary["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return summary if whole else None


def check(folder: Path, files: dict[str, dict[str, Any]], what: str) -> None:
    """Compare the files of a folder with their hashes, unless they are unchanged since the last check on this machine.

    Args:
        files: Results of ``describe`` from when the files were written.
        what: Description of the folder for messages ("the corpus").

    Raises:
        UserError: A block has other content; the message names the file and what to delete.
    """
    note = folder / f"checked.{re.sub(r'[^A-Za-z0-9.-]', '-', platform.node()) or 'here'}.json"
    known = read_json(note)
    states = {name: _state(folder / name) for name in files}
    changed = [name for name in files if known.get(name) != states[name]]
    if not changed:
        return
    total = sum(files[name]["bytes"] for name in changed)
    with progress.bar(total=total, description=f"checking {what}", unit="B") as bar:
        for name in changed:
            size = files[name]["block_bytes"]
            wanted = files[name]["xxh3_128"]
            found = list(_counted(_hashes(folder / name, size), bar, size))
            for block, (is_now, was) in enumerate(zip(found, wanted, strict=True)):
                if is_now != was:
                    raise UserError(
                        f"{folder / name}: is damaged: the content of bytes {block * size:,} to "
                        f"{min((block + 1) * size, files[name]['bytes']) - 1:,} has changed. "
                        f"Delete {folder}; it is built again. If this happens repeatedly, check the disk"
                    )
    # If the cache cannot be written, it is checked every time.
    with contextlib.suppress(OSError):
        write_atomic(note, json.dumps(states))


def _counted(hashes: Iterator[str], bar: Any, size: int) -> Iterator[str]:
    for found in hashes:
        bar.update(size)
        yield found


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
