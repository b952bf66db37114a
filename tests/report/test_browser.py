"""The page in a real browser: no error in its console, and working controls."""

from __future__ import annotations

import pytest

from tests.report.browser import CHROMIUM, DRIVER, Browser
from tinylm_ablate.report.__main__ import main

pytestmark = [
    pytest.mark.skipif(DRIVER is None or CHROMIUM is None, reason="no chromium and chromedriver on this machine"),
    pytest.mark.slow,
]

FIRST = "return [...document.querySelectorAll('.experiment .table tbody')][0].rows[0].cells[1].textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from tests.report.conftest import Runs

    folder = tmp_path_factory.mktemp("page")
    runs = Runs(folder / "runs")
    runs.depths({9: [2.2, 2.21], 20: [2.1, 2.12], 40: [2.3, 2.31]}, name="depths", title="x" * 200)
    assert main(["--runs-dir", str(runs.folder), "--results", str(folder / "results")]) == 0
    return folder / "results" / "index.html"


def test_tables_sort_figures_become_interactive_and_filters_filter(page):
    with Browser() as browser:
        browser.open(page)
        click = "document.querySelectorAll('.experiment .table thead th')[1].querySelector('button').click()"
        order = []
        for _ in range(2):
            browser.run(click)
            order.append(browser.run(FIRST))
        assert order == ["2.1100 ± 0.0141", "2.3050 ± 0.0071 ≈"]
        assert browser.run("return document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
        browser.run("document.querySelector('.interactive').click()")
        browser.run(
            "return new Promise(done => { const look = () => document.querySelector('.vega-embed svg') ? done(1)"
            " : setTimeout(look, 50); look(); })"
        )
        browser.run(
            "const form = document.querySelector('#explorer form'); form.querySelector('[name=key]').value = 'arch.depth';"
            "form.querySelector('[name=low]').value = '20'; form.requestSubmit()"
        )
        assert browser.run("return document.querySelector('#explorer .status').textContent") == "4 of 6 runs"
        browser.run("document.querySelector('#explorer .chips button').click()")
        assert browser.run("return document.querySelector('#explorer .status').textContent") == "6 runs"
        browser.run("document.querySelector('#explorer td input').click()")
        assert "Loss in nats per token" in browser.run("return document.querySelector('#explorer').textContent")
        assert browser.errors() == []


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off_on_a_phone(page, dark):
    with Browser(width=390, height=844, dark=dark) as browser:
        browser.open(page)
        browser.run("return new Promise(done => setTimeout(done, 300))")  # hints are added after the layout
        assert browser.run("return document.documentElement.scrollWidth") <= 390
        # Anything wider than its frame has a scrolling hint, and can be focused and scrolled by keyboard.
        hidden = (
            "return [...document.querySelectorAll('.table, .drawing')].filter(frame =>"
            " frame.scrollWidth > frame.clientWidth + 2"
            " && !(frame.tabIndex === 0 && frame.nextElementSibling?.matches('.hint.shown'))).length"
        )
        assert browser.run(hidden) == 0
        ground = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
        assert browser.errors() == []
