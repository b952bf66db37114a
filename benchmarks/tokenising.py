"""From text to finished shards, against the tokenizer's own ``encode_batch`` on the same text; memory; and opening a shard.

"default" is the text of the default corpus. "large" makes a corpus of a gigabyte by repeating it, each copy changed by a number
at its end so that it is no duplicate, and follows the memory of the process while shards are built. "open" makes a file of ten
gigabytes with holes.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import THREADS, Result, clock, interleaved, quartiles

PARTS = ("default", "open", "large")


def run(part: str, windows: int) -> Result:
    """Measure one of the parts."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(THREADS))
    return {"default": _rate, "open": _open, "large": _large}[part](windows)


def _vocabulary() -> tuple[Any, Any]:
    """The default corpus and the vocabulary of the baseline at scale s32."""
    from tinylm_ablate.data.corpus import open_corpus
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.settle import settle
    from tinylm_ablate.tokenizer.vocabularies import open_vocabulary

    settled = settle(compose(["scale=s32", "cache_dir=runs/cache"]))
    cache = Path(settled.config.cache_dir)
    corpus = open_corpus(settled.config.data, cache)
    return corpus, open_vocabulary(settled.config.tokenizer, settled.shape.vocab_size, settled.source_vocab_size, corpus, cache)


def _rate(windows: int) -> Result:
    from tinylm_ablate.data.corpus import SPLITS
    from tinylm_ablate.data.shards import open_shards

    corpus, vocabulary = _vocabulary()
    texts = [document.text for split in SPLITS for document in corpus.documents(split)]
    size = sum(len(text.encode()) for text in texts)

    def shards() -> None:
        with tempfile.TemporaryDirectory() as folder:
            open_shards(corpus, vocabulary, Path(folder))

    def raw() -> None:
        for start in range(0, len(texts), 2000):
            vocabulary.tokenizer.encode_batch(texts[start : start + 2000], add_special_tokens=False)

    paths: dict[str, Callable[[], object]] = {"shards": shards, "encode_batch": raw}
    times = interleaved(paths, windows)
    rates = {name: [size / 1e6 / seconds for seconds in each] for name, each in times.items()}
    return {
        "bytes": size,
        "megabytes_per_second": {name: quartiles(rate) | {"windows": rate} for name, rate in rates.items()},
        "ratio": quartiles([a / b for a, b in zip(rates["shards"], rates["encode_batch"], strict=True)]),
    }


def _open(windows: int) -> Result:
    """Seconds to open a shard of 10 GB and read a batch in its middle."""
    import numpy as np

    from tinylm_ablate.data.batches import Batches
    from tinylm_ablate.data.shards import Shards

    count = 5_000_000_000
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "train.bin").open("wb") as file:
            file.truncate(2 * count)
        summary = {"fingerprint": "none", "dtype": "<u2", "tokens": {"train": count}}
        (Path(folder) / "shards.json").write_text(json.dumps(summary))
        seconds = []
        for seed in range(windows):
            start = clock()
            batches = Batches(Shards(Path(folder)).tokens("train"), 2048, seed, round=0)
            batches.inputs(np.arange(8, dtype=np.int64))
            seconds.append(clock() - start)
    return {"bytes": 2 * count, "seconds": quartiles(seconds)}


def _large(windows: int) -> Result:
    """Memory while shards of a gigabyte are built, beyond what it is before."""
    del windows
    import psutil

    from tinylm_ablate.config import DataConfig
    from tinylm_ablate.data.corpus import SPLITS, open_corpus
    from tinylm_ablate.data.shards import open_shards
    from tinylm_ablate.grid.compose import compose

    corpus, vocabulary = _vocabulary()
    texts = [document.text for split in SPLITS for document in corpus.documents(split)]
    with tempfile.TemporaryDirectory(dir="runs") as folder:
        size, copy = 0, 0
        with (Path(folder) / "large.jsonl").open("w") as file:
            while size < 1_000_000_000:
                for text in texts:
                    file.write(json.dumps({"text": f"{text} {copy}"}, ensure_ascii=False) + "\n")
                    size += len(text.encode())
                copy += 1
        config: DataConfig = compose(["data=files", f"data.path={folder}/large.jsonl", f"cache_dir={folder}"]).data
        process = psutil.Process()
        found: dict[str, Any] = {"bytes": size}
        for name, build in (
            ("corpus", lambda: open_corpus(config, Path(folder))),
            ("shards", lambda: open_shards(open_corpus(config, Path(folder)), vocabulary, Path(folder))),
        ):
            before, peak, done = process.memory_info().rss, [0], threading.Event()

            def follow(peak: list[int] = peak, done: threading.Event = done) -> None:
                while not done.wait(0.1):
                    peak[0] = max(peak[0], process.memory_info().rss)

            thread = threading.Thread(target=follow)
            thread.start()
            start = time.perf_counter()
            build()
            seconds = time.perf_counter() - start
            done.set()
            thread.join()
            found[name] = {"seconds": seconds, "peak_bytes_beyond": peak[0] - before}
    return found | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
