"""Tables of a page in LaTeX, for ``\\input``; they need the packages booktabs and graphicx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from tinylm_ablate.report.blocks import Block, Heading, Inline, Table, pieces, walk

#: Special characters of LaTeX, and symbols that its fonts may lack.
_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "−": r"$-$", "≈": r"$\approx$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "·": r"$\cdot$",
    "∞": r"$\infty$", "π": r"$\pi$", "σ": r"$\sigma$", "ρ": r"$\rho$", "–": "--", "→": r"$\to$", "…": r"\ldots{}",
    '"': "''", "✓": r"$\checkmark$", "✗": r"$\times$",
}  # fmt: skip


def tables(blocks: Sequence[Block], label: str) -> str:
    """Return every table of a page, with its headings as the caption.

    Args:
        blocks: The page.
        label: Prefix of the tables' labels: tab:LABEL:1 and so on.
    """
    found = []
    titles: dict[int, str] = {}
    for block in walk(blocks):
        if isinstance(block, Heading):
            titles = {level: text for level, text in titles.items() if level < block.level} | {block.level: block.text}
        elif isinstance(block, Table):
            caption = ". ".join(dict.fromkeys([*titles.values(), block.caption]))
            columns = "l" * block.words + "r" * (len(block.head) - block.words)
            rows = [" & ".join(_inline(cell.content) for cell in row) for row in block.rows]
            found.append(
                {"caption": _text(caption), "columns": columns, "head": " & ".join(map(_text, block.head)), "rows": rows}
            )
    return _template().render(tables=found, label=label)


def _template() -> jinja2.Template:
    """Return the template, whose delimiters LaTeX does not use."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=False, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined, block_start_string="<%",
        block_end_string="%>", variable_start_string="<<", variable_end_string=">>", comment_start_string="<#",
        comment_end_string="#>",
    )  # fmt: skip
    return environment.get_template("tables.tex.j2")


def _inline(content: Inline) -> str:
    written = []
    for piece in pieces(content):
        style = "" if isinstance(piece, str) else piece.style
        text = _text(piece if isinstance(piece, str) else piece.text)
        written.append({"strong": f"\\textbf{{{text}}}", "code": f"\\texttt{{{text}}}"}.get(style, text))
    return "".join(written)


def _text(text: str) -> str:
    return "".join(_SIGNS.get(sign, sign) for sign in " ".join(text.split()))
