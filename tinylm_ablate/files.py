"""Atomic writes of files and folders, and fingerprints that are the same in every process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def unfinished(path: Path) -> Path:
    """Return a temporary name next to ``path``; ``remove_unfinished`` finds it after a kill.

    Its mode is left to the umask and the folder's setgid bit, so that several users can share a folder.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def write_atomic(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write a file atomically: readers, also after a power failure, see the old content or the new one, never a part.

    Args:
        path: The file.
        content: Its new content.
        private: Whether only the owner may read the file; otherwise the umask decides.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666), "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure, if the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def building(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds, and is removed if it fails.

    If another process finished the same folder first, its folder is kept: both have the same content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    temporary.mkdir()
    try:
        yield temporary
        mode = temporary.stat().st_mode & 0o666
        for file in temporary.rglob("*"):
            if file.is_file():
                if file.stat().st_mode & mode != mode:  # some libraries write files that only the owner can read
                    file.chmod(mode)
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(*paths: Path) -> None:
    """Remove temporary files of ``write_atomic`` and ``building`` for paths of one folder whose process was killed.

    Call this only when no other process can be writing them now.
    """
    folder, begins = paths[0].parent, tuple(f".{path.name}." for path in paths)
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = [name for name in os.listdir(folder) if name.startswith(begins)]
    for left in (folder / name for name in names):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        OSError: The system's error, which the library wraps in an error of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if the file is missing, unreadable or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_yaml(path: Path) -> Any:
    """Read a YAML file without executing anything in it, with the parser in C, ten times faster, unless PyYAML lacks it.

    Raises:
        OSError, UnicodeDecodeError, yaml.YAMLError: It cannot be read.
    """
    import yaml

    loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Return a canonical JSON text: sorted keys, no spaces, no NaN.

    Raises:
        TypeError: The value contains something without a canonical form (a callable, a set, an object).
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


#: Pattern of fingerprints, which are also the identities of runs and grids and used as file names.
FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def fingerprint(value: Any) -> str:
    """Return sixteen hexadecimal digits that are equal for equal values in any process."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
