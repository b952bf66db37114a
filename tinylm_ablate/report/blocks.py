"""The parts of a page: headings, paragraphs, lists, tables and figures, read from the Markdown that the report writes.

Markdown is what a page is written in; HTML and LaTeX are made from it, so that all three say the same. Only what the report
writes is understood: a table has a rule as its second line, a figure stands alone on its line, and anything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_FIGURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_INLINE = re.compile(r"\*\*(?P<strong>.+?)\*\*|`(?P<code>[^`]+)`|\[(?P<label>[^\]]+)\]\((?P<address>[^)\s]+)\)")


@dataclass(frozen=True)
class Heading:
    """A heading of a level from 1 on."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; the first ``words`` columns hold words, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int


@dataclass(frozen=True)
class Figure:
    """A figure: its path relative to the page, and what it shows."""

    path: str
    text: str


Block = Heading | Paragraph | Items | Table | Figure


def parse(markdown: str) -> list[Block]:
    """The blocks of a page."""
    blocks: list[Block] = []
    for part in re.split(r"\n{2,}", markdown.strip()):
        lines = part.split("\n")
        figure = _FIGURE.fullmatch(part.strip())
        if match := re.fullmatch(r"(#+) (.*)", lines[0]):
            blocks.append(Heading(len(match[1]), match[2]))
            if rest := "\n".join(lines[1:]).strip():
                blocks += parse(rest)
        elif figure:
            blocks.append(Figure(figure[2], figure[1]))
        elif len(lines) > 1 and lines[0].startswith("|") and re.fullmatch(r"[|:\- ]+", lines[1]):
            head, rule, *rows = [_cells(line) for line in lines]
            words = sum(cell.startswith(":") and not cell.endswith(":") for cell in rule)
            blocks.append(Table(head, rows, words))
        elif lines[0].startswith("- "):
            text = "\n".join(lines)
            blocks.append(Items([" ".join(item.split()) for item in re.split(r"(?:^|\n)- ", text) if item.strip()]))
        elif part.strip():
            blocks.append(Paragraph(" ".join(part.split())))
    return blocks


def inline(text: str) -> list[tuple[str, str, str]]:
    """Text in pieces: (kind, text, address), a kind being "text", "strong", "code" or "link"."""
    pieces = []
    end = 0
    for match in _INLINE.finditer(text):
        if match.start() > end:
            pieces.append(("text", text[end : match.start()], ""))
        if match["strong"] is not None:
            pieces.append(("strong", match["strong"], ""))
        elif match["code"] is not None:
            pieces.append(("code", match["code"], ""))
        else:
            pieces.append(("link", match["label"], match["address"]))
        end = match.end()
    if end < len(text):
        pieces.append(("text", text[end:], ""))
    return pieces


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
