"""Blocks as Markdown, LaTeX and HTML: everything is shown, and text never becomes markup."""

from __future__ import annotations

import re

import markdown_it
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.report import html, latex, markdown
from tinylm_ablate.report.blocks import (
    Cell,
    Code,
    Fold,
    Heading,
    Items,
    Span,
    Table,
    Text,
    Verdict,
    code,
    link,
    plain,
    quiet,
    strong,
    styled,
    walk,
)  # fmt: skip

TABLE = Table(["arm", "bits"], [["deep", Cell([strong("2.1"), quiet(" ≈")], 2.1)], ["a|b", Cell("–")]], 1, "Results")
PAGE = [
    Heading(1, "Title & more"),
    Text(["Plain, ", code("a_b"), " and ", link("a link", "other.md"), "."]),
    Items(["one", ["two ", strong("bold")]]),
    Heading(2, "Part"),
    TABLE,
    Verdict("Deep is better", "Table 2", "reproduced", "it holds"),
    Fold("More", [Code("make `demo`"), TABLE]),
]


def rendered(text):
    return markdown_it.MarkdownIt("commonmark").enable("table").render(text)


def test_markdown_contains_all_blocks():
    text = markdown.render(PAGE, lambda _: None)
    assert text.startswith("# Title & more\n\nPlain, `a_b` and [a link](other.md).\n\n- one\n- two **bold**\n")
    assert "| arm  |      bits |\n|:-----|----------:|\n| deep | **2.1** ≈ |\n| a\\|b |         – |" in text
    assert "> **reproduced**: Deep is better [Table 2]. it holds" in text
    assert "<details><summary>More</summary>" in text and "```sh\nmake `demo`\n```" in text
    assert rendered(text).count("<table>") == 2


def test_latex_has_every_table_with_its_headings_as_caption():
    text = latex.tables(PAGE, "page")
    assert text.count(r"\begin{tabular}{lr}") == text.count(r"\end{table}") == 2
    assert r"\caption{Title \& more. Part. Results.}" in text and r"\label{tab:page:2}" in text
    assert r"deep & \textbf{2.1}$\approx$ \\" in text.replace(r"} $", r"}$") and "a\\textbar{}b & -- " in text


def test_html_has_named_regions_rows_with_heads_and_values_to_sort_by():
    text = html.render(PAGE)
    assert "<h1>Title &amp; more</h1>" in text and '<a href="#other">a link</a>' in text
    assert (
        'role="region" aria-label="Results" tabindex="0"' in text and '<th scope="row" class="words" data-value="deep">' in text
    )
    assert 'data-value="2.1"><strong>2.1</strong><span class="quiet"> ≈</span>' in text
    assert '<p class="verdict reproduced"><strong>reproduced</strong>' in text and "<details><summary>More</summary>" in text


@given(st.text(st.characters(exclude_categories=["C"]), max_size=60))
def test_any_text_stays_text_in_markdown(text):
    shown = rendered(markdown.escape(text))
    visible = re.sub(r"<p>|</p>\n", "", shown)
    assert "<" not in visible, "no element comes of it"
    unescaped = visible.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert "".join(unescaped.split()) == "".join(text.split()) or "&" in text


@given(st.text(max_size=60))
def test_any_text_stays_text_in_html(text):
    shown = html.render([Text(text), Heading(2, text), Table([text], [[Cell(text, text, "")]], 1, text)])
    assert shown.count("<p>") == 1 and shown.count("<table>") == 1 and shown.count("<h2>") == 1
    assert re.sub(r"<[^>]*>", "", shown).count("<") == 0


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        " JavaScript:alert(1)",
        "java\nscript:x",
        "data:text/html,x",
        "file:///etc/passwd",
        "/etc/passwd",
        "../x",
    ],
)
def test_links_lead_only_to_the_web_or_within_the_pages(address):
    assert link("text", address) == "text"


def test_valid_links_are_kept():
    assert link("a", "https://example.org/x:y") == Span("a", "link", "https://example.org/x:y")
    assert link("a", "claims.md") == Span("a", "link", "claims.md") and link("a", "#x:y") == Span("a", "link", "#x:y")


def test_our_own_texts_use_typographic_signs():
    found = styled("**[a, b]**: see `x_y` and [all](claims.md).")
    assert found == [strong("[a, b]"), ": see ", code("x_y"), " and ", link("all", "claims.md"), "."]


def test_walking_blocks_includes_those_in_folds():
    assert sum(isinstance(block, Table) for block in walk(PAGE)) == 2
    assert plain(["a ", strong("b")]) == "a b"
