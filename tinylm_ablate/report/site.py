"""``index.html``: everything in one page, to be read from top to bottom without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.report import html
from tinylm_ablate.report.index import READING
from tinylm_ablate.report.printed import LADDER

_TITLE = "Ablations of tiny language models: results"


def site(intro: str, pages: Sequence[tuple[str, str]], verdicts: str, comparisons: str, results: Path) -> str:
    """The page: what it is about, the ladder, the verdicts, the other tables, the comparisons behind the verdicts.

    Args:
        intro: What the page is about, in Markdown.
        pages: Stem and Markdown of each further page, in order.
        verdicts: Markdown of the verdicts; empty for none.
        comparisons: Markdown of what they rest on; empty for none.
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

    first = [(stem, text) for stem, text in pages if stem == LADDER]
    rest = [(stem, text) for stem, text in pages if stem != LADDER]
    shown = [*first, ("verdicts", verdicts), *rest, ("comparisons", comparisons)]
    entries: dict[str, str] = {}
    parts = []
    for stem, markdown in shown:
        if markdown:
            anchor = html.slug(stem)
            entries[anchor] = markdown.partition("\n")[0].lstrip("# ")
            parts.append(f"<article>\n{html.render(markdown, results, 1, address, anchor)}</article>\n")
    entries["reading"] = "How to read the tables"
    parts.append(html.render(READING, results, 0, address, "reading"))
    header = f"<header>\n<h1>{_TITLE}</h1>\n{html.render(intro, results, 0, address)}</header>\n"
    return html.document(_TITLE, "".join(parts), html.contents(entries), header)


def single(stem: str, markdown: str, results: Path) -> str:
    """One page of its own."""

    def address(link: str) -> str:
        if link == "README.md":
            return "index.html#reading"
        return f"{link.removesuffix('.md')}.html" if link.endswith(".md") else link

    heading = markdown.partition("\n")[0].lstrip("# ")
    body = html.render(markdown, results, 0, address, html.slug(stem))
    return html.document(heading, body, '<p><a href="index.html">All results</a></p>\n')
