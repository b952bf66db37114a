"""Blocks as Markdown. Tables are aligned, so they are also legible as plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tinylm_ablate.report.blocks import (
    Block,
    Code,
    Figure,
    Fold,
    Heading,
    Inline,
    Items,
    Span,
    Table,
    Text,
    Verdict,
    pieces,
)  # fmt: skip

#: Function that writes a figure and returns its path relative to the page, or None to omit the figure.
Place = Callable[[Figure], str | None]


def render(blocks: Sequence[Block], place: Place, address: Callable[[str], str] = str) -> str:
    """A page.

    Args:
        blocks: Blocks of the page.
        place: Writes a figure and returns its path relative to the page; None omits it.
        address: Maps the address of a link.
    """
    parts = [_block(block, place, address) for block in blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 0) -> str:
    """A pipe table.

    Args:
        head: Heads of the columns.
        rows: Cells; a pipe in them is escaped.
        words: Number of first columns, which are left-aligned; the others have numbers and are right-aligned.
    """
    lines = [[re.sub(r"(?<!\\)\|", r"\\|", cell.replace("\n", " ")) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = (f":{'-' * (width + 1)}" if column < words else f"{'-' * (width + 1)}:" for column, width in enumerate(widths))
    return "\n".join([line(lines[0]), f"|{'|'.join(rule)}|", *map(line, lines[1:])])


def escape(text: str) -> str:
    """Escape all markup in a text."""
    text = re.sub(r"([\\`*|]|<(?=[a-zA-Z/!?]))", r"\\\1", " ".join(text.split()))
    text = re.sub(r"\](?=[(:\[])", r"\\]", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)
    return f"\\{text}" if re.match(r"(#+|[+-])(\s|$)|-{3}|- |>|~~~", text) else text


def _block(block: Block, place: Place, address: Callable[[str], str]) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {escape(block.text)}"
        case Text():
            return _inline(block.content, address)
        case Items():
            return "\n".join(f"- {_inline(item, address)}" for item in block.items)
        case Code():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", block.text)), default=0))
            return f"{fence}sh\n{block.text}\n{fence}"
        case Table():
            rows = [[_inline(cell.content, address) for cell in row] for row in block.rows]
            return table([escape(name) for name in block.head], rows, block.words)
        case Figure():
            path = place(block)
            return "" if path is None else f"![{escape(f'{block.title}: {block.alt}')}]({path})"
        case Verdict():
            return f"> **{escape(block.verdict)}**: {escape(block.title)} [{escape(block.source)}]. {escape(block.reason)}"
        case Fold():
            inner = render(block.blocks, place, address).strip()
            return f"<details><summary>{escape(block.summary)}</summary>\n\n{inner}\n\n</details>"


def _inline(content: Inline, address: Callable[[str], str]) -> str:
    return "".join(_piece(piece, address) for piece in pieces(content)).strip()


def _piece(piece: str | Span, address: Callable[[str], str]) -> str:
    if isinstance(piece, str):
        return _keep_space(piece)
    match piece.style:
        case "strong":
            return f"**{escape(piece.text)}**"
        case "code":
            return f"`{piece.text.replace('`', '')}`"
        case "link":
            return f"[{escape(piece.text)}]({address(piece.address)})"
        case "quiet":
            return _keep_space(piece.text)


def _keep_space(text: str) -> str:
    """Escape a piece of text, keeping spaces at its ends."""
    inner = escape(text)
    return f"{' ' if text[:1].isspace() and inner else ''}{inner}{' ' if text[-1:].isspace() else ''}"
