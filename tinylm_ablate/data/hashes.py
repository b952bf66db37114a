"""Content hashes of a user's files, cached while a file does not change."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import read_json, sha256_file, write_atomic

#: A file that changed this recently may change again within the same clock tick, so its hash is not cached.
_SETTLED_SECONDS = 2.0


def content_hashes(paths: Sequence[Path], cache_dir: Path) -> list[str]:
    """Return the SHA-256 of each file. Hashes are cached by path, size and times in ``cache_dir/text/hashes.json``.

    Raises:
        UserError: A file cannot be read.
    """
    store = cache_dir / "text" / "hashes.json"
    known = read_json(store)
    hashes: list[str] = []
    news: dict[str, list[int | str]] = {}
    with progress.bar(total=len(paths), description="hashing", unit="files") as bar:
        for path in paths:
            try:
                stat = path.stat()
                key, state = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
                entry = known.get(key)
                if entry is not None and entry[:3] == state:
                    hashes.append(str(entry[3]))
                else:
                    hashes.append(sha256_file(path))
                    if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_SECONDS:
                        news[key] = [*state, hashes[-1]]
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be read ({error.strerror}). Change its permissions, chmod u+r {path}, or remove it"
                ) from error
            bar.update(1)
    if news:
        # Entries that are lost because two processes write at once, or because this fails, are computed again.
        with contextlib.suppress(OSError):
            write_atomic(store, json.dumps(known | news))
    return hashes
