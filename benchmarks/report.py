"""The report over many runs: time to write it, and to open and filter its page in a real browser.

Records are synthetic: one settled config, with other depths, rates and rules written into it. They are read as any others.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import machine
from tests.report.browser import CHROMIUM, DRIVER, Browser
from tinylm_ablate.files import fingerprint
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.report.site import write_report
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

PARTS = ("many",)

#: Runs, grids that they are divided among, seeds of an arm, and held-out documents.
RUNS, GRIDS, SEEDS, DOCUMENTS = 10_000, 10, 5, 40


def run(part: str, windows: int) -> dict[str, Any]:
    """Seconds to write the report of ``RUNS`` runs; milliseconds to open its page and to filter by each of some columns."""
    del part
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_runs(folder / "runs", RUNS)
        started, used = time.perf_counter(), time.process_time()
        write_report(folder / "runs", folder / "results")
        seconds, processor = time.perf_counter() - started, time.process_time() - used
        page = folder / "results" / "index.html"
        result: dict[str, Any] = {
            "runs": RUNS, "seconds": seconds, "processor_seconds": processor, "page_bytes": page.stat().st_size,
            "machine": machine(),
        }  # fmt: skip
        if DRIVER is not None and CHROMIUM is not None:
            result["browser"] = browse(page, windows)
    return result


def browse(page: Path, windows: int) -> dict[str, list[float]]:
    """Milliseconds until the page is laid out and its script has run, and from a filter to the next frame."""
    opened, filtered = [], []
    with Browser() as browser:
        for _ in range(windows):
            browser.open(page)
            opened.append(float(browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")))
            for column, low in (("arch.depth", 20), ("train/seconds", 500), ("test/bits_per_byte/all", 2.3)):
                took = browser.run(
                    "const form = document.querySelector('#explorer form');"
                    f"form.querySelector('[name=key]').value = '{column}';"
                    f"form.querySelector('[name=low]').value = '{low}'; const start = performance.now(); form.requestSubmit();"
                    "return new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))))"
                )
                filtered.append(float(took))
    return {"open": opened, "filter": filtered}


def write_runs(folder: Path, count: int) -> None:
    """``count`` finished runs in ``GRIDS`` grids."""
    settled = settle(compose([f"runs_dir={folder}", "tracking=none"]))
    template = _record(settled)
    rng = np.random.default_rng(0)
    sizes = rng.integers(300, 3000, DOCUMENTS)
    each = count // GRIDS
    for grid in range(GRIDS):
        cells = []
        for number in range(each):
            arm, seed = divmod(number, SEEDS)
            depth, rate, rule = 4 + arm % 40, 0.001 * (1 + arm // 40), ("internlm", "gpt2", "constant")[grid % 3]
            record = copy.deepcopy(template)
            identity = fingerprint([grid, number])
            bits = 2.6 - 0.1 * math.log(depth) + 0.05 * math.log(rate * 1000) ** 2 + float(rng.normal(0, 0.01))
            record |= {"identity": identity, "seed": seed}
            record["config"]["seed"] = seed
            record["config"]["arch"]["depth"] = depth
            record["config"]["optimizer"]["scaling"]["base_lr"] = rate
            record["config"]["init"]["rule"] = rule
            record["parameters"]["total"] += 1000 * depth
            record["metrics"] |= {
                "train/loss": 2 * bits,
                "train/seconds": 100.0 * depth,
                "train/tokens_per_second": 1e4 / depth,
            }
            _write(folder / identity, record, bits, sizes, rng)
            cells.append(
                {
                    "identity": identity, "name": "", "measures": [], "tuned": "interior",
                    "overrides": {"arch.depth": str(depth), "optimizer.scaling.base_lr": f"{rate:g}", "seed": str(seed)},
                }
            )  # fmt: skip
        content = {
            "identity": fingerprint(grid), "name": f"grid{grid}", "title": f"Grid {grid}", "cells": cells,
            "axis": ["arch.depth", "optimizer.scaling.base_lr", "seed"], "created": "2026-01-01T00:00:00Z", "command": ["x"],
        }  # fmt: skip
        (folder / "grids").mkdir(exist_ok=True)
        (folder / "grids" / f"{content['identity']}.json").write_text(json.dumps(content))


def _record(settled: Settled) -> dict[str, Any]:
    from tinylm_ablate.arch.shapes import embedding_head_share, flops_per_token, parameters

    shape, config = settled.shape, dataclasses.asdict(settled.config)
    return {
        "schema": 2, "identity": "", "seed": 0, "config": config, "shape": dataclasses.asdict(shape),
        "parameters": parameters(shape), "embedding_head_share": embedding_head_share(shape),
        "flops_per_token": flops_per_token(shape, settled.config.train.context_length), "tokens": settled.tokens,
        "steps": settled.steps, "learning_rate": settled.learning_rate, "precision": settled.precision,
        "tokenizer": {"bytes_per_token": {"en": 3.4, "zh": 2.9}}, "data": {}, "init": {}, "metrics": {}, "provenance": {},
    }  # fmt: skip


def _write(folder: Path, record: dict[str, Any], bits: float, sizes: np.ndarray[Any, Any], rng: np.random.Generator) -> None:
    """The files of one run."""
    (folder / "measures").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(record))
    losses = 2 * bits + 5 * np.exp(-np.arange(100) / 8)
    rows = [{"step": n, "tokens": 1000 * n, "loss": loss, "seconds": 0.1 * n} for n, loss in enumerate(losses.tolist(), 1)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    noise = rng.normal(0, 0.02, DOCUMENTS)
    noise -= (noise * sizes).sum() / sizes.sum()
    metrics = {f"{split}/bits_per_byte/{name}": bits for split in ("test", "validation") for name in ("en", "all")}
    table = pa.table(
        {
            "split": ["test"] * DOCUMENTS, "language": ["en"] * DOCUMENTS, "document": [f"{n:032x}" for n in range(DOCUMENTS)],
            "nats": (bits + noise) * sizes * math.log(2), "bytes": sizes, "tokens": sizes,
        }
    )  # fmt: skip
    stream = io.BytesIO()
    pq.write_table(table, stream)
    path = folder / "measures" / "bits_per_byte.0123456789abcdef.json"
    path.write_text(json.dumps({"schema": 1, "settings": {}, "metrics": metrics}))
    path.with_suffix(".parquet").write_bytes(stream.getvalue())
