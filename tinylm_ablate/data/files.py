"""``data=files``: a file, or a folder with all that is below it.

One document is a row of .jsonl or .parquet. A .txt file in a folder is one document; one of more than 64 kB, or one that is
given alone, is cut into documents of about 4 kB at blank lines (at line ends where there are none), so that a book in a
single file can be split into train, validation and test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.documents import Document
from tinylm_ablate.data.hashes import content_hashes
from tinylm_ablate.data.languages import label, script_language
from tinylm_ablate.data.readers import SUFFIXES, Columns, read_rows, suffix_of
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint

#: Raised by hand when the readers come to make other documents of the same files.
_READER = 1
#: About how much compressed text grows when it is read.
_UNPACKED = 4


class FileSource:
    """The files that ``data.path`` names.

    Raises:
        UserError: There is no such path, nothing usable in it, or an empty file.
    """

    def __init__(self, data: DataConfig, cache_dir: Path) -> None:
        self._data = data
        self._cache_dir = cache_dir
        self._root = Path(str(data.path)).expanduser()
        self._files = usable_files(self._root)

    def identity(self) -> dict[str, Any]:
        """The files' kinds and content hashes in order, wherever they lie, and how they are read."""
        return {
            "source": "files",
            "reader": _READER,
            "alone": self._root.is_file(),
            "files": [[suffix_of(path), content] for path, content in zip(self._files, self._hashes, strict=True)],
            "text_column": self._data.text_column,
            "language_column": self._data.language_column,
            "language": self._data.language,
        }

    def description(self) -> list[dict[str, Any]]:
        """One entry: the name, number and size of the files."""
        return [
            {
                "name": self._root.resolve().name,
                "licence": "not stated: the user's own text",
                "origin": "files",
                "files": len(self._files),
                "bytes": sum(path.stat().st_size for path in self._files),
                "content": fingerprint(self._hashes),
            }
        ]

    @cached_property
    def _hashes(self) -> list[str]:
        return content_hashes(self._files, self._cache_dir)

    def bytes_estimate(self) -> int:
        """The files' size, compressed ones taken for several times as much."""
        return sum(
            path.stat().st_size * (1 if path.suffix.lower() in {".txt", ".jsonl"} else _UNPACKED) for path in self._files
        )

    def documents(self) -> Iterator[Document]:
        """The documents of all files, in the order of the files' names.

        Raises:
            UserError: A file cannot be used; the message names it, the place in it, and the fix.
        """
        columns = Columns(self._data.text_column, self._data.language_column)
        for path in self._files:
            for row in read_rows(path, columns, cut=self._root.is_file()):
                if self._data.language != "auto":
                    language = self._data.language
                elif columns.language is None or row.language is None:
                    language = script_language(row.text)
                else:
                    language = label(row.text, row.language, f"{path}, {row.place}, column {columns.language}")
                yield Document(row.text, language)


def usable_files(root: Path) -> list[Path]:
    """The files to read below ``root`` (or ``root`` itself), sorted by name; hidden ones are passed over.

    Raises:
        UserError: There is nothing to read, or a file is empty.
    """
    kinds = " ".join(SUFFIXES)
    try:
        if root.is_file():
            if suffix_of(root) is None:
                raise UserError(f"data.path={root}: is of no known kind; allowed: {kinds}. Convert or rename the file")
            files = [root]
        elif root.is_dir():
            files = [path for path in _below(root) if suffix_of(path) is not None]
        else:
            raise UserError(f"data.path={root}: there is no such file or folder (looked from {Path.cwd()})")
        if not files:
            raise UserError(f"data.path={root}: the folder holds nothing to read; allowed: {kinds}")
        empty = [str(path) for path in files if path.stat().st_size == 0]
    except PermissionError as error:
        raise UserError(
            f"{error.filename or root}: cannot be looked into ({error.strerror}). Give yourself the right with chmod"
        ) from error
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise UserError(f"{', '.join(empty[:5])}{more}: empty, 0 bytes. Delete it, or write it again if it should hold text")
    return files


def _below(root: Path) -> list[Path]:
    """Every file below ``root``, sorted by its path's parts, so that the order is the same on every system."""

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = [Path(folder, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).parts)
