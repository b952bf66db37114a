"""``data=files``: a file, or all files below a folder.

Each row of a table is a document (.jsonl, .json, .csv, .tsv, .parquet). A .txt file in a folder is one document; a file larger
than 64 kB, or a single file, is cut into documents of about 4 kB at blank lines (or at line ends if there are none), so that a
book in a single file can be split into train, validation and test.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.documents import Document
from tinylm_ablate.data.encodings import is_utf8
from tinylm_ablate.data.folder_walk import find_files
from tinylm_ablate.data.hashes import content_hashes
from tinylm_ablate.data.languages import identify, label
from tinylm_ablate.data.readers import read_rows, suffix_of
from tinylm_ablate.data.rows import Columns
from tinylm_ablate.files import fingerprint

#: Version of the readers; increment it if they make other documents or labels from the same files.
_READER = 2
#: Files whose size is about that of their text.
_PLAIN = {".txt", ".jsonl", ".json", ".csv", ".tsv"}
#: Approximate compression ratio of text.
_UNPACKED = 4


class FileSource:
    """The files of ``data.path``.

    Raises:
        UserError: The path does not exist, has no usable files, or a file is empty.
    """

    def __init__(self, data: DataConfig, cache_dir: Path) -> None:
        self._data = data
        self._cache_dir = cache_dir
        self._root = Path(str(data.path)).expanduser()
        found = find_files(self._root)
        self._files = found.files
        self._passed_over = found.passed_over

    def identity(self) -> dict[str, Any]:
        """Kinds and content hashes of the files in order, independent of their location, and the settings of the readers."""
        encoding = {} if is_utf8(self._data.encoding) else {"encoding": self._data.encoding}
        return encoding | {
            "source": "files",
            "reader": _READER,
            "alone": self._root.is_file(),
            "files": [[suffix_of(path), content] for path, content in zip(self._files, self._hashes, strict=True)],
            "text_column": self._data.text_column,
            "language_column": self._data.language_column,
            "language": self._data.language,
        }

    def description(self) -> list[dict[str, Any]]:
        """One entry with name, number and size of the files."""
        return [
            {
                "name": self._root.resolve().name,
                "license": "not stated: the user's own text",
                "origin": "files",
                "files": len(self._files),
                "bytes": sum(path.stat().st_size for path in self._files),
                "content": fingerprint(self._hashes),
                "passed_over": self._passed_over,
            }
        ]

    @cached_property
    def _hashes(self) -> list[str]:
        return content_hashes(self._files, self._cache_dir)

    def bytes_estimate(self) -> int:
        """Size of the files, multiplied by a typical ratio if compressed."""
        return sum(path.stat().st_size * (1 if path.suffix.lower() in _PLAIN else _UNPACKED) for path in self._files)

    def documents(self) -> Iterator[Document]:
        """Yield the documents of all files, in the order of the files' names.

        Raises:
            UserError: A file cannot be used; the message names it, the place in it, and the fix.
        """
        columns = Columns(self._data.text_column, self._data.language_column)
        for path in self._files:
            for row in read_rows(path, columns, cut=self._root.is_file(), encoding=self._data.encoding):
                if self._data.language != "auto":
                    language = self._data.language
                elif columns.language is None or row.language is None:
                    language = identify(row.text)
                else:
                    language = label(row.text, row.language, f"{path}, {row.place}, column {columns.language}")
                yield Document(row.text, language)
