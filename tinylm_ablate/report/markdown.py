"""Markdown tables that are also legible as plain text, since their columns are aligned."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 0) -> str:
    """A pipe table.

    Args:
        head: Heads of the columns.
        rows: Cells; a pipe in them is escaped.
        words: The first columns that are aligned to the left; the others hold numbers and are aligned to the right.
    """
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = (f":{'-' * (width + 1)}" if column < words else f"{'-' * (width + 1)}:" for column, width in enumerate(widths))
    return "\n".join([line(lines[0]), f"|{'|'.join(rule)}|", *map(line, lines[1:])])
