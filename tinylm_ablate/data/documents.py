"""A document, and what a source of documents provides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """One piece of text that is trained on, split and scored as a whole.

    Attributes:
        text: The text; a corpus holds it without surrounding white space.
        language: A label such as "en" or "zh".
        hash: The first 16 bytes of the text's SHA-256, in hexadecimal; empty before the document is in a corpus.
        source: The part of a set or mixture that it comes from; empty where there is only one.
    """

    text: str
    language: str
    hash: str = ""
    source: str = ""


class Source(Protocol):
    """Source of documents. Cheap to create: nothing is fetched or read before its first use."""

    def identity(self) -> dict[str, Any]:
        """What the text is, as plain data: equal for equal text, and known without building anything."""

    def description(self) -> list[dict[str, Any]]:
        """Name, license and origin of each part, for the corpus's summary."""

    def bytes_estimate(self) -> int | None:
        """About how many bytes of text there are; None if unknown."""

    def documents(self) -> Iterator[Document]:
        """The documents in a fixed order, in bounded memory.

        Raises:
            UserError: Something in the source cannot be read; the message names the file and the place in it.
        """
