"""The report over many runs: time to write it, and to open and filter its page in a real browser."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.synthetic import write_runs
from tests.report.browser import CHROMIUM, DRIVER, Browser
from tinylm_ablate.report.site import write_report

PARTS = ("many",)

#: Grids of 1,000 runs each: 40 depths, 5 rates and 5 seeds; neighbors differ in the rule, all in the weight decay.
GRIDS, RATES, RULES = 10, 5, ("internlm", "gpt2", "constant")


def run(part: str, windows: int) -> dict[str, Any]:
    """Measure the seconds to write a report on 10,000 runs, and the milliseconds to open its page and to filter by columns."""
    del part
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = 0
        for grid in range(GRIDS):
            changes = [f"init={RULES[grid % len(RULES)]}", f"optimizer.weight_decay={0.1 + 0.01 * grid:g}"]
            runs += write_runs(folder / "runs", RATES, changes, f"grid{grid}")
        started, used = time.perf_counter(), time.process_time()
        write_report(folder / "runs", folder / "results")
        seconds, processor = time.perf_counter() - started, time.process_time() - used
        page = folder / "results" / "index.html"
        result: dict[str, Any] = {
            "runs": runs, "seconds": seconds, "processor_seconds": processor, "page_bytes": page.stat().st_size,
        }  # fmt: skip
        if DRIVER is not None and CHROMIUM is not None:
            result["browser"] = browse(page, windows)
    return result


def browse(page: Path, windows: int) -> dict[str, list[float]]:
    """Milliseconds until the page is laid out and its script has run, and from a filter to the next frame.

    In addition, the processor time of the page's main thread, which depends less on other programs.
    """
    found: dict[str, list[float]] = {"open": [], "open_processor": [], "filter": [], "filter_processor": []}
    with Browser() as browser:
        browser.command("Performance.enable", timeDomain="threadTicks")
        for _ in range(windows):
            browser.open(page)
            found["open"].append(float(browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")))
            found["open_processor"].append(_spent(browser))  # counted separately for each page
            for column, low in (("arch.depth", 20), ("train/seconds", 500), ("test/bits_per_byte/en", 2.3)):
                begin = _spent(browser)
                took = browser.run(
                    "const form = document.querySelector('#explorer form');"
                    f"form.querySelector('[name=key]').value = '{column}';"
                    f"form.querySelector('[name=low]').value = '{low}'; const start = performance.now(); form.requestSubmit();"
                    "return new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))))"
                )
                found["filter"].append(float(took))
                found["filter_processor"].append(_spent(browser) - begin)
    return found


def _spent(browser: Browser) -> float:
    """Return the processor time of the page's main thread so far, milliseconds."""
    metrics = browser.command("Performance.getMetrics")["metrics"]
    return 1000 * next(float(own["value"]) for own in metrics if own["name"] == "TaskDuration")
