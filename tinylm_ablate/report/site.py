"""``index.html``: everything in one page, to be read from top to bottom without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.report import html
from tinylm_ablate.report.index import READING

#: Shown right after the verdicts, if it was run.
_FIRST = "figure01_ladder"

_TITLE = "Ablations of tiny language models: results"


def order(names: Sequence[str]) -> list[str]:
    """The experiments in the order of the page: the ladder, then tables and figures of the paper, then others."""

    def place(name: str) -> tuple[int, str]:
        rank = 0 if name == _FIRST else 1 if name.startswith("table") else 2 if name.startswith("figure") else 3
        return rank, name

    return sorted(names, key=place)


def site(pages: Sequence[tuple[str, str]], verdicts: str, results: Path) -> str:
    """The page.

    Args:
        pages: Stem and Markdown of each further page, in order.
        verdicts: Markdown of the page of verdicts; empty for none.
        results: Folder of the results, where the figures are.

    Raises:
        OSError: A figure cannot be read.
    """
    stems = {stem for stem, _ in pages}

    def address(link: str) -> str:
        """Links between pages stay within this one."""
        stem = link.removesuffix(".md")
        if link == "README.md":
            return "#reading"
        return f"#{html.slug(stem)}" if link.endswith(".md") and stem in stems else link

    entries: dict[str, str] = {}
    parts = []
    if verdicts:
        entries["verdicts"] = "Verdicts on the paper's claims"
        parts.append(html.render(verdicts, results, 1, address, "verdicts"))
    for stem, markdown in pages:
        heading = markdown.partition("\n")[0].lstrip("# ")
        entries[html.slug(stem)] = heading
        parts.append(f"<article>\n{html.render(markdown, results, 1, address, html.slug(stem))}</article>\n")
    entries["reading"] = "How to read the tables"
    parts.append(html.render(READING, results, 0, address, "reading"))
    return html.document(_TITLE, "".join(parts), html.contents(entries), f"<header>\n<h1>{_TITLE}</h1>\n</header>\n")


def single(stem: str, markdown: str, results: Path) -> str:
    """One page of its own."""

    def address(link: str) -> str:
        if link == "README.md":
            return "index.html#reading"
        return f"{link.removesuffix('.md')}.html" if link.endswith(".md") else link

    heading = markdown.partition("\n")[0].lstrip("# ")
    body = html.render(markdown, results, 0, address, html.slug(stem))
    return html.document(heading, body, '<p><a href="index.html">All results</a></p>\n')
