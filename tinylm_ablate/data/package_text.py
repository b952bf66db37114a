"""Text from archives of Python packages, part by part; nothing in the archives is installed, imported or run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.data.documents import Document
from tinylm_ablate.data.fetch import Archive, fetch


@dataclass(frozen=True)
class Part:
    """One part of a text set.

    Attributes:
        name: Name in summaries.
        language: "en" or "zh".
        license: License of the text.
        origin: Author or publisher of the text.
        archive: The archive that contains it.
        read: Yields the texts of its documents, given the path of the archive.
        bytes: Approximate bytes of text from ``read``, for the progress bar.
    """

    name: str
    language: str
    license: str
    origin: str
    archive: Archive
    read: Callable[[Path], Iterator[str]]
    bytes: int


@dataclass(frozen=True)
class TextSet:
    """A set of texts in several parts.

    Attributes:
        name: The value of ``data.source`` that selects it.
        parts: The parts; the order breaks ties when documents are interleaved.
        near_duplicates: Value of ``data.near_duplicates=auto``.
        parser: Version of the readers; increment it if they make other documents from the same archives.
    """

    name: str
    parts: tuple[Part, ...]
    near_duplicates: float | None
    parser: int = 1


class PackagedText:
    """Source of the documents of a text set.

    Args:
        text_set: The text set.
        cache_dir: Folder whose subfolder ``downloads`` has the archives.
    """

    def __init__(self, text_set: TextSet, cache_dir: Path) -> None:
        self._set = text_set
        self._parts = text_set.parts
        self._folder = cache_dir / "downloads"

    def identity(self) -> dict[str, Any]:
        """The pinned hashes of the archives."""
        parts = [[part.name, part.archive.sha256] for part in self._parts]
        return {"source": self._set.name, "parser": self._set.parser, "parts": parts}

    def description(self) -> list[dict[str, Any]]:
        """Name, language, license and origin of each part."""
        return [
            {
                "name": part.name,
                "language": part.language,
                "license": part.license,
                "origin": part.origin,
                "package": f"{part.archive.project}=={part.archive.version}",
                "sha256": part.archive.sha256,
            }
            for part in self._parts
        ]

    def bytes_estimate(self) -> int:
        """Bytes of text before duplicates are dropped."""
        return sum(part.bytes for part in self._parts)

    def documents(self) -> Iterator[Document]:
        """Yield all parts, evenly interleaved, so that the first documents (``data.max_documents``) include some of each.

        Raises:
            UserError: The archives could not be fetched.
        """
        fetch(list(dict.fromkeys(part.archive for part in self._parts)), self._folder)
        mixed = []
        with progress.bar(total=self.bytes_estimate(), description="unpacking text", unit="B") as bar:
            for number, part in enumerate(self._parts):
                texts = []
                for text in part.read(self._folder / part.archive.file):
                    texts.append(text)
                    bar.update(len(text.encode()))
                mixed += [((place + 0.5) / len(texts), number, text) for place, text in enumerate(texts)]
        mixed.sort()
        for _, number, text in mixed:
            yield Document(text, self._parts[number].language, source=self._parts[number].name)
