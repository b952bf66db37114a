"""Thousands of synthetic finished runs, for benchmarks of their readers. Their settings, identities and files are real, and
their losses are a function of depth and rate."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tinylm_ablate.arch.shapes import embedding_head_share, flops_per_token, parameters
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.grid.describe import described, write_grid
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

#: Depths and seeds of a grid, held-out documents of a run, and points of its curve.
DEPTHS, SEEDS, DOCUMENTS, POINTS = range(4, 44), 5, 40, 100

#: What all cells share.
SHARED = ("data=default", "train.precision=fp32", "train.keep_model=false", "tracking=none")


def axes(rates: int) -> list[str]:
    """Return the axes of a grid of 40 depths, some rates and 5 seeds, as on the command line."""
    return [
        f"arch.depth={','.join(map(str, DEPTHS))}",
        f"optimizer.scaling.base_lr={','.join(map(_rate, range(rates)))}",
        f"seeds={SEEDS}",
    ]


def write_runs(runs_dir: Path, rates: int, overrides: Sequence[str] = (), name: str | None = None) -> int:
    """Write the finished runs of such a grid; returns their number.

    Args:
        runs_dir: Folder of the runs.
        rates: Number of rates.
        overrides: Additional overrides of all cells.
        name: Name of the grid's file; None omits it.
    """
    base = compose([*SHARED, f"runs_dir={runs_dir}", *overrides])
    base.seeds = None
    rng = np.random.default_rng(0)
    sizes = rng.integers(300, 3000, DOCUMENTS)
    cells = []
    for depth, place, seed in itertools.product(DEPTHS, range(rates), range(SEEDS)):
        config = copy.deepcopy(base)
        config.arch.depth, config.optimizer.scaling.base_lr, config.seed = depth, float(_rate(place)), seed
        settled = settle(config)
        bits = 2.6 - 0.1 * math.log(depth) + 0.02 * math.log(1 + place) ** 2 + float(rng.normal(0, 0.01))
        _write(settled, bits, sizes, rng)
        values = {"arch.depth": str(depth), "optimizer.scaling.base_lr": _rate(place), "seed": str(seed)}
        cells.append((settled, " ".join(f"{key}={value}" for key, value in values.items()), values, "interior"))
    if name is not None:
        identity = settle(base).identity
        write_grid(runs_dir, described(identity, name, f"Grid {name}", base, cells))
    return len(cells)


def _rate(place: int) -> str:
    return f"{0.001 * (1 + place):g}"


def _write(settled: Settled, bits: float, sizes: np.ndarray[Any, Any], rng: np.random.Generator) -> None:
    """Write the files of one run."""
    folder, shape, depth = settled.folder, settled.shape, settled.shape.depth
    text = settled.to_json()
    plain = json.loads(text)
    (folder / "measures").mkdir(parents=True)
    record = {
        "schema": 2, "identity": settled.identity, "seed": settled.config.seed, "config": plain["config"],
        "shape": plain["shape"], "parameters": parameters(shape),
        "embedding_head_share": embedding_head_share(shape),
        "flops_per_token": flops_per_token(shape, settled.config.train.context_length), "tokens": settled.tokens,
        "steps": settled.steps, "learning_rate": settled.learning_rate, "precision": settled.precision,
        "tokenizer": {"bytes_per_token": {"en": 3.4, "zh": 2.9}}, "data": {}, "init": {}, "provenance": {},
        "metrics": {
            "train/loss": 2 * bits, "train/seconds": 100.0 * depth, "train/tokens_per_second": 1e4 / depth,
        },
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(record))
    (folder / "settled.json").write_text(text)
    losses = 2 * bits + 5 * np.exp(-np.arange(POINTS) / 8)
    row = '{{"step": {0}, "tokens": {0}000, "loss": {1!r}, "seconds": {0}}}\n'
    (folder / "curve.jsonl").write_text("".join(row.format(n, loss) for n, loss in enumerate(losses.tolist(), 1)))
    noise = rng.normal(0, 0.02, DOCUMENTS)
    noise -= (noise * sizes).sum() / sizes.sum()
    names, correct = [f"{n:032x}" for n in range(DOCUMENTS)], rng.random(DOCUMENTS) < 0.35
    shared = {"split": ["test"] * DOCUMENTS, "language": ["en"] * DOCUMENTS}
    items = {
        "bits_per_byte": {"document": names, "nats": (bits + noise) * sizes * math.log(2), "bytes": sizes, "tokens": sizes},
        "cloze": {"question": names, "correct": correct},
    }
    metrics = {
        "bits_per_byte": {f"{split}/bits_per_byte/{part}": bits for split in ("test", "validation") for part in ("en", "all")},
        "bigrams": {"test/bigrams/bits_per_byte/en": 3.5, "test/bigrams/bits_per_byte/all": 3.5},
        "cloze": {f"test/cloze/{part}": float(correct.mean()) for part in ("en", "all")},
    }
    for request in requested(settled):
        path, measure = folder / "measures" / f"{request.stem}.json", request.measure.name
        path.write_text(json.dumps({"schema": 1, "settings": request.settings, "metrics": metrics[measure]}))
        if measure in items:
            stream = io.BytesIO()
            pq.write_table(pa.table(shared | items[measure]), stream)
            path.with_suffix(".parquet").write_bytes(stream.getvalue())
