"""A document, and the three places that documents come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.check import data_mistakes
from tinylm_ablate.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Document:
    """One piece of text that is trained on, split and scored as a whole.

    Attributes:
        text: The text; a corpus holds it without surrounding white space.
        language: A label such as "en" or "zh".
        hash: The first 16 bytes of the text's SHA-256, in hexadecimal; empty before the document is in a corpus.
    """

    text: str
    language: str
    hash: str = ""


class Source(Protocol):
    """Where documents come from; made cheaply, so that nothing is fetched or read before it is asked for."""

    def identity(self) -> dict[str, Any]:
        """What the text is, as plain data: equal for equal text, and known without building anything."""

    def description(self) -> list[dict[str, Any]]:
        """Name, licence and origin of each part, for the corpus's summary."""

    def bytes_estimate(self) -> int | None:
        """About how many bytes of text there are; None where nobody knows."""

    def documents(self) -> Iterator[Document]:
        """The documents in a fixed order, in bounded memory.

        Raises:
            UserError: Something in the source cannot be read; the message names the file and place.
        """


def open_source(data: DataConfig, cache_dir: Path) -> Source:
    """The source that ``data.source`` names.

    Raises:
        ConfigError: The settings of ``data`` contradict each other.
    """
    mistakes = data_mistakes(data)
    if mistakes:
        raise ConfigError(mistakes)
    if data.source == "files":
        from tinylm_ablate.data.files import FileSource

        return FileSource(data, cache_dir)
    if data.source == "hub":
        from tinylm_ablate.data.hub import HubSource

        return HubSource(data, cache_dir)
    from tinylm_ablate.data.default import DefaultSource

    return DefaultSource(cache_dir)


def read_documents(data: DataConfig, cache_dir: Path) -> Iterator[Document]:
    """The documents as their source gives them: not yet deduplicated, filtered or split."""
    return open_source(data, cache_dir).documents()
