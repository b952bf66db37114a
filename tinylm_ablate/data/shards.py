"""A corpus in a tokenizer's ids: one flat file a split, memory-mapped, built once and shared by every run.

``cache_dir/shards/<fingerprint>/`` holds ``train.bin``, ``validation.bin`` and ``test.bin``, little-endian 16-bit numbers (or
32-bit, for vocabularies over 65,536) with the end-of-text id after each document, and ``shards.json``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinylm_ablate import progress
from tinylm_ablate.data.corpus import SPLITS, Corpus
from tinylm_ablate.data.documents import Document
from tinylm_ablate.data.once import build_once
from tinylm_ablate.files import fingerprint

#: Raised by hand when the same corpus and tokenizer come to give other files.
_FORMAT = 1
_SUMMARY = "shards.json"
#: Text that is encoded in one call: enough documents to keep every core busy, few enough to hold.
_BATCH_BYTES = 2_000_000
_BATCH_DOCUMENTS = 4_096
#: Calls in flight: while the ids of one batch are turned into an array, the next is being encoded.
_IN_FLIGHT = 2


class Encoder(Protocol):
    """The part of a vocabulary that shards are made with."""

    @property
    def size(self) -> int:
        """Number of ids."""

    @property
    def end_of_text(self) -> int:
        """The id that ends a document."""

    @property
    def fingerprint(self) -> str:
        """Identity: equal for vocabularies that encode alike."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""


class Shards:
    """Open shards.

    Attributes:
        folder: Where they lie.
        fingerprint: Identity of the text and the tokenizer together.
        summary: ``tokens`` {split: n}, and ``languages`` {split: {language: {documents, bytes, tokens}}}, where the tokens
            count one end of text a document.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary: dict[str, Any] = json.loads((folder / _SUMMARY).read_text())
        self.fingerprint: str = self.summary["fingerprint"]

    def count(self, split: str) -> int:
        """Tokens in a split, ends of text included."""
        count: int = self.summary["tokens"][split]
        return count

    def tokens(self, split: str) -> np.memmap[Any, Any]:
        """The ids of a split (count,), read-only and paged in as they are touched."""
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        return np.memmap(self.folder / f"{split}.bin", dtype=self.summary["dtype"], mode="r")


def open_shards(corpus: Corpus, tokenizer: Encoder, cache_dir: Path) -> Shards:
    """Open the shards of a corpus in a tokenizer; build them first if they are not there whole.

    Memory while building: a few batches of 2 MB of text with their ids, whatever the size of the corpus.

    Raises:
        UserError: The disk is full or cannot be written; nothing half-built is left.
    """
    dtype = "<u2" if tokenizer.size <= 2**16 else "<u4"
    identity = fingerprint(
        {
            "format": _FORMAT,
            "text": corpus.fingerprint,
            "tokenizer": tokenizer.fingerprint,
            "dtype": dtype,
            "size": tokenizer.size,
        }
    )
    folder = cache_dir / "shards" / identity
    # A byte-level token holds a byte at least, so a corpus has at most as many tokens as bytes and documents.
    most = sum(corpus.bytes(split) + sum(corpus.summary["documents"][split].values()) for split in SPLITS)
    build_once(
        folder,
        is_whole=_is_whole,
        build=lambda unfinished: _build(unfinished, corpus, tokenizer, dtype, identity),
        needed=most * np.dtype(dtype).itemsize,
        what="the token shards",
    )
    return Shards(folder)


def _is_whole(folder: Path) -> bool:
    try:
        summary = json.loads((folder / _SUMMARY).read_text())
        width = np.dtype(summary["dtype"]).itemsize
        return all((folder / f"{split}.bin").stat().st_size == summary["tokens"][split] * width for split in SPLITS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _build(folder: Path, corpus: Corpus, tokenizer: Encoder, dtype: str, identity: str) -> None:
    languages: dict[str, dict[str, dict[str, int]]] = {}
    total = sum(corpus.bytes(split) for split in SPLITS)
    with progress.bar(total=total, description="tokenizing", unit="B") as bar:
        for split in SPLITS:
            counts = languages[split] = {
                language: {"documents": corpus.summary["documents"][split][language], "bytes": size, "tokens": 0}
                for language, size in corpus.summary["bytes"][split].items()
            }
            with (folder / f"{split}.bin").open("wb") as file:
                for documents, encoded, size in _encoded(corpus.documents(split), tokenizer):
                    for document, ids in zip(documents, encoded, strict=True):
                        ids.append(tokenizer.end_of_text)
                        counts[document.language]["tokens"] += len(ids)
                    length = sum(map(len, encoded))
                    file.write(np.fromiter(chain.from_iterable(encoded), dtype=dtype, count=length).data)
                    bar.update(size)
    summary = {
        "format": _FORMAT,
        "fingerprint": identity,
        "text": corpus.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.size,
        "dtype": dtype,
        "tokens": {split: sum(entry["tokens"] for entry in languages[split].values()) for split in SPLITS},
        "languages": languages,
    }
    (folder / _SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _encoded(documents: Iterator[Document], tokenizer: Encoder) -> Iterator[tuple[list[Document], list[list[int]], int]]:
    """Batches of documents with their ids and bytes, in order.

    The tokenizer lets go of the interpreter while it works, so a second batch keeps its threads busy meanwhile.
    """

    def encode(batch: list[Document]) -> list[list[int]]:
        return tokenizer.encode_batch([document.text for document in batch])

    with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="tokenize") as pool:
        waiting: deque[tuple[list[Document], Future[list[list[int]]], int]] = deque()
        try:
            for batch, size in _batched(documents):
                waiting.append((batch, pool.submit(encode, batch), size))
                if len(waiting) > _IN_FLIGHT:
                    done, future, length = waiting.popleft()
                    yield done, future.result(), length
            while waiting:
                done, future, length = waiting.popleft()
                yield done, future.result(), length
        finally:
            for _, future, _ in waiting:
                future.cancel()


def _batched(documents: Iterator[Document]) -> Iterator[tuple[list[Document], int]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text.encode())
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size
