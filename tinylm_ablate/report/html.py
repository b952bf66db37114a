"""Pages in HTML: one file each, with its style and figures inside, that asks for nothing over the network.

Headings follow one another without gaps, each table scrolls within its own frame on a narrow screen, every figure has a text,
and colours have a contrast of at least 4.5 to 1 on a light and a dark ground.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tinylm_ablate.report.blocks import Block, Figure, Heading, Items, Paragraph, Table, inline, parse
from tinylm_ablate.report.verdicts import VERDICTS

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --text: #1b1f24; --quiet: #57606a; --line: #d0d7de; --shade: #f3f5f7;
  --link: #0a58b0; --good: #116329; --bad: #a40e26; --open: #7a4e00; }
@media (prefers-color-scheme: dark) { :root { --ground: #0f1318; --text: #e4e8ec; --quiet: #a3adb8; --line: #3a434d;
  --shade: #1a2027; --link: #79b8ff; --good: #6fd58b; --bad: #ff9c9c; --open: #f0c36a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 1rem/1.55 system-ui, sans-serif; }
main, header, nav, footer { max-width: 76rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.75rem 0 .5rem; } h4, h5 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, ul { max-width: 46rem; } a { color: var(--link); } code { font-size: .9em; overflow-wrap: anywhere; }
nav ul { columns: 18rem; column-gap: 2.5rem; padding-left: 1.2rem; max-width: none; }
.table { overflow-x: auto; margin: .75rem 0; border: 1px solid var(--line); border-radius: .3rem; }
.table:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { background: var(--shade); vertical-align: bottom; } tbody th { font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; } .number { text-align: right; white-space: nowrap; } .words { min-width: 9rem; }
.reproduced, .contradicted, .undecided { font-weight: 600; white-space: nowrap; }
.reproduced { color: var(--good); } .contradicted { color: var(--bad); } .undecided { color: var(--open); }
.not-run { color: var(--quiet); white-space: nowrap; }
.reproduced::before { content: "✓ "; } .contradicted::before { content: "✗ "; } .undecided::before { content: "? "; }
figure { margin: 1rem 0; } figure img { display: block; max-width: 100%; height: auto; background: #ffffff; padding: .5rem;
  border: 1px solid var(--line); border-radius: .3rem; } figcaption, footer { color: var(--quiet); font-size: .875rem; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; top: .5rem; }
@media (max-width: 40rem) { h1 { font-size: 1.4rem; } h2 { font-size: 1.2rem; } .words { min-width: 6rem; }
  tbody th.words:not(:only-child) { min-width: 9.5rem; } }
@media print { .table { overflow: visible; border: 0; } h2 { break-before: page; } }
""".strip()


def document(title: str, body: str, navigation: str, header: str = "") -> str:
    """A whole page.

    Args:
        title: Its title, as text.
        body: What stands in it, as HTML.
        navigation: Links that stand before it, as HTML.
        header: What stands before these, as HTML.
    """
    menu = f'{header}<nav aria-label="Contents">\n{navigation}</nav>\n'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">To the text</a>\n{menu}<main id="main">\n{body}</main>\n</body>\n</html>\n'
    )


def render(markdown: str, folder: Path, deeper: int = 0, address: Callable[[str], str] = str, anchor: str = "") -> str:
    """A page's Markdown as the HTML of its body.

    Args:
        markdown: The page.
        folder: Where its figures are, which are put into the page.
        deeper: By how many levels the headings go down.
        address: What a link becomes.
        anchor: Beginning of the headings' anchors; the first heading has it alone. Empty for no anchors.

    Raises:
        OSError: A figure cannot be read.
    """
    return "".join(
        _block(block, folder, deeper, address, anchor and (anchor if number == 0 else f"{anchor}-{number}"), title)
        for number, (block, title) in enumerate(_under(parse(markdown)))
    )


def slug(text: str) -> str:
    """An anchor for a name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-") or "section"


def _under(blocks: Sequence[Block]) -> list[tuple[Block, str]]:
    """Each block with the heading that it stands under."""
    title = ""
    found = []
    for block in blocks:
        if isinstance(block, Heading):
            title = block.text
        found.append((block, title))
    return found


def _block(block: Block, folder: Path, deeper: int, address: Callable[[str], str], anchor: str, title: str) -> str:
    match block:
        case Heading():
            level = min(6, block.level + deeper)
            name = f' id="{html.escape(anchor)}"' if anchor else ""
            return f"<h{level}{name}>{_text(block.text, address)}</h{level}>\n"
        case Paragraph():
            return f"<p>{_text(block.text, address)}</p>\n"
        case Items():
            return "<ul>\n" + "".join(f"<li>{_text(item, address)}</li>\n" for item in block.items) + "</ul>\n"
        case Figure():
            content = base64.b64encode((folder / block.path).read_bytes()).decode()
            text = html.escape(block.text)
            kind = "svg+xml" if block.path.endswith(".svg") else "png"
            image = f'<img src="data:image/{kind};base64,{content}" alt="{text}">'
            return f"<figure>\n{image}\n<figcaption>{text}</figcaption>\n</figure>\n"
        case Table():
            return _table(block, title, address)


def _table(table: Table, title: str, address: Callable[[str], str]) -> str:
    kinds = ["words" if column < table.words else "number" for column in range(len(table.head))]
    head = "".join(
        f'<th scope="col" class="{kind}">{_text(cell, address)}</th>' for cell, kind in zip(table.head, kinds, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = []
        for column, (cell, kind) in enumerate(zip(row, kinds, strict=True)):
            tag = 'th scope="row"' if column == 0 else "td"
            own = cell.replace(" ", "-") if cell in VERDICTS else kind
            cells.append(f'<{tag} class="{own}">{_text(cell, address)}</{tag.split()[0]}>')
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    name = html.escape(re.sub(r"[*`]", "", title)) or "Table"
    return (
        f'<div class="table" role="region" aria-label="{name}" tabindex="0">\n<table>\n<thead>\n<tr>{head}</tr>\n</thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody>\n</table>\n</div>\n"
    )


def _text(text: str, address: Callable[[str], str]) -> str:
    written = []
    for kind, piece, link in inline(text):
        escaped = html.escape(piece, quote=False)
        match kind:
            case "strong":
                own = f' class="{piece}"' if piece in VERDICTS else ""
                written.append(f"<strong{own}>{escaped}</strong>")
            case "code":
                written.append(f"<code>{escaped}</code>")
            case "link":
                written.append(f'<a href="{html.escape(address(link))}">{escaped}</a>')
            case _:
                written.append(escaped)
    return "".join(written)


def contents(entries: Mapping[str, str]) -> str:
    """A list of links within a page: anchor to title, as HTML."""
    links = "".join(
        f'<li><a href="#{html.escape(anchor)}">{html.escape(title)}</a></li>\n' for anchor, title in entries.items()
    )
    return f"<ul>\n{links}</ul>\n"
