"""Blocks of a page, which each renderer writes in its own format.

Text is plain; emphasis, code and links are ``Span``. Blocks contain no Markdown, HTML or LaTeX, so users' texts (notes, names,
paths) cannot become markup.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tinylm_ablate.report.drawing import svg

Style = Literal["strong", "code", "link", "quiet"]


@dataclass(frozen=True)
class Span:
    """A piece of text with a style; ``address`` is the target of a link."""

    text: str
    style: Style
    address: str = ""


Piece = str | Span
Inline = Sequence[Piece] | str


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        content: Its content.
        value: Sort key in its column: a number or a text; None sorts last.
        mark: A class for its color, such as a verdict's name; empty for none.
    """

    content: Inline
    value: float | str | None = None
    mark: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's title."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    content: Inline


@dataclass(frozen=True)
class Items:
    """A list of paragraphs."""

    items: Sequence[Inline]


@dataclass(frozen=True)
class Code:
    """Text to copy, such as a command."""

    text: str


#: A row of a table: cells, or texts and counts that become cells.
Row = Sequence[Cell | str | int]


class Table:
    """A table.

    Attributes:
        head: Heads of the columns.
        rows: Cells; each row is as long as the head.
        words: Number of first columns with words; the others have numbers and are right-aligned.
        caption: Its caption.
    """

    def __init__(self, head: Sequence[str], rows: Sequence[Row], words: int = 1, caption: str = "") -> None:
        self.head, self.words, self.caption = head, words, caption
        self.rows = [[own if isinstance(own, Cell) else Cell(str(own), own) for own in row] for row in rows]


@dataclass(frozen=True)
class Figure:
    """A figure, drawn once from one description for all formats.

    Attributes:
        name: Stem of its file.
        spec: Its Vega-Lite specification.
        title: Its caption.
        alt: Its description for readers who cannot see it.
        narrow: Version for a narrow screen; None if the figure fits.
    """

    name: str
    spec: Mapping[str, Any] = field(repr=False)
    title: str
    alt: str
    narrow: Mapping[str, Any] | None = field(default=None, repr=False)

    @functools.cached_property
    def drawn(self) -> str:
        """The figure as SVG."""
        return svg(self.spec)


@dataclass(frozen=True)
class Verdict:
    """Verdict of the runs on a claim.

    Attributes:
        title: The claim.
        source: Source of the claim.
        verdict: One of the five verdicts.
        reason: Why, with the numbers.
    """

    title: str
    source: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Fold:
    """Collapsed blocks with a summary."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Text | Items | Code | Table | Figure | Verdict | Fold


def strong(text: str) -> Span:
    """Emphasized text."""
    return Span(text, "strong")


def code(text: str) -> Span:
    """Text in a fixed-width font."""
    return Span(text, "code")


def quiet(text: str) -> Span:
    """De-emphasized text."""
    return Span(text, "quiet")


def link(text: str, address: str) -> Piece:
    """A link, or plain text if the address is neither on the web nor within these pages."""
    scheme = re.match(r"\s*([^/?#]*):", address)
    safe = re.fullmatch(r"(?i)https?", scheme[1]) if scheme else not address.startswith(("/", "\\", ".."))
    return Span(text, "link", address) if safe else text


def styled(text: str) -> list[Piece]:
    """Parse this program's text with **strong**, `code` and [link](address); users' texts are never parsed."""
    found: list[Piece] = []
    for plain_text, bold, fixed, words, address in re.findall(r"([^*`\[]+)|\*\*(.+?)\*\*|`(.+?)`|\[(.+?)\]\((.+?)\)", text):
        found.append(plain_text or (strong(bold) if bold else code(fixed) if fixed else link(words, address)))
    return found


def pieces(content: Inline) -> Sequence[Piece]:
    """Return content as a sequence of pieces."""
    return [content] if isinstance(content, str) else content


def plain(content: Inline) -> str:
    """Return content without styles."""
    return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces(content))


def walk(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield every block, including those in folds."""
    for block in blocks:
        yield block
        if isinstance(block, Fold):
            yield from walk(block.blocks)
