"""Speed of counting occurrences under an imported tokenizer, on one core: MB of text per second, five windows.

    python benchmarks/counting.py path/to/tokenizer.json

The text is the training part of the default corpus (fetched on first use), and the peer is the tokenizer's own encode_batch.
Both process the same documents, alternating; the time to read the text is not included.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"


def main(source: str) -> None:
    """Print the speeds and their ratio."""
    import numpy as np
    from tokenizers import Tokenizer

    from tinylm_ablate.data.corpus import open_corpus
    from tinylm_ablate.formats.importing import import_tokenizer
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.tokenizer.count import count_entries

    corpus = open_corpus(compose(["data=default"]).data, Path("runs/cache"))
    texts = [document.text for language in corpus.languages for document in corpus.documents("train", language)]
    size = sum(len(text.encode()) for text in texts) / 1e6
    imported, original = import_tokenizer(source), Tokenizer.from_file(source)
    ours, peer, opening = [], [], []
    for _ in range(5):
        start = time.perf_counter()
        count_entries(imported.state, imported.size, [])
        opening.append(time.perf_counter() - start)
        start = time.perf_counter()
        counts = count_entries(imported.state, imported.size, texts)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        expected = np.zeros(imported.size, dtype=np.int64)
        for first in range(0, len(texts), 1000):
            for encoding in original.encode_batch(texts[first : first + 1000], add_special_tokens=False):
                np.add.at(expected, encoding.ids, 1)
        peer.append(time.perf_counter() - start)
    print(f"{size:.1f} MB, {imported.size:,} entries; equal counts: {bool((counts == expected).all())}")
    for name, times in (("counting", ours), ("encode_batch", peer)):
        speeds = [size / seconds for seconds in times]
        print(f"{name}: median {statistics.median(speeds):.2f} MB/s ({min(speeds):.2f} to {max(speeds):.2f})")
    once = statistics.median(opening)
    print(f"of counting, {once:.2f} s are spent once; beyond them {size / (statistics.median(ours) - once):.2f} MB/s")


if __name__ == "__main__":
    main(sys.argv[1])
