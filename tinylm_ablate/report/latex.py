"""The tables of a page in LaTeX, to be read with ``\\input``; it needs the packages booktabs and graphicx."""

from __future__ import annotations

import re

from tinylm_ablate.report.blocks import Heading, Table, inline, parse

_HEAD = "% Tables of the report. In the preamble: \\usepackage{booktabs,graphicx}\n"

#: What LaTeX reads as a command, and signs that its fonts may lack.
_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "−": r"$-$", "≈": r"$\approx$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "·": r"$\cdot$",
    "∞": r"$\infty$", "π": r"$\pi$", "σ": r"$\sigma$", "ρ": r"$\rho$", "–": "--", "→": r"$\to$", "…": r"\ldots{}",
    '"': "''",
}  # fmt: skip


def tables(markdown: str, label: str) -> str:
    """Every table of a page, each with the headings over it as its caption.

    Args:
        markdown: The page.
        label: Beginning of the tables' labels: tab:LABEL:1 and on.
    """
    parts = [_HEAD]
    titles: dict[int, str] = {}
    number = 0
    for block in parse(markdown):
        if isinstance(block, Heading):
            titles = {level: text for level, text in titles.items() if level < block.level} | {block.level: block.text}
        elif isinstance(block, Table):
            number += 1
            parts.append(_table(block, ". ".join(titles.values()), f"tab:{label}:{number}"))
    return "\n".join(parts)


def _table(table: Table, caption: str, label: str) -> str:
    columns = "l" * table.words + "r" * (len(table.head) - table.words)
    lines = [" & ".join(map(_text, cells)) + r" \\" for cells in (table.head, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}[htbp]", r"  \centering", f"  \\caption{{{_text(caption)}.}}", f"  \\label{{{label}}}",
            # Wide tables are made to fit; narrow ones keep their size.
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%", f"  \\begin{{tabular}}{{{columns}}}",
            r"    \toprule", f"    {lines[0]}", r"    \midrule", *(f"    {line}" for line in lines[1:]), r"    \bottomrule",
            r"  \end{tabular}}", r"\end{table}", "",
        ]
    )  # fmt: skip


def _text(text: str) -> str:
    written = []
    for kind, piece, _ in inline(text):
        escaped = "".join(_SIGNS.get(sign, sign) for sign in re.sub(r"\s+", " ", piece))
        written.append({"strong": f"\\textbf{{{escaped}}}", "code": f"\\texttt{{{escaped}}}"}.get(kind, escaped))
    return "".join(written)
