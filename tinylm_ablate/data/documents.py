"""Documents, and the interface of sources of documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is assigned to a split and scored as a whole.

    Attributes:
        text: The text; in a corpus, without surrounding white space.
        language: A label such as "en" or "zh".
        hash: The first 16 bytes of the text's SHA-256, in hexadecimal; empty before the document is in a corpus.
        source: Its part of a text set or mixture; empty if there is only one.
    """

    text: str
    language: str
    hash: str = ""
    source: str = ""


class Source(Protocol):
    """Source of documents. Cheap to create: nothing is fetched or read before its first use."""

    def identity(self) -> dict[str, Any]:
        """Content of the source as plain data: equal for equal text, and known without building anything."""

    def description(self) -> list[dict[str, Any]]:
        """Name, license and origin of each part, for the corpus's summary."""

    def bytes_estimate(self) -> int | None:
        """Approximate bytes of text; None if unknown."""

    def documents(self) -> Iterator[Document]:
        """Yield the documents in a fixed order, in bounded memory.

        Raises:
            UserError: Something in the source cannot be read; the message names the file and the place in it.
        """
