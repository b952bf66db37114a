"""Files below a folder: those to read, and those that are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tinylm_ablate.data.opening import COMPRESSED
from tinylm_ablate.data.readers import KINDS, suffix_of
from tinylm_ablate.errors import UserError, listed


@dataclass(frozen=True)
class Found:
    """Content of a folder and its subfolders.

    Attributes:
        files: The files to read, in the order of their paths.
        passed_over: Other files, {kind: {files, bytes}}; a kind is a suffix, or the reason why they are not read.
    """

    files: list[Path] = field(default_factory=list)
    passed_over: dict[str, dict[str, int]] = field(default_factory=dict)

    def pass_over(self, kind: str, size: int) -> None:
        """Count a file that is not read."""
        entry = self.passed_over.setdefault(kind, {"files": 0, "bytes": 0})
        entry["files"] += 1
        entry["bytes"] += size


def find_files(root: Path) -> Found:
    """Find the files to read below ``root``, or ``root`` itself.

    Symbolic links are followed. A file with several paths is read once, under the first path, which also ends loops. Hidden
    files and folders are skipped.

    Raises:
        UserError: There is nothing to read, or a file is empty.
    """
    found = Found()
    try:
        if root.is_file():
            if suffix_of(root) is None:
                raise UserError(f"data.path={root}: unknown kind of file; allowed: {KINDS}. Convert or rename the file")
            found.files.append(root)
        elif root.is_dir():
            seen: set[tuple[int, int]] = set()
            for path in _below(root, found, seen):
                kind = suffix_of(path)
                if kind is None:
                    found.pass_over(kind_of(path), path.stat().st_size)
                else:
                    found.files.append(path)
        else:
            raise UserError(f"data.path={root}: no such file or folder (current folder: {Path.cwd()})")
        if not found.files:
            raise UserError(f"data.path={root}: the folder has no files to read; allowed: {KINDS}")
        empty = [str(path) for path in found.files if path.stat().st_size == 0]
    except PermissionError as error:
        raise UserError(
            f"{error.filename or root}: cannot be listed ({error.strerror}). Change its permissions with chmod"
        ) from error
    if empty:
        raise UserError(f"{listed(empty, 5)}: empty, 0 bytes. Delete it, or write it again if it should hold text")
    found.files.sort(key=lambda path: path.relative_to(root).parts)
    return found


def kind_of(path: Path) -> str:
    """Return the suffix of a file that is not read, with that of its content if it is compressed."""
    suffix = path.suffix.lower()
    return "".join(path.suffixes[-2:]).lower() if suffix in COMPRESSED else suffix or "without a suffix"


def _sizes(entry: os.DirEntry[str]) -> Iterator[int]:
    """Yield the size of a hidden file, or of every file in a hidden folder, without following links; 0 if it cannot be read."""
    try:
        if not entry.is_dir(follow_symlinks=False):
            yield entry.stat(follow_symlinks=False).st_size
            return
        with os.scandir(entry) as below:
            for inside in below:
                yield from _sizes(inside)
    except OSError:
        yield 0


def _below(folder: Path, found: Found, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield every file below ``folder`` once, in order of names; count in ``found`` what is neither a file nor a folder."""
    place = folder.stat()
    seen.add((place.st_dev, place.st_ino))
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            for size in _sizes(entry):
                found.pass_over("hidden", size)
            continue
        try:
            place = entry.stat()
        except PermissionError:
            raise
        except OSError:  # a broken link or a loop
            found.pass_over("broken links", 0)
            continue
        path, key = Path(entry.path), (place.st_dev, place.st_ino)
        if not entry.is_dir() and not entry.is_file():
            found.pass_over("neither file nor folder", 0)
        elif key in seen:
            found.pass_over("links to files that are already read", 0)
        elif entry.is_dir():
            yield from _below(path, found, seen)
        else:
            seen.add(key)
            yield path
